//! One thing made wrong in a history, so that no order is left.
//!
//! Each kind looks for a place where the wrong is certain: where real time alone, with values that were written once,
//! excludes every order. Where a history has no such place the kind does nothing and says so.

mod ends;
mod locks;
mod sequences;
mod stores;
mod suits;
mod tools;

use fastrand::Rng;

use self::{ends::*, locks::*, sequences::*, stores::*, suits::*};
use crate::{History, Model};

/// A kind of mutation.
pub struct Kind {
    /// As on the command line.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    suits: fn(&Model) -> bool,
    apply: fn(&mut History, &Model, &mut Rng) -> Option<u32>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "stale-read",
        what: "a read returns a value that had been overwritten",
        suits: is_store,
        apply: stale_read,
    },
    Kind {
        name: "lost-write",
        what: "a write that was ok is not seen by the only read of it",
        suits: is_plain_store,
        apply: lost_write,
    },
    Kind { name: "phantom-read", what: "a value is returned that nobody wrote", suits: has_reads, apply: phantom_read },
    Kind { name: "wrong-count", what: "a sum is read that no additions make", suits: is_counter, apply: wrong_count },
    Kind {
        name: "out-of-order-dequeue",
        what: "two dequeues have their values exchanged",
        suits: is_queue,
        apply: out_of_order_dequeue,
    },
    Kind { name: "duplicate-dequeue", what: "a value is dequeued twice", suits: is_queue, apply: duplicate_dequeue },
    Kind {
        name: "missing-append",
        what: "a read lacks a value that had been appended",
        suits: is_lists,
        apply: missing_append,
    },
    Kind {
        name: "reordered-append",
        what: "two reads see two values in different orders",
        suits: is_lists,
        apply: reordered_append,
    },
    Kind {
        name: "double-grant",
        what: "a lock (or a permit too many) is granted while it is held",
        suits: is_lock,
        apply: double_grant,
    },
    Kind {
        name: "two-leaders",
        what: "somebody else comes to lead while another leads",
        suits: is_election,
        apply: double_grant,
    },
    Kind {
        name: "stale-observe",
        what: "a leader is seen whose successor had been elected",
        suits: is_election,
        apply: stale_observe,
    },
    Kind { name: "reused-token", what: "two grants have the same token", suits: is_fenced, apply: reused_token },
    Kind {
        name: "falling-token",
        what: "a grant has a token below one that was granted before",
        suits: is_fenced,
        apply: falling_token,
    },
    Kind {
        name: "foreign-release",
        what: "somebody releases who held nothing",
        suits: is_owned,
        apply: foreign_release,
    },
    Kind {
        name: "grant-after-expiry",
        what: "a token is granted that had expired",
        suits: is_fenced,
        apply: grant_after_expiry,
    },
    Kind {
        name: "renew-after-end",
        what: "a session is renewed after its end",
        suits: is_session,
        apply: renew_after_end,
    },
    Kind {
        name: "non-sequential-child",
        what: "a child gets the number of an earlier one",
        suits: is_directory,
        apply: non_sequential_child,
    },
    Kind {
        name: "ghost-child",
        what: "a child is listed that had been deleted",
        suits: is_directory,
        apply: ghost_child,
    },
];

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether histories of this model can be spoiled so.
    #[must_use]
    pub fn suits(&self, model: &Model) -> bool {
        (self.suits)(model)
    }

    /// Spoils the history. Returns the operation that was touched, an index into [`History::operations`]; none if there
    /// is no place for it.
    pub fn apply(&self, history: &mut History, model: &Model, seed: u64) -> Option<u32> {
        (self.apply)(history, model, &mut Rng::with_seed(seed))
    }
}
