//! Newtypes for the numbers of the domain.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Raft's epoch of leadership.
    Term
);
id!(
    /// A position in the Raft log. Not a [`Revision`]: empty and membership entries use up an index only.
    Index
);
id!(
    /// The store's own clock: one step for each applied command that changed data. 0 is the empty store.
    Revision
);
id!(
    /// A session, for ever: ids are never issued again. 0 is none.
    SessionId
);
id!(
    /// A server of the cluster, as in its configuration. 0 is none.
    ServerId
);
id!(
    /// Counts the mutating requests of one session from 1, without gaps.
    RequestNumber
);

impl fmt::LowerHex for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// What a lock's holder shows to the resource it writes to: a positive 63-bit integer, strictly larger for every
/// later holder of the same lock.
///
/// `fence_epoch << 48 | create_revision` of the holder's lock node. The epoch rises on every restore from
/// backup, so a token never goes backwards, even then.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Bits of the token that hold the revision.
    pub const REVISION_BITS: u32 = 48;
    /// Largest epoch that keeps the token positive as a signed 64-bit integer.
    pub const EPOCH_MAX: u64 = (1 << 15) - 1;

    /// # Panics
    /// If `revision` is 0 or needs more than 48 bits, or `epoch` more than 15: a token must never wrap.
    #[must_use]
    pub fn new(epoch: u64, create_revision: Revision) -> Self {
        assert!(epoch <= Self::EPOCH_MAX, "fence epoch {epoch} needs more than 15 bits");
        assert!(create_revision.0 > 0, "a lock node has a create_revision");
        assert!(create_revision.0 >> Self::REVISION_BITS == 0, "revision {create_revision} needs more than 48 bits");
        Self(epoch << Self::REVISION_BITS | create_revision.0)
    }

    /// The token as the resource stores and compares it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The token as a signed integer, for databases without unsigned ones. Always positive.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).expect("63 bits fit")
    }

    /// The lock node's create revision.
    #[must_use]
    pub fn create_revision(self) -> Revision {
        Revision(self.0 & ((1 << Self::REVISION_BITS) - 1))
    }

    /// The epoch of restores from backup.
    #[must_use]
    pub fn epoch(self) -> u64 {
        self.0 >> Self::REVISION_BITS
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_grows_with_the_revision_and_more_with_the_epoch() {
        let old = FencingToken::new(0, Revision((1 << 48) - 1));
        let restored = FencingToken::new(1, Revision(1));
        assert!(FencingToken::new(0, Revision(7)) < FencingToken::new(0, Revision(8)));
        assert!(old < restored);
        assert_eq!((restored.epoch(), restored.create_revision()), (1, Revision(1)));
        assert!(FencingToken::new(FencingToken::EPOCH_MAX, Revision(1)).as_i64() > 0);
    }

    #[test]
    #[should_panic(expected = "48 bits")]
    fn a_token_never_wraps() {
        let _ = FencingToken::new(0, Revision(1 << 48));
    }
}
