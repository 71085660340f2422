//! The plan of a run: a list of faults and operations with their times, grown from the seed before anything runs. Taking
//! entries out leaves the rest as it is, which is what shrinking does.

use std::fmt;

use crate::{
    client::{
        self,
        plan::{Job, Trouble},
    },
    disk::Rot,
    net::Weather,
    profile::{Profile, TTLS_MS, Weights},
    time::{MS, Micros, SECOND},
};

/// One generator for each concern, so that what one draws does not disturb the others.
#[must_use]
pub fn generator(seed: u64, concern: &str) -> fastrand::Rng {
    fastrand::Rng::with_seed(xxhash_rust::xxh3::xxh3_64_with_seed(concern.as_bytes(), seed))
}

/// A fault. Servers are named by their place among those that run or could, so that it fits any membership.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The process is killed; what it wrote is with the kernel, and safe.
    Kill { server: u64, down: Micros },
    /// The host loses its power. Of what was not synced, that share (of 256) survives.
    Power { server: u64, kept: u8, down: Micros },
    /// All hosts do.
    PowerAll { kept: u8, down: Micros },
    /// The server dies at the so-many-th effect from now, by a power cut or killed.
    Cut { server: u64, after: u64, kept: Option<u8>, down: Micros },
    /// The next server to give its vote loses its power right after; whom it voted for is heard by nobody for so long.
    CutAtVote { kept: u8, down: Micros, lasts: Micros },
    /// The process stands still.
    Pause { server: u64, stands: Micros },
    /// Its monotonic clock leaps.
    Jump { server: u64, by: Micros },
    /// Its wall clock is set wrong.
    Wall { server: u64, offset_ms: i64 },
    /// Its clock runs wrong.
    Drift { server: u64, ppm: i64, lasts: Micros },
    /// Links are blocked.
    Partition { shape: Shape, lasts: Micros },
    /// Weather on all links, or on those from one server.
    Weather { from: Option<u64>, weather: Weather, lasts: Micros },
    /// A connection breaks.
    Reset { from: u64, to: u64 },
    /// Syncs take so many times longer.
    SlowDisk { server: u64, times: u64, lasts: Micros },
    /// No sync returns for so long.
    StuckDisk { server: u64, lasts: Micros },
    /// The next sync, write or read fails; the server must stop.
    DiskError { server: u64, what: DiskError, down: Micros },
    /// No room for so long.
    FullDisk { server: u64, lasts: Micros },
    /// A bit flips while the server is down.
    Rot { server: u64, what: Rot, down: Micros },
    /// Leadership is moved, to that server or to whoever is best.
    Transfer { to: Option<u64> },
    /// The process is told to stop.
    Stop { server: u64, down: Micros },
    /// A newcomer is added, promoted, and a server removed.
    Replace { server: u64 },
}

/// What fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskError {
    /// A sync.
    Sync,
    /// A write.
    Write,
    /// A read of old entries.
    Read,
}

/// Which links are blocked.
#[derive(Clone, Debug)]
pub enum Shape {
    /// One server from all others.
    Isolated(u64),
    /// The leader from all others.
    Leader,
    /// It hears, and is not heard.
    Mute(u64),
    /// It sends, and hears nothing.
    Deaf(u64),
    /// The leader hears nothing.
    DeafLeader,
    /// Two halves, by the bits.
    Halves(u64),
    /// Two halves that only one server reaches both of.
    Bridge(u64, u64),
    /// Everybody sees a majority, and no two the same.
    Ring,
    /// One direction between two.
    OneWay(u64, u64),
}

/// What a client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Opens a session, if it has none.
    Open { ttl_ms: u64 },
    /// Gets in line for a lock; the kind is the lock's. Its turn may come later.
    Enqueue { lock: u8, shared: bool },
    /// Leaves the oldest line it stands in, holding or not.
    Leave,
    /// Leaves again with a token it had once.
    LateLeave,
    /// Writes a key.
    Put { key: u8, value: u32 },
    /// Writes a key once, without a session and whatever comes of it.
    PutOnce { key: u8 },
    /// Deletes a key.
    Delete { key: u8 },
    /// Deletes a lock with all that stand in line.
    Raze { lock: u8 },
    /// Asks for a linearizable state.
    Read,
    /// Asks every server for one, at once.
    ReadEverywhere,
    /// Closes its session.
    Close,
    /// Falls silent for good; somebody else takes its place.
    Vanish,
    /// Falls silent for so long.
    Silent { lasts: Micros },
}

