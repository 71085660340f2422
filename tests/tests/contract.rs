//! What the store promises, held against real servers from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conclave_client::{
    Client, Compare, Config, Effect, ErrorKind, EventKind, Kind, Node, Op, OpResult, Relation, Revision, ServerId,
    Session, SessionId, SessionOptions, SessionState,
};
use conclave_proto::v1::{self, Scope, client_item::Item as Say, server_item::Item as Hear};
use conclave_tests::{
    Cluster, Options, PATIENCE, binary, eventually, leashed,
    metrics::{Metrics, wait_limit},
    wire::{self, Raw},
};

const TTL: Duration = Duration::from_secs(20);

async fn one_server(config: &str) -> Cluster {
    let options = Options { servers: 1, config: config.into(), ..Options::default() };
    Cluster::start_with(options).await.expect("a server")
}

async fn client(cluster: &Cluster) -> Client {
    Client::connect(cluster.endpoints()).await.expect("a client")
}

/// A client of one server only.
async fn client_of(cluster: &Cluster, id: u64) -> Client {
    Client::connect(Config::new([cluster.endpoint(id)])).await.expect("a client")
}

async fn session_of(client: &Client) -> Session {
    client.session(SessionOptions::new().ttl(TTL)).await.expect("a session")
}

async fn node(client: &Client, path: &str) -> Option<Node> {
    client.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

// ------------------------------------------------------------------------------------------------ the store

/// A transaction is one revision or nothing, and says which comparison did not hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_one_revision_or_nothing() {
    let cluster = one_server("").await;
    let client = client(&cluster).await;
    let session = session_of(&client).await;
    let first = session.put("/a", "1").await.expect("a write");
    assert!(first.created);
    let second = session.put("/a", "2").await.expect("a write");
    assert_eq!((second.created, second.version, second.revision), (false, 1, Revision(first.revision.0 + 1)));

    let done = session
        .txn()
        .when(Compare::version("/a", Relation::Equal, 1))
        .when(Compare::data("/a", Relation::Equal, "2"))
        .when(Compare::missing("/b"))
        .when(Compare::create_revision("/a", Relation::Equal, first.revision))
        .when(Compare::modify_revision("/a", Relation::Greater, first.revision))
        .when(Compare::owner("/a", None))
        .put("/a", "3")
        .create("/b", "new")
        .put("/c", "other")
        .delete("/c")
        .get("/a")
        .list("/")
        .commit()
        .await
        .expect("a transaction");
    assert!(done.succeeded, "{done:?}");
    assert_eq!(done.revision, second.revision.next(), "one revision for all of it");
    let [
        OpResult::Put { created: false, version: 2 },
        OpResult::Created { .. },
        _,
        OpResult::Deleted { count: 1 },
        OpResult::Got(Some(a)),
        OpResult::Listed(names),
    ] = &done.results[..]
    else {
        panic!("{:?}", done.results)
    };
    assert_eq!((&a.data[..], a.modify_revision), (&b"3"[..], done.revision), "it reads its own writes");
    assert_eq!(*names, ["a", "b"]);
    for path in ["/a", "/b"] {
        assert_eq!(node(&client, path).await.expect("it is there").modify_revision, done.revision);
    }

    // The comparison that fails is named, the other branch is done.
    let other = session
        .txn()
        .when(Compare::exists("/a"))
        .when(Compare::version("/a", Relation::Less, 2))
        .when(Compare::missing("/a"))
        .put("/a", "never")
        .otherwise_get("/a")
        .commit()
        .await
        .expect("a transaction");
    assert_eq!((other.succeeded, other.failed_compare), (false, Some(1)));
    assert_eq!(other.revision, done.revision, "a branch that only reads makes no revision");
    assert!(matches!(&other.results[..], [OpResult::Got(Some(a))] if a.data == "3"), "{:?}", other.results);

    // One operation is refused: nothing of the transaction was done.
    let refused = session.txn().put("/a", "half").delete("/b").create("/a", "again").commit().await;
    let refused = refused.expect_err("the node is there");
    assert_eq!((refused.kind(), refused.effect(), refused.operation()), (ErrorKind::NodeExists, Effect::None, Some(2)));
    assert_eq!(node(&client, "/a").await.expect("it is there").data, "3");
    let got = session.get("/b").read().await.expect("a read");
    assert!(got.node.is_some());
    assert_eq!(got.revision, done.revision, "a refused transaction makes no revision");

    // "This session still owns this node in this incarnation."
    let owned = session.create("/mine").ephemeral().await.expect("a node");
    let held = Compare::held_since("/mine", owned.revision);
    assert!(session.txn().when(held.clone()).put("/d", "x").commit().await.expect("a transaction").succeeded);
    let stranger = session_of(&client).await;
    let theirs = stranger.txn().when(held.clone()).put("/d", "y").commit().await.expect("a transaction");
    assert_eq!(theirs.failed_compare, Some(0), "another session does not own it");
    session.delete("/mine").await.expect("deleted");
    session.create("/mine").ephemeral().await.expect("a node");
    let old = session.txn().when(held).put("/d", "z").commit().await.expect("a transaction");
    assert_eq!(old.failed_compare, Some(0), "another incarnation is not the one it asked for");
    assert_eq!(node(&client, "/d").await.expect("it is there").data, "x");
}

/// The revisions at which each of these was deleted, from history.
async fn deleted_at(client: &Client, under: &str) -> BTreeMap<String, Revision> {
    let history = client.history(under).await.expect("history");
    let mut deleted = BTreeMap::new();
    for revision in history.revisions {
        for event in revision.events {
            if event.kind == EventKind::Deleted {
                deleted.insert(event.node.path, revision.revision);
            }
        }
    }
    deleted
}

