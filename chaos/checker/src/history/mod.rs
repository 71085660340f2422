//! What clients saw: operations with their calls and returns, in the order in which these happened.

mod edn;
mod event;
mod json;
mod read;
mod record;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use read::{FILE_BYTES_MAX, Format, ParseError, ReadError, format, line_of, load, parse, read};
pub use record::{Call, Recorder};

/// A value of an operation.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Value {
    /// Nothing, or not known.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text; EDN's keywords and symbols too.
    Text(Arc<str>),
    /// A list or vector.
    List(Arc<[Value]>),
}

/// What an operation does. Which models know which, and with what values, is said there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Function {
    /// Registers.
    Read,
    /// Registers.
    Write,
    /// Registers: value `[old, new]`.
    Cas,
    /// Key-values, directories.
    Get,
    /// Key-values.
    Put,
    /// Key-values, lists.
    Append,
    /// Key-values, directories.
    Delete,
    /// Lists: several micro-operations at once, value `[[f, key, value] …]`.
    Txn,
    /// Locks, semaphores: blocks.
    Acquire,
    /// Locks, semaphores: does not block.
    TryAcquire,
    /// Locks, semaphores.
    Release,
    /// Read/write locks: shared, blocks.
    AcquireShared,
    /// Read/write locks: shared, does not block.
    TryAcquireShared,
    /// Elections: to become leader; blocks.
    Campaign,
    /// Elections.
    Resign,
    /// Elections: who leads.
    Observe,
    /// Queues.
    Enqueue,
    /// Queues.
    Dequeue,
    /// Counters.
    Add,
    /// Directories: an ephemeral sequential child.
    Create,
    /// Directories: all children.
    List,
    /// Sessions.
    Open,
    /// Sessions.
    Renew,
    /// Sessions.
    Close,
    /// Sessions and directories: the server ended the session.
    Expire,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// It happened, with its result.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// It may have happened at any moment since its call, may yet happen, or never.
    Unknown,
}

/// [`Operation::returned`] of an operation that did not.
pub const NEVER: u32 = u32::MAX;
/// A time that the history does not tell.
pub const NO_TIME: i64 = i64::MIN;

/// An operation: its call and its return.
///
/// `called` and `returned` are positions among the history's events and its only order; times serve reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Index into [`History::processes`].
    pub process: u32,
    /// Index into [`History::keys`].
    pub key: u32,
    /// What it does.
    pub function: Function,
    /// How it ended.
    pub outcome: Outcome,
    /// Position of its call.
    pub called: u32,
    /// Position of its return; [`NEVER`] if unknown or missing.
    pub returned: u32,
    /// The value it was called with.
    pub argument: Value,
    /// The value it returned; if it failed, the reason that the history gives, or null.
    pub result: Value,
    /// Nanoseconds; [`NO_TIME`] if the history has none.
    pub called_ns: i64,
    /// Nanoseconds; [`NO_TIME`] if the history has none.
    pub returned_ns: i64,
}

/// What was done to the system while the clients worked. Serves reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// In words.
    pub what: String,
    /// To whom, or empty.
    pub target: String,
    /// Position of its beginning.
    pub from: u32,
    /// Position of its end; [`NEVER`] if it was not ended.
    pub until: u32,
    /// Nanoseconds, or [`NO_TIME`].
    pub from_ns: i64,
    /// Nanoseconds, or [`NO_TIME`].
    pub until_ns: i64,
}

/// A history. Operations are in the order of their calls; a process has at most one under way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// See [`Operation`].
    pub operations: Vec<Operation>,
    /// Names of processes.
    pub processes: Vec<Value>,
    /// Names of keys; null for operations without one.
    pub keys: Vec<Value>,
    /// What was broken meanwhile.
    pub faults: Vec<Fault>,
    /// Number of events (calls, returns, beginnings and ends of faults).
    pub events: u32,
}

impl Value {
    /// Nothing, or not known.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl Operation {
    /// Certainly over before the other began.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        self.returned < other.called
    }

    /// Failed for lack of time: the reason speaks of a time-out.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        let Value::Text(reason) = &self.result else { return false };
        let reason = reason.to_ascii_lowercase();
        self.outcome == Outcome::Fail
            && (reason.contains("timeout") || reason.contains("timed") || reason.contains("time-out"))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nil"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::List(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if at == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl Function {
    /// All, with their names in histories.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Cas, "cas"),
        (Self::Get, "get"),
        (Self::Put, "put"),
        (Self::Append, "append"),
        (Self::Delete, "delete"),
        (Self::Txn, "txn"),
        (Self::Acquire, "acquire"),
        (Self::TryAcquire, "try_acquire"),
        (Self::Release, "release"),
        (Self::AcquireShared, "acquire_shared"),
        (Self::TryAcquireShared, "try_acquire_shared"),
        (Self::Campaign, "campaign"),
        (Self::Resign, "resign"),
        (Self::Observe, "observe"),
        (Self::Enqueue, "enqueue"),
        (Self::Dequeue, "dequeue"),
        (Self::Add, "add"),
        (Self::Create, "create"),
        (Self::List, "list"),
        (Self::Open, "open"),
        (Self::Renew, "renew"),
        (Self::Close, "close"),
        (Self::Expire, "expire"),
    ];

    /// As in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(function, _)| *function == self).map_or("?", |(_, name)| name)
    }

    /// Hyphens may stand for underscores, as EDN likes it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let same = |known: &str| known.bytes().eq(name.bytes().map(|byte| if byte == b'-' { b'_' } else { byte }));
        Self::ALL.iter().find(|(_, known)| same(known)).map(|(function, _)| *function)
    }
}
