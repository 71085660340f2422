//! The store on a real disk: what is there after reopening, and what is refused.

use std::{fs, path::Path, sync::mpsc, time::Duration};

use conclave_proto::{Index, NodePath, ServerId, Term};
use conclave_server::{
    raft::Member,
    storage::{
        AppliedWrite, Identity, LogWrite, Membership, Position, Recovered, SnapshotInfo, Store, StoreError,
        disk::{Disk, IncomingDir, check_incoming, incoming_dir, snapshot_dir},
    },
};
use conclave_state::{Command, Entry as Request, Machine, Op, RequestId, Txn};
use raft::eraftpb::{ConfState, Entry, HardState};

fn identity(server: u64) -> Identity {
    Identity { cluster: "test".to_owned(), server: ServerId(server) }
}

fn membership() -> Membership {
    let member = |id: u64| Member {
        id: ServerId(id),
        peer_address: format!("127.0.0.1:{id}"),
        client_address: String::new(),
        learner: false,
    };
    let conf = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    Membership { conf, members: (1..=3).map(member).collect() }
}

fn open(dir: &Path) -> (Disk, Recovered) {
    Disk::open(dir, &identity(1), Some(&membership())).expect("opens")
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: format!("entry {index} of term {term}").into_bytes(), ..Entry::default() }
}

fn append(disk: &mut Disk, entries: &[Entry], last_before: u64, hard_state: &HardState) {
    disk.write_log(LogWrite { entries, last_before, hard_state: Some(hard_state) }, true).unwrap();
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 2, commit }
}

/// Applies puts to the machine from its applied index up to `to`, and stores what changed.
fn apply(disk: &mut Disk, machine: &mut Machine, to: u64, term: u64) {
    while machine.applied().0 < to {
        let index = machine.applied().next();
        let path = NodePath::parse(&format!("/node-{}", index.0 % 50)).unwrap();
        let op = Op::Put { path, data: vec![index.0 as u8; 200].into(), create_parents: false };
        let command = Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } };
        let request = RequestId { server: 1, run: 1, count: index.0 };
        machine.apply(index, Term(term), Some(Request { request, at_ms: 0, command }));
    }
    let write = AppliedWrite {
        records: machine.take_writes(),
        applied: Position { index: to, term },
        hard_state: Some(&hard_state(term, to)),
        membership: None,
    };
    disk.write_applied(write).unwrap();
}

fn snapshot(disk: &mut Disk) -> SnapshotInfo {
    let (sender, receiver) = mpsc::channel();
    disk.start_snapshot(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("in time").expect("taken")
}

#[test]
fn a_new_disk_begins_behind_the_first_entry_and_a_newcomers_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_, found) = open(dir.path());
    let first = Position { index: 1, term: 1 };
    assert_eq!((found.compacted, found.last, found.applied), (first, first, first));
    assert_eq!(found.membership, membership());
    let dir = tempfile::tempdir().unwrap();
    let (_, found) = Disk::open(dir.path(), &identity(4), None).unwrap();
    assert_eq!((found.compacted, found.applied), (Position::default(), Position::default()));
    assert_eq!(found.membership, Membership::default());
}

#[test]
fn log_state_and_positions_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, found) = open(dir.path());
    let mut machine = found.machine;
    let entries: Vec<Entry> = (2..=100).map(|index| entry(index, 1)).collect();
    append(&mut disk, &entries, 1, &hard_state(1, 1));
    apply(&mut disk, &mut machine, 80, 1);
    let hash = machine.hash();
    // A new leader replaces the tail.
    append(&mut disk, &[entry(91, 2), entry(92, 2)], 100, &hard_state(2, 80));
    drop(disk);

    let (disk, found) = open(dir.path());
    assert_eq!(found.last, Position { index: 92, term: 2 });
    assert_eq!(found.applied, Position { index: 80, term: 1 });
    assert_eq!(found.hard_state, hard_state(2, 80));
    assert_eq!(found.machine.hash(), hash);
    let read = disk.entries(85, 93, u64::MAX).unwrap();
    assert_eq!(read[..6], entries[83..89]);
    assert_eq!(read[6..], [entry(91, 2), entry(92, 2)]);
    assert_eq!(disk.entries(2, 93, 1).unwrap().len(), 1, "at least one, whatever its size");
    assert!(matches!(disk.entries(90, 94, u64::MAX), Err(StoreError::Corrupt(_))), "no entry 93");
}