async fn wait_gone(client: &Client, path: &str) {
    eventually("the node is gone", || async {
        match client.get(path).await {
            Ok(None) => Ok(()),
            Ok(Some(node)) => Err(format!("{} is still there", node.path)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// Every kind of node ends as it should, and not otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_node_ends_as_it_should() {
    let cluster = one_server("[limits]\ncontainer_grace = \"500ms\"\n").await;
    let client = client(&cluster).await;
    let watcher = session_of(&client).await;
    client.put("/kinds", "").await.expect("a write");
    let mut watch = watcher.watch("/kinds").subtree().open().await.expect("a watch");

    // Ephemeral nodes go with their session, all in one revision: closed, fallen silent, killed.
    for how in ["closed", "silent", "killed"] {
        let ttl = if how == "silent" { Duration::from_millis(500) } else { TTL };
        let mut raw = Raw::open(&cluster.endpoint(1), ttl).await.expect("a session");
        let paths: Vec<String> = (0..3).map(|n| format!("/kinds/{how}/{n}")).collect();
        let ops = paths.iter().map(|path| wire::create(path, v1::Kind::Ephemeral)).collect();
        let made = raw.txn(wire::then(ops)).await.expect("made");
        let owned = node(&client, &paths[0]).await.expect("it is there");
        assert_eq!(owned.owner, Some(SessionId(raw.welcome.session)));
        match how {
            "closed" => raw.say(vec![Say::Close(v1::Close {})]),
            "killed" => {
                let id = SessionId(raw.welcome.session);
                client.admin().kill_session(id).await.expect("it is open");
            }
            _ => {}
        }
        let ended = raw.ended().await.expect("it is told");
        let reason = match how {
            "closed" => v1::session_ended::Reason::Closed,
            "killed" => v1::session_ended::Reason::Killed,
            _ => v1::session_ended::Reason::Expired,
        };
        assert_eq!(ended.reason(), reason, "{how}: {}", ended.message);
        wait_gone(&client, &paths[2]).await;
        let deleted = deleted_at(&client, &format!("/kinds/{how}")).await;
        let at = deleted[&paths[0]];
        assert!(at.0 > made.revision);
        for path in &paths {
            assert_eq!(deleted[path], at, "{how}: all in one revision: {deleted:?}");
        }
        // The watcher is told of the three together.
        loop {
            let events = watch.next().await.expect("the watch goes on").expect("events");
            if events.revision == at {
                assert!(events.events.iter().all(|event| event.kind == EventKind::Deleted));
                assert_eq!(events.events.len(), 3, "{events:?}");
                break;
            }
            assert!(events.revision < at, "{how}: the end of the session was not told");
        }
        assert!(node(&client, &format!("/kinds/{how}")).await.is_some(), "its parent stays");
    }

    // A container waits for its first child, and goes after its last.
    client.create("/kinds/box").container().await.expect("a container");
    client.create("/kinds/fresh").container().await.expect("a container that never had a child");
    client.create("/kinds/box/child").await.expect("a child");
    let short = Duration::from_millis(600);
    client.create("/kinds/brief").ttl(short).data("x").await.expect("a TTL node");
    client.create("/kinds/parent").ttl(short).await.expect("a TTL node");
    client.create("/kinds/parent/child").await.expect("a child");
    assert_eq!(node(&client, "/kinds/parent").await.expect("it is there").kind, Kind::Ttl(short));
    wait_gone(&client, "/kinds/brief").await;
    assert!(node(&client, "/kinds/box").await.is_some(), "a container with a child stays");
    assert!(node(&client, "/kinds/parent").await.is_some(), "a TTL node with a child stays");
    client.delete("/kinds/box/child").await.expect("deleted");
    client.delete("/kinds/parent/child").await.expect("deleted");
    wait_gone(&client, "/kinds/box").await;
    wait_gone(&client, "/kinds/parent").await;
    assert!(node(&client, "/kinds/fresh").await.is_some(), "a container that never had a child waits for one");
}

/// A parent hands out numbers that never come again, in at least ten digits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_a_parent_never_repeat() {
    let mut cluster = one_server("").await;
    let client = client(&cluster).await;
    client.put("/q", "").await.expect("a write");
    let mut seen = BTreeSet::new();
    let mut last = None;
    for round in 0..3 {
        let mut paths = Vec::new();
        for name in ["n-", "other-", ""] {
            let made = client.create(format!("/q/{name}")).sequential().await;
            if name.is_empty() {
                // A trailing slash is no path: the caller is told so rather than given a surprise.
                assert_eq!(made.expect_err("no path").kind(), ErrorKind::InvalidArgument);
                continue;
            }
            let made = made.expect("a node");
            let number = made.sequence.expect("a number");
            assert_eq!(made.path, format!("/q/{name}{number:010}"));
            assert!(seen.insert(number), "{number} came twice");
            assert!(last < Some(number), "numbers rise");
            last = Some(number);
            paths.push(made.path);
        }
        for path in paths {
            client.delete(path).await.expect("deleted");
        }
        if round == 1 {
            cluster.kill(1).expect("it ran");
            cluster.start_server(1).expect("it starts again");
            cluster.wait_healthy(PATIENCE).await.expect("it serves");
        }
    }
    assert_eq!(node(&client, "/q").await.expect("it is there").child_count, 0);
}

/// Reads of the past and history, until it is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_can_be_read_until_it_is_forgotten() {
    const KEPT: u64 = 100;
    let cluster = one_server(&format!("[limits]\nhistory_revisions_max = {KEPT}\n")).await;
    wait_limit(&cluster, "history_revisions_max", KEPT).await;
    let client = client(&cluster).await;
    let mut revisions = Vec::new();
    revisions.push(client.put("/past/x", "0").create_parents().await.expect("a write").revision);
    for n in 1..20 {
        revisions.push(client.put("/past/x", n.to_string()).await.expect("a write").revision);
    }
    let gone = client.delete("/past/x").await.expect("deleted").revision;
    for (n, revision) in revisions.iter().enumerate() {
        let then = client.get("/past/x").at(*revision).await.expect("the past").expect("it was there");
        assert_eq!(then.data, n.to_string());
        assert_eq!((then.version, then.modify_revision), (n as u64, *revision));
        let list = client.list("/past").at(*revision).await.expect("the past");
        assert_eq!(list.nodes.len(), 1);
    }
    assert_eq!(client.get("/past/x").at(gone).await.expect("the past"), None);
    assert_eq!(client.list("/past").at(gone).await.expect("the past").nodes, []);
    let history = client.history("/past/x").await.expect("history");
    let told: Vec<Revision> = history.revisions.iter().map(|events| events.revision).collect();
    let mut all = revisions.clone();
    all.push(gone);
    assert_eq!(told, all, "every change of it, and nothing else");
    assert!(history.revisions.last().is_some_and(|events| events.events[0].kind == EventKind::Deleted));

    // More changes than history keeps.
    for n in 0..KEPT + 20 {
        client.put("/past/other", n.to_string()).await.expect("a write");
    }
    let forgotten = client.get("/past/x").at(revisions[3]).await.expect_err("it is forgotten");
    assert_eq!((forgotten.kind(), forgotten.effect()), (ErrorKind::Compacted, Effect::None));
    let history = client.history("/past").await.expect("history");
    assert!(history.oldest > gone, "the oldest known is {}", history.oldest);
    client.get("/past/other").at(history.oldest).await.expect("the oldest known can be read");
    let future = client.get("/past/x").at(Revision(1 << 40)).await.expect_err("it is not yet");
    assert_eq!(future.kind(), ErrorKind::FutureRevision);
    let session = session_of(&client).await;
    match session.watch("/past").subtree().from(revisions[0]).open().await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Compacted, "{error}"),
        Ok(mut watch) => {
            let error = watch.next().await.expect("an end").expect_err("it is forgotten");
            assert_eq!(error.kind(), ErrorKind::Compacted, "{error}");
            assert_eq!(error.resume_revision(), Some(history.oldest));
        }
    }
    let mut watch = session.watch("/past").subtree().from(history.oldest).open().await.expect("the oldest known");
    assert_eq!(watch.next().await.expect("events").expect("events").revision, history.oldest);
}

