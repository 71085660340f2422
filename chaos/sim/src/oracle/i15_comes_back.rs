//! I15: after all faults heal: a leader in time, every replica at the same hash, every lock obtainable.

use super::{End, Found, Oracle, Seen};
use crate::time::{MS, Micros};

/// See the module.
#[derive(Default)]
pub struct ComesBack {
    judged: u64,
}

impl Oracle for ComesBack {
    fn name(&self) -> &'static str {
        "I15"
    }

    fn see(&mut self, _: Micros, _: &Seen<'_>, _: &mut Found) {}

    fn finish(&mut self, at: Micros, end: &End<'_>, found: &mut Found) {
        self.judged += 1;
        match end.led {
            None => found.push("I15", at, format!("{} ms after all was healed nobody leads", (at - end.healed) / MS)),
            Some(led) if led > end.healed + end.lead_within => {
                let took = (led - end.healed) / MS;
                let within = end.lead_within / MS;
                found.push("I15", at, format!("a leader was there {took} ms after all was healed, not {within} ms"));
            }
            Some(_) => {}
        }
        let mut states = end.machines.iter().map(|(server, machine)| (server, machine.applied(), machine.hash()));
        if let Some((first, index, hash)) = states.next() {
            for (server, its_index, its_hash) in states {
                if its_index != index {
                    let why = format!("server {first} has applied entry {index}, server {server} entry {its_index}");
                    found.push("I15", at, why);
                } else if its_hash != hash {
                    found.push("I15", at, format!("servers {first} and {server} differ in their state at {index}"));
                }
            }
        }
        for (lock, obtained) in end.obtained {
            if !obtained {
                found.push("I15", at, format!("{lock} cannot be obtained"));
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.judged
    }
}
