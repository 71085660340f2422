//! A store in memory whose "disk" outlives it and can lose what was not synced: for tests and simulation.

use std::{collections::BTreeMap, sync::Arc};

use conclave_proto::Term;
use conclave_state::Machine;
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};

use super::{AppliedWrite, LogWrite, Membership, Position, Recovered, SnapshotDone, SnapshotInfo, Store, StoreError};

/// Everything stored, as of some moment.
#[derive(Clone, Debug, Default)]
pub struct Image {
    log: BTreeMap<u64, Entry>,
    hard_state: HardState,
    membership: Membership,
    compacted: Position,
    applied: Position,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Image {
    /// Its state.
    ///
    /// # Errors
    /// The records make no state.
    pub fn machine(&self) -> Result<Machine, StoreError> {
        Machine::restore(&self.records).map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    /// As of which entry.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.applied
    }
}

#[derive(Clone, Debug)]
enum Write {
    Log {
        entries: Vec<Entry>,
        last_before: u64,
        hard_state: Option<HardState>,
    },
    Applied {
        records: conclave_state::Writes,
        applied: Position,
        hard_state: Option<HardState>,
        membership: Option<Membership>,
    },
    Compact(Position),
}

impl Write {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Log { entries, last_before, hard_state } => {
                for entry in entries {
                    image.log.insert(entry.index, entry.clone());
                }
                if let Some(last) = entries.last() {
                    for index in last.index + 1..=*last_before {
                        image.log.remove(&index);
                    }
                }
                if let Some(hard_state) = hard_state {
                    image.hard_state = hard_state.clone();
                }
            }
            Self::Applied { records, applied, hard_state, membership } => {
                for (key, value) in records {
                    match value {
                        Some(value) => image.records.insert(key.clone(), value.clone()),
                        None => image.records.remove(key),
                    };
                }
                image.applied = *applied;
                if let Some(hard_state) = hard_state {
                    image.hard_state = hard_state.clone();
                }
                if let Some(membership) = membership {
                    image.membership = membership.clone();
                }
            }
            Self::Compact(through) => {
                image.log = image.log.split_off(&(through.index + 1));
                image.compacted = *through;
            }
        }
    }
}

/// The disk: what was synced, and what was written after that.
#[derive(Debug, Default)]
pub struct Platter {
    synced: Option<Image>,
    unsynced: Vec<Write>,
    /// Every write fails from now on.
    pub failing: bool,
}

impl Platter {
    /// The power fails: of the unsynced writes, only the first `kept` were on their way to the disk.
    pub fn crash(&mut self, kept: usize) {
        let image = self.synced.as_mut().expect("opened before");
        for write in self.unsynced.drain(..).take(kept) {
            write.apply(image);
        }
    }

    /// How many writes a crash could lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }
}

/// A server's view of a [`Platter`].
pub struct Memory {
    platter: Arc<Mutex<Platter>>,
    now: Image,
    snapshots: Arc<Mutex<BTreeMap<String, Arc<Image>>>>,
}

impl Memory {
    /// Opens a platter, writing the first records to an empty one. See [`super::disk::Disk::open`].
    ///
    /// # Errors
    /// What is on it makes no sense.
    pub fn open(platter: Arc<Mutex<Platter>>, bootstrap: Option<&Membership>) -> Result<(Self, Recovered), StoreError> {
        let mut image = platter.lock().synced.clone();
        if image.is_none() {
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
            platter.lock().synced = Some(first.clone());
            image = Some(first);
        }
        let image = image.expect("just made");
        let last = image
            .log
            .values()
            .next_back()
            .map_or(image.compacted, |entry| Position { index: entry.index, term: entry.term });
        let recovered = Recovered {
            hard_state: image.hard_state.clone(),
            membership: image.membership.clone(),
            compacted: image.compacted,
            last,
            applied: image.applied,
            machine: image.machine()?,
        };
        recovered.check()?;
        Ok((Self { platter, now: image, snapshots: Arc::default() }, recovered))
    }

    /// The snapshots taken, for whoever plays the network.
    #[must_use]
    pub fn snapshots(&self) -> Arc<Mutex<BTreeMap<String, Arc<Image>>>> {
        Arc::clone(&self.snapshots)
    }

    fn write(&mut self, write: Write, sync: bool) -> Result<(), StoreError> {
        let mut platter = self.platter.lock();
        if platter.failing {
            return Err(StoreError::Io {
                what: "write to",
                path: "memory".into(),
                source: std::io::Error::other("the disk fails, as asked"),
            });
        }
        write.apply(&mut self.now);
        platter.unsynced.push(write);
        if sync {
            let all = platter.unsynced.len();
            platter.crash(all);
        }
        Ok(())
    }
}

impl Store for Memory {
    type Incoming = Arc<Image>;

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let entry =
                self.now.log.get(&index).ok_or_else(|| StoreError::Corrupt(format!("log entry {index} is missing")))?;
            bytes += prost_raft::Message::encoded_len(entry) as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn write_log(&mut self, write: LogWrite<'_>, sync: bool) -> Result<(), StoreError> {
        let write = Write::Log {
            entries: write.entries.to_vec(),
            last_before: write.last_before,
            hard_state: write.hard_state.cloned(),
        };
        self.write(write, sync)
    }

    fn write_applied(&mut self, write: AppliedWrite<'_>) -> Result<(), StoreError> {
        let write = Write::Applied {
            records: write.records,
            applied: write.applied,
            hard_state: write.hard_state.cloned(),
            membership: write.membership.cloned(),
        };
        self.write(write, false)
    }

    fn compact_log(&mut self, through: Position) -> Result<(), StoreError> {
        self.write(Write::Compact(through), false)
    }

    fn start_snapshot(&mut self, done: SnapshotDone) {
        let image = Arc::new(Image { log: BTreeMap::new(), ..self.now.clone() });
        let id = format!("{}-{}", image.applied.term, image.applied.index);
        let info = SnapshotInfo { id: id.clone(), at: image.applied, membership: image.membership.clone() };
        self.snapshots.lock().insert(id, image);
        done(Ok(info));
    }

    fn install(
        &mut self,
        incoming: Arc<Image>,
        at: Position,
        hard_state: &HardState,
    ) -> Result<Membership, StoreError> {
        assert_eq!(incoming.applied, at, "the snapshot is the one that was asked for");
        let image = Image { hard_state: hard_state.clone(), compacted: at, ..(*incoming).clone() };
        let mut platter = self.platter.lock();
        platter.synced = Some(image.clone());
        platter.unsynced.clear();
        let membership = image.membership.clone();
        self.now = image;
        Ok(membership)
    }

    fn discard(&mut self, _incoming: Arc<Image>) {}

    fn disk_bytes(&self) -> u64 {
        self.now.records.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}
