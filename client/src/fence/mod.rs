//! Fences: the other half of a lock.
//!
//! A lock service cannot stop a paused process from writing late. The resource can: it remembers the largest
//! [`FencingToken`] it has seen and refuses smaller ones. **Reads count too**: the first touch, read or write, raises the
//! fence. If only writes carried the token, a late writer could slip in between the new holder's read and its first
//! write, and its update would be lost.

use std::collections::HashMap;

use conclave_faults::planted;
use conclave_proto::FencingToken;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// A late holder was turned away.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("stale fencing token: resource={resource} token={token}, the resource has seen {seen}")]
pub struct Stale {
    /// Which resource.
    pub resource: String,
    /// What was shown.
    pub token: FencingToken,
    /// The larger one it has seen.
    pub seen: u64,
}

/// A resource that compares tokens.
pub trait Fenced {
    /// What can go wrong, [`Stale`] tokens included.
    type Error: From<Stale>;

    /// Call before (and atomically with) every touch, read or write: raises the fence to `token`, or refuses it.
    ///
    /// # Errors
    /// [`Stale`] if a larger token was seen.
    fn enter(&mut self, resource: &str, token: FencingToken) -> Result<(), Self::Error>;
}

/// A fence in memory, for resources that live in one process.
///
/// ```
/// use conclave_client::{FencingToken, Revision, fence::{Fence, Fenced}};
///
/// let (paused, next) = (FencingToken::new(0, Revision(7)), FencingToken::new(0, Revision(9)));
/// let mut fence = Fence::default();
/// fence.enter("orders/42", paused).unwrap();
/// fence.enter("orders/42", next).unwrap(); // the next holder reads: that alone raises the fence
/// assert!(fence.enter("orders/42", paused).is_err()); // the paused one wakes up and writes, too late
/// ```
#[derive(Clone, Debug, Default)]
pub struct Fence {
    seen: HashMap<String, FencingToken>,
}

impl Fenced for Fence {
    type Error = Stale;

    fn enter(&mut self, resource: &str, token: FencingToken) -> Result<(), Stale> {
        match self.seen.get_mut(resource) {
            Some(seen) if *seen > token && !planted!(FenceAcceptsLower) => {
                Err(Stale { resource: resource.to_owned(), token, seen: seen.get() })
            }
            Some(seen) => {
                *seen = token;
                Ok(())
            }
            None => {
                self.seen.insert(resource.to_owned(), token);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::Revision;

    use super::*;

    #[test]
    fn a_smaller_token_is_refused_an_equal_or_larger_one_is_not() {
        let token = |revision| FencingToken::new(0, Revision(revision));
        let mut fence = Fence::default();
        assert_eq!(fence.enter("a", token(5)), Ok(()));
        assert_eq!(fence.enter("a", token(5)), Ok(()));
        assert_eq!(fence.enter("a", token(8)), Ok(()));
        let stale = fence.enter("a", token(5)).expect_err("stale");
        assert_eq!((stale.token, stale.seen), (token(5), 8));
        assert!(stale.to_string().contains("resource=a token=5"));
        assert_eq!(fence.enter("b", token(1)), Ok(()), "resources are apart");
    }
}
