//! What correct objects would do: one file each.
//!
//! A model is a [`Spec`]: an initial state, and for a state and an operation the states that may follow. It takes one
//! operation at a time and knows nothing of concurrency. Some models have a special checker beside it, which decides a
//! history faster than any search ([`Spec::special`]).

mod counter;
mod directory;
mod fifo_queue;
mod kv;
mod kv_revision;
pub(crate) mod list_append;
mod register;
mod session;

use std::{collections::BTreeSet, fmt, hash::Hash};

use crate::{
    Function, History, Operation, Outcome, Value, Verdict,
    check::Part,
    locks::{Rules, spec::Lock},
    search::Budget,
};

/// A model, by name and parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// `read`, `write`.
    Register {
        /// Null: unset.
        init: Value,
    },
    /// `read`, `write`, `cas`.
    CasRegister {
        /// Null: unset.
        init: Value,
    },
    /// `get`, `put`, `append`, `delete`.
    Kv,
    /// `get`, `put`, `delete`, with revisions.
    KvRevision,
    /// Transactions of appends and reads over many lists.
    ListAppend,
    /// `acquire`, `try_acquire`, `release`, by anybody.
    Mutex,
    /// The same; only the holder may release.
    OwnerMutex,
    /// The same; the holder may acquire again.
    ReentrantMutex,
    /// The same; each grant has a token, larger than all before.
    FencedMutex,
    /// Up to so many holders.
    Semaphore(u32),
    /// Up to so many holders, with tokens.
    FencedSemaphore(u32),
    /// One writer or many readers.
    RwLock,
    /// `campaign`, `resign`, `observe`.
    Election,
    /// `enqueue`, `dequeue`.
    FifoQueue,
    /// `add`, `read`.
    Counter,
    /// `create`, `delete`, `list`, `expire`.
    SequentialDirectory,
    /// `open`, `renew`, `close`, `expire`.
    Session,
}

/// A name that is not a model's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// Unknown.
    #[error("no model is called {0:?}; there are {list}", list = Model::NAMES.join(", "))]
    Unknown(String),
    /// The number of permits is missing or not a number from 1 on.
    #[error("model {0} needs its number of permits, from 1 to {max}, as in {0}:3", max = Model::PERMITS_MAX)]
    Permits(String),
    /// `--init` for a model that always begins in the same state.
    #[error("model {0} has no initial value to set")]
    NoInit(String),
}

impl Model {
    /// All names; `N` is a number from 1 on.
    pub const NAMES: &[&str] = &[
        "register",
        "cas-register",
        "kv",
        "kv-revision",
        "list-append",
        "mutex",
        "owner-mutex",
        "reentrant-mutex",
        "fenced-mutex",
        "semaphore:N",
        "fenced-semaphore:N",
        "rwlock",
        "election",
        "fifo-queue",
        "counter",
        "sequential-directory",
        "session",
    ];

    /// Most permits of a semaphore.
    pub const PERMITS_MAX: u32 = 1_000_000;

