//! I2: tokens of a lock strictly rise with each grant: across leader changes, restarts, snapshots, deletion and
//! re-creation of the lock. So do the numbers that a parent gives its sequential children, while it lives.

use std::collections::BTreeMap;

use conclave_proto::NodePath;
use conclave_state::{Applied, Machine};

use super::{Found, Oracle, Seen, queues::Kind};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct TokensRise {
    /// Of every lock there ever was.
    last: BTreeMap<NodePath, u64>,
    /// Of every parent: its incarnation, and the last number it gave.
    numbers: BTreeMap<NodePath, (u64, u64)>,
    risen: u64,
}

impl TokensRise {
    fn numbered(&mut self, at: Micros, machine: &Machine, applied: &Applied, found: &mut Found) {
        let changes = applied.changes.iter().flat_map(|changes| &changes.changes);
        for change in changes.filter(|change| change.before.is_none()) {
            let Some(number) = change.after.as_ref().and_then(|node| node.sequence) else { continue };
            let Some(parent) = change.path.parent() else { continue };
            let Some(since) = machine.get(&parent).map(|node| node.create_revision.0) else { continue };
            let last = self.numbers.insert(parent, (since, number));
            if let Some((_, last)) = last.filter(|&(incarnation, last)| incarnation == since && number <= last) {
                found.push("I2", at, format!("{} gets number {number} after {last}", change.path));
            }
        }
    }
}

impl Oracle for TokensRise {
    fn name(&self) -> &'static str {
        "I2"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let event = match seen {
            Seen::Queue(event) if matches!(event.kind, Kind::Granted { .. }) => event,
            Seen::Applied { machine, applied, .. } => return self.numbered(at, machine, applied, found),
            _ => return,
        };
        if let Some(last) = self.last.insert(event.lock.clone(), event.token) {
            self.risen += 1;
            if event.token <= last {
                found.push("I2", at, format!("{} gets token {} after {last}", event.node, event.token));
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.risen
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::{Index, Term};
    use conclave_state::{Command, Entry, Kind as NodeKind, Op, RequestId, Txn};

    use super::*;
    use crate::oracle::queues::QueueEvent;

    #[test]
    fn a_token_that_does_not_rise_is_found() {
        let (mut oracle, mut found) = (TokensRise::default(), Found::default());
        for (lock, token, broken) in [("/a", 5, 0), ("/b", 4, 0), ("/a", 6, 0), ("/a", 6, 1), ("/b", 3, 2)] {
            oracle.see(1, &Seen::Queue(&QueueEvent::granted(lock, token, false)), &mut found);
            assert_eq!(found.0.len(), broken, "{lock} {token}: {found:?}");
        }
        assert_eq!(oracle.exercised(), 3);
    }

    #[test]
    fn a_number_given_twice_by_one_parent_is_found() {
        let (mut oracle, mut found) = (TokensRise::default(), Found::default());
        let mut machine = Machine::new();
        let mut index = 0;
        let mut apply = |op: Op, found: &mut Found| {
            index += 1;
            let command = Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } };
            let entry = Entry { request: RequestId { server: 1, run: 1, count: index }, at_ms: 0, command };
            let applied = machine.apply(Index(index), Term(1), Some(entry.clone()));
            let (index, entry) = (Index(index), Some(&entry));
            oracle.see(
                1,
                &Seen::Applied { index, term: Term(1), entry, machine: &machine, applied: &applied, logged: 1 },
                found,
            );
            applied
        };
        let path = |text: &str| NodePath::parse(text).expect("a path");
        let create = |text: &str| Op::Create {
            path: path(text),
            data: Default::default(),
            kind: NodeKind::Persistent,
            sequential: true,
            create_parents: Some(NodeKind::Container),
        };
        let delete = |text: &str| Op::Delete { path: path(text), recursive: true };
        for op in [create("/q/n-"), create("/q/n-"), delete("/q"), create("/q/n-")] {
            apply(op, &mut found);
        }
        assert_eq!(found.0, [], "a new parent counts anew");
        // The same entry seen again is what a parent that restarts its counter would look like.
        let applied = apply(create("/q/n-"), &mut found);
        assert_eq!(found.0, []);
        let seen = Seen::Applied {
            index: Index(6),
            term: Term(1),
            entry: None,
            machine: &machine,
            applied: &applied,
            logged: 1,
        };
        oracle.see(2, &seen, &mut found);
        assert_eq!(found.0.len(), 1, "{found:?}");
    }
}