// ------------------------------------------------------------------------------------------------ watches

/// On one connection a change is never visible in a reply before the event that tells of it: its own changes, and those
/// of others at other servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_before_the_reply_that_shows_it() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let writer = client_of(&cluster, 2).await;
    writer.put("/w", "").await.expect("a write");
    let mut raw = Raw::open(&cluster.endpoint(1), TTL).await.expect("a session");
    let scope = Scope::Subtree.into();
    raw.say(vec![Say::Watch(v1::WatchOpen { watch: 1, path: "/w".into(), scope, from_revision: 0 })]);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, other) = (stop.clone(), writer.clone());
    let writing = tokio::spawn(async move {
        let mut n = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            other.put("/w/theirs", n.to_string()).await.expect("a write");
            n += 1;
        }
        n
    });

    // Own writes, linearizable reads and stale reads, many in flight, checked against what was told by then.
    let mut told = BTreeMap::new();
    let mut newest_told = 0;
    let (mut replies, mut calls, mut written) = (0, 0, 0);
    let mut started = None;
    while replies < 3_000 {
        while calls < replies + 24 {
            match calls % 3 {
                0 => raw.send_txn(wire::then(vec![wire::put("/w/mine", calls.to_string())])),
                1 => raw.send_read(wire::get("/w/theirs")),
                _ => raw.send_read(v1::Read { stale_ok: true, ..wire::get("/w/theirs") }),
            };
            calls += 1;
        }
        match raw.next().await.expect("the stream goes on").expect("the stream goes on") {
            Hear::WatchStarted(watch) => started = Some(watch.from_revision),
            Hear::Events(events) => {
                assert!(events.revision > newest_told, "told of {} after {newest_told}", events.revision);
                newest_told = events.revision;
                for event in events.events {
                    let node = event.node.expect("a node");
                    told.insert(node.path, node.modify_revision);
                }
            }
            Hear::Reply(reply) => {
                replies += 1;
                assert!(started.is_some(), "the watch was asked for first");
                match reply.body {
                    // Everything is written below the watch, so a revision shown is a revision told.
                    Some(v1::reply::Body::Txn(txn)) => {
                        assert!(txn.revision <= newest_told, "its own write, unseen");
                        written += 1;
                        raw.acknowledge(written);
                    }
                    Some(v1::reply::Body::Read(read)) => {
                        assert!(
                            read.revision <= newest_told.max(started.unwrap_or(0) - 1),
                            "revision {}, told {newest_told}",
                            read.revision
                        );
                        if let Some(v1::read_result::Result::Get(get)) = read.result
                            && let Some(node) = get.node
                            && node.modify_revision >= started.unwrap_or(0)
                        {
                            assert!(told[&node.path] >= node.modify_revision, "{node:?} shown before it was told");
                        }
                    }
                    other => panic!("{other:?}"),
                }
                assert!(reply.revision <= newest_told.max(started.unwrap_or(0) - 1), "a reply's revision, untold");
            }
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writing.await.expect("the other writer") > 10, "the other writer wrote too");
}

