//! What every lock can do for a client.

use std::time::Duration;

use conclave_client::{FencingToken, Revision};

use super::Outcome;
use crate::clock::now_ns;

/// What became of asking for a lock.
#[derive(Debug)]
pub enum Acquired {
    /// It was granted.
    Held {
        /// What came with it, where the service gives tokens.
        token: Option<FencingToken>,
        /// See [`super::Happened::Return`].
        lease_from_ns: Option<i64>,
    },
    /// [`Outcome::Fail`] or [`Outcome::Info`], and why.
    Not(Outcome, String),
}

/// A client's way of locking. It holds one lock at a time.
pub trait Lock {
    /// Makes what is needed to ask (a session, a connection), if it is not there.
    ///
    /// # Errors
    /// What is missing. It is tried again.
    fn prepare(&mut self) -> anyhow::Result<()>;

    /// Asks, and waits up to `wait`.
    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired;

    /// Whether the client may take the lock for its own at this moment, as far as it can know.
    fn held(&self) -> bool {
        self.belief()()
    }

    /// The same question, to be asked from another thread. Who asks has ended before the lock is given back.
    fn belief(&self) -> Box<dyn Fn() -> bool + Send>;

    /// Gives it back: whether that freed the client's own hold, and why not.
    fn release(&mut self) -> (Outcome, Option<String>);

    /// Leaves in good order.
    fn close(&mut self) {}
}

/// The belief of who counts a lease: it holds until then, and not at all where there is no hold.
#[must_use]
pub fn leased(until_ns: Option<i64>) -> Box<dyn Fn() -> bool + Send> {
    let until_ns = until_ns.unwrap_or(0);
    Box::new(move || now_ns() < until_ns)
}

/// A service's own ever-growing number as a token, as it is: 63 bits, of which a fence only compares the order. None if
/// it is no such number.
#[must_use]
pub fn token(number: i64) -> Option<FencingToken> {
    let number = u64::try_from(number).ok()?;
    let revision = number & ((1 << FencingToken::REVISION_BITS) - 1);
    (revision > 0).then(|| FencingToken::new(number >> FencingToken::REVISION_BITS, Revision(revision)))
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn a_number_stays_what_it_is_and_what_is_none_becomes_no_token() {
        for number in [1, 77, (3 << 32) + 5, i64::MAX] {
            assert_eq!(token(number).map(|token| token.as_i64()), Some(number));
        }
        assert_eq!(token(0), None);
        assert_eq!(token(-4), None);
    }
}
