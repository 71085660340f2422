//! A follower that was away for longer than the log reaches back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use conclave_client::{Client, Config, SessionOptions};
use conclave_proto::v1;
use conclave_tests::{
    Cluster, Options, PATIENCE, eventually,
    wire::{self, Raw},
};

/// The log is kept this short, so that being away a little is being away too long.
const CONFIG: &str = "[raft]\nlog_entries_max = 500\nlog_entries_keep = 50\n";

/// The states of all servers after the same index are the same; how many indexes they had in common.
#[derive(Default)]
struct Hashes {
    seen: BTreeMap<u64, (String, u64)>,
    in_common: u64,
}

impl Hashes {
    fn add(&mut self, status: &v1::StatusReply) {
        assert!(!status.diverged, "server {} says that it diverged", status.id);
        let entry = (status.state_hash.clone(), status.id);
        let (hash, id) = self.seen.entry(status.applied_index).or_insert_with(|| entry.clone());
        assert_eq!(
            *hash, status.state_hash,
            "servers {id} and {} differ after index {}",
            status.id, status.applied_index
        );
        self.in_common += u64::from(*id != status.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_away_past_compaction_returns_by_snapshot_under_load() {
    let options = Options { config: CONFIG.into(), ..Options::default() };
    let mut cluster = Cluster::start_with(options).await.expect("a cluster");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let away = cluster.ids().into_iter().find(|id| *id != leader).expect("a follower");

    // A session whose answer has to survive in the snapshot: it was given, and nobody acknowledged it.
    let ttl = Duration::from_secs(600);
    let mut raw = Raw::open(&cluster.endpoint(leader), ttl).await.expect("a session");
    let made = raw.txn(wire::then(vec![wire::create("/kept", v1::Kind::Ephemeral)])).await.expect("made");
    let resume = raw.resume_hello();
    drop(raw);

    // Writers that never stop. They do not talk to the server that goes.
    let others: Vec<String> =
        cluster.ids().into_iter().filter(|id| *id != away).map(|id| cluster.endpoint(id)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8_u64 {
        let (stop, written) = (stop.clone(), written.clone());
        let client = Client::connect(others.clone()).await.expect("a client");
        writers.spawn(async move {
            let session = client.session(SessionOptions::new()).await.expect("a session");
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let path = format!("/load/{writer}/{}", n % 200);
                session.put(path, vec![b'x'; 512]).create_parents().await.expect("a write");
                n += 1;
                written.fetch_add(1, Ordering::Relaxed);
            }
            (writer, n, session)
        });
    }

    let last_seen = cluster.status(away).await.expect("its status").applied_index;
    cluster.kill(away).expect("it ran");
    eventually("the log no longer reaches back to where the follower was", || async {
        let status = cluster.status(leader).await.map_err(|error| format!("{error:#}"))?;
        // Far enough that it needs more than what is kept anyway.
        if status.compacted_index > last_seen + 2_000 {
            Ok(())
        } else {
            Err(format!("compacted to {}, it has up to {last_seen} or a little more", status.compacted_index))
        }
    })
    .await;

    let before = written.load(Ordering::Relaxed);
    cluster.start_server(away).expect("it starts again");
    let mut hashes = Hashes::default();
    let snapshot = eventually("a snapshot is installed and the follower has caught up", || async {
        let status = cluster.status(away).await.map_err(|error| format!("{error:#}"))?;
        let leading = cluster.status(leader).await.map_err(|error| format!("{error:#}"))?;
        if status.snapshot_index > last_seen && status.applied_index + 500 > leading.applied_index {
            Ok(status.snapshot_index)
        } else {
            Err(format!(
                "snapshot {} applied {}, the leader has applied {}",
                status.snapshot_index, status.applied_index, leading.applied_index
            ))
        }
    })
    .await;
    assert!(written.load(Ordering::Relaxed) > before, "the writers stood still while the follower returned");

    // Under load the servers are seldom seen at the same index; where they are, they agree.
    for _ in 0..50 {
        for id in cluster.ids() {
            hashes.add(&cluster.status(id).await.expect("its status"));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut sessions = Vec::new();
    let mut last = BTreeMap::new();
    while let Some(done) = writers.join_next().await {
        let (writer, n, session) = done.expect("no write fails");
        last.insert(writer, n);
        sessions.push(session);
    }
    eventually("all three are at one index", || async {
        let mut all = Vec::new();
        for id in cluster.ids() {
            all.push(cluster.status(id).await.map_err(|error| format!("{error:#}"))?);
        }
        if all.iter().all(|status| status.applied_index == all[0].applied_index) {
            return Ok(all);
        }
        Err(format!("{:?}", all.iter().map(|status| status.applied_index).collect::<Vec<_>>()))
    })
    .await
    .iter()
    .for_each(|status| hashes.add(status));
    assert!(hashes.in_common >= 2, "the last three were at one index");
    println!(
        "{} writes, snapshot at {snapshot}, {} hashes compared",
        written.load(Ordering::Relaxed),
        hashes.in_common
    );

    // And it serves: what was written while it was away, the past, and the answer it never saw given.
    let client = Client::connect(Config::new([cluster.endpoint(away)])).await.expect("a client");
    for (writer, n) in last {
        let listing = client.list(format!("/load/{writer}")).await.expect("a listing");
        assert_eq!(listing.nodes.len() as u64, n.min(200), "the nodes of writer {writer}");
    }
    let kept = client.get("/kept").await.expect("a read").expect("the session lives, so does its node");
    assert_eq!(kept.create_revision.0, made.revision);
    let before = client.get("/kept").at(conclave_client::Revision(made.revision)).await.expect("a read of the past");
    assert_eq!(before, Some(kept));

    let channel = wire::connect(&cluster.endpoint(away)).await.expect("a connection");
    let mut raw = Raw::hello(channel, resume).await.expect("the session is known there");
    assert_eq!(raw.welcome.last_number, 1);
    let again = raw.send_numbered(1, wire::then(vec![wire::create("/kept", v1::Kind::Ephemeral)]));
    let again = wire::txn_of(raw.reply(again, &mut Vec::new()).await.expect("a reply")).expect("the first answer");
    assert_eq!(again, made, "a repetition gets the first answer, also out of a snapshot");
    client.put("/after", "from the returned").await.expect("a write through the server that was away");
}