    /// The model of this name, in its usual initial state.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let (name, permits) = text.split_once(':').map_or((text, None), |(name, permits)| (name, Some(permits)));
        let permits = |make: fn(u32) -> Self| {
            let number = permits.and_then(|text| text.parse().ok());
            number
                .filter(|number| (1..=Self::PERMITS_MAX).contains(number))
                .map(make)
                .ok_or_else(|| ModelError::Permits(name.into()))
        };
        match name {
            "semaphore" => return permits(Self::Semaphore),
            "fenced-semaphore" => return permits(Self::FencedSemaphore),
            _ => {}
        }
        Ok(match text {
            "register" => Self::Register { init: Value::Null },
            "cas-register" => Self::CasRegister { init: Value::Null },
            "kv" => Self::Kv,
            "kv-revision" => Self::KvRevision,
            "list-append" => Self::ListAppend,
            "mutex" => Self::Mutex,
            "owner-mutex" => Self::OwnerMutex,
            "reentrant-mutex" => Self::ReentrantMutex,
            "fenced-mutex" => Self::FencedMutex,
            "rwlock" => Self::RwLock,
            "election" => Self::Election,
            "fifo-queue" => Self::FifoQueue,
            "counter" => Self::Counter,
            "sequential-directory" => Self::SequentialDirectory,
            "session" => Self::Session,
            _ => return Err(ModelError::Unknown(text.into())),
        })
    }

    /// The same model in another initial state. Only registers have one to set.
    pub fn with_init(self, value: Value) -> Result<Self, ModelError> {
        match self {
            Self::Register { .. } => Ok(Self::Register { init: value }),
            Self::CasRegister { .. } => Ok(Self::CasRegister { init: value }),
            other => Err(ModelError::NoInit(other.to_string())),
        }
    }

    /// Whether every key is an object of its own. Transactions touch several lists at once.
    #[must_use]
    pub fn keyed(&self) -> bool {
        !matches!(self, Self::ListAppend)
    }

    /// Hands the model's [`Spec`] to `visit`.
    pub fn with<V: Visit>(&self, visit: V) -> V::Out {
        match self {
            Self::Register { init } => visit.visit(&register::Register { init: init.clone(), cas: false }),
            Self::CasRegister { init } => visit.visit(&register::Register { init: init.clone(), cas: true }),
            Self::Kv => visit.visit(&kv::Kv),
            Self::KvRevision => visit.visit(&kv_revision::KvRevision),
            Self::ListAppend => visit.visit(&list_append::ListAppend),
            Self::Mutex => visit.visit(&Lock { rules: Rules::MUTEX }),
            Self::OwnerMutex => visit.visit(&Lock { rules: Rules::OWNER_MUTEX }),
            Self::ReentrantMutex => visit.visit(&Lock { rules: Rules::REENTRANT_MUTEX }),
            Self::FencedMutex => visit.visit(&Lock { rules: Rules::FENCED_MUTEX }),
            Self::Semaphore(permits) => visit.visit(&Lock { rules: Rules::semaphore(*permits) }),
            Self::FencedSemaphore(permits) => visit.visit(&Lock { rules: Rules::fenced_semaphore(*permits) }),
            Self::RwLock => visit.visit(&Lock { rules: Rules::RWLOCK }),
            Self::Election => visit.visit(&Lock { rules: Rules::ELECTION }),
            Self::FifoQueue => visit.visit(&fifo_queue::FifoQueue),
            Self::Counter => visit.visit(&counter::Counter),
            Self::SequentialDirectory => visit.visit(&directory::Directory),
            Self::Session => visit.visit(&session::Session),
        }
    }

    /// Whether the model knows all operations of the history and can read their values; else which one, an index into
    /// [`History::operations`], and what would be right.
    pub fn admit(&self, history: &History) -> Result<(), (usize, String)> {
        struct Admit<'a>(&'a History);
        impl Visit for Admit<'_> {
            type Out = Result<(), (usize, String)>;
            fn visit<S: Spec>(self, spec: &S) -> Self::Out {
                self.0
                    .operations
                    .iter()
                    .enumerate()
                    .try_for_each(|(at, operation)| spec.admit(operation).map_err(|why| (at, why)))
            }
        }
        self.with(Admit(history))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register { .. } => "register",
            Self::CasRegister { .. } => "cas-register",
            Self::Kv => "kv",
            Self::KvRevision => "kv-revision",
            Self::ListAppend => "list-append",
            Self::Mutex => "mutex",
            Self::OwnerMutex => "owner-mutex",
            Self::ReentrantMutex => "reentrant-mutex",
            Self::FencedMutex => "fenced-mutex",
            Self::Semaphore(permits) => return write!(f, "semaphore:{permits}"),
            Self::FencedSemaphore(permits) => return write!(f, "fenced-semaphore:{permits}"),
            Self::RwLock => "rwlock",
            Self::Election => "election",
            Self::FifoQueue => "fifo-queue",
            Self::Counter => "counter",
            Self::SequentialDirectory => "sequential-directory",
            Self::Session => "session",
        })
    }
}

/// Something done with a model's [`Spec`], whatever its type of state. See [`Model::with`].
pub trait Visit {
    /// What comes of it.
    type Out;
    /// Does it.
    fn visit<S: Spec>(self, spec: &S) -> Self::Out;
}

/// What a history demands of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Nothing: it is left out.
    Nothing,
    /// It has its moment between its call and its return.
    Must,
    /// It has its moment at any time after its call, or none.
    May,
}

