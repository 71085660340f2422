//! The store on RocksDB.
//!
//! ```text
//! data_dir/db/              the database: column families log, state, meta
//! data_dir/db.new/          a fetched snapshot, complete, about to take db's place
//! data_dir/db.old/          what it took the place of, about to go
//! data_dir/snap/ID/         snapshots others can fetch: a database without a log
//! data_dir/snap/incoming/   a snapshot being fetched
//! ```
//!
//! One database, so one write-ahead log: whatever was written before a synced write survives with it, and a crash
//! takes a suffix of the unsynced writes, never one from the middle.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use conclave_faults::point;
use conclave_proto::Term;
use conclave_state::Machine;
use prost_raft::Message as _;
use raft::eraftpb::{Entry, HardState};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteOptions, checkpoint::Checkpoint,
};

use super::{
    AppliedWrite, Identity, LogWrite, Membership, Position, Recovered, SnapshotDone, SnapshotInfo, Store, StoreError,
    keys, wal,
};

const LOG: &str = "log";
const STATE: &str = "state";
const META: &str = "meta";

/// Bytes of one memtable of the log and of the state; two of each at most.
const MEMTABLE_BYTES: usize = 32 << 20;
/// Bytes of the write-ahead log before the oldest memtables are flushed to shorten it.
const WAL_BYTES_MAX: u64 = 192 << 20;
/// RocksDB's own log files: bytes of one, and how many.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOGS_MAX: usize = 4;
/// Files RocksDB keeps open.
const OPEN_FILES_MAX: i32 = 512;
/// Snapshots kept for others to fetch; a transfer of an older one starts over.
const SNAPSHOTS_MAX: usize = 2;

/// The database of one server.
pub struct Disk {
    dir: PathBuf,
    identity: Identity,
    /// None only while a snapshot is being installed.
    db: Option<Arc<DB>>,
    sync: WriteOptions,
    no_sync: WriteOptions,
}

/// A fetched snapshot: its directory, a database.
#[derive(Debug)]
pub struct IncomingDir(pub PathBuf);

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_bytes_per_sync(1 << 20);
    // One writer: no concurrent memtable inserts to pay for.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let family = |name: &str, memtable_bytes: usize| {
        let mut options = Options::default();
        options.set_write_buffer_size(memtable_bytes);
        options.set_max_write_buffer_number(2);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        ColumnFamilyDescriptor::new(name, options)
    };
    vec![family("default", 1 << 20), family(LOG, MEMTABLE_BYTES), family(STATE, MEMTABLE_BYTES), family(META, 1 << 20)]
}

fn open_db(path: &Path) -> Result<DB, StoreError> {
    if let Some(wal::Damage { file, offset }) = wal::damage(path).map_err(StoreError::io("read the log in", path))? {
        return Err(StoreError::Damaged { file, offset });
    }
    DB::open_cf_descriptors(&options(), path, families()).map_err(StoreError::rocks("open the database"))
}

fn family<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("every column family is opened with the database")
}

fn meta(db: &DB, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    db.get_cf(family(db, META), key).map_err(StoreError::rocks("read the meta column family"))
}

fn meta_value<T: serde::de::DeserializeOwned>(db: &DB, key: &[u8], what: &str) -> Result<Option<T>, StoreError> {
    meta(db, key)?.map(|bytes| keys::decode(what, &bytes)).transpose()
}

fn missing(what: &str) -> impl FnOnce() -> StoreError {
    let what = format!("{what} is missing");
    move || StoreError::Corrupt(what)
}

/// Makes renames and creations in `dir` survive a crash.
fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", dir))
}

fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename", from))
}

/// Where the snapshot named `id` lies, if `id` is a name this server could have given.
#[must_use]
pub fn snapshot_dir(data_dir: &Path, id: &str) -> Option<PathBuf> {
    let plain = !id.is_empty() && id.len() <= 100 && id.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    plain.then(|| data_dir.join("snap").join(id))
}

