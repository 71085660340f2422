//! I9: release, expiry and close free a lock exactly once; a late release of an old token changes nothing.

use std::collections::BTreeSet;

use conclave_state::{Command, Test};

use super::{Found, Oracle, Seen, queues::Kind};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct FreedOnce {
    /// Lock node and token of what was granted and not freed.
    held: BTreeSet<(String, u64)>,
    freed: u64,
    late: u64,
}

impl Oracle for FreedOnce {
    fn name(&self) -> &'static str {
        "I9"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Queue(event) => {
                let hold = (event.node.to_string(), event.token);
                match event.kind {
                    Kind::Granted { .. } => {
                        let fresh = self.held.insert(hold);
                        if !fresh {
                            found.push("I9", at, format!("{} is granted twice", event.node));
                        }
                    }
                    Kind::Left { held: true } => {
                        self.freed += 1;
                        if !self.held.remove(&hold) {
                            found.push("I9", at, format!("{} is freed twice", event.node));
                        }
                    }
                    _ => {}
                }
            }
            Seen::Applied { entry: Some(entry), applied, .. } => {
                let Command::Txn { txn, .. } = &entry.command else { return };
                let mentioned = |compare: &conclave_state::Compare| match compare.test {
                    Test::HeldSince(revision) => Some((compare.path.to_string(), revision.0)),
                    _ => None,
                };
                let Some((node, revision)) = txn.compare.iter().find_map(mentioned) else { return };
                // This entry's own removal is heard after it.
                let holds = self.held.iter().any(|(held, token)| *held == node && token & ((1 << 48) - 1) == revision);
                if !holds && txn.otherwise.is_empty() {
                    self.late += 1;
                    if applied
                        .changes
                        .as_ref()
                        .is_some_and(|changes| changes.changes.iter().any(|change| change.path.as_str() == node))
                        && self.held.iter().any(|(held, _)| *held == node)
                    {
                        found.push("I9", at, format!("a late release of {node} (revision {revision}) freed a lock"));
                    }
                }
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.freed + self.late
    }
}
