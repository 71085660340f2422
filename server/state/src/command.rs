//! What the log carries.

use bytes::Bytes;
use conclave_proto::{NodePath, RequestNumber, Revision, SessionId, Term};
use serde::{Deserialize, Serialize};

use crate::{Limits, Refusal};

/// Names one proposal of one server's lifetime, so that whoever waits for it is answered and nobody else. Chosen by
/// the proposing server: its id, a random number drawn at start, a counter.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RequestId {
    /// The proposing server.
    pub server: u64,
    /// Drawn when that server started.
    pub run: u64,
    /// Counts its proposals.
    pub count: u64,
}

/// One log entry's data.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// Who waits for it.
    pub request: RequestId,
    /// The proposer's wall clock, milliseconds since the Unix epoch. For people; decides nothing.
    pub at_ms: u64,
    /// What to do.
    pub command: Command,
}

/// The numbered request of a session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct By {
    /// Whose.
    pub session: SessionId,
    /// Which of the processes that know the session's secret; see [`Command::TakeOver`].
    pub run: u64,
    /// Its number: one more than the last applied, or a repetition.
    pub number: RequestNumber,
    /// The session has the answers of all numbers up to here; they may be forgotten.
    pub acknowledged: RequestNumber,
}

/// A change of state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Command {
    /// Applies a transaction. Without `by` (tools) a repetition is applied again, and no node can be ephemeral.
    Txn {
        /// The session and number.
        by: Option<By>,
        /// What.
        txn: Txn,
    },
    /// Uses up a number for a request that was refused before it was proposed, so that later ones are not out of
    /// order, and keeps the refusal as its answer.
    Refused {
        /// The session and number.
        by: By,
        /// The answer.
        refusal: Refusal,
    },
    /// Opens a session, whose id is the log index of this entry.
    OpenSession {
        /// Shown again to resume it.
        secret: [u8; 16],
        /// Drawn by the process that speaks for it.
        run: u64,
        /// Within `Limits`.
        ttl_ms: u64,
        /// For people.
        name: String,
    },
    /// Another process, which proved the secret at the door, speaks for the session from now on. What its predecessor
    /// still has under way is refused when it comes, so that the numbers after the last one are the successor's alone.
    TakeOver {
        /// Which.
        session: SessionId,
        /// Drawn by that process.
        run: u64,
    },
    /// Ends a session because its client (who proved the secret at the door) or an administrator asked.
    EndSession {
        /// Which.
        session: SessionId,
        /// The process that asks; none for an administrator.
        run: Option<u64>,
        /// `Closed` or `Killed`.
        reason: crate::EndReason,
    },
    /// The leader heard nothing of these for their TTL. Does nothing unless the entry's own term is `term`.
    ExpireSessions {
        /// The term in which the leader noticed.
        term: Term,
        /// Which.
        sessions: Vec<SessionId>,
    },
    /// What remains to these sessions by the leader's clock, for the next leader. Same guard.
    CheckpointSessions {
        /// The term of the leader.
        term: Term,
        /// Counts the checkpoints of that leader; comes back in [`crate::Applied`], so that it knows which one it sees.
        serial: u64,
        /// Milliseconds left, at most the TTL.
        remaining_ms: Vec<(SessionId, u64)>,
    },
    /// Removes containers that stayed empty and TTL nodes that stayed unchanged, each only if its
    /// `modify_revision` and `children_revision` are still these. Same guard.
    Reap {
        /// The term of the leader.
        term: Term,
        /// Path, modify revision, children revision.
        nodes: Vec<(NodePath, Revision, Revision)>,
    },
    /// Forgets history up to and including this revision. Same guard.
    Compact {
        /// The term of the leader.
        term: Term,
        /// At most the current revision.
        through: Revision,
    },
    /// Sets the bounds that decide outcomes. Same guard.
    Configure {
        /// The term of the leader.
        term: Term,
        /// The new bounds.
        limits: Limits,
    },
    /// Raises the fence epoch, which every restore from backup does.
    RaiseFenceEpoch {
        /// Must be larger than the present one.
        epoch: u64,
    },
}

impl Command {
    /// The term of the leader that a guarded command carries.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        match self {
            Self::ExpireSessions { term, .. }
            | Self::CheckpointSessions { term, .. }
            | Self::Reap { term, .. }
            | Self::Compact { term, .. }
            | Self::Configure { term, .. } => Some(*term),
            Self::Txn { .. }
            | Self::Refused { .. }
            | Self::OpenSession { .. }
            | Self::TakeOver { .. }
            | Self::EndSession { .. }
            | Self::RaiseFenceEpoch { .. } => None,
        }
    }
}

/// Comparisons, and what to do when all hold or one does not. Atomic, one revision.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Txn {
    /// All must hold for `then`.
    pub compare: Vec<Compare>,
    /// Done if they do.
    pub then: Vec<Op>,
    /// Done if one does not.
    pub otherwise: Vec<Op>,
}

/// One comparison.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Compare {
    /// Of which node.
    pub path: NodePath,
    /// For a missing node every test but `Exists(false)` fails.
    pub test: Test,
}

/// How numbers and data compare: `found RELATION given`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Relation {
    /// =
    Equal,
    /// ≠
    NotEqual,
    /// <
    Less,
    /// >
    Greater,
}

/// What a comparison asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Test {
    /// Is there such a node?
    Exists(bool),
    /// Changes of data since creation.
    Version(Relation, u64),
    /// When it was created.
    CreateRevision(Relation, Revision),
    /// When its data last changed.
    ModifyRevision(Relation, Revision),
    /// Its data, bytewise.
    Data(Relation, Bytes),
    /// Its ephemeral owner.
    Owner(Option<SessionId>),
    /// The calling session owns the node, in the incarnation created at this revision. Never holds without a session.
    HeldSince(Revision),
}

/// Kind of a node to create; the owner of an ephemeral one is the calling session.
pub type CreateKind = crate::Kind;

/// Most names one [`Op::List`] reads; `Machine::list` reads more in pages.
pub const LIST_NAMES_MAX: u64 = 10_000;

/// One operation. If one is refused, the whole transaction is, and nothing was done.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Op {
    /// Makes a node that is not there.
    Create {
        /// Where; for a sequential node the parent's counter is appended.
        path: NodePath,
        /// Its data.
        data: Bytes,
        /// Its kind.
        kind: CreateKind,
        /// Ask the parent for a number.
        sequential: bool,
        /// Make missing parents of this kind (`Persistent` or `Container`) in the same revision.
        create_parents: Option<CreateKind>,
    },
    /// Writes a node's data, creating a persistent node if there is none.
    Put {
        /// Where.
        path: NodePath,
        /// Its data.
        data: Bytes,
        /// Make missing parents, persistent, in the same revision.
        create_parents: bool,
    },
    /// Removes a node; nothing to do is no refusal.
    Delete {
        /// Where.
        path: NodePath,
        /// With everything below it; otherwise a node with children is refused.
        recursive: bool,
    },
    /// Reads a node as it is at this point of the transaction.
    Get {
        /// Which.
        path: NodePath,
    },
    /// Reads the names of a node's children, in order; none for a missing node. Refused beyond [`LIST_NAMES_MAX`].
    List {
        /// Of which node.
        path: NodePath,
    },
}
