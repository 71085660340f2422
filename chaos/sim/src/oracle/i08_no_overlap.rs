//! I8: with no clock fault and no drift above the allowance, nobody believes to hold what somebody else holds. What counts is
//! the guard's own word, which looks at the clock: so pauses are allowed.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::{NodePath, SessionId};

use super::{Found, Oracle, Seen};
use crate::{
    client::seen::ClientSeen,
    time::{MS, Micros},
};

/// Two clocks together may differ by one part in a hundred.
const DRIFT_PPM_MAX: i64 = 5_000;

struct Belief {
    exclusive: bool,
    from: Micros,
    until: Micros,
}

/// See the module.
#[derive(Default)]
pub struct NoOverlap {
    excused: bool,
    /// Ended before their time, at somebody's wish.
    killed: BTreeSet<SessionId>,
    beliefs: BTreeMap<NodePath, Vec<Belief>>,
    judged: u64,
}

impl Oracle for NoOverlap {
    fn name(&self) -> &'static str {
        "I8"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Jumped { .. } => self.excused = true,
            Seen::Drifts { ppm } => self.excused |= ppm.abs() > DRIFT_PPM_MAX,
            // Its heir may end it while its predecessor has not heard yet that it was replaced.
            Seen::Client(ClientSeen::Killed { session } | ClientSeen::HandedOver { session }) => {
                self.killed.insert(*session);
            }
            Seen::Client(ClientSeen::Believed { session, lock, exclusive, from, until })
                if !self.excused && !self.killed.contains(session) =>
            {
                let ours = Belief { exclusive: *exclusive, from: *from, until: *until };
                let all = self.beliefs.entry(lock.clone()).or_default();
                self.judged += u64::from(!all.is_empty());
                for other in all.iter().rev() {
                    let excludes = ours.exclusive || other.exclusive;
                    if excludes && other.from < ours.until && ours.from < other.until {
                        let why = format!(
                            "two clients believed to hold {lock}: from {} to {} ms, and from {} to {} ms",
                            other.from / MS,
                            other.until / MS,
                            ours.from / MS,
                            ours.until / MS
                        );
                        found.push("I8", at, why);
                        break;
                    }
                }
                all.push(ours);
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.judged
    }
}
