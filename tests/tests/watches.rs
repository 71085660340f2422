//! Watches across the loss of servers, and with readers that do not read.

use std::time::Duration;

use conclave_client::{Client, Config, ErrorKind, EventKind, Revision, SessionOptions};
use conclave_tests::{Cluster, PATIENCE};
use tokio::time::timeout;

fn client(cluster: &Cluster, first: usize) -> Client {
    Client::new(Config::new(cluster.endpoints()).with_first_endpoint(first)).expect("endpoints")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_once_and_in_order_across_the_loss_of_servers() {
    const CHANGES: u64 = 600;
    let mut cluster = Cluster::start(3).await.expect("servers");
    let options = || SessionOptions::new().ttl(PATIENCE);
    let writer = client(&cluster, 2).session(options()).await.expect("a session");
    writer.put("/w", "").await.expect("written");
    let reader = client(&cluster, 0).session(options()).await.expect("a session");
    let mut watch = reader.watch("/w").open().await.expect("open");
    let mut alone = client(&cluster, 0).watch("/w").open().await.expect("open");
    let writing = tokio::spawn(async move {
        let mut revisions = Vec::new();
        for change in 1..=CHANGES {
            revisions.push(writer.put("/w", change.to_string()).await.expect("written").revision);
        }
        revisions
    });
    let at = reader.server().0;
    for id in [at, at % 3 + 1] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.kill(id).expect("killed");
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.start_server(id).expect("started");
        cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }
    let expected = timeout(PATIENCE, writing).await.expect("in time").expect("no panic");
    for watch in [&mut watch, &mut alone] {
        for (change, revision) in (1..=CHANGES).zip(&expected) {
            let events =
                timeout(PATIENCE, watch.next()).await.expect("in time").expect("not over").expect("no failure");
            assert_eq!(events.revision, *revision);
            assert_eq!(events.events.len(), 1);
            assert_eq!(events.events[0].node.data, change.to_string());
        }
        assert!(watch.next_revision() >= expected.last().expect("some").next());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_delays_nobody_and_misses_nothing() {
    const CHANGES: usize = 3_000;
    let cluster = Cluster::start(1).await.expect("a server");
    let config = Config::new(cluster.endpoints()).with_watch_buffer_bytes(64 << 10);
    let client = Client::new(config).expect("endpoints");
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(3))).await.expect("a session");
    let mut slow = session.watch("/w").subtree().open().await.expect("open");
    let mut quick = session.watch("/w/0").open().await.expect("open");
    session.create("/w").await.expect("made");
    for change in 0..CHANGES {
        // 12 MB in all: far beyond what the client and the server keep for one watch.
        session.put(format!("/w/{}", change % 10), vec![b'x'; 4_000]).await.expect("written");
        if change % 10 == 0 {
            let events =
                timeout(PATIENCE, quick.next()).await.expect("not delayed").expect("open").expect("no failure");
            assert_eq!(events.events[0].node.path, "/w/0");
        }
    }
    assert!(session.is_alive(), "its keep-alives went through");
    let mut last = Revision(0);
    for change in 0..=CHANGES {
        let events = timeout(PATIENCE, slow.next()).await.expect("in time").expect("open").expect("no failure");
        assert!(last == Revision(0) || events.revision == last.next(), "no gap at change {change}");
        last = events.revision;
        assert_eq!(events.events.len(), 1);
    }
}

#[tokio::test]
async fn scopes_and_transactions_and_the_past() {
    let cluster = Cluster::start(1).await.expect("a server");
    let session = client(&cluster, 0).session(SessionOptions::new()).await.expect("a session");
    let mut node = session.watch("/a").open().await.expect("open");
    let mut children = session.watch("/a").children().open().await.expect("open");
    let mut subtree = session.watch("/a").subtree().open().await.expect("open");
    let made = session.txn().create("/a", "1").create("/a/b", "2").create("/a/b/c", "3").create("/ab", "4").commit();
    let made = made.await.expect("made").revision;
    session.delete("/a").recursive().await.expect("deleted");
    let seen = async |watch: &mut conclave_client::Watch| {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let events = timeout(PATIENCE, watch.next()).await.expect("in time").expect("open").expect("no failure");
            seen.push(events.events.into_iter().map(|e| (e.kind, e.node.path)).collect::<Vec<_>>());
        }
        seen.iter_mut().for_each(|events| events.sort_by(|a, b| a.1.cmp(&b.1)));
        seen
    };
    let both = |paths: &[&str]| {
        [EventKind::Created, EventKind::Deleted]
            .map(|kind| paths.iter().map(|p| (kind, p.to_string())).collect::<Vec<_>>())
    };
    assert_eq!(seen(&mut node).await, both(&["/a"]));
    assert_eq!(seen(&mut children).await, both(&["/a/b"]));
    assert_eq!(seen(&mut subtree).await, both(&["/a", "/a/b", "/a/b/c"]), "all of a revision together");
    let mut past = session.watch("/a").subtree().from(made).open().await.expect("open");
    assert_eq!(seen(&mut past).await, both(&["/a", "/a/b", "/a/b/c"]));
    let history = session.history("/a").from(made).await.expect("read");
    assert_eq!(history.revisions.len(), 2);
    let then = session.get("/a/b/c").at(made).await.expect("read").expect("there then");
    assert_eq!(then.data, "3");
    let error = session.watch("a").open().await.err().expect("no path");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
