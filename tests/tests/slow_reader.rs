//! A watcher that stops reading while everybody else writes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use conclave_client::{Client, Config, SessionOptions};
use conclave_proto::v1::{self, Scope, client_item::Item as Say, server_item::Item as Hear, watch_ended::Reason};
use conclave_tests::{
    Cluster, Options, PATIENCE, eventually,
    metrics::Metrics,
    wire::{self, Raw},
};
use tokio::task::JoinSet;

/// How long the watcher does not read, in seconds: 15, or what the variable says. CI says 60.
const STALL_ENV: &str = "CONCLAVE_STALL_SECS";
/// Its session survives silence for this long: shorter than the stall, so only its keep-alives keep it.
const TTL: Duration = Duration::from_secs(3);
/// Bytes a stream's events may wait in at the server (`outbox_bytes_max`).
const OUTBOX_BYTES_MAX: u64 = 256 << 10;
/// Most bytes of the reply to a put and the acknowledgement of a keep-alive, as the outbox counts them.
const REPLY_AND_ACK_BYTES_MAX: u64 = 256;
/// One revision's events beyond the bound: how far a queue may be over it by its last item.
const OUTBOX_OVERSHOOT: u64 = 16 << 10;
/// What a client and two kernels take off a stream that nobody reads, beside the outbox.
const WINDOWS_BYTES: u64 = 8 << 20;
const WATCH: u64 = 9;
const VALUE_BYTES: usize = 1024;
const WRITERS: usize = 8;

fn stall() -> Duration {
    let seconds = std::env::var(STALL_ENV).map_or(15, |text| text.parse().expect("whole seconds"));
    Duration::from_secs(seconds)
}

struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    /// Revisions made, in no order.
    revisions: Arc<Mutex<Vec<u64>>>,
    writers: JoinSet<()>,
}