/// Watchers at every server are told of every change of many writers: in order, none twice, none missing, each with
/// its own scope.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_told_everything_in_order() {
    const WRITERS: usize = 6;
    const WRITES: usize = 150;
    let cluster = Cluster::start(3).await.expect("a cluster");
    let anyone = client(&cluster).await;
    anyone.put("/tree", "").await.expect("a write");
    let from = anyone.put("/tree/0", "").await.expect("a write").revision.next();

    let mut watchers = Vec::new();
    for id in cluster.ids() {
        let session = session_of(&client_of(&cluster, id).await).await;
        let node = session.watch("/tree/0").open().await.expect("a watch");
        let children = session.watch("/tree").children().open().await.expect("a watch");
        let subtree = session.watch("/tree").subtree().open().await.expect("a watch");
        watchers.push((session, node, children, subtree));
    }
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let session = session_of(&client_of(&cluster, 1 + n as u64 % 3).await).await;
        writers.spawn(async move {
            let mut made = Vec::new();
            for turn in 0..WRITES {
                let child = format!("/tree/{}", (n + turn) % WRITERS);
                let txn = session.txn();
                let txn = match turn % 4 {
                    0 => txn.put(&child, "x").put(format!("/tree/w{n}"), "y"),
                    1 => txn.then(Op::put(format!("{child}/deep/{n}"), "z").create_parents()),
                    2 => txn.then(Op::delete_recursive(format!("{child}/deep"))),
                    _ => txn.put("/elsewhere", "not watched").put(&child, "w"),
                };
                let done = txn.commit().await.expect("a transaction");
                made.push(done.revision);
            }
            made
        });
    }
    let mut revisions = BTreeSet::new();
    while let Some(made) = writers.join_next().await {
        revisions.extend(made.expect("no writer fails"));
    }
    let last = anyone.put("/tree/0", "the end").await.expect("a write").revision;
    revisions.insert(last);

    // What history says is what each watch has to tell.
    let mut expected: [Vec<(Revision, Vec<(String, EventKind)>)>; 3] = Default::default();
    let mut next = from;
    loop {
        let history = anyone.history("/").from(next).await.expect("history");
        for events in history.revisions {
            assert!(revisions.contains(&events.revision), "revision {} that nobody made", events.revision);
            let all: Vec<_> = events.events.iter().map(|event| (event.node.path.clone(), event.kind)).collect();
            let in_scope = |covers: &dyn Fn(&str) -> bool| -> Vec<(String, EventKind)> {
                all.iter().filter(|(path, _)| covers(path)).cloned().collect()
            };
            for (place, told) in [
                in_scope(&|path| path == "/tree/0"),
                in_scope(&|path| path.strip_prefix("/tree/").is_some_and(|rest| !rest.contains('/'))),
                in_scope(&|path| path == "/tree" || path.starts_with("/tree/")),
            ]
            .into_iter()
            .enumerate()
            {
                if !told.is_empty() {
                    expected[place].push((events.revision, told));
                }
            }
        }
        match history.next {
            Some(further) => next = further,
            None => break,
        }
    }
    assert!(expected.iter().all(|events| events.len() > WRITES / 3), "{:?}", expected.each_ref().map(Vec::len));
    for (n, (_session, node, children, subtree)) in watchers.iter_mut().enumerate() {
        for (watch, expected) in [node, children, subtree].into_iter().zip(&expected) {
            for (revision, events) in expected {
                let told = tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time");
                let told = told.expect("the watch goes on").expect("events");
                let seen: Vec<_> = told.events.iter().map(|event| (event.node.path.clone(), event.kind)).collect();
                assert_eq!((&told.revision, &seen), (revision, events), "the watcher at server {}", n + 1);
            }
        }
    }
}

/// A linearizable read at any server sees every write that was answered before it began; a stale one what its session
/// has seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_every_write_that_was_answered_before() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let mut servers = Vec::new();
    for id in cluster.ids() {
        let client = client_of(&cluster, id).await;
        servers.push((session_of(&client).await, client));
    }
    servers[0].0.put("/seen", "").await.expect("a write");
    for n in 0..400_usize {
        let (writer, _) = &servers[n % 3];
        let written = writer.put("/seen", n.to_string()).await.expect("a write");
        for (session, client) in [&servers[(n + 1) % 3], &servers[(n + 2) % 3]] {
            let got = if n % 2 == 0 { session.get("/seen").read().await } else { client.get("/seen").read().await };
            let got = got.expect("a read");
            let node = got.node.expect("it is there");
            assert_eq!((node.modify_revision, node.data), (written.revision, n.to_string().into()), "write {n}");
            assert!(got.revision >= written.revision);
            // From now on this session never sees less, not even from the copy next to it.
            if n % 2 == 0 {
                let stale = session.get("/seen").stale_ok().read().await.expect("a read");
                assert!(stale.revision >= written.revision, "{} after {}", stale.revision, written.revision);
            }
            let asked = client.get("/seen").stale_ok().not_older_than(written.revision).read().await.expect("a read");
            assert!(asked.revision >= written.revision, "asked for {}, got {}", written.revision, asked.revision);
        }
    }
}

// ------------------------------------------------------------------------------------------------ exactly once

