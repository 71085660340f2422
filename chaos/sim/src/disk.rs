//! A simulated disk: loses what was not synced, tears the last record, fails, stalls, fills up, rots.
//!
//! Always true of a [`Platter`]:
//! * `image` is what a reader of the running system sees; undoing `unsynced`, newest first, gives what survived the last
//!   sync;
//! * a crash keeps a prefix of what was written since, in the order in which it was written, as RocksDB's write-ahead log
//!   does: a torn record at its end is recognised by its checksum, and dropped;
//! * damage is never served: a flipped bit in a log entry is an error when it is read (as RocksDB's block checksums make it
//!   one), one in a record of the state reaches [`Machine::restore`], whose business it is to refuse it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use conclave_proto::Term;
use conclave_server::storage::{
    AppliedWrite, LogWrite, Membership, Position, Recovered, SnapshotDone, SnapshotInfo, Store, StoreError,
};
use conclave_state::Machine;
use parking_lot::Mutex;
use prost_raft::Message as _;
use raft::eraftpb::{Entry, HardState};

use crate::{
    exec::{Process, Sim},
    life::{Life, Point},
    oracle::Oracles,
    time::{MS, Micros, SECOND},
};

/// Newest snapshots that are kept.
const SNAPSHOTS_MAX: usize = 2;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything stored.
#[derive(Clone, Debug, Default)]
struct Image {
    log: VecDeque<Entry>,
    hard_state: HardState,
    membership: Membership,
    compacted: Position,
    applied: Position,
    records: Records,
}

impl Image {
    fn at(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.compacted.index + 1)?;
        self.log.get(usize::try_from(place).ok()?)
    }

    fn last(&self) -> Position {
        self.log.back().map_or(self.compacted, |entry| Position { index: entry.index, term: entry.term })
    }
}

/// A state that others can fetch.
#[derive(Debug)]
pub struct Snapshot {
    at: Position,
    membership: Membership,
    records: Records,
}

impl Snapshot {
    /// Its state, checked as the receiver does.
    ///
    /// # Errors
    /// It was damaged.
    pub fn machine(&self) -> Result<Machine, String> {
        Machine::restore(&self.records).map_err(|error| error.to_string())
    }
}

/// How to take back one write.
#[derive(Debug)]
enum Undo {
    Log { removed: Vec<Entry>, added_from: u64, hard_state: Option<HardState> },
    Applied { records: Vec<(Vec<u8>, Option<Vec<u8>>)>, applied: Position, kept: Kept },
    Compact { entries: Vec<Entry>, compacted: Position },
}

type Kept = (Option<HardState>, Option<Membership>);

impl Undo {
    fn revert(self, image: &mut Image) {
        match self {
            Self::Log { removed, added_from, hard_state } => {
                while image.log.back().is_some_and(|entry| entry.index >= added_from) {
                    image.log.pop_back();
                }
                image.log.extend(removed);
                if let Some(hard_state) = hard_state {
                    image.hard_state = hard_state;
                }
            }
            Self::Applied { records, applied, kept: (hard_state, membership) } => {
                for (key, value) in records.into_iter().rev() {
                    match value {
                        Some(value) => image.records.insert(key, value),
                        None => image.records.remove(&key),
                    };
                }
                image.applied = applied;
                if let Some(hard_state) = hard_state {
                    image.hard_state = hard_state;
                }
                if let Some(membership) = membership {
                    image.membership = membership;
                }
            }
            Self::Compact { entries, compacted } => {
                for entry in entries.into_iter().rev() {
                    image.log.push_front(entry);
                }
                image.compacted = compacted;
            }
        }
    }
}

/// How the disk misbehaves.
#[derive(Debug, Default)]
pub struct Faults {
    /// Each sync takes so many times longer.
    pub slowness: u64,
    /// Nothing is synced before then.
    pub stuck_until: Micros,
    /// The next sync fails.
    pub sync_fails: bool,
    /// The next write of entries fails.
    pub write_fails: bool,
    /// There is no room.
    pub full: bool,
    /// The next read of old entries finds them damaged.
    pub read_fails: bool,
}