impl Load {
    /// Writers on all servers, each as fast as it is answered; at most `per_second_max` writes in all.
    async fn start(cluster: &Cluster, per_second_max: u64) -> Self {
        let started = Instant::now();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (begun, revisions) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let mut writers = JoinSet::new();
        for n in 0..WRITERS {
            let config = Config::new(cluster.endpoints()).with_first_endpoint(n);
            let session = Client::connect(config).await.expect("a client").session(SessionOptions::new()).await;
            let session = session.expect("a session");
            // Several in flight for each session.
            for lane in 0..4 {
                let (session, stop, written) = (session.clone(), stop.clone(), written.clone());
                let (begun, revisions) = (begun.clone(), revisions.clone());
                writers.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let place = begun.fetch_add(1, Ordering::Relaxed);
                        let due = Duration::from_secs_f64(place as f64 / per_second_max as f64);
                        let early = due.saturating_sub(started.elapsed());
                        if !early.is_zero() {
                            tokio::time::sleep(early).await;
                        }
                        let put = session.put(format!("/load/{n}/{lane}"), vec![b'x'; VALUE_BYTES]).create_parents();
                        let revision = put.await.expect("a write, while somebody else does not read").revision;
                        revisions.lock().expect("unpoisoned").push(revision.0);
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        Self { stop, written, revisions, writers }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the writers; all revisions they made, in order.
    async fn finish(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.writers.join_next().await {
            done.expect("no writer fails");
        }
        let mut revisions = std::mem::take(&mut *self.revisions.lock().expect("unpoisoned"));
        revisions.sort_unstable();
        revisions
    }
}

/// A watcher that reads, through the client library: the revisions it was told of.
async fn healthy(cluster: &Cluster, server: usize) -> (Arc<Mutex<Vec<u64>>>, tokio::task::JoinHandle<()>) {
    let config = Config::new(cluster.endpoints()).with_first_endpoint(server);
    let session = Client::connect(config).await.expect("a client").session(SessionOptions::new()).await;
    let session = session.expect("a session");
    let mut watch = session.watch("/load").subtree().open().await.expect("a watch");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let task = tokio::spawn(async move {
        let _session = session;
        while let Some(events) = watch.next().await {
            told.lock().expect("unpoisoned").push(events.expect("events").revision.0);
        }
    });
    (seen, task)
}

struct Stalled {
    cluster: Cluster,
    raw: Raw,
    started: u64,
    /// All revisions of the load from `started` on.
    revisions: Vec<u64>,
    /// Told before the end of the stall, in the order told.
    heard: Vec<Hear>,
}

/// Stops reading for the time of the stall under load, and says what must be true of everybody else meanwhile.
async fn stall_under_load(limits: &str, per_second_max: u64) -> Stalled {
    let config = format!("[limits]\noutbox_bytes_max = \"{}KiB\"\n{limits}", OUTBOX_BYTES_MAX >> 10);
    let cluster = Cluster::start_with(Options { config, ..Options::default() }).await.expect("a cluster");
    let client = Client::connect(cluster.endpoints()).await.expect("a client");
    client.put("/load", "").await.expect("a write");
    client.put("/slow", "").await.expect("a write");

    // Two streams on one connection, both on server 1: one will not be read, the other must not notice.
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let mut raw = Raw::open_on(channel.clone(), TTL).await.expect("a session");
    // The sibling sends no keep-alives, so its session has to outlive the stall.
    let mut sibling = Raw::open_on(channel, stall() + PATIENCE).await.expect("a session");
    let scope = Scope::Subtree.into();
    raw.say(vec![Say::Watch(v1::WatchOpen { watch: WATCH, path: "/load".into(), scope, from_revision: 0 })]);
    let started = raw.until("WatchStarted", |item| match item {
        Hear::WatchStarted(started) => Some(started.from_revision),
        _ => None,
    });
    let started = started.await.expect("a watch");
    let (near, _near) = healthy(&cluster, 0).await;
    let (far, _far) = healthy(&cluster, 1).await;

    let load = Load::start(&cluster, per_second_max).await;
    let until = Instant::now() + stall();
    let (mut turns, mut outbox_most, mut lagged) = (0_u64, 0, false);
    while Instant::now() < until {
        // The one that does not read still says that it is alive, and asks for things.
        let put = wire::then(vec![wire::put("/slow", turns.to_string())]);
        raw.say(vec![Say::KeepAlive(v1::KeepAlive { id: turns })]);
        raw.send_txn(put);
        turns += 1;
        sibling.read(wire::get("/load")).await.expect("the sibling's read");
        let metrics = Metrics::scrape(cluster.http(1)).await.expect("metrics");
        outbox_most = outbox_most.max(metrics.sum("conclave_outbox_bytes_largest") as u64);
        lagged |= metrics.sum("conclave_watches_behind") > 0.0;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let progress = load.written();

    // Everybody else went on.
    eventually("the readers of both servers are told of everything written by now", || async {
        let told = [near.lock().expect("unpoisoned").len() as u64, far.lock().expect("unpoisoned").len() as u64];
        if told.iter().all(|told| *told >= progress) { Ok(()) } else { Err(format!("{told:?} of {progress}")) }
    })
    .await;
    let bytes = progress * VALUE_BYTES as u64;
    println!("{progress} writes ({bytes} bytes) during {:?}, outbox at most {outbox_most} bytes", stall());
    assert!(
        bytes > WINDOWS_BYTES + OUTBOX_BYTES_MAX,
        "only {bytes} bytes were written: the watcher may have been told all of it"
    );
    assert!(lagged, "no watch fell behind at the server, so nothing was tested");
    // What it asked for waits as well: one reply and one acknowledgement a turn, bounded by the requests in flight.
    let replies = turns * REPLY_AND_ACK_BYTES_MAX;
    assert!(
        outbox_most <= OUTBOX_BYTES_MAX + OUTBOX_OVERSHOOT + replies,
        "{outbox_most} bytes waited, {replies} of them replies; the limit of events is {OUTBOX_BYTES_MAX}"
    );
    let session = client.admin().session(conclave_client::SessionId(raw.welcome.session)).await.expect("an answer");
    assert!(session.is_some(), "its keep-alives were sent, so its session lives");
    let asked = client.get("/slow").await.expect("a read").expect("the node");
    assert_eq!(asked.data, (turns - 1).to_string(), "its own requests were done while it did not read");

    // The load ends; whoever reads has been told exactly what was written.
    let revisions = load.finish().await;
    eventually("the readers are told of everything", || async {
        for (name, seen) in [("near", &near), ("far", &far)] {
            let told = seen.lock().expect("unpoisoned").len();
            if told < revisions.len() {
                return Err(format!("{name}: {told} of {}", revisions.len()));
            }
        }
        Ok(())
    })
    .await;
    assert!(
        *near.lock().expect("unpoisoned") == revisions,
        "the reader beside the stalled one missed or repeated some"
    );
    assert!(*far.lock().expect("unpoisoned") == revisions, "the reader at another server missed or repeated some");
    Stalled { cluster, raw, started, revisions, heard: Vec::new() }
}

impl Stalled {
    /// Reads until told of `last`, or that the watch is over: the revisions told, and the end.
    async fn read_on(&mut self, watch: u64, last: u64) -> (Vec<u64>, Option<v1::WatchEnded>) {
        let mut told = Vec::new();
        loop {
            let item = self.raw.next().await.expect("the stream goes on").expect("the stream goes on");
            match item {
                Hear::Events(events) => {
                    assert_eq!(events.watch, watch);
                    assert!(events.events.iter().all(|event| {
                        event.node.as_ref().is_some_and(|node| node.modify_revision == events.revision)
                    }));
                    told.push(events.revision);
                    if events.revision == last {
                        return (told, None);
                    }
                }
                Hear::WatchEnded(ended) => {
                    assert_eq!(ended.watch, watch);
                    return (told, Some(ended));
                }
                Hear::Ended(ended) => panic!("the stream ended: {:?}: {}", ended.reason(), ended.message),
                other => self.heard.push(other),
            }
        }
    }
}

/// History reaches back far enough: every revision is told, in order, none missing, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_did_not_read_catches_up_without_gap_or_duplicate() {
    const PER_SECOND_MAX: u64 = 2_500;
    // History keeps what is written, and as much again for whatever comes after the stall.
    let kept = 2 * PER_SECOND_MAX * stall().as_secs();
    let limits = format!("history_revisions_max = {kept}\nhistory_bytes_max = \"2GiB\"\n");
    let mut stalled = stall_under_load(&limits, PER_SECOND_MAX).await;
    let last = *stalled.revisions.last().expect("writes");
    let reading = stalled.read_on(WATCH, last);
    let (told, ended) = tokio::time::timeout(PATIENCE * 2, reading).await.expect("it catches up");
    assert!(ended.is_none(), "history was kept, yet: {ended:?}");
    assert_eq!(told.first(), stalled.revisions.iter().find(|revision| **revision >= stalled.started));
    assert!(told == stalled.revisions, "{} revisions were made, {} told", stalled.revisions.len(), told.len());
    assert!(
        stalled.heard.iter().any(|item| matches!(item, Hear::KeepAlive(_))),
        "its keep-alives are acknowledged once it reads"
    );

    // It is live again.
    let id = stalled.raw.send_txn(wire::then(vec![wire::put("/load/live", "again")]));
    let mut others = Vec::new();
    let result = wire::txn_of(stalled.raw.reply(id, &mut others).await.expect("a reply")).expect("a write");
    let events = others.iter().any(|item| matches!(item, Hear::Events(events) if events.revision == result.revision));
    assert!(events, "told before the reply: {others:?}");
}

/// History is short: the watch ends, and says from where to go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_history_left_behind_is_told_where_to_resume() {
    let limits = "history_revisions_max = 2000\n";
    let mut stalled = stall_under_load(limits, u64::MAX).await;
    let last = *stalled.revisions.last().expect("writes");
    let reading = stalled.read_on(WATCH, last);
    let (told, ended) = tokio::time::timeout(PATIENCE * 2, reading).await.expect("it is told");
    let ended = ended.expect("history was cut, so the watch ends");
    assert_eq!(ended.reason(), Reason::Compacted, "{}", ended.message);
    assert!(ended.message.contains(&ended.resume_revision.to_string()), "{}", ended.message);
    // What was told before is a beginning without a gap.
    assert!(stalled.revisions.starts_with(&told), "told before the end: {} revisions, not a beginning", told.len());
    assert!(told.len() < stalled.revisions.len());

    // From there on nothing is missing.
    let again = v1::WatchOpen {
        watch: WATCH + 1,
        path: "/load".into(),
        scope: Scope::Subtree.into(),
        from_revision: ended.resume_revision,
    };
    stalled.raw.say(vec![Say::Watch(again)]);
    let reading = stalled.read_on(WATCH + 1, last);
    let (told, over) = tokio::time::timeout(PATIENCE, reading).await.expect("it is told");
    assert!(over.is_none(), "nothing is written any more, yet: {over:?}");
    let rest: Vec<u64> =
        stalled.revisions.iter().copied().filter(|revision| *revision >= ended.resume_revision).collect();
    assert!(
        !rest.is_empty() && told == rest,
        "{} revisions from {}, told {}",
        rest.len(),
        ended.resume_revision,
        told.len()
    );
    drop(stalled.cluster);
}
