//! Short runs with real servers: an acquittal, a conviction, and nothing left behind.
//!
//! They need root, iproute2, nftables and redis-server, some PostgreSQL, which `scripts/setup.sh --tests` installs; where one is
//! missing they say so and judge nothing.

use std::{path::Path, process::Command, sync::Mutex, time::Duration};

use conclave_suite::{
    binary::binary,
    client::Workload,
    judge::Standing,
    nemesis::Class,
    place::{self, namespaces},
    resource::server,
    run::{Options, Summary, run},
};

/// One run at a time: their figures depend on time.
static ONE: Mutex<()> = Mutex::new(());

fn lacking() -> bool {
    let redis = Path::new("/usr/bin/redis-server").is_file() || Path::new("/usr/local/bin/redis-server").is_file();
    let nft = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    let lacks = match namespaces::available() {
        Err(lacks) => lacks.to_string(),
        Ok(()) if !nft => "nftables: not available".into(),
        Ok(()) if !redis => "redis-server: not available".into(),
        Ok(()) => return false,
    };
    eprintln!("NOT TESTED: {lacks}");
    true
}

fn lacking_postgres() -> bool {
    let Err(lacks) = server::available() else { return false };
    eprintln!("NOT TESTED: {lacks}");
    true
}

fn options(target: &str, workload: Workload, nemeses: &[Class], seconds: u64, seed: u64, report: &Path) -> Options {
    Options {
        workload,
        nemeses: nemeses.iter().map(|class| vec![*class]).collect(),
        time: Duration::from_secs(seconds),
        seed,
        ..Options::new(target, report, binary("conclave-chaos").expect("the program"))
    }
}

fn go(options: Options) -> Summary {
    run(options, &std::sync::atomic::AtomicBool::new(false)).expect("a run")
}

fn ours() -> usize {
    let prefix = format!("conclave-chaos.{}.", std::process::id());
    let Ok(names) = std::fs::read_dir("/run/netns") else { return 0 };
    names.flatten().filter(|name| name.file_name().to_string_lossy().starts_with(&prefix)).count()
}

#[test]
fn conclave_is_acquitted_under_pauses_and_kills_and_nothing_is_left() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let summary = go(options("conclave", Workload::Fenced, &[Class::Pause, Class::Kill], 12, 7, dir.path()));
    assert_eq!(summary.row("L1").standing, Standing::Pass, "{:#?}", summary.rows);
    assert_eq!(summary.row("L2").standing, Standing::Pass, "{:#?}", summary.overlaps);
    assert_ne!(summary.row("L3").standing, Standing::Fail, "{:#?}", summary.rows);
    assert_eq!(summary.row("I15").standing, Standing::Pass, "{:#?}", summary.rows);
    assert!(summary.faults.iter().any(|fault| fault.class == Class::Kill && !fault.missed), "{:#?}", summary.faults);
    assert_eq!(ours(), 0, "its network is still there");
    let index = std::fs::read_to_string(dir.path().join("index.html")).expect("a page");
    assert!(index.contains("--seed 7"));
    assert!(dir.path().join("history.jsonl").metadata().is_ok_and(|file| file.len() > 0));
}

#[test]
fn a_resource_in_postgresql_turns_late_holders_away() {
    if lacking() || lacking_postgres() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Which of the plan's pauses meets a holder long enough is the scheduler's to say; three runs are plenty.
    let exercised = (3..=5).any(|seed| {
        let dir = tempfile::tempdir().expect("a directory");
        let summary = go(options("conclave", Workload::FencedPostgres, &[Class::Pause], 12, seed, dir.path()));
        assert!(!summary.failed(), "{:#?}", summary.rows);
        let log = std::fs::read_to_string(dir.path().join("resource.jsonl")).expect("the resource's log");
        assert!(log.lines().count() > 10, "{log}");
        summary.row("L3").standing == Standing::Pass
    });
    assert!(exercised, "no holder came late in any of three runs");
}

#[test]
fn redlock_keeps_what_it_promises_while_servers_are_killed() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let summary = go(options("redlock", Workload::Lock, &[Class::Kill], 12, 3, dir.path()));
    assert_eq!(summary.row("L1").standing, Standing::Pass, "{:#?}", summary.rows);
    assert_eq!(summary.row("I15").standing, Standing::Pass, "{:#?}", summary.rows);
}

#[test]
fn redlock_without_a_fence_is_convicted_at_the_resource_and_not_for_its_grants() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A pause is as long as the plan says, and longer than the lease: each that meets a holder loses an update. Three
    // runs are plenty.
    let convicted = (1..=3).any(|seed| {
        let dir = tempfile::tempdir().expect("a directory");
        let summary = go(options("redlock", Workload::Unfenced, &[Class::Pause], 12, seed, dir.path()));
        assert_ne!(summary.row("L1").standing, Standing::Fail, "{:#?}", summary.rows);
        summary.row("L3").standing == Standing::Fail && summary.exit_code() == 1
    });
    assert!(convicted, "no update was lost in any of three runs");
}