#[test]
fn a_compacted_log_begins_later_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, found) = open(dir.path());
    let mut machine = found.machine;
    let entries: Vec<Entry> = (2..=100).map(|index| entry(index, 1)).collect();
    append(&mut disk, &entries, 1, &hard_state(1, 1));
    apply(&mut disk, &mut machine, 100, 1);
    disk.compact_log(Position { index: 70, term: 1 }).unwrap();
    assert!(disk.entries(70, 71, u64::MAX).is_err());
    drop(disk);
    let (mut disk, found) = open(dir.path());
    assert_eq!(found.compacted, Position { index: 70, term: 1 });
    assert_eq!(found.last.index, 100);
    assert_eq!(disk.entries(71, 101, u64::MAX).unwrap(), entries[69..]);
    // All of it: what follows is appended behind.
    disk.compact_log(Position { index: 100, term: 1 }).unwrap();
    drop(disk);
    let (_, found) = open(dir.path());
    assert_eq!((found.compacted, found.last), (Position { index: 100, term: 1 }, Position { index: 100, term: 1 }));
}

#[test]
fn another_servers_or_clusters_disk_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let error = Disk::open(dir.path(), &identity(2), None).err().expect("refused").to_string();
    assert!(error.contains("belongs to server 1") && error.contains("this is server 2"), "{error}");
    let other = Identity { cluster: "other".to_owned(), server: ServerId(1) };
    let error = Disk::open(dir.path(), &other, None).err().expect("refused").to_string();
    assert!(error.contains("\"test\"") && error.contains("\"other\"") && error.contains("data_dir"), "{error}");
}

#[test]
fn two_processes_cannot_have_one_disk() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = open(dir.path());
    assert!(matches!(Disk::open(dir.path(), &identity(1), None), Err(StoreError::Rocks { .. })));
}

#[test]
fn positions_that_cross_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, found) = open(dir.path());
    let mut machine = found.machine;
    append(&mut disk, &[entry(2, 1), entry(3, 1)], 1, &hard_state(1, 1));
    apply(&mut disk, &mut machine, 3, 1);
    // The state ran past what the hard state says is committed.
    disk.write_log(LogWrite { entries: &[], last_before: 3, hard_state: Some(&hard_state(1, 2)) }, true).unwrap();
    drop(disk);
    let error = Disk::open(dir.path(), &identity(1), None).err().expect("refused").to_string();
    assert!(error.contains("positions cross") && error.contains("applied=3 committed=2"), "{error}");
}

/// A server with a state worth copying, and its snapshot, copied to another server's incoming directory.
fn sent_snapshot(from: &Path, to: &Path) -> (SnapshotInfo, u128) {
    let (mut disk, found) = open(from);
    let mut machine = found.machine;
    let entries: Vec<Entry> = (2..=500).map(|index| entry(index, 1)).collect();
    append(&mut disk, &entries, 1, &hard_state(1, 1));
    apply(&mut disk, &mut machine, 500, 1);
    let info = snapshot(&mut disk);
    assert_eq!(info.at, Position { index: 500, term: 1 });
    assert_eq!(info.membership, membership());
    // What comes later is not in it.
    let hash = machine.hash().0;
    append(&mut disk, &[entry(501, 1)], 500, &hard_state(1, 501));
    apply(&mut disk, &mut machine, 501, 1);
    let source = snapshot_dir(from, &info.id).expect("its own name");
    let incoming = incoming_dir(to);
    fs::create_dir_all(&incoming).unwrap();
    for item in fs::read_dir(source).unwrap().flatten() {
        fs::copy(item.path(), incoming.join(item.file_name())).unwrap();
    }
    (info, hash)
}

