//! I18: what was acknowledged survives any crash and power cut within quorum.
//!
//! An answer is given by a replica that has applied the entry, so it is part of the canon; that no replica ever applies
//! another entry in its place is judged where replicas are compared. Here: nothing of it is missing at the end.

use std::collections::BTreeMap;

use conclave_proto::SessionId;

use super::{End, Found, Oracle, Seen};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct Durable {
    acknowledged: BTreeMap<SessionId, u64>,
    count: u64,
}

impl Oracle for Durable {
    fn name(&self) -> &'static str {
        "I18"
    }

    fn see(&mut self, _: Micros, seen: &Seen<'_>, _: &mut Found) {
        if let Seen::Acknowledged { session, number, .. } = seen {
            self.count += 1;
            let last = self.acknowledged.entry(*session).or_default();
            *last = (*last).max(*number);
        }
    }

    fn finish(&mut self, at: Micros, end: &End<'_>, found: &mut Found) {
        for (server, machine) in end.machines {
            if machine.applied().0 < end.canon {
                let why = format!("server {server} ends at entry {}, applied was {}", machine.applied(), end.canon);
                found.push("I18", at, why);
            }
            for (session, number) in &self.acknowledged {
                if let Some(session) = machine.session(*session)
                    && session.last_number.0 < *number
                {
                    let why = format!(
                        "request {number} of {:x} was acknowledged, server {server} knows of {}",
                        session.id, session.last_number
                    );
                    found.push("I18", at, why);
                }
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.count
    }
}