/// One entry.
#[derive(Clone, Debug)]
pub enum What {
    /// See [`Fault`].
    Fault(Fault),
    /// See [`Act`]; by which client, at which server first.
    Act { client: u64, server: u64, act: Act },
    /// See [`Job`]; by which client of the library.
    Job { client: u64, job: Job },
    /// See [`Trouble`]; of which client of the library.
    Trouble { client: u64, trouble: Trouble },
}

/// One entry and its time.
#[derive(Clone, Debug)]
pub struct Step {
    /// Since the beginning.
    pub at: Micros,
    /// What.
    pub what: What,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.6} ", self.at as f64 / 1e6)?;
        match &self.what {
            What::Fault(fault) => write!(f, "{fault:?}"),
            What::Act { client, server, act } => write!(f, "client {client} at server {server}: {act:?}"),
            What::Job { client, job } => write!(f, "client {client}: {job:?}"),
            What::Trouble { client, trouble } => write!(f, "client {client}: {trouble:?}"),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// It grew from.
    pub seed: u64,
    /// Servers at the beginning.
    pub servers: u64,
    /// In the order of their times.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed. `steps` replaces the profile's number of them.
    #[must_use]
    pub fn grow(seed: u64, profile: &Profile, steps: Option<usize>) -> Self {
        let mut shape = generator(seed, "shape");
        let servers = profile.servers[shape.usize(..profile.servers.len())];
        let most = steps.unwrap_or(profile.steps);
        // Crowded runs and sparse ones find different things.
        let count = (most / 8).max(1) + shape.usize(..=most * 7 / 8);
        let fault_share = if shape.u32(..8) == 0 { 0 } else { profile.fault_share };
        let mut faults = generator(seed, "faults");
        let mut workload = generator(seed, "workload");
        let mut when = generator(seed, "when");
        // Most clients want the same few locks.
        let locks = 1 + workload.u8(..4);
        let mut plan = Vec::with_capacity(count);
        for client in 0..profile.clients {
            let act = Act::Open { ttl_ms: TTLS_MS[workload.usize(..TTLS_MS.len())] };
            let at = SECOND + when.u64(..SECOND);
            plan.push(Step { at, what: What::Act { client, server: 1 + workload.u64(..servers), act } });
        }
        for _ in 0..count {
            let at = 2 * SECOND + when.u64(..profile.chaos - 2 * SECOND);
            let what = if shape.u32(..100) < fault_share {
                What::Fault(fault(&mut faults, &profile.weights, servers, profile.drift_ppm))
            } else {
                let client = workload.u64(..profile.clients);
                let server = 1 + workload.u64(..servers);
                What::Act { client, server, act: act(&mut workload, locks) }
            };
            plan.push(Step { at, what });
        }
        let (mut jobs, mut troubles) = (generator(seed, "jobs"), generator(seed, "troubles"));
        for _ in 0..if profile.sessions > 0 { count * profile.jobs_share / 100 } else { 0 } {
            let client = client::FIRST + jobs.u64(..profile.sessions);
            let at = 2 * SECOND + jobs.u64(..profile.chaos - 2 * SECOND);
            plan.push(Step { at, what: What::Job { client, job: client::plan::job(&mut jobs) } });
            if fault_share > 0 && troubles.u32(..100) < profile.troubles_share {
                let at = 2 * SECOND + troubles.u64(..profile.chaos - 2 * SECOND);
                let trouble = client::plan::trouble(&mut troubles, servers);
                plan.push(Step { at, what: What::Trouble { client, trouble } });
            }
        }
        // What came later has generators of its own: the rest of a seed's plan stays what it was.
        let mut more = generator(seed, "more");
        let at = |rng: &mut fastrand::Rng| 2 * SECOND + rng.u64(..profile.chaos - 2 * SECOND);
        for _ in 0..count / 6 {
            let (client, server) = (more.u64(..profile.clients), 1 + more.u64(..servers));
            let act = if more.bool() { Act::PutOnce { key: more.u8(..8) } } else { Act::ReadEverywhere };
            plan.push(Step { at: at(&mut more), what: What::Act { client, server, act } });
            if profile.sessions > 0 {
                let client = client::FIRST + more.u64(..profile.sessions);
                let job = Job::Spoil { key: more.u8(..client::plan::KEYS) };
                plan.push(Step { at: at(&mut more), what: What::Job { client, job } });
            }
        }
        if fault_share > 0 && profile.weights.cut > 0 && more.bool() {
            for _ in 0..more.u32(1..6) {
                let (kept, down) = (more.u8(..), more.u64(5 * MS..200 * MS));
                let fault = Fault::CutAtVote { kept, down, lasts: more.u64(2 * SECOND..6 * SECOND) };
                plan.push(Step { at: at(&mut more), what: What::Fault(fault) });
            }
        }
        plan.sort_by_key(|step| step.at);
        Self { seed, servers, steps: plan }
    }
}

