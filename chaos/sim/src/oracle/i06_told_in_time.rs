//! I6: the client reports loss no later than the sending of its last acknowledged keep-alive + TTL − drift allowance, on a
//! clock that counts suspend.

use super::{Found, Oracle, Seen};
use crate::{client::seen::ClientSeen, time::Micros};

/// Whoever waits for the news may be told so much later than whoever looks: timers are not exact where clocks drift.
const LATE_MS: u64 = 50;

/// See the module.
#[derive(Default)]
pub struct ToldInTime {
    judged: u64,
    lost: u64,
}

impl Oracle for ToldInTime {
    fn name(&self) -> &'static str {
        "I6"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Client(ClientSeen::Alive { session, local_ms, bound_ms }) => {
                self.judged += 1;
                if local_ms >= bound_ms {
                    let why = format!(
                        "a client says at {local_ms} ms of its clock that session {session:x} is alive, which the \
                         servers may have ended at {bound_ms} ms"
                    );
                    found.push("I6", at, why);
                }
            }
            Seen::Client(ClientSeen::Lost { session, local_ms, bound_ms }) => {
                self.lost += 1;
                if *local_ms > bound_ms + LATE_MS {
                    let why = format!(
                        "a client reports at {local_ms} ms of its clock that session {session:x} is lost, which was \
                         due at {bound_ms} ms"
                    );
                    found.push("I6", at, why);
                }
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        // Nothing is at stake before sessions are lost.
        if self.lost > 0 { self.judged } else { 0 }
    }
}
