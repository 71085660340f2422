//! I12: no orphan: a session that is gone holds nothing and waits for nothing after TTL + B.

use std::collections::BTreeMap;

use conclave_proto::SessionId;

use super::{End, Found, Oracle, Seen};
use crate::time::{MS, Micros};

/// See the module.
#[derive(Default)]
pub struct NoOrphan {
    /// Since when, and its TTL.
    silent: BTreeMap<SessionId, (Micros, u64)>,
    judged: u64,
}

impl Oracle for NoOrphan {
    fn name(&self) -> &'static str {
        "I12"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Silent { session, ttl_ms } => drop(self.silent.insert(*session, (at, *ttl_ms))),
            Seen::Applied { machine, applied, .. } => {
                for (session, _) in &applied.ended {
                    self.judged += u64::from(self.silent.remove(session).is_some());
                    if let Some(path) = machine.owned(*session).next() {
                        found.push("I12", at, format!("session {session:x} ended and still owns {path}"));
                    }
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, at: Micros, end: &End<'_>, found: &mut Found) {
        for (session, (since, ttl_ms)) in &self.silent {
            // The healed cluster's first leader gives everybody a full TTL.
            let since = end.led.unwrap_or(end.healed).max(*since);
            let due = since + ttl_ms * MS * 1_000_000 / u64::try_from(1_000_000 - end.drift_ppm).unwrap_or(1);
            if due + end.silence_slack > at {
                continue;
            }
            for (server, machine) in end.machines {
                if machine.session(*session).is_some() {
                    let why = format!(
                        "session {session:x} (TTL {ttl_ms} ms) is silent for {} ms and still open on server {server}",
                        (at - since) / MS
                    );
                    found.push("I12", at, why);
                }
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.judged
    }
}
