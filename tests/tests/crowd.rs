//! Many wait for one lock, and many change their minds.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use conclave_client::{Client, Config, Session, SessionOptions};
use conclave_proto::v1::{self, client_item::Item as Say, server_item::Item as Hear, watch_ended};
use conclave_tests::{
    Cluster, Options, PATIENCE, eventually,
    metrics::{Metrics, resident_bytes, wait_limit},
    seed::Random,
    wire::{self, Raw},
};
use tokio::task::JoinSet;

const LOCK: &str = "/locks/one";
const TTL: Duration = Duration::from_secs(30);

/// Sessions spread over the servers, the same number on each.
async fn sessions(cluster: &Cluster, count: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for n in 0..count {
        let config = Config::new(cluster.endpoints()).with_first_endpoint(n);
        let client = Client::connect(config).await.expect("a client");
        let options = SessionOptions::new().ttl(TTL).name(format!("crowd-{n}"));
        sessions.push(client.session(options).await.expect("a session"));
    }
    sessions
}

/// Waits until nobody stands in line.
async fn wait_empty(session: &Session) {
    eventually("the line is empty", || async {
        match session.get(LOCK).read().await {
            Ok(got) => match got.node.map_or(0, |node| node.child_count) {
                0 => Ok(()),
                left => Err(format!("{left} still in line")),
            },
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// 1,000 ask for one lock; 500 of them give up at moments drawn by lot: before they are in line, in the middle of it,
/// or holding the lock already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_waiters_half_leave_and_the_rest_are_served_in_order() {
    const WAITERS: usize = 1_000;
    const LEAVE_WITHIN_MS: u64 = 3_000;
    let mut random = Random::seeded();
    let cluster = Cluster::start(3).await.expect("a cluster");
    let sessions = sessions(&cluster, 9).await;
    let first = sessions[0].lock(LOCK).acquire().await.expect("nobody else is there");

    let mut leave_after: Vec<Option<Duration>> =
        (0..WAITERS).map(|n| (n % 2 == 0).then(|| Duration::from_millis(random.below(LEAVE_WITHIN_MS)))).collect();
    random.shuffle(&mut leave_after);

    let inside = Arc::new(AtomicUsize::new(1));
    let grants = Arc::new(Mutex::new(vec![first.token()]));
    let mut crowd = JoinSet::new();
    for (n, leave_after) in leave_after.into_iter().enumerate() {
        let session = sessions[n % sessions.len()].clone();
        let (inside, grants) = (inside.clone(), grants.clone());
        crowd.spawn(async move {
            let stay = async {
                let guard = session.lock(LOCK).label(format!("waiter {n}")).acquire().await.expect("the lock, in time");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else holds the lock too");
                grants.lock().expect("unpoisoned").push(guard.token());
                assert!(guard.is_held());
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.expect("it was held");
            };
            match leave_after {
                None => {
                    stay.await;
                    true
                }
                // Whoever leaves while holding the lock must not look as if it still did.
                Some(after) => tokio::select! {
                    biased;
                    () = stay => true,
                    () = tokio::time::sleep(after) => false,
                },
            }
        });
    }
    // Some find the lock taken, some find a line that moves.
    tokio::time::sleep(Duration::from_millis(LEAVE_WITHIN_MS * 4 / 5)).await;
    assert!(first.is_held());
    inside.fetch_sub(1, Ordering::SeqCst);
    first.release().await.expect("it was held");

    let mut served = 0;
    let all = async {
        while let Some(done) = crowd.join_next().await {
            served += usize::from(done.expect("no waiter fails"));
        }
    };
    tokio::time::timeout(PATIENCE * 2, all).await.expect("everybody is served or leaves");
    assert!(served >= WAITERS / 2, "those who stayed: only {served} were served");
    let grants = grants.lock().expect("unpoisoned").clone();
    assert!(grants.len() > served, "the first one and everybody served: {} of {served}", grants.len());
    assert!(grants.is_sorted_by(|a, b| a < b), "the lock was not granted in the order of the line: {grants:?}");
    wait_empty(&sessions[0]).await;
    println!("{served} of {WAITERS} served, {} grants", grants.len());

    // Everybody's guard is gone, nothing is left of any of them, and the lock works.
    let last = sessions[1].lock(LOCK).try_now().acquire().await.expect("the lock is free");
    assert!(last.token() > *grants.last().expect("grants"));
    last.release().await.expect("it was held");
}

/// One waiter on the wire: its stream, its node, the name of its queue watch.
struct InLine {
    raw: Raw,
    node: String,
    ready: bool,
}

async fn get_in_line(cluster: &Cluster, n: u64) -> InLine {
    let mut raw = Raw::open(&cluster.endpoint(1 + n % 3), TTL).await.expect("a session");
    let queue = v1::QueueWatch { watch: 7, path: String::new(), permits: 1, blocking: String::new() };
    let id = raw.send_in_line(wire::then(vec![wire::in_line(&format!("{LOCK}/lock-"))]), queue);
    let reply = raw.reply(id, &mut Vec::new()).await.expect("a reply");
    let ready = reply.queue_ready;
    let node = wire::made(&wire::txn_of(reply).expect("in line"));
    InLine { raw, node, ready }
}

/// What each of them has been told, up to and including everything that is committed now (at least up to revision
/// `since`): a change is never visible in
/// a reply before the event that tells of it.
async fn told(line: &mut [InLine], since: u64) -> Vec<Vec<Hear>> {
    let mut all = Vec::new();
    for one in line {
        let mut heard = Vec::new();
        let id = one.raw.send_read(wire::get("/"));
        let reply = one.raw.reply(id, &mut heard).await.expect("a reply");
        assert!(reply.revision >= since, "a linearizable read at revision {} does not see {since}", reply.revision);
        all.push(heard);
    }
    all
}

fn is_ready(item: &Hear) -> bool {
    matches!(item, Hear::QueueReady(ready) if ready.watch == 7)
}

/// Counted on the wire: a release wakes the next in line and nobody else, a leaver from the middle wakes nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_one_waiter_and_a_leaver_nobody() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let mut line = Vec::new();
    for n in 0..30 {
        line.push(get_in_line(&cluster, n).await);
    }
    assert!(line[0].ready, "the first in line holds the lock at once");
    assert!(line[1..].iter().all(|one| !one.ready), "and nobody else does");
    assert!(told(&mut line, 1).await.concat().is_empty(), "nobody is told anything while nothing happens");

    // Every third one leaves, from the middle and the end.
    let (mut left, mut since) = (0, 0);
    for n in (2..30).rev().filter(|n| n % 3 == 2) {
        let mut one = line.remove(n);
        since = one.raw.txn(wire::then(vec![wire::delete(&one.node)])).await.expect("leaves").revision;
        left += 1;
    }
    assert_eq!((left, line.len()), (10, 20));
    assert!(told(&mut line, since).await.concat().is_empty(), "a waiter that leaves from the middle wakes nobody");

    // The head goes, again and again, by release and by the end of its session.
    let mut by_session = false;
    while line.len() > 1 {
        let mut head = line.remove(0);
        if by_session {
            head.raw.say(vec![Say::Close(v1::Close {})]);
            let why = head.raw.ended().await.expect("an end");
            assert_eq!(why.reason(), v1::session_ended::Reason::Closed, "{}", why.message);
        } else {
            let done = head.raw.txn(wire::then(vec![wire::delete(&head.node)])).await.expect("releases");
            assert!(done.revision > since, "its node was there");
            since = done.revision;
        }
        by_session = !by_session;
        let told = told(&mut line, since).await;
        assert_eq!(told[0].iter().filter(|item| is_ready(item)).count(), 1, "the next in line: {:?}", told[0]);
        assert!(told[1..].concat().is_empty(), "only the next in line is told: {told:?}");
    }
    let last = &mut line[0];
    let done = last.raw.txn(wire::then(vec![wire::delete(&last.node)])).await.expect("releases");
    // Its own queue watch has fired and is over; nothing more comes.
    assert!(told(&mut line, done.revision).await.concat().is_empty());
}

/// A waiter whose node somebody else deletes is told so, rather than left to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_whose_node_is_gone_is_told() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let mut line = Vec::new();
    for n in 0..3 {
        line.push(get_in_line(&cluster, n).await);
    }
    let other = wire::then(vec![wire::delete(&line[1].node)]);
    let done = line[0].raw.txn(other).await.expect("deletes another's node");
    let told = told(&mut line, done.revision).await;
    match told[1].as_slice() {
        [Hear::WatchEnded(ended)] => assert_eq!(ended.reason(), watch_ended::Reason::Gone, "{}", ended.message),
        other => panic!("expected WatchEnded, heard {other:?}"),
    }
    assert!(told[0].is_empty() && told[2].is_empty(), "the others: {told:?}");
}

/// Gauges that have to come back to where they were, on every server.
const GAUGES: [&str; 5] =
    ["conclave_sessions", "conclave_nodes", "conclave_watches", "conclave_queue_watches", "conclave_outbox_bytes"];

async fn gauges(cluster: &Cluster) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut all = Vec::new();
    for id in cluster.ids() {
        let metrics = Metrics::scrape(cluster.http(id)).await?;
        all.push(GAUGES.iter().map(|name| metrics.sum(name)).collect());
    }
    Ok(all)
}

