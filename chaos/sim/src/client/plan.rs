//! What clients do and what is done to them: entries of a run's plan.

use crate::time::{MS, Micros, SECOND};

/// How long a client wants a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// As long as it lives.
    Ever,
    /// Not at all.
    Try,
    /// So long, then the library gives up.
    Wait(Micros),
    /// So long, then the future is dropped, wherever it stands.
    Drop(Micros),
}

/// What it gets in line for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Line {
    /// A lock.
    Lock {
        /// With other shared ones.
        shared: bool,
    },
    /// One of three permits.
    Permit,
    /// Leadership.
    Lead,
}

/// One thing that a client does. It needs a session, and opens one if it has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Job {
    /// Holds something for a while, and shows its token to a resource now and then.
    Hold {
        /// What.
        line: Line,
        /// Which of its kind.
        which: u8,
        /// See [`Patience`].
        patience: Patience,
        /// How long.
        holds: Micros,
        /// Dropped rather than released.
        drops: bool,
    },
    /// Writes a value never written before.
    Put {
        /// Where.
        key: u8,
    },
    /// Reads and, if nobody changed it meanwhile, writes.
    Swap {
        /// Where.
        key: u8,
    },
    /// Writes several keys at once.
    PutAll,
    /// Writes, in a transaction that is refused by its second operation.
    Spoil {
        /// Where.
        key: u8,
    },
    /// Removes it.
    Delete {
        /// Where.
        key: u8,
    },
    /// Reads.
    Get {
        /// Where.
        key: u8,
        /// From the server's own copy.
        stale: bool,
    },
    /// Watches keys, for a while.
    Watch {
        /// One key, all of them, or everything below and including their parent.
        scope: u8,
        /// Which key.
        key: u8,
        /// How long.
        lasts: Micros,
        /// Waits so long between events.
        slow: Micros,
        /// Begins with a revision of the past.
        past: bool,
    },
    /// Closes its session.
    Close,
    /// Has its session killed by an administrator.
    Kill,
    /// Lets another start of itself go on with its session.
    HandOver,
}

/// What is done to a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Its process dies, and a new one starts.
    Crash {
        /// After so long.
        down: Micros,
    },
    /// It stands still.
    Pause {
        /// For so long.
        stands: Micros,
    },
    /// It stands still from the moment at which it is next told that its turn has come, before it has acted on it.
    Freeze {
        /// For so long.
        stands: Micros,
    },
    /// Its clock runs wrong, within what is allowed.
    Drift {
        /// In parts per million.
        ppm: i64,
    },
    /// Its roads are blocked: to one server or all, one way or both.
    CutOff {
        /// Which; 0 for all.
        server: u64,
        /// What it sends is held up.
        up: bool,
        /// What it is sent is held up.
        down: bool,
        /// For so long.
        lasts: Micros,
    },
    /// Delays.
    Jitter {
        /// Up to so much.
        jitter_us: Micros,
        /// For so long.
        lasts: Micros,
    },
    /// Its streams break.
    Reset,
}

/// Locks, semaphores and elections there are of each.
pub const LINES: u8 = 3;
/// Keys there are.
pub const KEYS: u8 = 6;

fn line(rng: &mut fastrand::Rng) -> Line {
    match rng.u32(..10) {
        0..5 => Line::Lock { shared: false },
        5..7 => Line::Lock { shared: true },
        7..9 => Line::Permit,
        _ => Line::Lead,
    }
}

/// A time, mostly short.
fn while_up_to(rng: &mut fastrand::Rng, most: Micros) -> Micros {
    let part = rng.f64();
    // Precise enough: it only has to be the same each time.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let time = (part * part * part * most as f64) as Micros;
    time.max(10)
}

/// Draws a job.
pub fn job(rng: &mut fastrand::Rng) -> Job {
    let key = rng.u8(..KEYS);
    match rng.u32(..100) {
        0..38 => Job::Hold {
            line: line(rng),
            which: rng.u8(..LINES),
            patience: match rng.u32(..8) {
                0..4 => Patience::Ever,
                4 => Patience::Try,
                5 => Patience::Wait(while_up_to(rng, 3 * SECOND)),
                _ => Patience::Drop(while_up_to(rng, SECOND)),
            },
            holds: while_up_to(rng, 3 * SECOND),
            drops: rng.u32(..3) == 0,
        },
        38..56 => Job::Put { key },
        56..62 => Job::Swap { key },
        62..66 => Job::PutAll,
        66..70 => Job::Delete { key },
        70..84 => Job::Get { key, stale: rng.u32(..4) == 0 },
        84..93 => Job::Watch {
            scope: rng.u8(..3),
            key,
            lasts: while_up_to(rng, 20 * SECOND),
            slow: if rng.u32(..3) == 0 { while_up_to(rng, SECOND) } else { 0 },
            past: rng.u32(..3) == 0,
        },
        93..96 => Job::Close,
        96..98 => Job::Kill,
        _ => Job::HandOver,
    }
}

/// Draws trouble.
pub fn trouble(rng: &mut fastrand::Rng, servers: u64) -> Trouble {
    match rng.u32(..100) {
        0..22 => Trouble::Crash { down: while_up_to(rng, 4 * SECOND) },
        22..36 => Trouble::Pause { stands: while_up_to(rng, 8 * SECOND) },
        36..42 => Trouble::Freeze { stands: SECOND + while_up_to(rng, 8 * SECOND) },
        42..50 => Trouble::Drift { ppm: rng.i64(-4_000..=4_000) },
        50..75 => {
            let ways = rng.u32(1..4);
            Trouble::CutOff {
                server: rng.u64(..=servers),
                up: ways & 1 != 0,
                down: ways & 2 != 0,
                lasts: while_up_to(rng, 10 * SECOND),
            }
        }
        75..85 => Trouble::Jitter { jitter_us: while_up_to(rng, 500 * MS), lasts: while_up_to(rng, 10 * SECOND) },
        _ => Trouble::Reset,
    }
}
