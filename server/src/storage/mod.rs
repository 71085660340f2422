//! What a server keeps: the Raft log, the hard state, the members and the state's records.
//!
//! The [`Store`] trait is narrow on purpose, so that a simulated disk can stand in for the real one: [`disk`] is
//! RocksDB, [`memory`] a double that can lose what was not synced. [`log`] shows either to raft-rs.
//!
//! True of what is found at open, and checked then:
//! * compacted ≤ applied ≤ committed ≤ last, and the log has no gap between compacted and last;
//! * the applied index, the records of the state at that index, and the members as of that index were written
//!   together;
//! * the disk belongs to this server of this cluster.
//!
//! A failed write or fsync is never retried and never ignored: what the disk holds is unknown from then on, so the
//! server stops (see [`StoreError`]).

pub mod disk;
mod keys;
pub mod log;
pub mod memory;
pub mod wal;

use std::path::PathBuf;

use conclave_proto::{Index, ServerId};
use conclave_state::{Machine, Writes};
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::raft::Member;

/// A place in the log. Index 0, term 0 is before its beginning.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub struct Position {
    /// Counts entries from 1.
    pub index: u64,
    /// Of the entry there.
    pub term: u64,
}

impl Position {
    /// The index as the rest of the house calls it.
    #[must_use]
    pub fn at(self) -> Index {
        Index(self.index)
    }
}

/// Who takes part, as of some index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    /// Voters and learners, the joint configuration included.
    pub conf: ConfState,
    /// Where they are reached. By id.
    pub members: Vec<Member>,
}

/// Whose disk it is. Written once.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: String,
    /// The server's id.
    pub server: ServerId,
}

/// What was found at open.
#[derive(Debug)]
pub struct Recovered {
    /// Term, vote, commit index.
    pub hard_state: HardState,
    /// As of `applied`.
    pub membership: Membership,
    /// The log begins after it.
    pub compacted: Position,
    /// The last entry; `compacted` if the log is empty.
    pub last: Position,
    /// As of the last applied entry.
    pub applied: Position,
    /// Its state, checked against its hash.
    pub machine: Machine,
}

impl Recovered {
    /// # Errors
    /// The positions cross.
    pub fn check(&self) -> Result<(), StoreError> {
        let chain = [self.compacted.index, self.applied.index, self.hard_state.commit, self.last.index];
        if !chain.is_sorted() {
            return Err(StoreError::Corrupt(format!(
                "positions cross: compacted={} applied={} committed={} last={}",
                chain[0], chain[1], chain[2], chain[3]
            )));
        }
        if self.machine.applied() != self.applied.at() {
            return Err(StoreError::Corrupt(format!(
                "the state is as of index {}, the store says {}",
                self.machine.applied(),
                self.applied.index
            )));
        }
        Ok(())
    }
}

/// What one Ready adds to the log, in one batch.
#[derive(Debug, Default)]
pub struct LogWrite<'a> {
    /// Consecutive. They replace whatever is stored from the first one's index on.
    pub entries: &'a [Entry],
    /// The last index stored so far, so that a replaced tail can be removed.
    pub last_before: u64,
    /// If it changed.
    pub hard_state: Option<&'a HardState>,
}

/// What applying a batch of entries changed, in one batch.
#[derive(Debug)]
pub struct AppliedWrite<'a> {
    /// From the machine.
    pub records: Writes,
    /// Of the last applied entry.
    pub applied: Position,
    /// If it changed: its commit index is never behind `applied`.
    pub hard_state: Option<&'a HardState>,
    /// If they changed.
    pub membership: Option<&'a Membership>,
}

/// A snapshot that other servers can fetch.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotInfo {
    /// Names it to those who fetch it.
    pub id: String,
    /// Of the last entry in it.
    pub at: Position,
    /// As of that entry.
    pub membership: Membership,
}

/// Where the result of a snapshot goes; called on any thread.
pub type SnapshotDone = Box<dyn FnOnce(Result<SnapshotInfo, StoreError>) + Send>;

/// What one server keeps. Owned by the node's thread; see the module for what holds.
pub trait Store: Send + 'static {
    /// A fetched snapshot, ready to replace what is stored.
    type Incoming: Send + 'static;

    /// Entries from `low` up to before `high`, at most `bytes_max` of them but at least one.
    ///
    /// # Errors
    /// The store cannot be read.
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError>;

    /// Adds to the log. On return, if `sync`, it and everything written before survives a crash.
    ///
    /// # Errors
    /// What is on the disk is unknown; the server must stop.
    fn write_log(&mut self, write: LogWrite<'_>, sync: bool) -> Result<(), StoreError>;

    /// Stores what applying changed. Not synced: it is replayed from the log if it is lost.
    ///
    /// # Errors
    /// What is on the disk is unknown; the server must stop.
    fn write_applied(&mut self, write: AppliedWrite<'_>) -> Result<(), StoreError>;

    /// Forgets the log up to and including `through`, which is applied.
    ///
    /// # Errors
    /// What is on the disk is unknown; the server must stop.
    fn compact_log(&mut self, through: Position) -> Result<(), StoreError>;

    /// Takes a snapshot of a recent state, without blocking, and keeps only the newest few.
    fn start_snapshot(&mut self, done: SnapshotDone);

    /// Replaces everything by a fetched snapshot as of `at`, atomically; the log is empty afterwards. Returns the
    /// members it came with.
    ///
    /// # Errors
    /// What is on the disk is unknown; the server must stop.
    fn install(
        &mut self,
        incoming: Self::Incoming,
        at: Position,
        hard_state: &HardState,
    ) -> Result<Membership, StoreError>;

    /// Drops a fetched snapshot that was not wanted any more.
    fn discard(&mut self, incoming: Self::Incoming);

    /// Bytes used on the disk.
    fn disk_bytes(&self) -> u64;
}

/// Reads a record of the meta column family, as the next start would. For the tests of decoders.
///
/// # Errors
/// It cannot be read.
#[doc(hidden)]
pub fn check_meta(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    match key {
        keys::HARD_STATE => keys::decode_hard_state(value).map(drop),
        keys::MEMBERSHIP => keys::decode_membership(value).map(drop),
        keys::IDENTITY => keys::decode::<Identity>("identity", value).map(drop),
        keys::COMPACTED | keys::APPLIED => keys::decode::<Position>("position", value).map(drop),
        other => keys::log_index(other).map(drop),
    }
}

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk of another server or cluster.
    #[error(
        "{} belongs to server {} of cluster {:?}, this is server {} of cluster {:?}: \
         point data_dir elsewhere, or correct the id or the cluster in the configuration",
        dir.display(), found.server, found.cluster, wanted.server, wanted.cluster
    )]
    Foreign {
        /// Where.
        dir: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who we are.
        wanted: Identity,
    },
    /// A log was changed behind our back: it has less than what was acknowledged.
    #[error(
        "{} is damaged at byte {offset}, and writes that were acknowledged come after that: this server must not take part without \
         them. Remove it from the cluster and add it with an empty disk, as docs/operations.md says under Members",
        file.display()
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where the first damaged record begins.
        offset: u64,
    },
    /// What is stored makes no sense.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The file system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// Doing what.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Our own code panicked; its message was logged.
    #[error("{0} failed: a broken invariant")]
    Broken(&'static str),
    /// RocksDB said no.
    #[error("cannot {what}")]
    Rocks {
        /// Doing what.
        what: &'static str,
        /// Why.
        source: rocksdb::Error,
    },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    fn rocks(what: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::Rocks { what, source }
    }
}
