//! What applying a command gives back. Stored as answers, so changes here are changes of the stored format.

use conclave_proto::{NodePath, RequestNumber, Revision, SessionId};
use serde::{Deserialize, Serialize};

use crate::Node;

/// The result of one command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// Done, nothing to say (housekeeping, or an entry without a command).
    Done,
    /// A transaction was applied, or its comparisons were answered.
    Txn(TxnResult),
    /// A session was opened.
    Opened {
        /// Its id.
        session: SessionId,
    },
    /// Nothing was changed, and why.
    Refused(Refusal),
}

/// The result of a transaction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TxnResult {
    /// The first comparison that did not hold; none means that `then` was done.
    pub failed_compare: Option<u32>,
    /// One per operation of the branch that was done.
    pub results: Vec<OpResult>,
    /// The revision made, or seen if nothing changed.
    pub revision: Revision,
}

/// The result of one operation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum OpResult {
    /// A node was made.
    Created {
        /// With the number, if it is sequential.
        path: NodePath,
        /// The number.
        sequence: Option<u64>,
    },
    /// Data was written.
    Put {
        /// The node was not there before.
        created: bool,
        /// Changes of data since creation.
        version: u64,
    },
    /// Nodes were removed.
    Deleted {
        /// How many; 0 where there was none.
        count: u64,
    },
    /// A node, or none.
    Got(Option<(NodePath, Node)>),
    /// Names of children, in order.
    Listed(Vec<String>),
}

/// Why nothing was done. Every one is definite.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum Refusal {
    /// A create found the node there.
    #[error("node exists: path={path} create_revision={create_revision}")]
    NodeExists {
        /// Which.
        path: NodePath,
        /// When it was created.
        create_revision: Revision,
        /// Which operation.
        op: u32,
    },
    /// The parent is missing.
    #[error("parent is missing: path={path} parent={parent} (create_parents makes missing ones)")]
    NoParent {
        /// Of which node.
        path: NodePath,
        /// The highest missing one.
        parent: NodePath,
        /// Which operation.
        op: u32,
    },
    /// A delete found children.
    #[error("node has children: path={path} child_count={child_count} (recursive removes them too)")]
    NotEmpty {
        /// Which.
        path: NodePath,
        /// How many.
        child_count: u64,
        /// Which operation.
        op: u32,
    },
    /// An ephemeral node can have no children.
    #[error("parent is ephemeral and can have no children: path={path} parent={parent}")]
    EphemeralParent {
        /// Of which node.
        path: NodePath,
        /// The parent.
        parent: NodePath,
        /// Which operation.
        op: u32,
    },
    /// An ephemeral node needs a session.
    #[error("an ephemeral node needs a session: path={path}")]
    NeedsSession {
        /// Which.
        path: NodePath,
        /// Which operation.
        op: u32,
    },
    /// The root and the reserved subtree are not the clients'.
    #[error("not allowed: path={path}: {why}")]
    Denied {
        /// Which.
        path: NodePath,
        /// In words.
        why: String,
        /// Which operation.
        op: u32,
    },
    /// Out of bounds, and which bound.
    #[error("limit reached: {limit} is {max}, asked for {asked}")]
    Limit {
        /// Its name in the configuration.
        limit: String,
        /// Its value.
        max: u64,
        /// What was asked for.
        asked: u64,
        /// Which operation, where it was one.
        op: Option<u32>,
    },
    /// A path that cannot be, made from one that can.
    #[error("bad request: {what}")]
    Invalid {
        /// In words.
        what: String,
        /// Which operation, where it was one.
        op: Option<u32>,
    },
    /// The session has ended, or never was.
    #[error("no such session: {session:x}")]
    NoSession {
        /// Which.
        session: SessionId,
    },
    /// Another process speaks for the session.
    #[error("session {session:x} was taken over by another process")]
    TakenOver {
        /// Which.
        session: SessionId,
    },
    /// Earlier numbers have not been applied.
    #[error("request out of order: number={number} expected={expected}")]
    OutOfOrder {
        /// What came.
        number: RequestNumber,
        /// What must come next.
        expected: RequestNumber,
    },
    /// The answer was acknowledged and is forgotten.
    #[error("answer forgotten: number={number} acknowledged={acknowledged}")]
    AnswerForgotten {
        /// What came.
        number: RequestNumber,
        /// Everything up to here is forgotten.
        acknowledged: RequestNumber,
    },
    /// The command's term is over.
    #[error("stale term")]
    StaleTerm,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EndReason {
    /// Its client said so.
    Closed,
    /// Silent for its TTL.
    Expired,
    /// An administrator said so.
    Killed,
}

/// Why a read has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Asked for a revision that history no longer holds.
    #[error("revision {asked} is compacted, the oldest known is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be asked for.
        oldest: Revision,
    },
    /// Asked for a revision that is not yet.
    #[error("revision {asked} is not yet, the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        newest: Revision,
    },
}

/// Why stored records make no state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A record cannot be read.
    #[error("stored record cannot be read: key={key}: {why}")]
    Record {
        /// Printable form of the key.
        key: String,
        /// In words.
        why: String,
    },
    /// The records do not add up to the stored hash.
    #[error("stored state does not match its hash: stored={stored} found={found}")]
    Hash {
        /// As stored.
        stored: String,
        /// As computed.
        found: String,
    },
    /// The records contradict each other.
    #[error("stored state is inconsistent: {0}")]
    Inconsistent(String),
}