/// What a correct object does, one operation at a time.
pub trait Spec: Sync {
    /// Equal states have equal futures: keep in it only what the future depends on.
    type State: Clone + fmt::Debug + Eq + Hash + Send + Sync;

    /// Before the first operation.
    fn init(&self) -> Self::State;

    /// Appends to `next` every state that may follow if the operation takes effect in `state` and ends as it did; none
    /// if that is impossible. Called for operations whose [`Spec::role`] is `Must` or `May` only; of one that may, the
    /// result is not known.
    fn step(&self, state: &Self::State, operation: &Operation, next: &mut Vec<Self::State>);

    /// What the operation's outcome demands.
    fn role(&self, operation: &Operation) -> Role {
        match operation.outcome {
            Outcome::Ok => Role::Must,
            Outcome::Fail => Role::Nothing,
            Outcome::Unknown if self.reads(operation) => Role::Nothing,
            Outcome::Unknown => Role::May,
        }
    }

    /// True if the operation never changes any state. The search takes such operations as soon as they fit.
    fn reads(&self, operation: &Operation) -> bool {
        let _ = operation;
        false
    }

    /// Whether [`Spec::step`] looks at [`Operation::process`]. If not, operations of different processes with equal
    /// functions, values and outcomes are interchangeable, which the search uses.
    fn by_process(&self) -> bool {
        false
    }

    /// Whether [`Spec::step`] looks at positions or times of the operation. If so, no two are interchangeable.
    fn by_time(&self) -> bool {
        false
    }

    /// Whether operations done again and again lead to few states, none larger than what was written. Then the search
    /// need not count those that were freed, when it makes a counterexample small.
    fn repeats(&self) -> bool {
        false
    }

    /// Bytes of a state, about, with what it owns.
    fn state_bytes(&self, state: &Self::State) -> usize {
        size_of_val(state)
    }

    /// A state in words, for a sentence of cause.
    fn show(&self, state: &Self::State) -> String {
        format!("{state:?}")
    }

    /// Why `culprit` has no place among `shown`, a minimal set of operations that has no order, in one sentence; if the
    /// model knows better than to list `states`, those in which the others can leave the object.
    fn cause(
        &self,
        part: &Part<'_>,
        shown: &[(u32, &Operation)],
        culprit: &Operation,
        states: &[String],
    ) -> Option<String> {
        let _ = (part, shown, culprit, states);
        None
    }

    /// The same model where nothing but these operations demands anything, with fewer states that differ.
    fn narrowed(&self, demanding: &mut dyn Iterator<Item = &Operation>) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = demanding;
        None
    }

    /// Independent pieces of the object (children of a directory, who holds a lock), by operation; none for one that
    /// concerns them all. Whatever order there is for all operations is, without a piece and its operations, one for the
    /// model [`Spec::without_others`]. Empty: there are no such pieces.
    fn pieces(&self, operations: &[&Operation]) -> Vec<Option<i64>> {
        let _ = operations;
        Vec::new()
    }

    /// The model with these pieces only.
    fn without_others(&self, kept: &BTreeSet<i64>) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = kept;
        None
    }

    /// Whether the operation is one of the model's and has values of the right form; else what would be right.
    fn admit(&self, operation: &Operation) -> Result<(), String>;

    /// A verdict by an algorithm made for this model, if there is one that decides this part.
    fn special(&self, part: &Part<'_>, budget: &Budget) -> Option<Verdict> {
        let _ = (part, budget);
        None
    }
}

/// The usual beginning of [`Spec::admit`].
pub(crate) fn admit_functions(operation: &Operation, functions: &[Function]) -> Result<(), String> {
    if functions.contains(&operation.function) {
        return Ok(());
    }
    let known: Vec<_> = functions.iter().map(|function| function.name()).collect();
    Err(format!("operation {} is not one of this model's: {}", operation.function.name(), known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Model::NAMES {
            let name = name.replace(":N", ":3");
            assert_eq!(Model::parse(&name).unwrap().to_string(), name);
        }
        for bad in ["", "registers", "semaphore", "semaphore:", "semaphore:0", "semaphore:x", "mutex:1", "semaphore:N"]
        {
            assert!(Model::parse(bad).is_err(), "{bad}");
        }
    }
}
