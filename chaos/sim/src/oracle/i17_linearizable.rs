//! I17: linearizable reads are, also on a resumed old leader.
//!
//! Every reply says which revision it reflects. So a history of one store is linearizable if every reply tells what the
//! store held at that revision, and no reply reflects an older one than a reply that had come before its call. The same
//! history goes through the checker, which knows nothing of that argument.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use conclave_checker::{
    Function, History, Limits, Model, Operation, Value, Verdict,
    history::{NEVER, NO_TIME},
};

use super::{End, Found, Oracle, Seen, canon::Canon};
use crate::{
    client::seen::{ClientSeen, Ended},
    time::Micros,
};

/// See the module.
#[derive(Default)]
pub struct Linearizable {
    canon: Canon,
    /// The newest revision that a reply reflected.
    told: u64,
    /// By operation: the newest revision told before its call, and the position of its call.
    called: BTreeMap<u64, (u64, u32)>,
    /// Writes that nobody has heard of yet.
    pending: BTreeMap<(u64, String), Option<String>>,
    history: History,
    keys: BTreeMap<String, u32>,
    reads: u64,
}

impl Linearizable {
    pub(super) fn new(canon: Canon) -> Self {
        Self { canon, ..Self::default() }
    }

    fn key(&mut self, path: &str) -> u32 {
        let next = u32::try_from(self.keys.len()).expect("a few keys");
        match self.keys.entry(path.to_owned()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.history.keys.push(Value::Text(Arc::from(path)));
                *new.insert(next)
            }
        }
    }

    fn position(&mut self) -> u32 {
        self.history.events += 1;
        self.history.events - 1
    }

    /// Adds an operation to the history. Those of one transaction follow each other, each with a process of its own.
    fn record(
        &mut self,
        op: u64,
        path: &str,
        function: Function,
        argument: Value,
        ended: Option<Value>,
        unknown: bool,
    ) {
        let Some(&(_, called)) = self.called.get(&op) else { return };
        self.pending.remove(&(op, path.to_owned()));
        let key = self.key(path);
        let outcome = match (&ended, unknown) {
            (Some(_), _) => conclave_checker::Outcome::Ok,
            (None, true) => conclave_checker::Outcome::Unknown,
            (None, false) => conclave_checker::Outcome::Fail,
        };
        let returned = if outcome == conclave_checker::Outcome::Unknown { NEVER } else { self.position() };
        let process = u32::try_from(self.history.processes.len()).expect("few enough");
        self.history.processes.push(Value::Int(i64::from(process)));
        self.history.operations.push(Operation {
            process,
            key,
            function,
            outcome,
            called,
            returned,
            argument,
            result: ended.unwrap_or_default(),
            called_ns: NO_TIME,
            returned_ns: NO_TIME,
        });
    }

    fn answered(&mut self, at: Micros, op: u64, what: &str, revision: u64, found: &mut Found) {
        let Some(&(floor, _)) = self.called.get(&op) else { return };
        if revision < floor {
            let why = format!("{what} reflects revision {revision}; {floor} had been told before it was called");
            found.push("I17", at, why);
        }
        if revision > self.canon.newest() {
            let why = format!("{what} reflects revision {revision}; the newest is {}", self.canon.newest());
            found.push("I17", at, why);
        }
        self.told = self.told.max(revision);
    }
}

fn text(value: &str) -> Value {
    // The padding says nothing.
    Value::Text(Arc::from(value.split(':').next().unwrap_or_default()))
}

impl Oracle for Linearizable {
    fn name(&self) -> &'static str {
        "I17"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Applied { applied, .. } => {
                if let Some(changes) = &applied.changes {
                    self.canon.changed(changes);
                }
            }
            Seen::Client(ClientSeen::Called { op, writes }) => {
                let called = self.position();
                self.called.insert(*op, (self.told, called));
                let writes = writes.iter().map(|(path, value)| ((*op, path.clone()), value.clone()));
                self.pending.extend(writes);
            }
            Seen::Client(ClientSeen::Wrote { op, path, value, ended }) => {
                if let Ended::Ok(revision) = ended {
                    self.answered(at, *op, "a write", *revision, found);
                    if self.canon.value_at(path, *revision).as_ref() != Some(value) {
                        let why = format!("a write of {path} was answered with revision {revision}, which is not its");
                        found.push("I17", at, why);
                    }
                }
                let unknown = matches!(ended, Ended::Failed(conclave_client::Effect::Unknown));
                let result = if let Ended::Ok(_) = ended { Some(Value::Null) } else { None };
                self.record(*op, path, Function::Put, text(value), result, unknown);
            }
            Seen::Client(ClientSeen::Deleted { op, path, ended }) => {
                if let Ended::Ok(revision) = ended {
                    self.answered(at, *op, "a deletion", *revision, found);
                }
                let unknown = matches!(ended, Ended::Failed(conclave_client::Effect::Unknown));
                let result = if let Ended::Ok(_) = ended { Some(Value::Null) } else { None };
                self.record(*op, path, Function::Delete, Value::Null, result, unknown);
            }
            Seen::Client(ClientSeen::Read { op, path, stale, ended: Ended::Ok((value, revision)) }) => {
                self.reads += 1;
                match stale {
                    None => {
                        self.answered(at, *op, "a linearizable read", *revision, found);
                        let result = value.as_deref().map_or(Value::Null, text);
                        self.record(*op, path, Function::Get, Value::Null, Some(result), false);
                    }
                    Some(least) if revision < least => {
                        let why = format!("a stale read reflects revision {revision}; its session had seen {least}");
                        found.push("I17", at, why);
                    }
                    Some(_) => {}
                }
                let held = self.canon.value_at(path, *revision);
                if held != *value {
                    let short = |value: Option<&str>| value.map(|value| value.chars().take(8).collect::<String>());
                    let (said, held) = (short(value.as_deref()), short(held.as_deref()));
                    let why = format!("a read says {path} held {said:?} at revision {revision}; it held {held:?}");
                    found.push("I17", at, why);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, at: Micros, _: &End<'_>, found: &mut Found) {
        // Whoever would have heard of them died first.
        for ((op, path), value) in std::mem::take(&mut self.pending) {
            match value {
                Some(value) => self.record(op, &path, Function::Put, text(&value), None, true),
                None => self.record(op, &path, Function::Delete, Value::Null, None, true),
            }
        }
        let mut history = std::mem::take(&mut self.history);
        history.operations.sort_by_key(|operation| operation.called);
        let model = Model::Kv;
        if let Err((_, why)) = model.admit(&history) {
            found.push("I17", at, format!("the checker does not take the history: {why}"));
            return;
        }
        let limits = Limits { time: std::time::Duration::from_secs(5), threads: 1, ..Limits::default() };
        if let Verdict::NotLinearizable(refutation) = conclave_checker::check(&history, &model, &limits).verdict {
            found.push("I17", at, format!("the checker says: {}", refutation.cause));
        }
    }

    fn exercised(&self) -> u64 {
        self.reads
    }
}