/// Where a snapshot is fetched to.
#[must_use]
pub fn incoming_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("snap").join("incoming")
}

/// Reads a database's state and checks it against its hash.
fn restore(db: &DB) -> Result<Machine, StoreError> {
    let mut failed = None;
    let mut reading = ReadOptions::default();
    reading.set_readahead_size(2 << 20);
    reading.fill_cache(false);
    let records = db.iterator_cf_opt(family(db, STATE), reading, IteratorMode::Start).map_while(|item| match item {
        Ok(record) => Some(record),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let machine = Machine::restore(records);
    if let Some(source) = failed {
        return Err(StoreError::Rocks { what: "read the state", source });
    }
    machine.map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Opens a fetched snapshot and reads its state, which checks it. Blocks.
///
/// # Errors
/// It cannot be opened, or does not match its hash.
pub fn check_incoming(dir: &Path) -> Result<(Machine, Position), StoreError> {
    let db = open_db(dir)?;
    let at: Position = meta_value(&db, keys::APPLIED, "applied position")?.ok_or_else(missing("applied position"))?;
    let machine = restore(&db)?;
    if machine.applied() != at.at() {
        return Err(StoreError::Corrupt(format!(
            "the snapshot says it is as of index {}, its state as of {}",
            at.index,
            machine.applied()
        )));
    }
    Ok((machine, at))
}

impl Disk {
    /// Opens (or, the first time, makes) the store in `dir`. `bootstrap` is the cluster's first membership, or none
    /// for a server that will be added to a running cluster.
    ///
    /// A bootstrapped log begins as if its first entry had been compacted, so that a newcomer, whose log begins
    /// before that, is always sent a snapshot, and with it the members.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(
        dir: &Path,
        identity: &Identity,
        bootstrap: Option<&Membership>,
    ) -> Result<(Self, Recovered), StoreError> {
        point!("store-create", |error| Err(StoreError::io("create", dir)(error)));
        fs::create_dir_all(dir.join("snap")).map_err(StoreError::io("create", dir))?;
        finish_install(dir)?;
        point!("store-open", |error| Err(StoreError::io("open the database in", dir)(error)));
        let db = open_db(&dir.join("db"))?;
        point!("store-sync-dir", |error| Err(StoreError::io("sync", dir)(error)));
        sync_dir(dir)?;
        point!("recover-identity", |error| Err(StoreError::io("read", dir)(error)));
        let found: Option<Identity> = meta_value(&db, keys::IDENTITY, "identity")?;
        match found {
            Some(found) if found != *identity => {
                return Err(StoreError::Foreign { dir: dir.to_owned(), found, wanted: identity.clone() });
            }
            Some(_) => {}
            None => initialize(&db, identity, bootstrap)?,
        }
        let recovered = recover(&db)?;
        recovered.check()?;
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        let disk = Self {
            dir: dir.to_owned(),
            identity: identity.clone(),
            db: Some(Arc::new(db)),
            sync,
            no_sync: WriteOptions::default(),
        };
        point!("recover-prune", |error| Err(StoreError::io("list", dir)(error)));
        // Nobody knows their ids any more.
        prune_snapshots(&dir.join("snap"), 0)?;
        Ok((disk, recovered))
    }

    fn db(&self) -> &Arc<DB> {
        self.db.as_ref().expect("open but while a snapshot is installed")
    }
}

/// Writes what a new store begins with, unless it was done.
fn initialize(db: &DB, identity: &Identity, bootstrap: Option<&Membership>) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    let meta = family(db, META);
    let mut machine = Machine::new();
    let (membership, hard_state, at) = match bootstrap {
        Some(membership) => {
            let at = Position { index: 1, term: 1 };
            machine.apply(at.at(), Term(at.term), None);
            let hard_state = HardState { term: at.term, vote: 0, commit: at.index };
            (membership.clone(), hard_state, at)
        }
        None => (Membership::default(), HardState::default(), Position::default()),
    };
    for (key, value) in machine.take_writes() {
        match value {
            Some(value) => batch.put_cf(family(db, STATE), key, value),
            None => batch.delete_cf(family(db, STATE), key),
        }
    }
    batch.put_cf(meta, keys::HARD_STATE, hard_state.encode_to_vec());
    batch.put_cf(meta, keys::MEMBERSHIP, keys::encode_membership(&membership));
    batch.put_cf(meta, keys::COMPACTED, keys::encode(&at));
    batch.put_cf(meta, keys::APPLIED, keys::encode(&at));
    batch.put_cf(meta, keys::IDENTITY, keys::encode(identity));
    let mut sync = WriteOptions::default();
    sync.set_sync(true);
    point!("store-initialize", |error| Err(StoreError::io("write the first records to", db.path())(error)));
    db.write_opt(batch, &sync).map_err(StoreError::rocks("write the first records"))
}

fn recover(db: &DB) -> Result<Recovered, StoreError> {
    point!("recover-hard-state", |error| Err(StoreError::io("read the hard state in", db.path())(error)));
    let hard_state = meta(db, keys::HARD_STATE)?.ok_or_else(missing("hard state"))?;
    point!("recover-membership", |error| Err(StoreError::io("read the members in", db.path())(error)));
    let membership = meta(db, keys::MEMBERSHIP)?.ok_or_else(missing("membership"))?;
    point!("recover-positions", |error| Err(StoreError::io("read the positions in", db.path())(error)));
    let compacted: Position =
        meta_value(db, keys::COMPACTED, "compacted position")?.ok_or_else(missing("compacted position"))?;
    let applied: Position =
        meta_value(db, keys::APPLIED, "applied position")?.ok_or_else(missing("applied position"))?;
    let mut last = compacted;
    point!("recover-log", |error| Err(StoreError::io("read the log in", db.path())(error)));
    if let Some(item) = db.iterator_cf(family(db, LOG), IteratorMode::End).next() {
        let (key, value) = item.map_err(StoreError::rocks("read the log"))?;
        let entry = decode_entry(&key, &value)?;
        if entry.index > compacted.index {
            last = Position { index: entry.index, term: entry.term };
        }
    }
    point!("recover-state", |error| Err(StoreError::io("read the state in", db.path())(error)));
    Ok(Recovered {
        hard_state: keys::decode_hard_state(&hard_state)?,
        membership: keys::decode_membership(&membership)?,
        compacted,
        last,
        applied,
        machine: restore(db)?,
    })
}

fn decode_entry(key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
    let index = keys::log_index(key)?;
    let entry = Entry::decode(value)
        .map_err(|error| StoreError::Corrupt(format!("log entry {index} cannot be read: {error}")))?;
    if entry.index != index {
        return Err(StoreError::Corrupt(format!("log entry {} is stored as {index}", entry.index)));
    }
    Ok(entry)
}

/// Brings a swap of databases that a crash cut short to an end.
fn finish_install(dir: &Path) -> Result<(), StoreError> {
    let (db, new, old) = (dir.join("db"), dir.join("db.new"), dir.join("db.old"));
    if !db.exists() {
        if new.exists() || old.exists() {
            point!("install-finish-rename", |error| Err(StoreError::io("rename to", &db)(error)));
        }
        if new.exists() {
            // The new one was complete before the old one was moved away.
            rename(&new, &db)?;
        } else if old.exists() {
            rename(&old, &db)?;
        }
    }
    // The old one is still in place: the installation was never acknowledged to anybody, so it did not happen.
    point!("install-finish-remove", |error| Err(StoreError::io("remove", &old)(error)));
    remove_dir(&new)?;
    remove_dir(&old)?;
    point!("install-finish-sync", |error| Err(StoreError::io("sync", dir)(error)));
    sync_dir(dir)
}

/// Removes all but the newest `keep` snapshots, and what was left half made.
fn prune_snapshots(snap: &Path, keep: usize) -> Result<(), StoreError> {
    let mut finished = Vec::new();
    for item in fs::read_dir(snap).map_err(StoreError::io("list", snap))? {
        let item = item.map_err(StoreError::io("list", snap))?;
        let name = item.file_name().into_string().unwrap_or_default();
        let made = item.metadata().and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
        if name.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            finished.push((made, item.path()));
        } else if name.ends_with(".part") && keep == 0 {
            remove_dir(&item.path())?;
        }
    }
    finished.sort();
    let surplus = finished.len().saturating_sub(keep);
    for (_, path) in finished.into_iter().take(surplus) {
        point!("snapshot-remove", |error| Err(StoreError::io("remove", &path)(error)));
        remove_dir(&path)?;
    }
    Ok(())
}

