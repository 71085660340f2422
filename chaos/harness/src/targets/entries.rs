//! Entries of the log, and what they make of the state.

use conclave_proto::{Index, NodePath, RequestNumber, Revision, SessionId, Term};
use conclave_state::{By, Command, EndReason, Entry, Machine, Op, RequestId, Txn};

use crate::{Target, joined, parts};

/// The log's entries, applied one after the other.
pub const ENTRY: Target = Target {
    name: "log-entry",
    about: "entries of the log; two states that apply them have one hash, and so has what is restored from the records",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let (mut one, mut other) = (Machine::new(), Machine::new());
    let mut records = std::collections::BTreeMap::new();
    for part in parts(data) {
        let Ok(entry) = Entry::decode(part) else { continue };
        let again = Entry::decode(&entry.encode()).expect("what was written can be read");
        assert!(again == entry, "it reads as something else");
        // Entries whose command no server proposes: bounds come from a configuration that was checked.
        if matches!(entry.command, Command::Configure { .. }) {
            continue;
        }
        let at = Index(one.applied().0 + 1);
        let outcome = one.apply(at, Term(1), Some(entry.clone())).outcome;
        assert_eq!(other.apply(at, Term(1), Some(entry)).outcome, outcome);
        for (key, value) in one.take_writes() {
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
    }
    assert_eq!(one.hash(), other.hash());
    if one.applied().0 > 0 {
        let restored = Machine::restore(records).expect("what was written can be read");
        assert_eq!(restored.hash(), one.hash());
    }
}

pub(super) fn seed_entries() -> Vec<Entry> {
    let path = |text: &str| NodePath::parse(text).expect("a path");
    let put = |text: &str| Op::Put { path: path(text), data: b"data".to_vec().into(), create_parents: true };
    let by =
        |number| By { session: SessionId(1), run: 0, number: RequestNumber(number), acknowledged: RequestNumber(0) };
    let txn = |ops: Vec<Op>| Txn { then: ops, ..Txn::default() };
    let commands = vec![
        Command::OpenSession { secret: [7; 16], run: 0, ttl_ms: 10_000, name: "seed".into() },
        Command::Txn { by: None, txn: txn(vec![put("/a/b"), put("/c")]) },
        Command::Txn { by: Some(by(1)), txn: txn(vec![put("/d")]) },
        Command::Txn { by: Some(by(1)), txn: txn(vec![put("/d")]) },
        Command::Txn { by: Some(by(2)), txn: txn(vec![Op::Delete { path: path("/a"), recursive: true }]) },
        Command::CheckpointSessions { term: Term(1), serial: 1, remaining_ms: vec![(SessionId(1), 500)] },
        Command::Reap { term: Term(1), nodes: vec![(path("/c"), Revision(1), Revision(1))] },
        Command::Compact { term: Term(1), through: Revision(1) },
        Command::ExpireSessions { term: Term(1), sessions: vec![SessionId(1)] },
        Command::EndSession { session: SessionId(1), run: None, reason: EndReason::Closed },
    ];
    let each = commands.into_iter().zip(0..);
    each.map(|(command, count)| Entry {
        request: RequestId { server: 1, run: 2, count },
        at_ms: 1_000 + count,
        command,
    })
    .collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let entries: Vec<Vec<u8>> = seed_entries().iter().map(Entry::encode).collect();
    let mut seeds: Vec<_> = entries.iter().map(|entry| joined([entry])).collect();
    seeds.push(joined(&entries));
    seeds
}
