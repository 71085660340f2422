//! Every fail point, with a panic, an error and a delay, in real servers under load.
//!
//! In each case the point must be hit (the server says so before anything happens), the server must do what the list
//! of points says (end, telling why; or go on), the others must go on, the server must come back without the fault, and
//! everything that was acknowledged must be there. Each test prints its part of the table.

mod fail_points {
    pub mod ways;
    pub mod yard;
}

use std::time::Duration;

use conclave_faults::{POINTS, Point};
use conclave_tests::{PATIENCE, eventually, metrics};
use fail_points::{
    ways::{Side, Way, way},
    yard::{Fault, Yard},
};

fn points(of: impl Fn(Way) -> bool) -> Vec<&'static Point> {
    POINTS.iter().filter(|point| of(way(point.name))).collect()
}

/// The faults that end the server here.
fn deadly(point: &Point) -> impl Iterator<Item = Fault> + use<> {
    let point = *point;
    [Fault::Panic, Fault::Error].into_iter().filter(move |fault| fault.stops(&point) == Some(true))
}

/// The faults that it survives here.
fn harmless(point: &Point) -> impl Iterator<Item = Fault> + use<> {
    let point = *point;
    [Fault::Panic, Fault::Error, Fault::Delay].into_iter().filter(move |fault| fault.stops(&point) == Some(false))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start() {
    let mut yard = Yard::open().await;
    let victim = yard.follower().await;
    let all = points(|way| way == Way::Start);
    yard.kill(victim);
    for point in &all {
        for fault in deadly(point) {
            yard.start_and_see_it_end(victim, point, fault).await;
        }
    }
    yard.start_with_all(victim, &all, Fault::Delay).await;

    // The first start of all: a newcomer that nobody knows, so that it may forget everything in between.
    let first = points(|way| way == Way::FirstStart);
    let newcomer = yard.cluster.add_server();
    for point in &first {
        for fault in deadly(point) {
            yard.start_and_see_it_end(newcomer, point, fault).await;
            std::fs::remove_dir_all(yard.cluster.data_dir(newcomer)).expect("its directory");
        }
    }
    yard.start_and_see_hits(newcomer, &first, Fault::Delay).await;
    yard.kill(newcomer);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_leads() {
    serve_at(Side::Leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_follows() {
    serve_at(Side::Follower).await;
}

async fn serve_at(side: Side) {
    let mut yard = Yard::open().await;
    for point in points(|way| matches!(way, Way::Serving(at, _) if at == side)) {
        for fault in harmless(point).chain(deadly(point)) {
            yard.strike(point, fault).await;
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_stops() {
    let mut yard = Yard::open().await;
    for point in points(|way| way == Way::Stop) {
        for fault in [Fault::Panic, Fault::Error, Fault::Delay] {
            if fault.stops(point).is_some() {
                yard.stop_with(point, fault).await;
            }
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_snapshot_is_taken_sent_and_fetched() {
    let mut yard = Yard::open().await;
    for (way, at_leader) in [(Way::SnapshotOut, true), (Way::SnapshotIn, false)] {
        let all = points(|of| of == way);
        for fault in [Fault::Panic, Fault::Error, Fault::Delay] {
            let these: Vec<_> = all.iter().copied().filter(|point| fault.stops(point) == Some(false)).collect();
            yard.snapshot_with_all(&these, fault, at_leader).await;
        }
    }
    // Those at the leader's side that it does not survive.
    for point in points(|of| of == Way::SnapshotOut) {
        for fault in deadly(point) {
            yard.snapshot_and_see_the_leader_end(point, fault).await;
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_snapshot_is_installed_a_panic() {
    install_with(Fault::Panic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_snapshot_is_installed_an_error() {
    install_with(Fault::Error).await;
}

async fn install_with(fault: Fault) {
    let mut yard = Yard::open().await;
    for point in points(|way| way == Way::Install) {
        if fault.stops(point) == Some(true) {
            let victim = yard.fall_behind().await;
            yard.start_and_see_it_end(victim, point, fault).await;
            yard.start_clean(victim).await;
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_snapshot_is_installed_a_delay_and_twice() {
    let mut yard = Yard::open().await;
    let all = points(|way| way == Way::Install);
    let victim = yard.fall_behind().await;
    yard.start_with_all(victim, &all, Fault::Delay).await;

    // Twice: the installation is cut short, and so is its completion at the next start.
    let cut = POINTS.iter().find(|point| point.name == "install-retired").expect("a point");
    let finish = points(|way| way == Way::FinishInstall);
    for point in &finish {
        for fault in deadly(point) {
            let victim = yard.fall_behind().await;
            yard.start_and_see_it_end(victim, cut, Fault::Panic).await;
            yard.start_and_see_it_end(victim, point, fault).await;
            yard.start_clean(victim).await;
        }
    }
    let victim = yard.fall_behind().await;
    yard.start_and_see_it_end(victim, cut, Fault::Panic).await;
    yard.start_with_all(victim, &finish, Fault::Delay).await;
    yard.close().await;
}

/// A snapshot is fetched, and leadership moves on meanwhile: what was fetched is not wanted any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_not_wanted_any_more() {
    let mut yard = Yard::open().await;
    let point = POINTS.iter().find(|point| way(point.name) == Way::Discard).expect("a point");
    for fault in [Fault::Panic, Fault::Error, Fault::Delay] {
        yard.discard_with(point, fault).await;
    }
    yard.close().await;
}

/// A transfer that breaks goes on where it broke.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_breaks_off_is_resumed_and_not_begun_anew() {
    let mut yard = Yard::open().await;
    let victim = yard.fall_behind().await;
    let leader = yard.leader().await;
    // 'sleep(0)' does nothing, and counts.
    yard.arm(leader, "snapshot-send-chunk=sleep(0)").await;
    let breaks = "fetch-write=3*sleep(0)->1*return(ECONNRESET);fetch-prepare=sleep(0);install-open=sleep(0)";
    yard.cluster.start_server_with(victim, &[("FAILPOINTS", breaks)]).expect("it starts");
    yard.cluster.wait_healthy(PATIENCE).await.expect("healthy");
    let hits = yard.hits(victim).await;
    let files = std::fs::read_dir(yard.cluster.data_dir(leader).join("snap")).expect("snapshots").flatten();
    let files = files.map(|snapshot| {
        let names = std::fs::read_dir(snapshot.path()).expect("a snapshot").flatten().map(|file| file.file_name());
        names.filter(|name| name != "LOCK" && !name.to_string_lossy().starts_with("LOG")).count() as u64
    });
    let files: Vec<u64> = files.collect();
    println!("chunks written {hits:?}; files of the leader's snapshots {files:?}");
    assert_eq!((hits["fetch-prepare"], hits["install-open"]), (1, 1), "one snapshot was fetched");
    // Each file here fits into one chunk. The fourth was received twice, and nothing else.
    assert!(files.iter().any(|files| *files > 4 && hits["fetch-write"] == files + 1), "not resumed");
    yard.close().await;
}

/// A replica whose state differs from its peers' stops serving, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_diverges_is_found_out_and_serves_nothing() {
    let mut yard = Yard::open().await;
    let point = POINTS.iter().find(|point| way(point.name) == Way::Diverge).expect("a point");
    for fault in [Fault::Panic, Fault::Delay] {
        yard.strike(point, fault).await;
    }
    let victim = yard.follower().await;
    yard.arm(victim, &format!("{}=1*return(lost)", point.name)).await;
    eventually("the replica knows that it differs", || async {
        let status = yard.cluster.status(victim).await.map_err(|error| format!("{error:#}"))?;
        if status.diverged { Ok(()) } else { Err(format!("applied {}", status.applied_index)) }
    })
    .await;
    let refusal = yard.cluster.probe(victim).await.expect_err("it serves nothing").to_string();
    assert!(refusal.contains("diverged"), "{refusal}");
    let unready = metrics::get(yard.cluster.http(victim), "/readyz").await.expect_err("not ready").to_string();
    assert!(unready.contains("503") && unready.contains("diverged"), "{unready}");
    assert!(yard.cluster.log(victim).contains("a majority agrees on another state"), "it says so");
    yard.row(point.name, Fault::Error, "diverged, serves nothing");
    // The others go on without it, and a new disk under a new id is how it comes back.
    yard.ledger.goes_on(200).await;
    for id in yard.cluster.running().into_iter().filter(|id| *id != victim) {
        assert!(!yard.cluster.status(id).await.expect("a status").diverged, "server {id} is right");
    }
    yard.kill(victim);
    tokio::time::sleep(Duration::from_millis(100)).await;
    yard.judge().await;
    yard.print();
}