/// A request sent again under its number gets the first answer: on the same stream, from another server, after
/// `kill -9` of all servers; and is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_numbered_request_is_done_once_and_answered_always() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let ttl = Duration::from_secs(600);
    let mut raw = Raw::open(&cluster.endpoint(1), ttl).await.expect("a session");
    let resume = raw.resume_hello();
    let ask = || wire::then(vec![wire::in_line("/once/n-"), wire::put("/count", "x")]);
    let first = raw.txn(ask()).await.expect("applied");
    raw.acknowledge(0);
    let refused = raw.send_numbered(2, wire::then(vec![wire::create("/count", v1::Kind::Persistent)]));
    let refused = raw.reply(refused, &mut Vec::new()).await.expect("a reply").body;
    assert!(matches!(&refused, Some(v1::reply::Body::Error(error)) if error.code() == v1::Code::NodeExists));

    async fn again(
        raw: &mut Raw,
        ask: v1::Txn,
        first: &v1::TxnResult,
        refused: &Option<v1::reply::Body>,
        where_: &str,
    ) {
        let id = raw.send_numbered(1, ask);
        let answer = wire::txn_of(raw.reply(id, &mut Vec::new()).await.expect("a reply")).expect("the first answer");
        assert_eq!(answer, *first, "{where_}");
        // A refusal is an answer like any other, also when the same would now be refused otherwise.
        let id = raw.send_numbered(2, wire::then(vec![wire::delete("/count")]));
        assert_eq!(raw.reply(id, &mut Vec::new()).await.expect("a reply").body, *refused, "{where_}");
    }
    again(&mut raw, ask(), &first, &refused, "on the same stream").await;

    // Whoever resumes takes over, the stream before is told.
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let mut resumed = Raw::hello(channel, resume.clone()).await.expect("resumed");
    assert_eq!(resumed.welcome.last_number, 2);
    let ended = raw.ended().await.expect("it is told");
    assert_eq!(ended.reason(), v1::session_ended::Reason::Replaced, "{}", ended.message);
    again(&mut resumed, ask(), &first, &refused, "on another stream").await;
    let channel = wire::connect(&cluster.endpoint(2)).await.expect("a connection");
    let mut resumed = Raw::hello(channel, resume.clone()).await.expect("resumed");
    again(&mut resumed, ask(), &first, &refused, "at another server").await;

    cluster.kill_all(&[1, 2, 3]).expect("they ran");
    for id in [1, 2, 3] {
        cluster.start_server(id).expect("it starts again");
    }
    cluster.wait_healthy(PATIENCE).await.expect("they serve");
    let channel = wire::connect(&cluster.endpoint(3)).await.expect("a connection");
    let mut resumed = Raw::hello(channel, resume).await.expect("the session outlives its servers");
    again(&mut resumed, ask(), &first, &refused, "after kill -9 of all").await;
    let once = resumed.read(wire::get("/once")).await.expect("a read");
    let Some(v1::read_result::Result::Get(v1::read_result::GetResult { node: Some(parent) })) = once.result else {
        panic!("{once:?}")
    };
    assert_eq!((parent.child_count, parent.children_version), (1, 1), "done once");
    // And the session goes on where it was.
    let id = resumed.send_numbered(3, wire::then(vec![wire::put("/count", "y")]));
    wire::txn_of(resumed.reply(id, &mut Vec::new()).await.expect("a reply")).expect("applied");
}

/// Through the library, over the loss of leaders: each increment is done once, whatever became of its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_over_lost_leaders_are_each_done_once() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..6_usize {
        let config = Config::new(cluster.endpoints()).with_first_endpoint(n);
        let session = session_of(&Client::connect(config).await.expect("a client")).await;
        let stop = stop.clone();
        workers.spawn(async move {
            let path = format!("/once/{n}");
            let mut done = 0_u64;
            session.put(&path, "").create_parents().await.expect("a write");
            while !stop.load(Ordering::Relaxed) {
                let put = session.put(&path, done.to_string()).await.expect("a session's write is never in doubt");
                done += 1;
                assert_eq!(put.version, done, "one write, one version");
            }
            (path, done)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
        cluster.kill(leader).expect("it ran");
        cluster.wait_healthy(PATIENCE).await.expect("the others serve");
        cluster.start_server(leader).expect("it starts again");
        cluster.wait_healthy(PATIENCE).await.expect("all serve");
    }
    stop.store(true, Ordering::Relaxed);
    let client = client(&cluster).await;
    while let Some(worker) = workers.join_next().await {
        let (path, done) = worker.expect("no worker fails");
        let node = node(&client, &path).await.expect("it is there");
        assert_eq!(node.version, done, "{path}: as many versions as answers");
        assert!(done > 0, "{path}: nothing was written");
    }
}

// ------------------------------------------------------------------------------------------------ sessions

/// Keep-alives are acknowledged only with a quorum; without one a session is in jeopardy, then lost at its deadline,
/// before anyone could have given its locks away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_confirmed_and_a_session_is_lost_in_time() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let client = client_of(&cluster, leader).await;
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(4))).await.expect("a session");
    let guard = session.lock("/locks/q").acquire().await.expect("the lock is free");
    let mut state = session.state();
    assert_eq!(*state.borrow_and_update(), SessionState::Connected);
    let mut raw = Raw::open(&cluster.endpoint(leader), TTL).await.expect("a session");
    raw.say(vec![Say::KeepAlive(v1::KeepAlive { id: 1 })]);
    let ack = |wanted: u64| move |item: &Hear| matches!(item, Hear::KeepAlive(ack) if ack.id == wanted).then_some(());
    raw.until("an acknowledgement", ack(1)).await.expect("acknowledged while there is a quorum");

    // Two of three stand still: the leader that is left does not know yet that it has lost its quorum.
    for id in &others {
        cluster.pause(*id).expect("it runs");
    }
    raw.say(vec![Say::KeepAlive(v1::KeepAlive { id: 2 })]);
    let reason = tokio::time::timeout(PATIENCE, session.lost()).await.expect("the session is lost");
    assert!(session.deadline().has_passed(), "lost before its deadline: {reason}");
    assert!(!guard.is_held());
    guard.lost().await;
    assert!(
        raw.until("nothing", |item| match item {
            Hear::KeepAlive(ack) => Some(ack.id),
            _ => None,
        })
        .now_or_pending()
        .await
        .is_none(),
        "a keep-alive was acknowledged without a quorum"
    );
    assert!(matches!(*state.borrow_and_update(), SessionState::Lost { .. }));
    let refused = session.put("/q", "x").await.expect_err("the session is lost");
    assert_eq!(refused.kind(), ErrorKind::SessionLost);

    for id in &others {
        cluster.resume(*id).expect("it runs");
    }
    cluster.wait_healthy(PATIENCE).await.expect("they serve");
    // The lock passes on: the cluster ends the silent session in its own time.
    let next = session_of(&Client::connect(cluster.endpoints()).await.expect("a client")).await;
    let next =
        tokio::time::timeout(PATIENCE, next.lock("/locks/q").acquire()).await.expect("in time").expect("the lock");
    assert!(next.token() > guard.token());
    next.release().await.expect("it was held");
}

