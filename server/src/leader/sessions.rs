//! The session clock: who is silent, for how long, and what the next leader shall know of it.

use std::collections::{BTreeMap, BTreeSet};

use conclave_faults::planted;
use conclave_proto::{SessionId, Term};
use conclave_state::{Applied, Command, Machine, Outcome};

use super::PROPOSE_AGAIN_MS;

/// Most sessions ended by one command.
const EXPIRE_SESSIONS_MAX: usize = 256;
/// No further session is added to a command that ends sessions with this many nodes.
const EXPIRE_NODES_MAX: usize = 4_096;
/// Most sessions in one checkpoint.
const CHECKPOINT_SESSIONS_MAX: usize = 4_096;
/// A session is checkpointed once it was silent for half its TTL, or this.
const SILENCE_MS_MAX: u64 = 15_000;
/// Then again after an eighth of its TTL, within these. A session that a new leader has not heard of yet is so from the
/// start: each election adds no more than this to the life of a silent session.
const CHECKPOINT_INTERVAL_MS: std::ops::RangeInclusive<u64> = 250..=15_000;
/// A renewal that arrived in time keeps its session from being expired for this long while its quorum is confirmed.
const CONFIRM_GRACE_MS: u64 = 1_000;

/// What became of a renewal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// It has its full TTL from the time the renewal arrived.
    Granted,
    /// It depends on an entry that is still to be applied.
    Held,
    /// There is no such session.
    NoSession,
}

/// One session, by the leader's clock.
#[derive(Clone, Debug)]
struct Watched {
    ttl_ms: u64,
    /// When the last granted renewal arrived; at first, when this leader learned of the session.
    renewed: u64,
    /// Not expired before.
    deadline: u64,
    /// This leader opened it or granted it a renewal.
    heard: bool,
    /// Its one entry in `Sessions::timers`: no later than it needs attention. Renewals do not move it.
    wake: u64,
    /// When the last renewal arrived that was not confirmed yet.
    received: Option<u64>,
    /// What is replicated is less than the TTL.
    lowered: bool,
    /// Serial of the last checkpoint that lowers it; 0 for none. Until a later one is seen, it may be yet to come.
    lowered_by: u64,
    /// When the last of them was proposed.
    checkpointed: Option<u64>,
    /// Arrival of the latest renewal that waits for the full TTL to be replicated.
    held: Option<u64>,
    /// When the full TTL, or the end, was last asked for.
    asked: Option<u64>,
    /// Its end was proposed; there is no way back.
    ending: bool,
    /// A renewal came after that.
    refused: bool,
}

impl Watched {
    fn new(now: u64, ttl_ms: u64, remaining_ms: u64, heard: bool) -> Self {
        let remaining_ms = match heard {
            false if planted!(NewLeaderExpiresAtOnce) => 0,
            false if planted!(ElectionsLengthen) => ttl_ms,
            _ => remaining_ms,
        };
        let deadline = now.saturating_add(remaining_ms);
        let mut watched = Self {
            ttl_ms,
            renewed: now,
            deadline,
            heard,
            wake: 0,
            received: None,
            lowered: remaining_ms < ttl_ms,
            lowered_by: 0,
            checkpointed: None,
            held: None,
            asked: None,
            ending: false,
            refused: false,
        };
        watched.wake = watched.next_wake();
        watched
    }

    /// A renewal that arrived then counts.
    fn grant(&mut self, received: u64) {
        self.heard = true;
        self.renewed = self.renewed.max(received);
        if !planted!(RenewalForgotten) {
            self.deadline = self.deadline.max(received.saturating_add(self.ttl_ms));
        }
        if self.received.is_some_and(|last| last <= received) {
            self.received = None;
        }
        self.checkpointed = None;
        self.asked = None;
    }

    fn asked_lately(&self, now: u64) -> bool {
        self.asked.is_some_and(|asked| now < asked + PROPOSE_AGAIN_MS)
    }

    /// When it is to be expired, if nothing comes.
    fn end(&self) -> u64 {
        match self.received {
            Some(received) if received <= self.deadline => self.deadline.saturating_add(CONFIRM_GRACE_MS),
            _ => self.deadline,
        }
    }

    fn next_checkpoint(&self) -> u64 {
        let interval = (self.ttl_ms / 8).clamp(*CHECKPOINT_INTERVAL_MS.start(), *CHECKPOINT_INTERVAL_MS.end());
        let silence = if self.heard { (self.ttl_ms / 2).min(SILENCE_MS_MAX) } else { interval };
        let first = self.renewed + silence;
        self.checkpointed.map_or(first, |last| first.max(last + interval))
    }

    fn next_wake(&self) -> u64 {
        match self.asked {
            Some(asked) if self.ending || self.held.is_some() => asked + PROPOSE_AGAIN_MS,
            _ => self.end().min(self.next_checkpoint()),
        }
    }
}

/// All sessions. Each has one entry in `timers`, at its `wake`.
#[derive(Debug)]
pub(super) struct Sessions {
    term: Term,
    watched: BTreeMap<SessionId, Watched>,
    timers: BTreeSet<(u64, SessionId)>,
    /// Held, and their full TTL is to be asked for with the next tick.
    to_raise: BTreeSet<SessionId>,
    settled: Vec<(SessionId, bool)>,
    /// Of the last checkpoint.
    serial: u64,
}

