//! Every workload of Conclave's, for a few seconds on one server: each shows what it is there for, and breaks nothing.
//!
//! It needs root, iproute2 and setpriv; where one is missing it says so and judges nothing.

use std::{sync::atomic::AtomicBool, time::Duration};

use conclave_suite::{
    binary::binary,
    judge::Standing,
    nemesis::asked::Nemeses,
    place::namespaces,
    run::{Options, run},
    workload::Workload,
};

/// What each has to show without any fault.
const SHOWS: &[(Workload, &[&str])] = &[
    (Workload::Lock, &["L1", "I1", "I2", "I3", "I4", "I9", "I10", "I11"]),
    (Workload::Register, &["I17"]),
    (Workload::Kv, &["I17"]),
    (Workload::ListAppend, &["I17"]),
    (Workload::Txn, &["I17"]),
    (Workload::Watch, &["I19"]),
    (Workload::Expiry, &["I7", "I12"]),
    (Workload::RwLock, &["L1", "I1", "I2", "I10"]),
    (Workload::Semaphore, &["L1", "I1", "I2", "I10"]),
    (Workload::Election, &["L1", "I1", "I17"]),
    (Workload::Queue, &["L1", "I10", "I14"]),
    (Workload::Bank, &["L1", "bank"]),
];

#[test]
fn every_workload_shows_what_it_is_there_for_and_breaks_nothing() {
    if let Err(lacks) = namespaces::available() {
        eprintln!("NOT TESTED: {lacks}");
        return;
    }
    for (workload, shows) in SHOWS {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            workload: *workload,
            nodes: Some(1),
            // Transfers go from one account to another.
            keys: if *workload == Workload::Bank { 2 } else { 1 },
            nemeses: Nemeses::Groups(Vec::new()),
            time: Duration::from_secs(4),
            ..Options::new("conclave", dir.path(), binary("conclave-chaos").expect("the program"))
        };
        let summary = run(options, &AtomicBool::new(false)).expect("a run");
        assert!(!summary.failed(), "{workload}: {:#?}", summary.rows);
        for id in *shows {
            assert_eq!(summary.row(id).standing, Standing::Pass, "{workload}: {:#?}", summary.row(id));
        }
        let account = dir.path().join("locks-server-1.jsonl");
        assert!(account.is_file() && dir.path().join("metrics-server-1.txt").is_file(), "{workload}: no account");
        let told = account.metadata().is_ok_and(|file| file.len() > 0);
        assert_eq!(told, workload.grants(), "{workload}: the locks' account");
    }
}
