//! Records that were damaged are noticed: an error in words, never a wrong state and never a panic.

mod common;

use common::{Records, Replica, by, path, txn};
use conclave_state::{Command, Kind, Machine, Op, Outcome, Txn};

/// A little of everything, and a large answer that has its own record.
fn lived() -> Replica {
    let mut replica = Replica::default();
    let opened = replica.apply(Command::OpenSession { secret: [7; 16], run: 0, ttl_ms: 3_000, name: "host:1".into() });
    let Outcome::Opened { session } = opened.outcome else { panic!("{opened:?}") };
    let lock = |path| Op::Create {
        path,
        data: "label".into(),
        kind: Kind::Ephemeral,
        sequential: true,
        create_parents: Some(Kind::Container),
    };
    let put = |data: Vec<u8>| Op::Put { path: path("/a"), data: data.into(), create_parents: false };
    let ops = [
        vec![lock(path("/locks/x/lock-"))],
        vec![put(vec![1; 700])],
        vec![Op::Get { path: path("/a") }],
        vec![put(vec![2]), Op::Delete { path: path("/locks/x/lock-0000000000"), recursive: false }],
        vec![lock(path("/locks/x/lock-"))],
    ];
    for (number, then) in (1..).zip(ops) {
        let applied = replica.apply(txn(Some(by(session, number, 0)), Txn { then, ..Txn::default() }));
        assert!(matches!(applied.outcome, Outcome::Txn(_)), "{applied:?}");
    }
    replica.save();
    replica
}

#[test]
fn whole_records_make_the_same_state_in_any_order() {
    let replica = lived();
    let backwards = Machine::restore(replica.records.iter().rev()).expect("order does not matter");
    assert_eq!(backwards.hash(), replica.machine.hash());
    assert!(replica.records.keys().any(|key| key[0] == b'A'), "a large answer has its own record");
}

#[test]
fn a_missing_record_is_noticed() {
    let replica = lived();
    for key in replica.records.keys() {
        let mut records = replica.records.clone();
        records.remove(key);
        let error = Machine::restore(&records).expect_err("something is missing");
        assert!(!error.to_string().is_empty(), "{key:?}");
    }
    assert!(Machine::restore(&Records::new()).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let replica = lived();
    for (key, value) in &replica.records {
        for at in 0..value.len() {
            for bit in [0, 3, 7] {
                let mut records = replica.records.clone();
                records.get_mut(key).expect("there")[at] ^= 1 << bit;
                if let Ok(machine) = Machine::restore(&records) {
                    // Only the positions are not in the stored sum; they are in the hash that replicas compare.
                    assert_eq!(key[0], b'M', "{} byte {at}", key.escape_ascii());
                    assert_ne!(machine.hash(), replica.machine.hash());
                }
            }
        }
    }
}

#[test]
fn a_foreign_record_is_noticed() {
    let replica = lived();
    for key in [&b""[..], b"?", b"Na", b"N/a/", b"N/\xff", b"Sxx", b"N/other", b"H\0\0\0\0\0\0\0\x63"] {
        let mut records = replica.records.clone();
        let node = records[&b"N/a"[..]].clone();
        assert!(records.insert(key.to_vec(), node).is_none());
        assert!(Machine::restore(&records).is_err(), "{}", key.escape_ascii());
    }
}