/// What happened on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Syncs of the log.
    pub syncs: u64,
    /// Writes that a crash lost.
    pub lost: u64,
    /// Crashes that tore a record.
    pub torn: u64,
    /// Snapshots taken.
    pub snapshots: u64,
    /// Snapshots installed.
    pub installs: u64,
    /// Writes, syncs and reads that failed.
    pub failures: u64,
    /// Syncs that took longer than a heartbeat.
    pub stalls: u64,
}

/// The disk itself, which outlives servers.
#[derive(Debug, Default)]
pub struct Platter {
    image: Option<Image>,
    unsynced: Vec<Undo>,
    damaged: BTreeSet<u64>,
    /// A bit flipped, somewhere.
    rotten: bool,
    snapshots: BTreeMap<String, Arc<Snapshot>>,
    /// See [`Faults`].
    pub faults: Faults,
    /// See [`Counts`].
    pub counts: Counts,
}

/// What to flip a bit of.
#[derive(Clone, Copy, Debug)]
pub enum Rot {
    /// An entry of the log, the given share (of 256) from its beginning.
    Entry(u8),
    /// A record of the state.
    Record(u8),
}

impl Platter {
    /// The power fails, or the process dies: of the writes that were not synced the first `kept` survive. How many did
    /// not.
    pub fn crash(&mut self, kept: usize) -> usize {
        let lost = self.unsynced.len().saturating_sub(kept);
        let Some(image) = &mut self.image else { return 0 };
        while self.unsynced.len() > kept {
            self.unsynced.pop().expect("just counted").revert(image);
        }
        self.unsynced.clear();
        self.counts.lost += lost as u64;
        lost
    }

    /// Writes that a crash could lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Flips a bit. False if there is nothing to flip.
    pub fn rot(&mut self, what: Rot) -> bool {
        let Some(image) = &mut self.image else { return false };
        match what {
            Rot::Entry(share) => {
                if image.log.is_empty() {
                    return false;
                }
                let place = image.log.len() * usize::from(share) / 256;
                self.damaged.insert(image.log[place].index);
            }
            Rot::Record(share) => {
                let place = image.records.len() * usize::from(share) / 256;
                let Some((_, value)) = image.records.iter_mut().nth(place) else { return false };
                let Some(byte) = value.last_mut() else { return false };
                *byte ^= 0x10;
            }
        }
        self.rotten = true;
        true
    }

    /// A bit flipped, so it may refuse service, for ever.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.rotten
    }

    /// Term and data of an entry, as the server sees them.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.image.as_ref()?.at(index)
    }

    /// A snapshot, for whoever plays the network.
    #[must_use]
    pub fn snapshot(&self, id: &str) -> Option<Arc<Snapshot>> {
        self.snapshots.get(id).cloned()
    }
}

fn failed(what: &'static str, why: &'static str) -> StoreError {
    StoreError::Io { what, path: "the simulated disk".into(), source: std::io::Error::other(why) }
}

/// A server's view of a [`Platter`].
pub struct SimStore {
    platter: Arc<Mutex<Platter>>,
    life: Arc<Life>,
    sim: Sim,
    process: Process,
    rng: fastrand::Rng,
    oracles: Arc<Mutex<Oracles>>,
}

impl SimStore {
    /// Opens a platter, writing the first records to an empty one.
    ///
    /// # Errors
    /// What is on it makes no sense.
    pub fn open(
        platter: &Arc<Mutex<Platter>>,
        bootstrap: Option<&Membership>,
        life: Arc<Life>,
        sim: Sim,
        process: Process,
        rng: fastrand::Rng,
        oracles: &Arc<Mutex<Oracles>>,
    ) -> Result<(Self, Recovered), StoreError> {
        let mut disk = platter.lock();
        let image = disk.image.get_or_insert_with(|| first_image(bootstrap));
        let machine = Machine::restore(&image.records).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let recovered = Recovered {
            hard_state: image.hard_state.clone(),
            membership: image.membership.clone(),
            compacted: image.compacted,
            last: image.last(),
            applied: image.applied,
            machine,
        };
        recovered.check()?;
        drop(disk);
        let (platter, oracles) = (Arc::clone(platter), Arc::clone(oracles));
        Ok((Self { platter, life, sim, process, rng, oracles }, recovered))
    }

