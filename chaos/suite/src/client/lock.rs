//! What every lock can do for a client.

use std::time::Duration;

use conclave_client::FencingToken;

use super::{Outcome, Recipe, Spec, conclave, redis};

/// What became of asking for a lock.
pub enum Acquired {
    Held {
        token: Option<FencingToken>,
        lease_from_ns: Option<i64>,
    },
    /// [`Outcome::Fail`] or [`Outcome::Info`], and why.
    Not(Outcome, String),
}

/// A client's way of locking. It holds one lock at a time.
pub trait Lock {
    /// Makes what is needed to ask (a session, a connection), if it is not there.
    fn prepare(&mut self) -> anyhow::Result<()>;

    /// Asks, and waits up to `wait`.
    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired;

    /// Whether the client may take the lock for its own at this moment, as far as it can know.
    fn held(&self) -> bool;

    /// Gives it back: whether that freed the client's own hold, and why not.
    fn release(&mut self) -> (Outcome, Option<String>);

    /// Leaves in good order.
    fn close(&mut self) {}
}

pub fn lock(spec: &Spec) -> anyhow::Result<Box<dyn Lock>> {
    Ok(match spec.recipe {
        Recipe::Conclave => Box::new(conclave::SessionLock::new(spec)?),
        _ => Box::new(redis::KeyLock::new(spec)?),
    })
}
