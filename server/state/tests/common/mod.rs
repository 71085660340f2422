//! A store of records and a machine that writes to it, as a server keeps them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use conclave_proto::{Index, NodePath, RequestNumber, SessionId, Term};
use conclave_state::{Applied, By, Command, Entry, Machine, RequestId, Txn};

pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// One replica: a machine, and the records it handed out.
#[derive(Clone, Default)]
pub struct Replica {
    pub machine: Machine,
    pub records: Records,
}

pub fn path(text: &str) -> NodePath {
    NodePath::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

pub fn by(session: SessionId, number: u64, acknowledged: u64) -> By {
    By { session, run: 0, number: RequestNumber(number), acknowledged: RequestNumber(acknowledged) }
}

pub fn txn(by: Option<By>, txn: Txn) -> Command {
    Command::Txn { by, txn }
}

impl Replica {
    /// Applies a command in `term`, at wall clock `at_ms`. Through the log's encoding, as a server would.
    pub fn apply_at(&mut self, term: Term, at_ms: u64, command: Command) -> Applied {
        let index = self.machine.applied().next();
        let request = RequestId { server: 1, run: 2, count: index.0 };
        let entry = Entry { request, at_ms, command };
        let entry = Entry::decode(&entry.encode()).expect("an entry reads back");
        self.machine.apply(index, term, Some(entry))
    }

    pub fn apply(&mut self, command: Command) -> Applied {
        self.apply_at(Term(1), 1_000, command)
    }

    /// Stores what changed. Checks that keys are in order and each there once.
    pub fn save(&mut self) {
        let writes = self.machine.take_writes();
        assert!(writes.is_sorted_by(|a, b| a.0 < b.0), "writes are in key order, one per key");
        for (key, value) in writes {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => assert!(self.records.remove(&key).is_some(), "removed a record that was not there: {key:?}"),
            }
        }
    }

    /// What a server would be after a restart.
    pub fn restored(&self) -> Machine {
        Machine::restore(&self.records).expect("what was handed out makes a state")
    }

    pub fn index(&self) -> Index {
        self.machine.applied()
    }
}
