//! Conclave's replicated state machine.
//!
//! Values in, values out: [`Machine::apply`] takes a committed log entry and hands back its outcome, the changes
//! watchers are told of, and (through [`Machine::take_writes`]) the records to store. There is no clock, no I/O, no
//! randomness and no iteration over hash maps here: the same entries give the same state, outcomes and
//! [`StateHash`] on every replica, for ever.
//!
//! True after every applied entry:
//! * the owner of an ephemeral node is an open session; an ephemeral node has no children;
//! * every node but the root has its parent; `child_count` is the number of its children;
//! * one applied command makes at most one revision, however many nodes it touches, and none if it changed nothing;
//! * what is refused is an ordinary outcome, identical everywhere; what must never happen panics, which stops the node;
//! * a request number of a session takes effect at most once, in order, and its answer is kept until acknowledged;
//! * the end of a session comes through the log, guarded by the leader's term, and takes all its nodes at one revision;
//! * a session's id is never issued again.
//!
//! Not here: noticing silence (the leader's session clock), delivering events (the server's watch hub), storing.

mod command;
mod history;
mod limits;
mod machine;
mod node;
mod outcome;
mod queues;
mod records;
mod sessions;
mod tree;
mod txn;

pub use command::{By, Command, Compare, CreateKind, Entry, LIST_NAMES_MAX, Op, Relation, RequestId, Test, Txn};
pub use limits::Limits;
pub use machine::{Applied, Checkpoint, Counts, Machine, QueuePlace, Session, StateHash, Writes};
pub use node::{Acl, Change, Kind, Node, RevisionChanges};
pub use outcome::{EndReason, OpResult, Outcome, ReadError, Refusal, RestoreError, TxnResult};
