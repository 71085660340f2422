//! I7: the server never ends a session before last renewal + TTL by the leader's clock, and elections do not lengthen it:
//! what a checkpoint says remains to a silent session, no later leader's checkpoint raises.
//!
//! The leader received the renewal after the client had sent it, and its clock is at most so much too fast: so by true
//! time the session lives at least TTL / (1 + drift) from the sending. A leader whose clock leaps believes at most a second
//! of it.

use std::collections::BTreeMap;

use conclave_proto::SessionId;
use conclave_state::{EndReason, Outcome};

use super::{Bounds, Found, Oracle, Seen};
use crate::time::{MS, Micros, SECOND};

/// The leader's clock counts whole milliseconds.
const GRAIN: Micros = 3 * MS;
/// From asking for a renewal to its quorum being confirmed: a checkpoint proposed meanwhile does not know of it.
const ON_ITS_WAY: Micros = 2 * SECOND;

/// See the module.
pub struct NoEarlyEnd {
    bounds: Bounds,
    /// TTL in milliseconds, and since when it certainly lives on.
    sessions: BTreeMap<SessionId, (u64, Micros)>,
    jumps: Vec<(Micros, Micros)>,
    expired: u64,
    /// When, and its TTL.
    expired_at: BTreeMap<SessionId, (Micros, u64)>,
    /// The last checkpoint of each: when it was proposed, by which term's leader, and what remained.
    checkpoints: BTreeMap<SessionId, (Micros, u64, u64)>,
    /// When a server was last asked to renew it, by a client or another server.
    asked: BTreeMap<SessionId, Micros>,
}

impl NoEarlyEnd {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            sessions: BTreeMap::new(),
            jumps: Vec::new(),
            expired: 0,
            expired_at: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// True time that a TTL lasts at least.
    fn least(&self, ttl_ms: u64) -> Micros {
        let rate = u64::try_from(1_000_000 + self.bounds.drift_ppm).expect("a clock runs forwards");
        ttl_ms * MS * 1_000_000 / rate
    }

    fn checkpointed(
        &mut self,
        at: Micros,
        proposed: Micros,
        term: u64,
        session: SessionId,
        remaining_ms: u64,
        found: &mut Found,
    ) {
        let new = (proposed, term, remaining_ms);
        let Some((when, earlier, left_ms)) = self.checkpoints.insert(session, new) else { return };
        // A renewal asked for since the earlier checkpoint was proposed may well raise it, however late that was committed.
        let asked = self.asked.get(&session).is_some_and(|asked| asked + ON_ITS_WAY >= when);
        if term > earlier && remaining_ms > left_ms && !asked {
            let why = format!(
                "session {session:x} had {left_ms} ms left in term {earlier}; nobody renewed it, and the leader of term \
                 {term} gives it {remaining_ms} ms"
            );
            found.push("I7", at, why);
        }
    }

    fn leapt_since(&self, since: Micros) -> Micros {
        self.jumps.iter().filter(|(when, _)| *when >= since).map(|(_, by)| by.min(&SECOND)).sum()
    }
}

impl Oracle for NoEarlyEnd {
    fn name(&self) -> &'static str {
        "I7"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Applied { machine, applied, logged, .. } => {
                if let Outcome::Opened { session } = applied.outcome
                    && let Some(opened) = machine.session(session)
                {
                    self.sessions.insert(session, (opened.ttl_ms, at));
                }
                if let Some(checkpoint) = &applied.checkpoint {
                    for &(session, remaining_ms) in &checkpoint.remaining_ms {
                        self.checkpointed(at, *logged, checkpoint.term.0, session, remaining_ms, found);
                    }
                }
                for (session, reason) in &applied.ended {
                    let Some((ttl_ms, since)) = self.sessions.remove(session) else { continue };
                    if *reason != EndReason::Expired {
                        continue;
                    }
                    self.expired += 1;
                    self.expired_at.insert(*session, (at, ttl_ms));
                    if at + self.leapt_since(since) + GRAIN < since + self.least(ttl_ms) {
                        let why = format!(
                            "session {session:x} (TTL {ttl_ms} ms) expired {} ms after a renewal was sent that was \
                             acknowledged",
                            (at - since) / MS
                        );
                        found.push("I7", at, why);
                    }
                }
            }
            Seen::Renewed { session, sent } => match self.sessions.get_mut(session) {
                Some((_, since)) => *since = (*since).max(*sent),
                // The answer was long under way: was it given for a session that was to end?
                None => {
                    if let Some((ended, ttl_ms)) = self.expired_at.get(session).copied()
                        && ended + self.leapt_since(*sent) + GRAIN < *sent + self.least(ttl_ms)
                    {
                        let why = format!("a renewal of {session:x} was acknowledged, and the session expired");
                        found.push("I7", at, why);
                    }
                }
            },
            Seen::RenewalAsked { session } => drop(self.asked.insert(*session, at)),
            Seen::Jumped { by } => self.jumps.push((at, *by)),
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.expired
    }
}
