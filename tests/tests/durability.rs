//! Nothing that was acknowledged is lost, and nothing is done twice, whoever is killed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use conclave_client::{Client, Effect, Node, Op, Revision, Session, SessionOptions};
use conclave_tests::{Cluster, PATIENCE, eventually};
use tokio::task::JoinSet;

/// Long enough to outlive every outage of these tests, so that the session retries instead of giving up.
const TTL: Duration = Duration::from_secs(60);
const WRITERS: u64 = 12;
/// Acknowledged writes awaited between two blows: the load is on while they fall.
const WRITES_BETWEEN: u64 = 300;
const PAGE: u32 = 1_000;

/// What one writer was told of its writes, by number.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<u64, Revision>,
    /// Certainly not applied.
    refused: Vec<u64>,
    unknown: Vec<u64>,
}

/// Writers that go on until they are told to stop.
struct Load {
    writers: JoinSet<(u64, Told)>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let client = connect(cluster).await;
        client.create("/load").await.expect("create");
        client.create("/count").await.expect("create");
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, stop, acknowledged) = (client.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
            writers.spawn(async move {
                let mut told = Told::default();
                let mut session = open(&client, writer).await;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    // Two nodes in one transaction: one is new each time, the other counts how often this was done.
                    let txn = session
                        .txn()
                        .then(Op::put(format!("/load/{writer}/{number}"), value(writer, number)).create_parents())
                        .put(format!("/count/{writer}"), number.to_string());
                    match txn.commit().await {
                        Ok(result) => {
                            told.acknowledged.insert(number, result.revision);
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) if error.effect() == Effect::None => told.refused.push(number),
                        Err(_) => told.unknown.push(number),
                    }
                    if !session.is_alive() {
                        session = open(&client, writer).await;
                    }
                }
                (writer, told)
            });
        }
        Self { writers, stop, acknowledged }
    }

    /// Waits until that many more writes were acknowledged.
    async fn goes_on(&self, writes: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + writes;
        eventually("writes are acknowledged", || async {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= target { Ok(()) } else { Err(format!("{now} of {target}")) }
        })
        .await;
    }

    /// Stops the writers and holds what the cluster has against what they were told.
    async fn judge(mut self, cluster: &mut Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
        let client = connect(cluster).await;
        let mut total = 0;
        while let Some(ended) = self.writers.join_next().await {
            let (writer, told) = ended.expect("a writer does not panic");
            let found = written(&client, writer).await;
            for (number, revision) in &told.acknowledged {
                let node = found.get(number);
                let node = node.unwrap_or_else(|| panic!("LOST: writer {writer} was told that write {number} is done"));
                assert_eq!(node.data, value(writer, *number), "writer {writer}, write {number}");
                assert_eq!(node.create_revision, *revision, "writer {writer}, write {number}");
                assert_eq!(node.version, 0, "writer {writer}, write {number} was done twice");
            }
            for number in &told.refused {
                assert!(!found.contains_key(number), "writer {writer} was told that write {number} is not done");
            }
            let possible = told.acknowledged.len() + told.unknown.len();
            assert!(found.len() <= possible, "writer {writer}: {} written, {possible} asked for", found.len());
            let counter = client.get(format!("/count/{writer}")).await.expect("get").expect("a counter");
            assert_eq!(counter.version + 1, found.len() as u64, "writer {writer}: something was done twice");
            let revisions: Vec<_> = told.acknowledged.values().collect();
            assert!(revisions.is_sorted_by(|a, b| a < b), "writer {writer}: revisions rise");
            total += told.acknowledged.len();
        }
        assert!(total > 0, "nothing was written");
        same_everywhere(cluster).await;
    }
}

async fn connect(cluster: &Cluster) -> Client {
    Client::connect(cluster.endpoints()).await.expect("a client")
}

async fn open(client: &Client, writer: u64) -> Session {
    eventually("a session", || client.session(SessionOptions::new().ttl(TTL).name(format!("writer-{writer}")))).await
}

fn value(writer: u64, number: u64) -> Bytes {
    // A few hundred bytes, so that the log is more than headers.
    format!("{writer}/{number} ").repeat(30).into()
}

/// All that this writer has written, by number.
async fn written(client: &Client, writer: u64) -> BTreeMap<u64, Node> {
    let path = format!("/load/{writer}");
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let mut request = client.list(&path).with_data().limit(PAGE);
        if let Some(after) = after.take() {
            request = request.after(after);
        }
        let listing = request.await.expect("list");
        after = listing.nodes.last().map(|node| node.path.clone());
        for node in listing.nodes {
            found.insert(node.name().parse().expect("a number"), node);
        }
        if !listing.more {
            return found;
        }
    }
}

/// All replicas come to the same index with the same state.
async fn same_everywhere(cluster: &Cluster) {
    eventually("the replicas agree", || async {
        let mut states = Vec::new();
        for id in cluster.ids() {
            let status = cluster.status(id).await.map_err(|error| format!("{error:#}"))?;
            assert!(!status.diverged, "server {id} has diverged");
            states.push((status.applied_index, status.state_hash));
        }
        states.dedup();
        if states.len() == 1 { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
}

async fn three() -> Cluster {
    Cluster::start(3).await.expect("three servers")
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_server_is_killed_under_load() {
    let mut cluster = three().await;
    let load = Load::start(&cluster).await;
    for id in cluster.ids() {
        load.goes_on(WRITES_BETWEEN).await;
        cluster.kill(id).expect("kill");
        load.goes_on(WRITES_BETWEEN).await;
        cluster.start_server(id).expect("start");
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    load.goes_on(WRITES_BETWEEN).await;
    load.judge(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_again_and_again_under_load() {
    let mut cluster = three().await;
    let load = Load::start(&cluster).await;
    for _ in 0..5 {
        load.goes_on(WRITES_BETWEEN).await;
        let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
        cluster.kill(leader).expect("kill");
        load.goes_on(WRITES_BETWEEN).await;
        cluster.start_server(leader).expect("start");
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    load.judge(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_are_killed_at_once_under_load() {
    let mut cluster = three().await;
    let load = Load::start(&cluster).await;
    for _ in 0..3 {
        load.goes_on(WRITES_BETWEEN).await;
        cluster.kill_all(&cluster.ids()).expect("kill");
        for id in cluster.ids() {
            cluster.start_server(id).expect("start");
        }
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    load.goes_on(WRITES_BETWEEN).await;
    load.judge(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_told_to_stop_do_so_politely_and_lose_nothing_either() {
    let mut cluster = three().await;
    let load = Load::start(&cluster).await;
    for _ in 0..3 {
        load.goes_on(WRITES_BETWEEN).await;
        let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
        let status = cluster.stop(leader).expect("it stops");
        assert!(status.success(), "server {leader} ended with {status}");
        load.goes_on(WRITES_BETWEEN).await;
        cluster.start_server(leader).expect("start");
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    load.judge(&mut cluster).await;
}