/// Jeopardy comes before loss, and goes when the servers are back in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_jeopardy_recovers_when_the_servers_do() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let client = client(&cluster).await;
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(40))).await.expect("a session");
    let guard = session.lock("/locks/j").acquire().await.expect("the lock is free");
    let mut state = session.state();
    cluster.kill_all(&[1, 2, 3]).expect("they ran");
    let wait = state.wait_for(|state| matches!(state, SessionState::Jeopardy { .. }));
    tokio::time::timeout(PATIENCE, wait).await.expect("in time").expect("the session is there");
    assert!(guard.is_held(), "in jeopardy is not lost");
    let SessionState::Jeopardy { deadline } = state.borrow_and_update().clone() else { panic!("it was in jeopardy") };
    for id in [1, 2, 3] {
        cluster.start_server(id).expect("it starts again");
    }
    let wait = state.wait_for(|state| *state == SessionState::Connected);
    tokio::time::timeout(PATIENCE, wait).await.expect("in time").expect("the session is there");
    // To be connected again is not to be confirmed again: the first keep-alive is.
    eventually("the deadline moves on", || async {
        if guard.deadline() > deadline { Ok(()) } else { Err(format!("it still is {deadline}")) }
    })
    .await;
    guard.verify().await.expect("still the same hold");
    cluster.wait_healthy(PATIENCE).await.expect("they serve");
    guard.release().await.expect("it was held");
}

/// A session, its nodes and its locks outlive the leader's end, whatever kind of end it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_its_leaders() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let client = client(&cluster).await;
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(10))).await.expect("a session");
    let guard = session.lock("/locks/outlives").acquire().await.expect("the lock is free");
    let mine = session.create("/mine").ephemeral().await.expect("a node");
    let mut watch = session.watch("/told").open().await.expect("a watch");
    let state = session.state();
    for turn in 0..4 {
        let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
        if turn % 2 == 0 {
            cluster.kill(leader).expect("it ran");
        } else {
            let status = cluster.stop(leader).expect("it stops when told to");
            assert!(status.success(), "SIGTERM ends a server with success: {status}");
            // It handed leadership over before it ended, so the others need no election to find out.
            let named = eventually("the others name a leader", || async {
                let other = cluster.running()[0];
                let status = cluster.status(other).await.map_err(|error| format!("{error:#}"))?;
                if status.leader == 0 { Err("no leader".to_owned()) } else { Ok(status.leader) }
            })
            .await;
            assert_ne!(named, leader, "the one that stopped still leads, they say");
        }
        let told = session.put("/told", turn.to_string()).await.expect("a write");
        let events = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        assert_eq!(events.expect("the watch goes on").expect("events").revision, told.revision);
        cluster.start_server(leader).expect("it starts again");
        cluster.wait_healthy(PATIENCE).await.expect("all serve");
        guard.verify().await.expect("still held");
        assert!(!matches!(*state.borrow(), SessionState::Lost { .. }));
        let node = session.get("/mine").await.expect("a read").expect("it is there");
        assert_eq!(node.create_revision, mine.revision, "the same incarnation");
    }
    guard.txn().put("/done", "yes").commit().await.expect("still held");
    guard.release().await.expect("it was held");
}

/// Elections do not keep the session of a dead client alive for ever, and do not end that of a live one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_do_not_keep_a_dead_session_alive() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let client = client(&cluster).await;
    let ttl = Duration::from_secs(3);
    let mut dead = Raw::open(&cluster.endpoint(1), ttl).await.expect("a session");
    dead.txn(wire::then(vec![wire::create("/dead", v1::Kind::Ephemeral)])).await.expect("made");
    drop(dead);
    let alive = client.session(SessionOptions::new().ttl(ttl)).await.expect("a session");
    alive.create("/alive").ephemeral().await.expect("a node");
    // Leadership changes hands again and again, always sooner than the TTL.
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, admin) = (stop.clone(), client.admin());
    let unrest = tokio::spawn(async move {
        let mut terms = BTreeSet::new();
        while !stopped.load(Ordering::Relaxed) {
            let _ = admin.transfer_leadership(None).await;
            tokio::time::sleep(Duration::from_millis(900)).await;
            for endpoint in admin.status().await {
                if let Ok(status) = endpoint.status {
                    terms.insert(status.term);
                }
            }
        }
        terms.len()
    });
    wait_gone(&client, "/dead").await;
    stop.store(true, Ordering::Relaxed);
    assert!(unrest.await.expect("no panic") > 2, "leadership did not change hands often enough to mean anything");
    assert!(node(&client, "/alive").await.is_some(), "a session that says it is alive stays");
    assert!(alive.is_alive());
}

// ------------------------------------------------------------------------------------------------ the cluster