fn act(rng: &mut fastrand::Rng, locks: u8) -> Act {
    match rng.u32(..100) {
        0..35 => Act::Enqueue { lock: rng.u8(..locks), shared: rng.u32(..3) == 0 },
        35..60 => Act::Leave,
        60..64 => Act::LateLeave,
        64..76 => Act::Put { key: rng.u8(..8), value: rng.u32(..) },
        76..79 => Act::Delete { key: rng.u8(..8) },
        79..80 => Act::Raze { lock: rng.u8(..locks) },
        80..87 => Act::Read,
        87..90 => Act::Close,
        90..94 => Act::Vanish,
        94..97 => Act::Silent { lasts: rng.u64(100 * MS..6 * SECOND) },
        _ => Act::Open { ttl_ms: TTLS_MS[rng.usize(..TTLS_MS.len())] },
    }
}

fn fault(rng: &mut fastrand::Rng, weights: &Weights, servers: u64, drift_ppm: i64) -> Fault {
    let classes = [
        weights.kill,
        weights.power,
        weights.power_all,
        weights.cut,
        weights.pause,
        weights.jump,
        weights.wall,
        weights.drift,
        weights.partition,
        weights.weather,
        weights.reset,
        weights.slow_disk,
        weights.stuck_disk,
        weights.disk_error,
        weights.full_disk,
        weights.rot,
        weights.transfer,
        weights.stop,
        weights.replace,
    ];
    let mut drawn = rng.u32(..classes.iter().sum::<u32>().max(1));
    let mut class = 0;
    while class + 1 < classes.len() && drawn >= classes[class] {
        drawn -= classes[class];
        class += 1;
    }
    let server = 1 + rng.u64(..servers);
    let other = 1 + (server - 1 + rng.u64(1..servers.max(2))) % servers;
    let down = if rng.bool() { rng.u64(20 * MS..800 * MS) } else { rng.u64(SECOND..8 * SECOND) };
    let lasts = if rng.bool() { rng.u64(50 * MS..1_500 * MS) } else { rng.u64(SECOND..8 * SECOND) };
    match class {
        0 => Fault::Kill { server, down },
        1 => Fault::Power { server, kept: rng.u8(..), down },
        2 => Fault::PowerAll { kept: rng.u8(..), down },
        3 => {
            let after = if rng.bool() { rng.u64(1..12) } else { rng.u64(1..400) };
            Fault::Cut { server, after, kept: (rng.u32(..4) > 0).then(|| rng.u8(..)), down }
        }
        4 => Fault::Pause { server, stands: lasts },
        5 => Fault::Jump { server, by: rng.u64(10 * MS..20 * SECOND) },
        6 => Fault::Wall { server, offset_ms: rng.i64(-100_000_000..100_000_000) },
        7 => Fault::Drift { server, ppm: rng.i64(-drift_ppm..=drift_ppm), lasts },
        8 => {
            let shape = match rng.u32(..10) {
                0 => Shape::Isolated(server),
                1 | 2 => Shape::Leader,
                3 => Shape::Mute(server),
                4 => Shape::Deaf(server),
                5 => Shape::DeafLeader,
                6 => Shape::Halves(rng.u64(..)),
                7 => Shape::Bridge(server, rng.u64(..)),
                8 => Shape::Ring,
                _ => Shape::OneWay(server, other),
            };
            Fault::Partition { shape, lasts }
        }
        9 => {
            let weather = Weather {
                jitter_us: if rng.bool() { late(rng.u64(MS..300 * MS)) } else { 0 },
                loss: if rng.bool() { rng.u32(1..300) } else { 0 },
                doubled: if rng.bool() { rng.u32(1..300) } else { 0 },
                overtaken: if rng.bool() { rng.u32(1..300) } else { 0 },
            };
            Fault::Weather { from: rng.bool().then_some(server), weather, lasts }
        }
        10 => Fault::Reset { from: server, to: other },
        11 => Fault::SlowDisk { server, times: rng.u64(5..500), lasts },
        12 => Fault::StuckDisk { server, lasts },
        13 => {
            let what = match rng.u32(..5) {
                0..3 => DiskError::Sync,
                3 => DiskError::Write,
                _ => DiskError::Read,
            };
            Fault::DiskError { server, what, down }
        }
        14 => Fault::FullDisk { server, lasts },
        15 => {
            let what = if rng.bool() { Rot::Entry(rng.u8(..)) } else { Rot::Record(rng.u8(..)) };
            Fault::Rot { server, what, down }
        }
        16 => Fault::Transfer { to: rng.bool().then_some(server) },
        17 => Fault::Stop { server, down },
        _ => Fault::Replace { server },
    }
}