fn resident(cluster: &Cluster) -> Vec<u64> {
    cluster.ids().into_iter().map(|id| resident_bytes(cluster.pid(id).expect("it runs")).expect("its memory")).collect()
}

/// So many get in line together behind a held lock, and all of them leave at moments drawn by lot.
async fn crowd_comes_and_goes(sessions: &[Session], waiters: usize, random: &mut Random) {
    let holder = sessions[0].lock(LOCK).acquire().await.expect("the lock is free");
    let mut crowd = JoinSet::new();
    for n in 0..waiters {
        let session = sessions[n % sessions.len()].clone();
        let leave_after = Duration::from_millis(500 + random.below(3_000));
        crowd.spawn(async move {
            tokio::select! {
                _ = session.lock(LOCK).acquire() => panic!("the lock was never free"),
                () = tokio::time::sleep(leave_after) => {}
            }
        });
    }
    while let Some(done) = crowd.join_next().await {
        done.expect("nobody gets the lock");
    }
    assert!(holder.is_held());
    holder.release().await.expect("it was held");
    wait_empty(&sessions[0]).await;
}

/// Memory of a server after ten thousand waiters came and went is what it began with, and so is everything it counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelling_waiters_leave_nothing_behind() {
    /// Growth allowed for ten thousand: 3.2 KiB for each, less than its task, node, watch and answer take while it waits.
    /// It must leave room for RocksDB's memtables, which fill up with what was written until they are flushed (about
    /// 10 MiB for each ten thousand, 128 MiB at the most), and for the allocator.
    const GROWTH_BYTES_MAX: u64 = 32 << 20;
    const WAITERS: usize = 10_000;
    let mut random = Random::seeded();
    // What is kept on purpose (history, recent log, answers) is made small, and is full before measuring begins.
    // The lock's own node stays for as long as the test runs.
    let config =
        "[limits]\nhistory_revisions_max = 1000\ncontainer_grace = \"1h\"\n[raft]\nlog_cache_bytes_max = \"1MiB\"\n";
    let options = Options { config: config.into(), ..Options::default() };
    let cluster = Cluster::start_with(options).await.expect("a cluster");
    wait_limit(&cluster, "history_revisions_max", 1000).await;
    let sessions = sessions(&cluster, 30).await;
    crowd_comes_and_goes(&sessions, WAITERS, &mut random).await;

    let before = eventually("the servers are at rest", || async {
        let now = gauges(&cluster).await.map_err(|error| error.to_string())?;
        // Nobody waits, and every server has applied the same.
        if now.iter().all(|one| one[2..] == [0.0, 0.0, 0.0] && *one == now[0]) {
            Ok(now)
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    let memory_before = resident(&cluster);
    crowd_comes_and_goes(&sessions, WAITERS, &mut random).await;
    eventually("every gauge is back", || async {
        let now = gauges(&cluster).await.map_err(|error| error.to_string())?;
        if now == before { Ok(()) } else { Err(format!("{GAUGES:?}: before {before:?}, now {now:?}")) }
    })
    .await;
    let memory_after = resident(&cluster);
    println!("resident bytes before {memory_before:?}, after {memory_after:?}");
    for (before, after) in memory_before.iter().zip(&memory_after) {
        assert!(
            *after <= before + GROWTH_BYTES_MAX,
            "a server grew from {before} to {after} bytes, more than {GROWTH_BYTES_MAX}"
        );
    }
}
