//! I3: a token belongs to one grant: a request takes effect once, and repeated gets its first answer.

use std::collections::{BTreeMap, btree_map};

use conclave_proto::SessionId;
use conclave_state::{Command, Outcome, Refusal};

use super::{Found, Oracle, Seen};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct AppliedOnce {
    first: BTreeMap<(SessionId, u64), Outcome>,
    repeated: u64,
}

impl Oracle for AppliedOnce {
    fn name(&self) -> &'static str {
        "I3"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Applied { entry: Some(entry), applied, .. } => {
                let (Command::Txn { by: Some(by), .. } | Command::Refused { by, .. }) = &entry.command else { return };
                let outcome = &applied.outcome;
                if let Outcome::Refused(
                    Refusal::OutOfOrder { .. }
                    | Refusal::AnswerForgotten { .. }
                    | Refusal::NoSession { .. }
                    | Refusal::TakenOver { .. },
                ) = outcome
                {
                    if applied.changes.is_some() {
                        found.push("I3", at, format!("a refused request of {:x} changed something", by.session));
                    }
                    return;
                }
                match self.first.entry((by.session, by.number.0)) {
                    btree_map::Entry::Vacant(vacant) => drop(vacant.insert(outcome.clone())),
                    btree_map::Entry::Occupied(first) => {
                        self.repeated += 1;
                        let which = format!("request {} of {:x}", by.number, by.session);
                        if applied.changes.is_some() {
                            found.push("I3", at, format!("{which} took effect twice"));
                        } else if first.get() != outcome {
                            let first = first.get();
                            found.push("I3", at, format!("{which} was answered {outcome:?}, at first {first:?}"));
                        }
                    }
                }
            }
            Seen::Acknowledged { session, number, outcome } => {
                if let Some(first) = self.first.get(&(*session, *number))
                    && first != *outcome
                {
                    let why = format!("{session:x} was told of request {number} {outcome:?}, it was {first:?}");
                    found.push("I3", at, why);
                }
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.repeated
    }
}
