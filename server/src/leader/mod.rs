//! What the leader does beside replicating: it notices time.
//!
//! [`Duties`] belongs to one leader for one term. It has no clock and does no I/O: the owner of the Raft node tells it
//! the time (monotonic milliseconds), what was applied and which renewals arrived, and proposes the commands it asks
//! for. What it promises:
//! * a session is never expired earlier than its TTL after the last renewal that was (or may have been) granted, by
//!   this leader or one before it;
//! * a renewal that meets a session whose end was proposed is never granted;
//! * elections cannot keep a silent session alive for long: what remains is replicated while it is silent, and a
//!   renewal of such a session is granted only after its full TTL is replicated again, so the next leader cannot
//!   end it early either;
//! * time during which the leader itself stood still counts for nobody ([`GAP_MS_MAX`]);
//! * nothing is asked for twice within [`PROPOSE_AGAIN_MS`], nothing is forgotten if a proposal was lost.
//!
//! A tick costs what is due, not what there is. Make it once the leader has applied an entry of its own term, drop it
//! with leadership; renewals still held then are the owner's to refuse.

mod chores;
mod sessions;
#[cfg(test)]
mod tests;

use conclave_proto::{SessionId, Term};
use conclave_state::{Applied, Command, Limits, Machine};

pub use sessions::Renewal;

/// A command that had no effect after this time is asked for again.
pub const PROPOSE_AGAIN_MS: u64 = 1_000;
/// If longer passes between two looks at the clock, the leader itself stood still, and what is beyond does not count.
pub const GAP_MS_MAX: u64 = 1_000;

/// What the leader's clock decides by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// A container that lost its last child is removed after this long.
    pub container_grace_ms: u64,
    /// History older than this is forgotten; 0 keeps it until the replicated bounds do it.
    pub history_age_ms: u64,
    /// Proposed if the replicated ones differ.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { container_grace_ms: 60_000, history_age_ms: 3_600_000, limits: Limits::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Duties {
    clock: Clock,
    sessions: sessions::Sessions,
    chores: chores::Chores,
}

/// Monotonic time without what the leader slept through.
#[derive(Clone, Copy, Debug)]
struct Clock {
    last_ms: u64,
    slept_ms: u64,
}

impl Clock {
    /// The time now. Never goes back.
    fn look(&mut self, now_ms: u64) -> u64 {
        let gap = now_ms.saturating_sub(self.last_ms);
        self.slept_ms += gap.saturating_sub(GAP_MS_MAX);
        self.last_ms = self.last_ms.max(now_ms);
        self.now()
    }

    fn now(&self) -> u64 {
        self.last_ms - self.slept_ms
    }

    /// A time that was. (If the leader slept since, this is too early; deadlines then still hold in true time.)
    fn past(&self, ms: u64) -> u64 {
        ms.min(self.last_ms).saturating_sub(self.slept_ms)
    }
}

impl Duties {
    /// For the leader of `term`, from now on. Every session has what the replicated state says remains to it.
    #[must_use]
    pub fn new(options: Options, term: Term, now_ms: u64, machine: &Machine) -> Self {
        let clock = Clock { last_ms: now_ms, slept_ms: 0 };
        Self {
            clock,
            sessions: sessions::Sessions::new(term, clock.now(), machine),
            chores: chores::Chores::new(options, term, clock.now(), machine),
        }
    }

    /// Learns from an applied entry; `machine` is the state right after it.
    pub fn on_applied(&mut self, now_ms: u64, machine: &Machine, applied: &Applied) {
        let now = self.clock.look(now_ms);
        self.sessions.on_applied(now, machine, applied);
        self.chores.on_applied(now, applied);
    }

    /// A renewal arrived, whose quorum is still to be confirmed: the session's end waits for that a while.
    pub fn received(&mut self, now_ms: u64, session: SessionId) {
        let now = self.clock.look(now_ms);
        self.sessions.received(now, session);
    }

    /// The quorum was confirmed for a renewal that arrived at `received_ms`. What is [`Renewal::Held`] comes out of
    /// [`Duties::settled`] later; call [`Duties::tick`] soon, as it has something to propose for it.
    pub fn renew(&mut self, received_ms: u64, session: SessionId) -> Renewal {
        self.sessions.renew(self.clock.past(received_ms), session)
    }

    /// Held renewals that are decided: granted, or (false) the session has ended. Each session once, however often it
    /// was held.
    pub fn settled(&mut self) -> Vec<(SessionId, bool)> {
        self.sessions.settled()
    }

    /// What to propose now. Call it every tick (50 ms or so), and after renewals were held.
    pub fn tick(&mut self, now_ms: u64, machine: &Machine) -> Vec<Command> {
        let now = self.clock.look(now_ms);
        let mut commands = Vec::new();
        self.sessions.tick(now, machine, &mut commands);
        self.chores.tick(now, machine, &mut commands);
        commands
    }

    /// Milliseconds left to each session, by id.
    #[must_use]
    pub fn remaining(&self) -> Vec<(SessionId, u64)> {
        self.sessions.remaining(self.clock.now())
    }
}
