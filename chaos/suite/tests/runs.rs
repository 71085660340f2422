//! Short runs with real servers: an acquittal, a conviction, and nothing left behind.
//!
//! They need root, iproute2, nftables and redis-server, which `scripts/setup.sh --tests` installs; where one is missing they
//! say so and judge nothing.

use std::{path::Path, process::Command, sync::Mutex, time::Duration};

use conclave_suite::{
    binary::binary,
    client::Workload,
    judge::Standing,
    place::{Host, Place as _, namespaces},
    plan::Class,
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

fn options(target: &str, workload: Workload, nemeses: &[Class], seconds: u64, seed: u64, report: &Path) -> Options {
    Options {
        target: target.into(),
        nodes: None,
        clients: 5,
        keys: 1,
        workload,
        nemeses: nemeses.to_vec(),
        time: Duration::from_secs(seconds),
        seed,
        ttl: None,
        report: report.into(),
        program: binary("conclave-chaos").expect("the program"),
        quiet: true,
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
    // What clients believe is a figure here: a machine that is busy with other tests stops them as a fault would, and
    // tells nobody.
    assert_ne!(summary.row("L3").standing, Standing::Fail, "{:#?}", summary.rows);
    assert_eq!(summary.row("I15").standing, Standing::Pass, "{:#?}", summary.rows);
    assert!(summary.faults.iter().any(|fault| fault.class == Class::Kill && !fault.missed), "{:#?}", summary.faults);
    assert_eq!(ours(), 0, "its network is still there");
    let index = std::fs::read_to_string(dir.path().join("index.html")).expect("a page");
    assert!(index.contains("--seed 7"));
    assert!(dir.path().join("history.jsonl").metadata().is_ok_and(|file| file.len() > 0));
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

#[test]
fn who_is_cut_off_hears_nothing_until_joined() {
    if lacking() {
        return;
    }
    let place = namespaces::Namespaces::make(2).expect("a place");
    let (one, other) = (Host(0), Host(1));
    // Nobody listens: who is reached refuses at once, who is cut off says nothing.
    let connect = format!("exec 3<>/dev/tcp/{}/7", place.address(other));
    let reach = || {
        let mut command = place.command(one, Path::new("/usr/bin/timeout"));
        let tried = command.args(["0.5", "bash", "-c", &connect]).output().expect("timeout");
        tried.status.code() != Some(124)
    };
    assert!((0..50).any(|_| reach()), "they reach each other");
    place.can_cut().expect("nftables");
    place.cut(one, &[other]).expect("cut");
    assert!(!reach(), "they are cut off");
    assert!(place.cut(one, &[other]).is_ok() && place.join(one).is_ok(), "cut and joined");
    assert!(reach(), "they are joined again");
    assert!(place.join(one).is_err(), "there is nothing to end");
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