/// Takes a snapshot: hard links of the database's files, without the log. Off the node's thread: it waits for a flush.
fn take_snapshot(db: &DB, snap: &Path) -> Result<SnapshotInfo, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let part = snap.join(format!("{now}.part"));
    remove_dir(&part)?;
    let result = (|| {
        point!("snapshot-checkpoint", |error| Err(StoreError::io("make a checkpoint in", &part)(error)));
        Checkpoint::new(db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&part))
            .map_err(StoreError::rocks("make a checkpoint"))?;
        // What exactly it caught is read back from it: writes went on meanwhile.
        point!("snapshot-open", |error| Err(StoreError::io("open", &part)(error)));
        let mut copy = open_db(&part)?;
        point!("snapshot-read", |error| Err(StoreError::io("read", &part)(error)));
        let at: Position =
            meta_value(&copy, keys::APPLIED, "applied position")?.ok_or_else(missing("applied position"))?;
        let membership = meta(&copy, keys::MEMBERSHIP)?.ok_or_else(missing("membership"))?;
        let membership = keys::decode_membership(&membership)?;
        point!("snapshot-drop-log", |error| Err(StoreError::io("drop the log of", &part)(error)));
        copy.drop_cf(LOG).map_err(StoreError::rocks("drop the log of a checkpoint"))?;
        point!("snapshot-flush", |error| Err(StoreError::io("flush", &part)(error)));
        let flushed = [family(&copy, STATE), family(&copy, META)];
        for family in flushed {
            copy.flush_cf(family).map_err(StoreError::rocks("flush a checkpoint"))?;
        }
        drop(copy);
        let id = format!("{}-{}-{now}", at.term, at.index);
        point!("snapshot-rename", |error| Err(StoreError::io("rename", &part)(error)));
        rename(&part, &snap.join(&id))?;
        point!("snapshot-sync-dir", |error| Err(StoreError::io("sync", snap)(error)));
        sync_dir(snap)?;
        Ok(SnapshotInfo { id, at, membership })
    })();
    if result.is_err() {
        let _ = remove_dir(&part);
    }
    point!("snapshot-list", |error| Err(StoreError::io("list", snap)(error)));
    prune_snapshots(snap, SNAPSHOTS_MAX)?;
    result
}

