//! Sessions that outlive connections, servers and processes; and that end when they must.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use conclave_client::{Client, Config, Effect, ErrorKind, Lost, LostReason, SessionOptions, SessionState};
use conclave_tests::{Cluster, PATIENCE, eventually};
use tokio::{task::JoinSet, time::timeout};

fn client(cluster: &Cluster, first: usize) -> Client {
    Client::new(Config::new(cluster.endpoints()).with_first_endpoint(first)).expect("endpoints")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_happens_once_whatever_server_dies() {
    let mut cluster = Cluster::start(3).await.expect("servers");
    let session = client(&cluster, 0).session(SessionOptions::new().ttl(PATIENCE)).await.expect("a session");
    session.create("/log").await.expect("made");
    let lock = session.lock("/locks/a").await.expect("free");
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let session = session.clone();
        writers.spawn(async move {
            let mut made = Vec::new();
            for at in 0..150 {
                let data = format!("{writer}/{at}");
                let created = session.create("/log/n-").data(data.clone()).sequential().await.expect("made");
                made.push((created.path, data));
            }
            made
        });
    }
    let endpoints: Vec<u64> = cluster.ids();
    for id in endpoints {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill(id).expect("killed");
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.start_server(id).expect("started");
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    let mut made = BTreeSet::new();
    while let Some(writer) = timeout(PATIENCE, writers.join_next()).await.expect("in time") {
        made.extend(writer.expect("no panic"));
    }
    let mut found = BTreeSet::new();
    let mut after = String::new();
    loop {
        let page = session.list("/log").with_data().limit(500).after(after).await.expect("read");
        after = page.nodes.last().map(|node| node.path.clone()).unwrap_or_default();
        let text = |data: &[u8]| String::from_utf8(data.to_vec()).expect("text");
        found.extend(page.nodes.into_iter().map(|node| (node.path, text(&node.data))));
        if !page.more {
            break;
        }
    }
    assert_eq!(made.len(), 8 * 150);
    assert_eq!(found, made, "each once, and each caller got its own answer");
    lock.verify().await.expect("the lock was held throughout");
}

#[tokio::test]
async fn another_process_goes_on_with_a_session_elsewhere() {
    let cluster = Cluster::start(3).await.expect("servers");
    let session = client(&cluster, 0).session(SessionOptions::new().ttl(PATIENCE)).await.expect("a session");
    session.create("/mine").ephemeral().await.expect("made");
    let id = session.id();
    let credentials = session.detach().await;
    let resumed = client(&cluster, 1).resume(credentials.clone()).await.expect("resumed");
    assert_eq!((resumed.id(), resumed.ttl()), (id, PATIENCE));
    resumed.put("/more", "x").await.expect("the numbers go on");
    assert_eq!(resumed.get("/mine").await.expect("read").expect("still there").owner, Some(id));

    // Only one at a time.
    let third = client(&cluster, 1).resume(credentials.clone()).await.expect("resumed");
    assert_eq!(timeout(PATIENCE, resumed.lost()).await.expect("in time"), LostReason::Replaced);
    let mut wrong = credentials.clone();
    wrong.secret[0] ^= 1;
    let error = client(&cluster, 0).resume(wrong).await.err().expect("refused");
    assert_eq!(error.lost_reason(), Some(&LostReason::Unknown), "{error}");

    third.close().await.expect("closed");
    assert!(client(&cluster, 0).get("/mine").await.expect("read").is_none(), "its ephemerals went with it");
    let error = client(&cluster, 0).resume(credentials).await.err().expect("over");
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    assert_eq!(third.put("/more", "y").await.expect_err("closed").effect(), Effect::None);
}

#[tokio::test]
async fn a_session_that_is_dropped_is_closed() {
    let cluster = Cluster::start(1).await.expect("a server");
    let client = client(&cluster, 0);
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(3600))).await.expect("a session");
    session.create("/mine").ephemeral().await.expect("made");
    let guard = session.lock("/locks/a").await.expect("free");
    drop(session);
    guard.verify().await.expect("a guard keeps its session");
    drop(guard);
    eventually("it is closed", || async {
        match client.get("/mine").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(client.admin().sessions().await.expect("listed").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_takes_no_session_with_it() {
    let mut cluster = Cluster::start(3).await.expect("servers");
    let session = client(&cluster, 1).session(SessionOptions::new().ttl(PATIENCE)).await.expect("a session");
    let guard = session.lock("/locks/a").await.expect("free");
    let at = session.server().0;
    cluster.stop(at).expect("stopped");
    timeout(PATIENCE, session.put("/a", "x")).await.expect("in time").expect("written elsewhere");
    assert_ne!(session.server().0, at);
    guard.verify().await.expect("held");
    guard.release().await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_session_is_lost_at_its_deadline_and_not_after() {
    let cluster = Cluster::start(3).await.expect("servers");
    let session =
        client(&cluster, 0).session(SessionOptions::new().ttl(Duration::from_secs(2))).await.expect("a session");
    let guard = session.lock("/locks/a").await.expect("free");
    let token = guard.token();
    let mut states = session.state();
    for id in cluster.ids() {
        cluster.pause(id).expect("paused");
    }
    let jeopardy = timeout(PATIENCE, states.wait_for(|state| matches!(state, SessionState::Jeopardy { .. })));
    jeopardy.await.expect("in time").expect("told");
    let mut pending = Box::pin(session.put("/a", "x").into_future());
    assert!(timeout(Duration::from_millis(20), &mut pending).await.is_err(), "it waits");
    let lost = timeout(PATIENCE, guard.run(std::future::pending::<()>())).await.expect("in time").expect_err("lost");
    assert_eq!(lost, Lost::Session(LostReason::DeadlinePassed));
    assert!(!guard.is_held() && !session.is_alive());
    let error = pending.await.expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::SessionLost);
    assert!(matches!(*states.borrow(), SessionState::Lost { .. }));
    assert_eq!(guard.txn().put("/a", "late").commit().await.expect_err("lost").effect(), Effect::None);

    for id in cluster.ids() {
        cluster.resume(id).expect("resumed");
    }
    let next = client(&cluster, 1).session(SessionOptions::new()).await.expect("a session");
    let next = next.lock("/locks/a").wait(PATIENCE).await.expect("given away after the TTL");
    assert!(next.token() > token);
}

#[tokio::test]
async fn mistakes_are_told_in_words_and_did_nothing() {
    let cluster = Cluster::start(1).await.expect("a server");
    let client = client(&cluster, 0);
    let session = client.session(SessionOptions::new()).await.expect("a session");
    session.create("/e").ephemeral().await.expect("made");
    let revision = session.get("/").read().await.expect("read").revision;
    let cases: Vec<(conclave_client::Error, ErrorKind, &str)> = vec![
        (session.put("a", "x").await.expect_err("no path"), ErrorKind::InvalidArgument, "must begin with '/'"),
        (session.put("/a/b", "x").await.expect_err("no parent"), ErrorKind::NoParent, "parent=/a"),
        (session.create("/e").await.expect_err("there"), ErrorKind::NodeExists, "path=/e"),
        (session.create("/e/f").await.expect_err("ephemeral"), ErrorKind::EphemeralParent, "parent=/e"),
        (client.create("/g").ephemeral().await.expect_err("no session"), ErrorKind::InvalidArgument, "needs a session"),
        (session.delete("/").await.expect_err("the root"), ErrorKind::Denied, "path=/"),
        (session.put("/conclave/x", "x").await.expect_err("reserved"), ErrorKind::Denied, "path=/conclave"),
        (session.put("/big", vec![0; (1 << 20) + 1]).await.expect_err("big"), ErrorKind::TooLarge, "data_bytes_max"),
        (session.put("/huge", vec![0; 3 << 20]).await.expect_err("huge"), ErrorKind::TooLarge, "the limit is"),
        (
            client.put("/huge", vec![0; 3 << 20]).await.expect_err("huge"),
            ErrorKind::InvalidArgument,
            "request_bytes_max",
        ),
        (session.get("/a").at(revision.next()).await.expect_err("not yet"), ErrorKind::FutureRevision, ""),
    ];
    for (error, kind, part) in cases {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
    }
    assert_eq!(session.get("/").read().await.expect("read").revision, revision, "nothing was done");
    let error = client.session(SessionOptions::new().ttl(Duration::from_millis(1))).await.err().expect("short");
    assert!(error.to_string().contains("session_ttl_min"), "{error}");

    let nobody =
        Client::new(Config::new(["127.0.0.1:1", "127.0.0.1:2"]).with_request_timeout(Duration::from_millis(300)));
    let nobody = Arc::new(nobody.expect("endpoints"));
    for error in [
        nobody.get("/a").await.expect_err("nobody"),
        nobody.put("/a", "x").await.expect_err("nobody"),
        nobody.session(SessionOptions::new()).await.err().expect("nobody"),
    ] {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
        for endpoint in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
            assert!(error.to_string().contains(endpoint), "{error}");
        }
        assert!(error.to_string().contains("refused"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_for_another() {
    let cluster = Cluster::start(3).await.expect("servers");
    let session =
        client(&cluster, 2).session(SessionOptions::new().ttl(Duration::from_secs(6))).await.expect("a session");
    let guard = session.lock("/locks/a").await.expect("free");
    let at = session.server().0;
    // Its connections stay open and nobody answers: only time tells.
    cluster.pause(at).expect("paused");
    timeout(PATIENCE, session.put("/a", "x")).await.expect("in time").expect("written elsewhere");
    assert_ne!(session.server().0, at);
    assert!(guard.is_held());
    guard.verify().await.expect("held");
    cluster.resume(at).expect("resumed");
    guard.release().await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_a_session_leave_a_server_that_hangs() {
    let cluster = Cluster::start(3).await.expect("servers");
    let status = client(&cluster, 0).admin().status().await;
    let leader = status[0].status.as_ref().expect("it answers").leader;
    let at = cluster.ids().iter().position(|id| Some(*id) != leader.map(|id| id.0)).expect("a follower");
    // Less than it takes until a silent connection is given up.
    let config = Config::new(cluster.endpoints()).with_first_endpoint(at).with_request_timeout(Duration::from_secs(5));
    let calls = Client::new(config).expect("endpoints");
    calls.put("/a", "1").await.expect("written");
    cluster.pause(cluster.ids()[at]).expect("paused");
    // What may be asked twice is asked elsewhere.
    assert_eq!(calls.get("/a").await.expect("read elsewhere").expect("there").data, "1".as_bytes());
    // And what comes after it goes there at once.
    calls.put("/a", "2").await.expect("written elsewhere");
    cluster.resume(cluster.ids()[at]).expect("resumed");
}

#[tokio::test]
async fn what_a_silent_session_holds_goes_to_the_next() {
    let cluster = Cluster::start(3).await.expect("servers");
    let silent =
        client(&cluster, 0).session(SessionOptions::new().ttl(Duration::from_secs(1))).await.expect("a session");
    let held = silent.lock("/locks/a").await.expect("free");
    let token = held.token();
    let next = client(&cluster, 1).session(SessionOptions::new()).await.expect("a session");
    let waiting = tokio::spawn(async move { (next.lock("/locks/a").wait(PATIENCE).await.expect("the lock"), next) });
    // As if its process were gone: nothing is closed, nothing more is sent.
    let credentials = silent.detach().await;
    assert!(!held.is_held());
    let (guard, _next) = timeout(PATIENCE, waiting).await.expect("in time").expect("no panic");
    assert!(guard.token() > token);
    let error = client(&cluster, 2).resume(credentials).await.err().expect("over");
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    guard.verify().await.expect("held");
}

#[tokio::test]
async fn the_leader_is_found_where_it_is_preferred() {
    let cluster = Cluster::start(3).await.expect("servers");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    for first in 0..3 {
        let config = Config::new(cluster.endpoints()).with_first_endpoint(first).with_leader_preferred(true);
        let client = Client::connect(config).await.expect("connected");
        let session = client.session(SessionOptions::new()).await.expect("a session");
        assert_eq!(session.server().0, leader);
        let plain = self::client(&cluster, first).session(SessionOptions::new()).await.expect("a session");
        assert_eq!(plain.server().0, first as u64 + 1, "otherwise as asked");
    }
    let admin = client(&cluster, 0).admin();
    let statuses = admin.status().await;
    assert_eq!(statuses.len(), 3);
    for (status, id) in statuses.iter().zip(cluster.ids()) {
        assert_eq!(status.status.as_ref().expect("answers").id.0, id);
    }
    let session = client(&cluster, 0).session(SessionOptions::new().name("me")).await.expect("a session");
    session.create("/mine").ephemeral().await.expect("made");
    let info = admin.session(session.id()).await.expect("read").expect("open");
    assert_eq!((info.name.as_str(), info.owned, info.owns), ("me", 1, vec!["/mine".to_owned()]));
    assert!(info.remaining <= info.ttl);
    admin.kill_session(session.id()).await.expect("killed");
    assert_eq!(timeout(PATIENCE, session.lost()).await.expect("in time"), LostReason::Killed);
    assert!(admin.session(info.id).await.expect("read").is_none());
    assert_eq!(admin.kill_session(info.id).await.expect_err("none").kind(), ErrorKind::SessionLost);
}
