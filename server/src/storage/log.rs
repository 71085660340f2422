//! The store as raft-rs sees it: recent entries from memory, older ones from the disk.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use prost_raft::Message as _;
use raft::{
    GetEntriesContext, RaftState, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata},
};

use super::{LogWrite, Position, SnapshotInfo, Store, StoreError};

/// Serves [`raft::Storage`] and keeps the numbers raft-rs asks for at hand.
///
/// Always true: the cache is a suffix of the log, without gaps; `compacted.index <= last.index`.
pub struct Log<S> {
    store: S,
    /// Newest entries, at most `cache_bytes_max` of them (and at least the very last).
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    cache_bytes_max: u64,
    compacted: Position,
    last: Position,
    hard_state: HardState,
    /// Only read when raft-rs starts.
    conf: ConfState,
    snapshot: Option<SnapshotInfo>,
    /// raft-rs asked for a snapshot and there is none that serves.
    snapshot_wanted: Cell<bool>,
    /// Why the store could not be read, from when raft-rs asked: it goes on without the answer, and must not.
    failure: RefCell<Option<StoreError>>,
    /// The bytes of log since it was last compacted, roughly.
    bytes: u64,
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + size_of::<Entry>()) as u64
}

impl<S: Store> Log<S> {
    /// Over a store that was just opened.
    pub fn new(
        store: S,
        compacted: Position,
        last: Position,
        hard_state: HardState,
        conf: ConfState,
        cache_bytes_max: u64,
    ) -> Self {
        Self {
            store,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            compacted,
            last,
            hard_state,
            conf,
            snapshot: None,
            snapshot_wanted: Cell::new(false),
            failure: RefCell::new(None),
            bytes: 0,
        }
    }

    /// The store itself.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// For what only reads.
    pub fn store_ref(&self) -> &S {
        &self.store
    }

    /// The log begins after it.
    pub fn compacted(&self) -> Position {
        self.compacted
    }

    /// The last entry.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Bytes of log since the last compaction, roughly.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The newest snapshot that can be fetched.
    pub fn snapshot_info(&self) -> Option<&SnapshotInfo> {
        self.snapshot.as_ref()
    }

    /// A snapshot is there to be fetched.
    pub fn set_snapshot(&mut self, snapshot: SnapshotInfo) {
        self.snapshot = Some(snapshot);
        self.snapshot_wanted.set(false);
    }

    /// Whether raft-rs asked for a snapshot in vain since this was last asked.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// # Errors
    /// The store could not be read since this was last asked. raft-rs takes that for an entry that is not there, and
    /// would leave a follower without news for ever.
    pub fn readable(&mut self) -> Result<(), StoreError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    fn unreadable(&self, error: StoreError) -> raft::Error {
        // raft-rs panics with it where it cannot go on.
        let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        let told = raft::Error::Store(StorageError::Other(format!("{error}{why}").into()));
        self.failure.borrow_mut().get_or_insert(error);
        told
    }

    /// Stores what a Ready brought.
    ///
    /// # Errors
    /// See [`Store::write_log`].
    pub fn append(
        &mut self,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
        sync: bool,
    ) -> Result<(), StoreError> {
        if let Some(first) = entries.first() {
            assert!(first.index > self.compacted.index, "only what is not applied yet can be replaced");
            assert!(first.index <= self.last.index + 1, "the log has no gaps");
        }
        self.store.write_log(LogWrite { entries: &entries, last_before: self.last.index, hard_state }, sync)?;
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        let Some(first) = entries.first() else { return Ok(()) };
        while self.cache.back().is_some_and(|cached| cached.index >= first.index) {
            let dropped = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= entry_bytes(&dropped);
        }
        for entry in entries {
            assert!(self.cache.back().is_none_or(|cached| cached.index + 1 == entry.index), "the log has no gaps");
            self.last = Position { index: entry.index, term: entry.term };
            self.cache_bytes += entry_bytes(&entry);
            self.bytes += entry_bytes(&entry);
            self.cache.push_back(entry);
        }
        while self.cache_bytes > self.cache_bytes_max && self.cache.len() > 1 {
            self.uncache_front();
        }
        Ok(())
    }

    fn uncache_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&entry);
        }
    }

    /// Forgets the log up to and including `through`, which is applied.
    ///
    /// # Errors
    /// See [`Store::compact_log`].
    pub fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        assert!(through <= self.last.index, "what is compacted was there");
        if through <= self.compacted.index {
            return Ok(());
        }
        let term = raft::Storage::term(self, through)
            .map_err(|error| StoreError::Corrupt(format!("log entry {through} cannot be read: {error}")))?;
        let through = Position { index: through, term };
        self.store.compact_log(through)?;
        self.compacted = through;
        while self.cache.front().is_some_and(|entry| entry.index <= through.index) {
            self.uncache_front();
        }
        self.bytes = self.cache_bytes;
        Ok(())
    }

    /// A fetched snapshot has replaced everything.
    pub fn replaced(&mut self, at: Position, hard_state: &HardState) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.bytes = 0;
        self.compacted = at;
        self.last = at;
        self.hard_state = hard_state.clone();
        self.snapshot = None;
    }

    fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = low;
        let cached_from = self.cache.front().map_or(u64::MAX, |entry| entry.index);
        if low < cached_from {
            entries = self.store.entries(low, high.min(cached_from), bytes_max)?;
            bytes = entries.iter().map(|entry| entry.encoded_len() as u64).sum();
            next = low + entries.len() as u64;
            if next < high.min(cached_from) {
                return Ok(entries);
            }
        }
        if next < high {
            let start = usize::try_from(next - cached_from).expect("an index into memory");
            let end = usize::try_from(high - cached_from).expect("an index into memory");
            if entries.is_empty() {
                entries.reserve_exact(end - start);
            }
            for entry in self.cache.range(start..end) {
                bytes += entry.encoded_len() as u64;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry.clone());
            }
        }
        Ok(entries)
    }
}

impl<S: Store> raft::Storage for Log<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last.index + 1, "raft asks for what it has stored: high={high} last={}", self.last.index);
        if low >= high {
            return Ok(Vec::new());
        }
        self.read(low, high, max_size.into().unwrap_or(u64::MAX)).map_err(|error| self.unreadable(error))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.compacted.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last.index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        match self.cache.front() {
            Some(front) if front.index <= index => {
                Ok(self.cache[usize::try_from(index - front.index).expect("an index into memory")].term)
            }
            _ => {
                let entries = self.store.entries(index, index + 1, u64::MAX);
                let entries = entries.map_err(|error| self.unreadable(error))?;
                Ok(entries.first().ok_or(raft::Error::Store(StorageError::Unavailable))?.term)
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A newcomer refuses one from before its time, and the leader would wait for it in vain.
        let knows = |conf: &ConfState| {
            [&conf.voters, &conf.learners, &conf.voters_outgoing].iter().any(|servers| servers.contains(&to))
        };
        match &self.snapshot {
            // Older than the log's beginning, it would only have to be followed by another one.
            Some(snapshot)
                if snapshot.at.index >= request_index
                    && snapshot.at.index >= self.compacted.index
                    && knows(&snapshot.membership.conf) =>
            {
                Ok(Snapshot {
                    data: snapshot.id.clone().into_bytes(),
                    metadata: Some(SnapshotMetadata {
                        conf_state: Some(snapshot.membership.conf.clone()),
                        index: snapshot.at.index,
                        term: snapshot.at.term,
                    }),
                })
            }
            _ => {
                self.snapshot_wanted.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