impl Sessions {
    pub(super) fn new(term: Term, now: u64, machine: &Machine) -> Self {
        let watched: BTreeMap<_, _> = machine
            .sessions()
            .map(|session| (session.id, Watched::new(now, session.ttl_ms, session.remaining_ms, false)))
            .collect();
        let timers = watched.iter().map(|(&id, watched)| (watched.wake, id)).collect();
        Self { term, watched, timers, to_raise: BTreeSet::new(), settled: Vec::new(), serial: 0 }
    }

    pub(super) fn on_applied(&mut self, now: u64, machine: &Machine, applied: &Applied) {
        if let Outcome::Opened { session } = applied.outcome
            && let Some(session) = machine.session(session)
        {
            let watched = Watched::new(now, session.ttl_ms, session.remaining_ms, true);
            self.timers.insert((watched.wake, session.id));
            self.watched.insert(session.id, watched);
        }
        for &(id, _) in &applied.ended {
            let Some(watched) = self.watched.remove(&id) else { continue };
            self.timers.remove(&(watched.wake, id));
            self.to_raise.remove(&id);
            if watched.held.is_some() || watched.refused {
                self.settled.push((id, false));
            }
        }
        let Some(checkpoint) = &applied.checkpoint else { return };
        for &(id, remaining_ms) in &checkpoint.remaining_ms {
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            watched.lowered = remaining_ms < watched.ttl_ms;
            if checkpoint.term != self.term {
                // A former leader's, applied late: what it may have granted holds here too.
                watched.deadline = watched.deadline.max(now.saturating_add(remaining_ms));
            } else if !watched.lowered && checkpoint.serial > watched.lowered_by {
                // The log keeps the order of proposals: whatever lowered it came before, or never will.
                watched.lowered_by = 0;
                if let Some(received) = watched.held.take() {
                    watched.grant(received);
                    self.to_raise.remove(&id);
                    self.settled.push((id, true));
                    self.timers.remove(&(watched.wake, id));
                    watched.wake = watched.next_wake();
                    self.timers.insert((watched.wake, id));
                }
            }
        }
    }

    pub(super) fn received(&mut self, now: u64, id: SessionId) {
        if let Some(watched) = self.watched.get_mut(&id) {
            watched.received = Some(now);
        }
    }

    pub(super) fn renew(&mut self, received: u64, id: SessionId) -> Renewal {
        let Some(watched) = self.watched.get_mut(&id) else { return Renewal::NoSession };
        if watched.ending && !planted!(RenewedWhileEnding) {
            watched.refused = true;
            return Renewal::Held;
        }
        if (watched.lowered || watched.lowered_by > 0) && !planted!(RenewalAheadOfCheckpoint) {
            if watched.held.is_none() {
                self.to_raise.insert(id);
            }
            watched.held = watched.held.max(Some(received));
            return Renewal::Held;
        }
        watched.grant(received);
        Renewal::Granted
    }

    pub(super) fn settled(&mut self) -> Vec<(SessionId, bool)> {
        std::mem::take(&mut self.settled)
    }

    pub(super) fn tick(&mut self, now: u64, machine: &Machine, commands: &mut Vec<Command>) {
        let mut expire = Vec::new();
        let mut expire_nodes = 0;
        let mut checkpoint = Vec::new();
        // Raises first: a session that was renewed is not one that is expired below.
        for id in std::mem::take(&mut self.to_raise) {
            let watched = self.watched.get_mut(&id).expect("what is to be raised is watched");
            watched.asked = Some(now);
            checkpoint.push((id, watched.ttl_ms));
            self.reschedule(id);
        }
        while let Some(&(wake, id)) = self.timers.first()
            && wake <= now
        {
            let watched = self.watched.get_mut(&id).expect("a timer is some session's");
            if watched.ending || (watched.held.is_none() && now >= watched.end()) {
                if !watched.asked_lately(now) || !watched.ending {
                    watched.ending = true;
                    watched.asked = Some(now);
                    expire.push(id);
                    expire_nodes += machine.owned(id).take(EXPIRE_NODES_MAX).count();
                    if expire.len() >= EXPIRE_SESSIONS_MAX || expire_nodes >= EXPIRE_NODES_MAX {
                        commands.push(self.expire(std::mem::take(&mut expire)));
                        expire_nodes = 0;
                    }
                }
            } else if watched.held.is_some() {
                if !watched.asked_lately(now) {
                    watched.asked = Some(now);
                    checkpoint.push((id, watched.ttl_ms));
                }
            } else if now >= watched.next_checkpoint() {
                watched.checkpointed = Some(now);
                watched.lowered_by = self.serial + 1 + (checkpoint.len() / CHECKPOINT_SESSIONS_MAX) as u64;
                checkpoint.push((id, watched.deadline.saturating_sub(now).min(watched.ttl_ms)));
            }
            self.reschedule(id);
        }
        for sessions in checkpoint.chunks(CHECKPOINT_SESSIONS_MAX) {
            self.serial += 1;
            let remaining_ms = sessions.to_vec();
            commands.push(Command::CheckpointSessions { term: self.term, serial: self.serial, remaining_ms });
        }
        if !expire.is_empty() {
            commands.push(self.expire(expire));
        }
    }

    pub(super) fn remaining(&self, now: u64) -> Vec<(SessionId, u64)> {
        self.watched.iter().map(|(&id, watched)| (id, watched.deadline.saturating_sub(now))).collect()
    }

    fn expire(&self, sessions: Vec<SessionId>) -> Command {
        Command::ExpireSessions { term: self.term, sessions }
    }

    fn reschedule(&mut self, id: SessionId) {
        let watched = self.watched.get_mut(&id).expect("the caller has it");
        self.timers.remove(&(watched.wake, id));
        watched.wake = watched.next_wake();
        self.timers.insert((watched.wake, id));
    }
}