#[test]
fn a_snapshot_replaces_everything_but_whose_disk_it_is() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut disk, _) = Disk::open(to.path(), &identity(2), Some(&membership())).unwrap();
    append(&mut disk, &[entry(2, 1), entry(3, 1)], 1, &hard_state(1, 1));
    let (info, hash) = sent_snapshot(from.path(), to.path());
    let (machine, at) = check_incoming(&incoming_dir(to.path())).unwrap();
    assert_eq!((machine.hash().0, at), (hash, info.at));
    let state = hard_state(3, 500);
    let came_with = disk.install(IncomingDir(incoming_dir(to.path())), info.at, &state).unwrap();
    assert_eq!(came_with, membership());
    assert!(disk.entries(2, 3, u64::MAX).is_err(), "the log is empty");
    append(&mut disk, &[entry(501, 3)], 500, &hard_state(3, 500));
    drop(disk);
    let (_, found) = Disk::open(to.path(), &identity(2), None).unwrap();
    assert_eq!((found.compacted, found.applied), (info.at, info.at));
    assert_eq!(found.last, Position { index: 501, term: 3 });
    assert_eq!(found.hard_state, state);
    assert_eq!(found.machine.hash().0, hash);
    assert!(!to.path().join("db.old").exists() && !to.path().join("db.new").exists());
}

#[test]
fn a_crash_between_any_two_steps_of_an_installation_leaves_one_or_the_other() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (db, new, old) = (to.path().join("db"), to.path().join("db.new"), to.path().join("db.old"));
    let (mut disk, _) = Disk::open(to.path(), &identity(2), Some(&membership())).unwrap();
    let (info, hash) = sent_snapshot(from.path(), to.path());
    disk.install(IncomingDir(incoming_dir(to.path())), info.at, &hard_state(3, 500)).unwrap();
    drop(disk);
    let at = |expected: u64| {
        let (_, found) = Disk::open(to.path(), &identity(2), None).unwrap();
        assert_eq!(found.applied.index, expected);
        assert!(!old.exists() && !new.exists());
        found
    };
    assert_eq!(at(500).machine.hash().0, hash);
    // Complete, not yet in place, the old one moved away.
    fs::rename(&db, &new).unwrap();
    fs::create_dir(&old).unwrap();
    at(500);
    // The new one in place, the old one still there.
    fs::create_dir(&old).unwrap();
    at(500);
    // The old one still in place: nobody was told of the new one.
    fs::create_dir(&new).unwrap();
    at(500);
    // Only the old one is left, which no order of steps gives: still better than an empty store.
    fs::rename(&db, &old).unwrap();
    at(500);
}

#[test]
fn a_damaged_snapshot_is_not_installed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sent_snapshot(from.path(), to.path());
    let incoming = incoming_dir(to.path());
    let table = fs::read_dir(&incoming)
        .unwrap()
        .flatten()
        .filter(|item| item.path().extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|item| item.metadata().unwrap().len())
        .expect("a table file")
        .path();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x40;
    fs::write(&table, bytes).unwrap();
    assert!(check_incoming(&incoming).is_err());
}

#[test]
fn only_the_newest_snapshots_stay_and_names_are_not_paths() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, found) = open(dir.path());
    let mut machine = found.machine;
    let mut taken = Vec::new();
    for round in 1..=4 {
        let index = round + 1;
        append(&mut disk, &[entry(index, 1)], index - 1, &hard_state(1, index));
        apply(&mut disk, &mut machine, index, 1);
        taken.push(snapshot(&mut disk));
    }
    let there: Vec<bool> =
        taken.iter().map(|info| snapshot_dir(dir.path(), &info.id).expect("a name").is_dir()).collect();
    assert_eq!(there, [false, false, true, true]);
    for bad in ["", "..", "../db", "1-2/../../db", "incoming", "1 2"] {
        assert_eq!(snapshot_dir(dir.path(), bad), None, "{bad:?}");
    }
    assert_eq!(machine.applied(), Index(5));
    drop(disk);
    drop(open(dir.path()));
    assert!(!snapshot_dir(dir.path(), &taken[3].id).unwrap().exists(), "nobody can ask for it any more");
}
