//! Histories of a program's own making: calls and returns told one after the other, as they happen.
//!
//! ```
//! use conclave_checker::{Function, Limits, Model, Recorder, Verdict, judge};
//!
//! let mut seen = Recorder::default();
//! let one = seen.call("client 1", "/locks/a", Function::Acquire, (), 10);
//! seen.ok(one, 33, 20);
//! let other = seen.call("client 2", "/locks/a", Function::Acquire, (), 30);
//! let release = seen.call("client 1", "/locks/a", Function::Release, 33, 40);
//! seen.ok(other, 34, 50);
//! seen.ok(release, (), 60);
//! let judgement = judge(&seen.finish(), &Model::FencedMutex, &Limits::default()).unwrap();
//! // Granted while the first hold lasted: its release, which was ok, may have come first.
//! assert_eq!(judgement.verdict, Verdict::Linearizable);
//! ```

use std::collections::{HashMap, HashSet};

use super::{Function, History, NEVER, NO_TIME, Operation, Outcome, Value};

/// Makes a [`History`].
#[derive(Debug, Default)]
pub struct Recorder {
    history: History,
    processes: HashMap<Value, u32>,
    keys: HashMap<Value, u32>,
    /// Processes with a call under way.
    busy: HashSet<u32>,
}

/// A call that was told of. Without a return it stays of unknown outcome.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Call(u32);

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::Null
    }
}

fn id(ids: &mut HashMap<Value, u32>, names: &mut Vec<Value>, name: Value) -> u32 {
    *ids.entry(name).or_insert_with_key(|name| {
        names.push(name.clone());
        names.len() as u32 - 1
    })
}

impl Recorder {
    /// A process calls; the key names the object. `at_ns`: nanoseconds, or [`NO_TIME`].
    ///
    /// A process does one thing at a time. After a call that never returned, its client goes on under a new name.
    ///
    /// # Panics
    /// If the process has a call under way.
    pub fn call(
        &mut self,
        process: impl Into<Value>,
        key: impl Into<Value>,
        function: Function,
        argument: impl Into<Value>,
        at_ns: i64,
    ) -> Call {
        let history = &mut self.history;
        let at = history.operations.len() as u32;
        let process = id(&mut self.processes, &mut history.processes, process.into());
        assert!(self.busy.insert(process), "{} has a call under way", history.processes[process as usize]);
        history.operations.push(Operation {
            process,
            key: id(&mut self.keys, &mut history.keys, key.into()),
            function,
            outcome: Outcome::Unknown,
            called: history.events,
            returned: NEVER,
            argument: argument.into(),
            result: Value::Null,
            called_ns: at_ns,
            returned_ns: NO_TIME,
        });
        history.events += 1;
        Call(at)
    }

    /// It happened, with this result.
    ///
    /// # Panics
    /// If it had returned.
    pub fn ok(&mut self, call: Call, result: impl Into<Value>, at_ns: i64) {
        self.end(call, Outcome::Ok, result.into(), at_ns);
    }

    /// It certainly did not happen, for this reason; null where that says something itself (see the models).
    ///
    /// # Panics
    /// If it had returned.
    pub fn fail(&mut self, call: Call, reason: impl Into<Value>, at_ns: i64) {
        self.end(call, Outcome::Fail, reason.into(), at_ns);
    }

    fn end(&mut self, call: Call, outcome: Outcome, result: Value, at_ns: i64) {
        let operation = &mut self.history.operations[call.0 as usize];
        assert!(operation.returned == NEVER, "an operation returns once");
        self.busy.remove(&operation.process);
        (operation.outcome, operation.result) = (outcome, result);
        (operation.returned, operation.returned_ns) = (self.history.events, at_ns);
        self.history.events += 1;
    }

    /// What was told.
    #[must_use]
    pub fn finish(self) -> History {
        self.history
    }
}