#[test]
fn get_then_set_is_convicted_without_any_fault() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Five clients that poll a free key meet between GET and SET every few hand-overs; three runs are plenty.
    let convicted = (1..=3).any(|seed| {
        let dir = tempfile::tempdir().expect("a directory");
        let summary = go(options("redis-get-set", Workload::Unfenced, &[], 6, seed, dir.path()));
        summary.row("L1").standing == Standing::Fail && summary.exit_code() == 1
    });
    assert!(convicted, "two holders at once in none of three runs");
}

/// The planted bug, and the same pauses without it.
#[test]
fn a_client_that_stood_still_at_its_turn_is_not_told_of_an_old_grant() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let paused_at_its_turn = |target: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = options(target, Workload::Lock, &[Class::Pause], 10, 5, dir.path());
        options.forms = vec!["turn".into()];
        let summary = go(options);
        assert!(summary.faults.iter().any(|fault| !fault.missed), "{:#?}", summary.faults);
        summary
    };
    let summary = paused_at_its_turn("conclave");
    assert!(!summary.failed() && summary.row("I4").standing == Standing::Pass, "{:#?}", summary.rows);
    // Some turns are that a wait is over.
    let convicted =
        (0..3).any(|_| paused_at_its_turn("conclave-planted:no-check-after-wait").row("I4").standing == Standing::Fail);
    assert!(convicted, "no old grant was told in any of three runs");
}

#[test]
fn locks_outlive_the_replacement_the_absence_and_the_restart_of_servers() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let classes = [Class::Membership, Class::Transfer, Class::Compaction, Class::Restart];
    let summary = go(options("conclave", Workload::Fenced, &classes, 20, 3, dir.path()));
    assert_eq!(summary.row("L1").standing, Standing::Pass, "{:#?}", summary.rows);
    assert_ne!(summary.row("L3").standing, Standing::Fail, "{:#?}", summary.rows);
    assert_eq!(summary.row("I15").standing, Standing::Pass, "{:#?}", summary.rows);
    assert!(summary.not_available.is_empty(), "{:?}", summary.not_available);
    let met = |class| summary.faults.iter().any(|fault| fault.class == class && !fault.missed);
    assert!(met(Class::Membership) && met(Class::Transfer) && met(Class::Restart), "{:#?}", summary.faults);
    // The server's own word for it: nobody but the suite makes it need one.
    let logs = (1..=3).map(|at| std::fs::read_to_string(dir.path().join(format!("server-{at}.log"))).expect("a log"));
    let installed = logs.filter(|log| log.contains("installed a snapshot")).count();
    assert!(!met(Class::Compaction) || installed > 0, "{:#?}", summary.faults);
}

#[test]
fn what_cannot_be_had_is_said_once_and_is_no_pass_where_it_was_named() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options("redis-setnx-owner", Workload::Lock, &[], 3, 1, dir.path());
    options.nemeses = "membership,pause,membership+pause".parse().expect("classes");
    let summary = go(options);
    let lacks: Vec<_> = summary.not_available.iter().map(|lacks| lacks.what.as_str()).collect();
    assert_eq!(lacks, ["membership"]);
    assert_eq!(summary.exit_code(), 2, "{:#?}", summary.rows);
    assert!(summary.faults.iter().all(|fault| fault.class == Class::Pause), "{:#?}", summary.faults);
}

#[test]
fn what_a_killed_run_leaves_is_removed() {
    if lacking() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let mut killed = Command::new(binary("conclave-chaos").expect("the program"))
        .args(["run", "--target", "redis-setnx-owner", "--nemesis", "none", "--time", "60s", "--report"])
        .arg(dir.path().join("report"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a run");
    let prefix = format!("conclave-chaos.{}.", killed.id());
    let left = || -> Vec<String> {
        let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        names.filter_map(|name| name.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
    };
    let history = dir.path().join("report/events.jsonl");
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !history.is_file() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(300));
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    let names = left();
    assert!(names.len() > 2, "its network outlives it: {names:?}");
    assert!(namespaces::sweep().expect("sweep") >= names.len());
    assert!(left().is_empty());
}

#[test]
fn the_database_of_a_killed_run_ends_with_it() {
    if lacking() || lacking_postgres() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("report");
    let mut killed = Command::new(binary("conclave-chaos").expect("the program"))
        .args([
            "run",
            "--workload",
            "fenced-postgres",
            "--nodes",
            "1",
            "--nemesis",
            "none",
            "--time",
            "60s",
            "--report",
        ])
        .arg(&report)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a run");
    let said = |what: &str| std::fs::read_to_string(report.join("postgres.log")).is_ok_and(|log| log.contains(what));
    let within = |what: &str, seconds| {
        let until = std::time::Instant::now() + Duration::from_secs(seconds);
        while !said(what) && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        said(what)
    };
    let began = within("ready to accept connections", 30);
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    assert!(began, "it has no database");
    assert!(within("database system is shut down", 10), "its database goes on");
    place::sweep().expect("sweep");
    let prefix = format!("conclave-chaos.{}.", killed.id());
    let left = std::fs::read_dir(std::env::temp_dir()).expect("a directory").flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).collect();
    assert!(left.is_empty(), "{left:?}");
}
