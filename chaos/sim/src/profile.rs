//! Profiles: what a run may meet.

use crate::time::{MS, Micros, SECOND};

/// How often each class of fault is drawn, relative to the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// A process is killed, and started again.
    pub kill: u32,
    /// A server loses its power, and what it had not synced.
    pub power: u32,
    /// All do, at once.
    pub power_all: u32,
    /// A server dies between two of its effects.
    pub cut: u32,
    /// A process stands still.
    pub pause: u32,
    /// A monotonic clock leaps.
    pub jump: u32,
    /// A wall clock is set wrong.
    pub wall: u32,
    /// A clock runs too fast or too slow.
    pub drift: u32,
    /// Links are blocked.
    pub partition: u32,
    /// Links lose, double, delay, overtake.
    pub weather: u32,
    /// A connection breaks.
    pub reset: u32,
    /// Syncs take long.
    pub slow_disk: u32,
    /// A sync does not return for a while.
    pub stuck_disk: u32,
    /// A sync or write fails.
    pub disk_error: u32,
    /// A disk is full.
    pub full_disk: u32,
    /// A bit flips on a disk.
    pub rot: u32,
    /// Leadership is moved.
    pub transfer: u32,
    /// A server is told to stop, and started again.
    pub stop: u32,
    /// A server is replaced by a new one.
    pub replace: u32,
}

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// As on the command line.
    pub name: &'static str,
    /// In a sentence.
    pub about: &'static str,
    /// Sizes of clusters to choose from.
    pub servers: &'static [u64],
    /// The first half, in which things break.
    pub chaos: Micros,
    /// Steps (faults and operations) in it, at most.
    pub steps: usize,
    /// Of a hundred steps so many are faults.
    pub fault_share: u32,
    /// See [`Weights`].
    pub weights: Weights,
    /// Clocks keep within this, in parts per million.
    pub drift_ppm: i64,
    /// Clients that propose by themselves.
    pub clients: u64,
    /// Clients that use the library.
    pub sessions: u64,
    /// What those do, in hundredths of the steps.
    pub jobs_share: usize,
    /// Of a hundred of those so many come with trouble for the client.
    pub troubles_share: u32,
    /// Entries of log before it is compacted, and those then kept.
    pub log_entries: (u64, u64),
}

/// Everything.
const ALL: Weights = Weights {
    kill: 10,
    power: 8,
    power_all: 2,
    cut: 12,
    pause: 8,
    jump: 3,
    wall: 2,
    drift: 4,
    partition: 16,
    weather: 10,
    reset: 4,
    slow_disk: 4,
    stuck_disk: 3,
    disk_error: 4,
    full_disk: 2,
    rot: 1,
    transfer: 5,
    stop: 3,
    replace: 4,
};

const NONE: Weights = Weights {
    kill: 0,
    power: 0,
    power_all: 0,
    cut: 0,
    pause: 0,
    jump: 0,
    wall: 0,
    drift: 0,
    partition: 0,
    weather: 0,
    reset: 0,
    slow_disk: 0,
    stuck_disk: 0,
    disk_error: 0,
    full_disk: 0,
    rot: 0,
    transfer: 0,
    stop: 0,
    replace: 0,
};

const DEFAULT: Profile = Profile {
    name: "default",
    about: "every class of fault, mostly three servers",
    servers: &[3, 3, 3, 5],
    chaos: 40 * SECOND,
    steps: 160,
    fault_share: 20,
    weights: ALL,
    drift_ppm: 20_000,
    clients: 6,
    sessions: 6,
    jobs_share: 150,
    troubles_share: 12,
    log_entries: (60, 15),
};

/// All profiles.
pub const PROFILES: &[Profile] = &[
    DEFAULT,
    Profile { name: "calm", about: "nothing breaks", fault_share: 0, weights: NONE, ..DEFAULT },
    Profile {
        name: "crash",
        about: "processes and hosts die, most of all in the middle of something",
        weights: Weights { kill: 10, power: 15, power_all: 6, cut: 40, stop: 3, ..NONE },
        ..DEFAULT
    },
    Profile {
        name: "network",
        about: "partitions, loss, delay, reordering",
        weights: Weights { partition: 20, weather: 12, reset: 6, transfer: 4, ..NONE },
        ..DEFAULT
    },
    Profile {
        name: "disk",
        about: "disks that fail, stall, fill up and rot, and power cuts",
        weights: Weights {
            power: 10,
            power_all: 3,
            cut: 10,
            slow_disk: 6,
            stuck_disk: 6,
            disk_error: 10,
            full_disk: 5,
            rot: 3,
            ..NONE
        },
        ..DEFAULT
    },
    Profile {
        name: "clock",
        about: "pauses, leaps, drift, and elections in between",
        weights: Weights { pause: 14, jump: 8, wall: 5, drift: 12, kill: 4, partition: 6, transfer: 6, ..NONE },
        ..DEFAULT
    },
    Profile {
        name: "members",
        about: "servers come and go while others crash",
        servers: &[3],
        weights: Weights { replace: 20, kill: 6, power: 4, cut: 6, partition: 8, transfer: 6, ..NONE },
        ..DEFAULT
    },
    Profile { name: "large", about: "five and seven servers", servers: &[5, 7], clients: 10, ..DEFAULT },
];

/// How long the healed half may take to have a leader: three election time-outs of at most two seconds, as votes may split.
pub const LEAD_WITHIN: Micros = 6 * SECOND;

/// A silent session ends so long after its TTL: a tick to notice, a commit, and the grace that a renewal under way is
/// given; the leader's clock may have stood still for a while.
pub const SILENCE_SLACK: Micros = 3 * SECOND;

/// A profile by its name.
///
/// # Errors
/// There is none; the names that there are.
pub fn by_name(name: &str) -> Result<&'static Profile, String> {
    PROFILES.iter().find(|profile| profile.name == name).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        format!("there is no profile {name:?}: choose one of {}", names.join(", "))
    })
}

/// TTLs of clients' sessions, in milliseconds.
pub const TTLS_MS: [u64; 5] = [500, 1_000, 2_000, 3_000, 5_000];
/// The longest of them.
pub const TTL_MS_MAX: u64 = 5_000;
/// How long a client waits for an answer before it asks elsewhere.
pub const PATIENCE: Micros = 1_500 * MS;