    /// How long a sync takes now.
    fn sync_us(&mut self, faults: &Faults) -> Micros {
        let usual = 80 + self.rng.u64(..200);
        let stuck = faults.stuck_until.saturating_sub(self.sim.now() + self.life.spent());
        usual * faults.slowness.max(1) + stuck
    }
}

fn first_image(bootstrap: Option<&Membership>) -> Image {
    let mut machine = Machine::new();
    let mut first = Image::default();
    if let Some(membership) = bootstrap {
        let at = Position { index: 1, term: 1 };
        machine.apply(at.at(), Term(at.term), None);
        first.hard_state = HardState { term: at.term, vote: 0, commit: at.index };
        first.membership = membership.clone();
        (first.compacted, first.applied) = (at, at);
    }
    for (key, value) in machine.take_writes() {
        first.records.insert(key, value.expect("a new state removes nothing"));
    }
    first
}

impl Store for SimStore {
    type Incoming = Arc<Snapshot>;

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let mut disk = self.platter.lock();
        if std::mem::take(&mut disk.faults.read_fails) {
            disk.counts.failures += 1;
            self.life.excused.store(true, Relaxed);
            return Err(StoreError::Corrupt("checksum mismatch in a block, as asked".to_owned()));
        }
        let image = disk.image.as_ref().expect("open");
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            if disk.damaged.contains(&index) {
                self.life.excused.store(true, Relaxed);
                return Err(StoreError::Corrupt(format!("checksum mismatch in log entry {index}, as asked")));
            }
            let entry = image.at(index).ok_or_else(|| StoreError::Corrupt(format!("log entry {index} is missing")))?;
            bytes += entry.encoded_len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn write_log(&mut self, write: LogWrite<'_>, sync: bool) -> Result<(), StoreError> {
        self.oracles.lock().logged(self.sim.now(), write.entries);
        self.life.point(Point::LogWrite);
        let platter = Arc::clone(&self.platter);
        let mut disk = platter.lock();
        let disk = &mut *disk;
        if std::mem::take(&mut disk.faults.write_fails) || disk.faults.full {
            disk.counts.failures += 1;
            self.life.excused.store(true, Relaxed);
            return Err(failed("write to", if disk.faults.full { "no space left on device" } else { "as asked" }));
        }
        let image = disk.image.as_mut().expect("open");
        let mut removed = Vec::new();
        let added_from = write.entries.first().map_or(u64::MAX, |first| first.index);
        assert!(added_from > image.compacted.index, "what is compacted is not written again");
        while image.log.back().is_some_and(|entry| entry.index >= added_from) {
            removed.push(image.log.pop_back().expect("just seen"));
        }
        removed.reverse();
        for entry in write.entries {
            assert_eq!(entry.index, image.last().index + 1, "the log has no gaps");
            disk.damaged.remove(&entry.index);
            image.log.push_back(entry.clone());
        }
        let hard_state = write.hard_state.map(|new| std::mem::replace(&mut image.hard_state, new.clone()));
        disk.unsynced.push(Undo::Log { removed, added_from, hard_state });
        if !sync {
            return Ok(());
        }
        self.life.point(Point::LogSync);
        let takes_us = self.sync_us(&disk.faults);
        if takes_us > 100 * MS {
            disk.counts.stalls += 1;
        }
        self.life.spend(takes_us);
        if std::mem::take(&mut disk.faults.sync_fails) {
            disk.counts.failures += 1;
            self.life.excused.store(true, Relaxed);
            return Err(failed("sync", "as asked"));
        }
        disk.counts.syncs += 1;
        disk.unsynced.clear();
        self.life.point(Point::LogSynced);
        Ok(())
    }