/// The longest delays are longer than any round of messages takes to be given up.
fn late(jitter_us: Micros) -> Micros {
    if jitter_us > 240 * MS { jitter_us * 8 } else { jitter_us }
}

impl Fault {
    /// Its class, for the summary.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "process killed",
            Self::Power { .. } => "power cut",
            Self::PowerAll { .. } => "power cut of all",
            Self::Cut { .. } => "crash at an effect",
            Self::CutAtVote { .. } => "power cut at a vote",
            Self::Pause { .. } => "process paused",
            Self::Jump { .. } => "monotonic clock leaps",
            Self::Wall { .. } => "wall clock jumps",
            Self::Drift { .. } => "clock drifts",
            Self::Partition { shape, .. } => match shape {
                Shape::Isolated(_) => "partition: one isolated",
                Shape::Leader => "partition: leader isolated",
                Shape::Mute(_) => "partition: hears, not heard",
                Shape::Deaf(_) => "partition: sends, hears nothing",
                Shape::DeafLeader => "partition: leader hears nothing",
                Shape::Halves(_) => "partition: halves",
                Shape::Bridge(..) => "partition: bridge",
                Shape::Ring => "partition: majority ring",
                Shape::OneWay(..) => "partition: one way",
            },
            Self::Weather { .. } => "loss, delay, doubling, reordering",
            Self::Reset { .. } => "connection reset",
            Self::SlowDisk { .. } => "slow disk",
            Self::StuckDisk { .. } => "stuck disk",
            Self::DiskError { what: DiskError::Sync, .. } => "sync fails",
            Self::DiskError { what: DiskError::Write, .. } => "write fails",
            Self::DiskError { what: DiskError::Read, .. } => "read finds damage",
            Self::FullDisk { .. } => "full disk",
            Self::Rot { what: Rot::Entry(_), .. } => "bit flip in the log",
            Self::Rot { what: Rot::Record(_), .. } => "bit flip in the state",
            Self::Transfer { .. } => "leadership moved",
            Self::Stop { .. } => "server stopped in good order",
            Self::Replace { .. } => "server replaced",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::PROFILES;

    #[test]
    fn a_seed_grows_one_plan_and_another_seed_another() {
        for profile in PROFILES {
            let text = |seed| format!("{:?}", Plan::grow(seed, profile, None));
            assert_eq!(text(7), text(7));
            assert_ne!(text(7), text(8));
        }
    }

    #[test]
    fn the_default_profile_grows_every_class_of_fault() {
        let mut classes = std::collections::BTreeSet::new();
        for seed in 0..400 {
            for step in Plan::grow(seed, &PROFILES[0], None).steps {
                if let What::Fault(fault) = step.what {
                    classes.insert(fault.class());
                }
            }
        }
        assert_eq!(classes.len(), 31, "{classes:#?}");
    }
}