impl Store for Disk {
    type Incoming = IncomingDir;

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let db = self.db();
        point!("log-read", |error| Err(StoreError::io("read the log in", db.path())(error)));
        let mut reading = ReadOptions::default();
        reading.set_iterate_upper_bound(keys::log_key(high));
        let mut rows = db.raw_iterator_cf_opt(family(db, LOG), reading);
        let mut entries = Vec::new();
        let mut bytes = 0;
        rows.seek(keys::log_key(low));
        while let Some((key, value)) = rows.item() {
            bytes += value.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            let entry = decode_entry(key, value)?;
            let expected = low + entries.len() as u64;
            if entry.index != expected {
                return Err(StoreError::Corrupt(format!("log entry {expected} is missing")));
            }
            entries.push(entry);
            rows.next();
        }
        rows.status().map_err(StoreError::rocks("read the log"))?;
        if (entries.len() as u64) < high - low {
            return Err(StoreError::Corrupt(format!("log entry {} is missing", low + entries.len() as u64)));
        }
        Ok(entries)
    }

    fn write_log(&mut self, write: LogWrite<'_>, sync: bool) -> Result<(), StoreError> {
        let db = self.db();
        let mut batch = WriteBatch::default();
        let log = family(db, LOG);
        let mut value = Vec::new();
        for entry in write.entries {
            value.clear();
            entry.encode(&mut value).expect("writing to memory does not fail");
            batch.put_cf(log, keys::log_key(entry.index), &value);
        }
        if let Some(last) = write.entries.last() {
            for index in last.index + 1..=write.last_before {
                batch.delete_cf(log, keys::log_key(index));
            }
        }
        if let Some(hard_state) = write.hard_state {
            batch.put_cf(family(db, META), keys::HARD_STATE, hard_state.encode_to_vec());
        }
        let options = if sync { &self.sync } else { &self.no_sync };
        point!("log-write", |error| Err(StoreError::io("write the log in", db.path())(error)));
        db.write_opt(batch, options).map_err(StoreError::rocks("write the log"))?;
        point!("log-synced", |error| Err(StoreError::io("sync the log in", db.path())(error)));
        Ok(())
    }

    fn write_applied(&mut self, write: AppliedWrite<'_>) -> Result<(), StoreError> {
        let db = self.db();
        let mut batch = WriteBatch::default();
        let (state, meta) = (family(db, STATE), family(db, META));
        for (key, value) in &write.records {
            match value {
                Some(value) => batch.put_cf(state, key, value),
                None => batch.delete_cf(state, key),
            }
        }
        batch.put_cf(meta, keys::APPLIED, keys::encode(&write.applied));
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.commit >= write.applied.index, "only committed entries change the state");
            batch.put_cf(meta, keys::HARD_STATE, hard_state.encode_to_vec());
        }
        if let Some(membership) = write.membership {
            batch.put_cf(meta, keys::MEMBERSHIP, keys::encode_membership(membership));
        }
        point!("state-write", |error| Err(StoreError::io("write the state in", db.path())(error)));
        db.write_opt(batch, &self.no_sync).map_err(StoreError::rocks("write the state"))?;
        point!("state-written", |error| Err(StoreError::io("write the state in", db.path())(error)));
        Ok(())
    }

    fn compact_log(&mut self, through: Position) -> Result<(), StoreError> {
        let db = self.db();
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(family(db, LOG), keys::log_key(0), keys::log_key(through.index + 1));
        batch.put_cf(family(db, META), keys::COMPACTED, keys::encode(&through));
        point!("log-compact", |error| Err(StoreError::io("compact the log in", db.path())(error)));
        db.write_opt(batch, &self.no_sync).map_err(StoreError::rocks("compact the log"))?;
        point!("log-compacted", |error| Err(StoreError::io("compact the log in", db.path())(error)));
        Ok(())
    }

    fn start_snapshot(&mut self, done: SnapshotDone) {
        let db = Arc::clone(self.db());
        let snap = self.dir.join("snap");
        point!("snapshot-start");
        std::thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn(move || {
                // Taking one can be tried again; that nobody is told would end it for ever.
                let taken = catch_unwind(AssertUnwindSafe(|| take_snapshot(&db, &snap)));
                let result = taken.unwrap_or(Err(StoreError::Broken("taking a snapshot")));
                drop(db);
                done(result);
            })
            .expect("a thread can be started");
    }

    fn install(
        &mut self,
        incoming: IncomingDir,
        at: Position,
        hard_state: &HardState,
    ) -> Result<Membership, StoreError> {
        let IncomingDir(incoming) = incoming;
        let (db, new, old) = (self.dir.join("db"), self.dir.join("db.new"), self.dir.join("db.old"));
        // First it becomes a database of this server, complete but for its place …
        point!("install-open", |error| Err(StoreError::io("open", &incoming)(error)));
        let copy = open_db(&incoming)?;
        let found: Position =
            meta_value(&copy, keys::APPLIED, "applied position")?.ok_or_else(missing("applied position"))?;
        if found != at {
            return Err(StoreError::Corrupt(format!("the snapshot is as of {found:?}, expected {at:?}")));
        }
        let membership = meta(&copy, keys::MEMBERSHIP)?.ok_or_else(missing("membership"))?;
        let membership = keys::decode_membership(&membership)?;
        let mut batch = WriteBatch::default();
        let meta_family = family(&copy, META);
        batch.delete_range_cf(family(&copy, LOG), keys::log_key(0), keys::log_key(u64::MAX));
        batch.put_cf(meta_family, keys::IDENTITY, keys::encode(&self.identity));
        batch.put_cf(meta_family, keys::HARD_STATE, hard_state.encode_to_vec());
        batch.put_cf(meta_family, keys::COMPACTED, keys::encode(&at));
        point!("install-write", |error| Err(StoreError::io("write to", &incoming)(error)));
        copy.write_opt(batch, &self.sync).map_err(StoreError::rocks("write to a snapshot"))?;
        drop(copy);
        point!("install-list", |error| Err(StoreError::io("list", &incoming)(error)));
        for item in fs::read_dir(&incoming).map_err(StoreError::io("list", &incoming))? {
            let path = item.map_err(StoreError::io("list", &incoming))?.path();
            point!("install-sync-file", |error| Err(StoreError::io("sync", &path)(error)));
            File::open(&path).and_then(|file| file.sync_all()).map_err(StoreError::io("sync", &path))?;
        }
        point!("install-sync-dir", |error| Err(StoreError::io("sync", &incoming)(error)));
        sync_dir(&incoming)?;
        remove_dir(&new)?;
        point!("install-stage", |error| Err(StoreError::io("rename", &incoming)(error)));
        rename(&incoming, &new)?;
        point!("install-staged", |error| Err(StoreError::io("sync", &self.dir)(error)));
        sync_dir(&self.dir)?;
        point!("install-close", |error| Err(StoreError::io("close", &db)(error)));
        // … then it takes the old one's place. `finish_install` knows each step between.
        let current = self.db.take().expect("open");
        let mut current = Some(current);
        // A snapshot being taken holds on to the database; it ends soon.
        while let Some(shared) = current.take() {
            match Arc::try_unwrap(shared) {
                Ok(db) => drop(db),
                Err(shared) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    current = Some(shared);
                }
            }
        }
        remove_dir(&old)?;
        point!("install-retire", |error| Err(StoreError::io("rename", &db)(error)));
        rename(&db, &old)?;
        point!("install-retired", |error| Err(StoreError::io("sync", &self.dir)(error)));
        sync_dir(&self.dir)?;
        point!("install-swap", |error| Err(StoreError::io("rename", &new)(error)));
        rename(&new, &db)?;
        point!("install-swapped", |error| Err(StoreError::io("sync", &self.dir)(error)));
        sync_dir(&self.dir)?;
        point!("install-remove-old", |error| Err(StoreError::io("remove", &old)(error)));
        remove_dir(&old)?;
        point!("install-reopen", |error| Err(StoreError::io("open", &db)(error)));
        self.db = Some(Arc::new(open_db(&db)?));
        Ok(membership)
    }

    fn discard(&mut self, incoming: IncomingDir) {
        point!("install-discard", |error| tracing::warn!(%error, "a fetched snapshot is left behind"));
        if let Err(error) = remove_dir(&incoming.0) {
            tracing::warn!(%error, "a fetched snapshot is left behind");
        }
    }

    fn disk_bytes(&self) -> u64 {
        used_bytes(&self.dir)
    }
}

/// Bytes of all files in and below a directory. Files that vanish meanwhile do not count.
#[must_use]
pub fn used_bytes(dir: &Path) -> u64 {
    let Ok(items) = fs::read_dir(dir) else { return 0 };
    let bytes = |item: fs::DirEntry| match item.metadata() {
        Ok(meta) if meta.is_dir() => used_bytes(&item.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    items.flatten().map(bytes).sum()
}