    fn write_applied(&mut self, write: AppliedWrite<'_>) -> Result<(), StoreError> {
        self.life.point(Point::StateWrite);
        let mut disk = self.platter.lock();
        let disk = &mut *disk;
        if disk.faults.full {
            disk.counts.failures += 1;
            self.life.excused.store(true, Relaxed);
            return Err(failed("write to", "no space left on device"));
        }
        let image = disk.image.as_mut().expect("open");
        let mut records = Vec::with_capacity(write.records.len());
        for (key, value) in write.records {
            let before = match value {
                Some(value) => match image.records.get_mut(&key) {
                    Some(place) => Some(std::mem::replace(place, value)),
                    None => image.records.insert(key.clone(), value),
                },
                None => image.records.remove(&key),
            };
            records.push((key, before));
        }
        let applied = std::mem::replace(&mut image.applied, write.applied);
        let hard_state = write.hard_state.map(|new| std::mem::replace(&mut image.hard_state, new.clone()));
        let membership = write.membership.map(|new| std::mem::replace(&mut image.membership, new.clone()));
        disk.unsynced.push(Undo::Applied { records, applied, kept: (hard_state, membership) });
        Ok(())
    }

    fn compact_log(&mut self, through: Position) -> Result<(), StoreError> {
        self.life.point(Point::Compact);
        let mut disk = self.platter.lock();
        let disk = &mut *disk;
        let image = disk.image.as_mut().expect("open");
        let mut entries = Vec::new();
        while image.log.front().is_some_and(|entry| entry.index <= through.index) {
            entries.push(image.log.pop_front().expect("just seen"));
        }
        let compacted = std::mem::replace(&mut image.compacted, through);
        disk.unsynced.push(Undo::Compact { entries, compacted });
        Ok(())
    }

    fn start_snapshot(&mut self, done: SnapshotDone) {
        self.life.point(Point::Snapshot);
        let mut disk = self.platter.lock();
        let image = disk.image.as_ref().expect("open");
        let at = image.applied;
        let snapshot = Snapshot { at, membership: image.membership.clone(), records: image.records.clone() };
        let (sim, platter) = (self.sim.clone(), Arc::clone(&self.platter));
        // One begun on a slow disk must not outlast the healing of it by much.
        let takes_us = (self.rng.u64(MS..50 * MS) * disk.faults.slowness.max(1)).min(2 * SECOND);
        disk.counts.snapshots += 1;
        self.sim.spawn(self.process, async move {
            sim.sleep(takes_us).await;
            let mut disk = platter.lock();
            if disk.faults.full {
                drop(disk);
                done(Err(failed("take a snapshot", "no space left on device")));
                return;
            }
            let id = format!("{}-{}", at.term, at.index);
            let info = SnapshotInfo { id: id.clone(), at, membership: snapshot.membership.clone() };
            disk.snapshots.insert(id, Arc::new(snapshot));
            while disk.snapshots.len() > SNAPSHOTS_MAX {
                let oldest = disk.snapshots.iter().min_by_key(|(_, snapshot)| snapshot.at).map(|(id, _)| id.clone());
                disk.snapshots.remove(&oldest.expect("there are some"));
            }
            drop(disk);
            done(Ok(info));
        });
    }

    fn install(
        &mut self,
        incoming: Self::Incoming,
        at: Position,
        hard_state: &HardState,
    ) -> Result<Membership, StoreError> {
        self.life.point(Point::Install);
        assert_eq!(incoming.at, at, "the snapshot is the one that was asked for");
        let mut disk = self.platter.lock();
        if disk.faults.full {
            disk.counts.failures += 1;
            self.life.excused.store(true, Relaxed);
            return Err(failed("install a snapshot into", "no space left on device"));
        }
        self.life.spend(2 * MS);
        disk.counts.installs += 1;
        disk.unsynced.clear();
        disk.damaged.clear();
        disk.rotten = false;
        disk.image = Some(Image {
            log: VecDeque::new(),
            hard_state: hard_state.clone(),
            membership: incoming.membership.clone(),
            compacted: at,
            applied: at,
            records: incoming.records.clone(),
        });
        drop(disk);
        self.life.point(Point::Installed);
        Ok(incoming.membership.clone())
    }

    fn discard(&mut self, _: Self::Incoming) {}

    fn disk_bytes(&self) -> u64 {
        let disk = self.platter.lock();
        let records = disk.image.iter().flat_map(|image| &image.records);
        records.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}