/// A server joins, catches up, votes, and others leave, while somebody writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_on_live_servers() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let client = Client::connect(cluster.endpoints()).await.expect("a client");
    let admin = client.admin();
    let session = session_of(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            session.put("/steady", n.to_string()).await.expect("a write, whoever is a member");
            n += 1;
        }
        n
    });

    let id = cluster.add_server();
    let address = cluster.address(id).to_string();
    let error = admin.promote(ServerId(id)).await.expect_err("nobody knows it");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Membership, Effect::None), "{error}");
    admin.add_learner(ServerId(id), &address, &address).await.expect("added");
    let error = admin.add_learner(ServerId(id), &address, &address).await.expect_err("added already");
    assert_eq!(error.kind(), ErrorKind::Membership, "{error}");
    let error = admin.promote(ServerId(id)).await.expect_err("it has not even started, so it has not caught up");
    assert_eq!(error.kind(), ErrorKind::Membership, "{error}");
    cluster.start_server(id).expect("it starts");
    eventually("the newcomer is promoted once it has caught up", || async {
        admin.promote(ServerId(id)).await.map_err(|error| error.to_string())
    })
    .await;
    let roles = |status: &v1::StatusReply| -> BTreeMap<u64, bool> {
        status.members.iter().map(|member| (member.id, member.learner)).collect()
    };
    let everyone = BTreeMap::from([(1, false), (2, false), (3, false), (id, false)]);
    eventually("every server knows four voters", || async {
        for server in cluster.ids() {
            let status = cluster.status(server).await.map_err(|error| format!("{error:#}"))?;
            if roles(&status) != everyone {
                return Err(format!("server {server}: {:?}", roles(&status)));
            }
        }
        Ok(())
    })
    .await;

    // The leader leaves, and another old one: what is left is a majority with the newcomer in it.
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    admin.remove(ServerId(leader)).await.expect("removed");
    let next = eventually("another leads", || async {
        let other = cluster.ids().into_iter().find(|server| *server != leader).expect("four servers");
        let status = cluster.status(other).await.map_err(|error| format!("{error:#}"))?;
        if status.leader == 0 || status.leader == leader {
            Err(format!("leader {}", status.leader))
        } else {
            Ok(status.leader)
        }
    })
    .await;
    println!("server {next} leads after server {leader}");
    let mut old = cluster.ids().into_iter().filter(|server| ![leader, id].contains(server));
    let (second, stays) = (old.next().expect("two more"), old.next().expect("one more"));
    // Through the one that leads now: the removed one hears of nobody any more.
    let successor = client_of(&cluster, next).await.admin();
    eventually("a second server leaves", || async {
        match successor.remove(ServerId(second)).await {
            Err(error) if error.to_string().contains("is not a member") => Ok(()), // the answer before was lost
            other => other.map(drop).map_err(|error| error.to_string()),
        }
    })
    .await;
    cluster.kill(leader).expect("it ran");
    cluster.kill(second).expect("it ran");
    let left = BTreeMap::from([(stays, false), (id, false)]);
    eventually("two voters are left, and they serve", || async {
        for server in [stays, id] {
            let status = cluster.status(server).await.map_err(|error| format!("{error:#}"))?;
            if roles(&status) != left {
                return Err(format!("server {server}: {:?}", roles(&status)));
            }
            cluster.probe(server).await.map_err(|error| format!("server {server}: {error:#}"))?;
        }
        Ok(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.expect("no write failed");
    let steady = client_of(&cluster, id).await.get("/steady").await.expect("a read").expect("it is there");
    assert_eq!(steady.data, (written - 1).to_string(), "the newcomer has every write");
    admin.remove(ServerId(stays)).await.map(drop).unwrap_or_else(|error| panic!("two can become one: {error}"));
    let error = eventually("the last one is not removed", || async {
        match client_of(&cluster, id).await.admin().remove(ServerId(id)).await {
            Ok(done) => Err(format!("removed: {done}")),
            Err(error) if error.kind() == ErrorKind::Membership => Ok(error),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    println!("removing the last one: {error}");
}

/// How a server started by hand ends, and what it said.
async fn run_to_end(args: &[String]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::from(leashed(binary("conclaved").expect("it is built")));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The arguments of a server on the disk and the ports of server 1.
fn on_its_disk(cluster: &Cluster, name: &str, id: u64) -> Vec<String> {
    let address = cluster.address(1).to_string();
    let data = cluster.data_dir(1).display().to_string();
    [
        "--cluster",
        name,
        "--id",
        &id.to_string(),
        "--listen",
        &address,
        "--http",
        &cluster.http(1).to_string(),
        "--members",
        &format!("{id}={address}"),
        "--data-dir",
        &data,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A log with a changed bit, behind which are writes that were acknowledged, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused() {
    let mut cluster = one_server("").await;
    for number in 0..50 {
        client(&cluster).await.put(format!("/kept-{number}"), "safe").await.expect("a write");
    }
    cluster.kill(1).expect("it is killed");
    let db = cluster.data_dir(1).join("db");
    let files = std::fs::read_dir(&db).expect("its database").map(|entry| entry.expect("an entry").path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let log = logs.max_by_key(|path| std::fs::metadata(path).expect("a file").len()).expect("a log");
    let kept = std::fs::read(&log).expect("the log");
    let mut damaged = kept.clone();
    damaged[kept.len() / 2] ^= 1;
    std::fs::write(&log, damaged).expect("written");
    let (code, said) = run_to_end(&on_its_disk(&cluster, "test", 1)).await;
    assert!(code.is_some_and(|code| code != 0), "it ended with {code:?}: {said}");
    for part in [&*log.display().to_string(), "is damaged at byte", "docs/operations.md"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    // Nothing was changed by the look at it.
    std::fs::write(&log, kept).expect("written");
    cluster.start_server(1).expect("it starts again");
    cluster.wait_healthy(PATIENCE).await.expect("it serves");
    assert_eq!(node(&client(&cluster).await, "/kept-49").await.expect("it is there").data, "safe");
}

/// The disk of another cluster, or of another server, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_disk_is_refused() {
    let mut cluster = one_server("").await;
    client(&cluster).await.put("/kept", "safe").await.expect("a write");
    cluster.stop(1).expect("it stops");
    let (code, said) = run_to_end(&on_its_disk(&cluster, "other", 1)).await;
    assert!(code.is_some_and(|code| code != 0), "it ended with {code:?}: {said}");
    for part in ["other", "test", &cluster.data_dir(1).display().to_string()] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let (code, said) = run_to_end(&on_its_disk(&cluster, "test", 2)).await;
    assert!(code.is_some_and(|code| code != 0), "it ended with {code:?}: {said}");
    assert!(said.contains('1') && said.contains('2'), "which server's disk it is, and which server it is: {said}");
    // Its own server goes on as if nothing had happened.
    cluster.start_server(1).expect("it starts again");
    cluster.wait_healthy(PATIENCE).await.expect("it serves");
    assert_eq!(node(&client(&cluster).await, "/kept").await.expect("it is there").data, "safe");
}

/// A server of another cluster that takes this one's servers for its peers gets nowhere, and disturbs nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_peer_is_refused() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let client = client(&cluster).await;
    cluster.kill(3).expect("it ran");
    cluster.wait_healthy(PATIENCE).await.expect("two serve");
    let term = cluster.status(1).await.expect("its status").term;
    // In server 3's place, with an empty disk, comes one that believes in another cluster.
    let members = [1, 2, 3].map(|id| format!("{id}={}", cluster.address(id))).join(",");
    let disk = tempfile::tempdir().expect("a directory");
    let log = disk.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let mut command = tokio::process::Command::from(leashed(binary("conclaved").expect("it is built")));
    command
        .args(["--cluster", "another", "--id", "3", "--members", &members])
        .args(["--listen", &cluster.address(3).to_string(), "--http", &cluster.http(3).to_string()])
        .arg("--data-dir")
        .arg(disk.path().join("data"))
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .kill_on_drop(true);
    let mut stranger = command.spawn().expect("it runs");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the stranger is refused, in its log and in that of a server", || async {
        let (mine, theirs) = (said(), cluster.log(1) + &cluster.log(2));
        let told = |log: &str| log.contains("another") && log.contains("test") && log.contains("cluster");
        if told(&mine) && told(&theirs) { Ok(()) } else { Err(format!("it said: {mine}")) }
    })
    .await;
    for n in 0..50 {
        client.put("/undisturbed", n.to_string()).await.expect("a write");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(stranger.try_wait().expect("its state").is_none(), "it gave up: {}", said());
    let status = cluster.status(3).await.expect("the stranger's status");
    assert_eq!((status.cluster.as_str(), status.leader), ("another", 0), "it found no leader");
    assert_eq!(status.committed_index.max(status.revision), status.committed_index, "and no data");
    assert_eq!(status.revision, 0, "no data of this cluster reached it");
    assert_eq!(cluster.status(1).await.expect("its status").term, term, "nobody was disturbed into an election");
    stranger.kill().await.expect("it runs");
    cluster.start_server(3).expect("the real one comes back");
    cluster.wait_healthy(PATIENCE).await.expect("all serve");
}

/// A full store refuses data in words, and still opens sessions and grants locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_still_grants_locks() {
    let config =
        "[limits]\nnodes_max = 60\nheadroom_nodes = 40\nstore_bytes_max = \"64KiB\"\nheadroom_bytes = \"64KiB\"\n";
    let cluster = one_server(config).await;
    wait_limit(&cluster, "nodes_max", 60).await;
    let client = client(&cluster).await;
    let before = session_of(&client).await;
    let held = before.lock("/locks/before").acquire().await.expect("there is room");
    let mut full = None;
    for n in 0..200 {
        if let Err(error) = client.put(format!("/fill/{n}"), "x").create_parents().await {
            full = Some(error);
            break;
        }
    }
    let full = full.expect("60 nodes are the limit");
    assert_eq!((full.kind(), full.effect()), (ErrorKind::Limit, Effect::None));
    for part in ["nodes_max", "60", "61"] {
        assert!(full.to_string().contains(part), "{part:?} is not in {full}");
    }
    let bytes = client.put("/fill/1", vec![0; 65 << 10]).await.expect_err("too many bytes");
    assert!(bytes.to_string().contains("store_bytes_max"), "{bytes}");
    let metrics = Metrics::scrape(cluster.http(1)).await.expect("metrics");
    assert_eq!(metrics.0.get("conclave_limit{limit=\"nodes_max\"}"), Some(&60.0), "the bound is shown");

    // Sessions, locks that are there, and locks of names that were never used.
    held.verify().await.expect("still held");
    held.release().await.expect("it was held");
    let session = session_of(&client).await;
    for n in 0..5 {
        let guard = session.lock("/locks/before").acquire().await.expect("a lock costs nobody its lease");
        assert!(guard.is_held());
        guard.release().await.expect("it was held");
        let fresh = session.lock(format!("/locks/fresh-{n}")).acquire().await.expect("a lock of a new name");
        fresh.release().await.expect("it was held");
    }
    // Making room helps.
    client.delete("/fill").recursive().await.expect("deleting always works");
    client.put("/fill", "again").await.expect("there is room");
}

/// A flood of writes costs nobody a lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_writes_costs_nobody_a_lease() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let client = client(&cluster).await;
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(3))).await.expect("a session");
    let guard = session.lock("/locks/flood").acquire().await.expect("the lock is free");
    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..8_usize {
        let config = Config::new(cluster.endpoints()).with_first_endpoint(n);
        let session = session_of(&Client::connect(config).await.expect("a client")).await;
        for lane in 0..64 {
            let (session, stop) = (session.clone(), stop.clone());
            flood.spawn(async move {
                let mut done = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    session.put(format!("/flood/{n}/{lane}"), vec![0; 4096]).create_parents().await.expect("a write");
                    done += 1;
                }
                done
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(session.is_alive() && guard.is_held(), "the lease was lost in the flood");
    guard.verify().await.expect("still held");
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    while let Some(done) = flood.join_next().await {
        written += done.expect("no writer fails");
    }
    println!("{written} writes");
    guard.release().await.expect("it was held");
}

/// What has come by now, without waiting for more.
trait NowOrPending: Future + Sized {
    async fn now_or_pending(self) -> Option<Self::Output> {
        // Whatever the server sent before has long arrived; this only lets it be read.
        tokio::time::timeout(Duration::from_millis(500), self).await.ok()
    }
}

impl<F: Future> NowOrPending for F {}
