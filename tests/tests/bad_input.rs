//! Whatever is wrong with a request, its sender is told what, where, and what would be right, and the server goes on.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    process::{Command, Output},
    time::Duration,
};

use bytes::Bytes;
use conclave_proto::v1::{
    self, ClientFrame, ClientItem, Code, client_item::Item as Say, op::Op, server_item::Item as Hear,
    session_ended::Reason as Over, store_client::StoreClient, watch_ended::Reason as WatchOver,
};
use conclave_tests::{
    Cluster, Options, binary, eventually,
    metrics::wait_limit,
    wire::{self, Raw},
};
use prost::Message as _;
use tonic::transport::Channel;

const TTL: Duration = Duration::from_secs(20);
/// The servers' bounds, small where the default would only make the test slow.
const CONFIG: &str = "[limits]\nin_flight_max = 16\nwatches_per_stream_max = 8\nhistory_revisions_max = 50\n";
const IN_FLIGHT_MAX: usize = 16;

async fn start() -> Cluster {
    let options = Options { servers: 1, config: CONFIG.into(), ..Options::default() };
    let cluster = Cluster::start_with(options).await.expect("a server");
    wait_limit(&cluster, "history_revisions_max", 50).await;
    cluster
}

/// The server that was there at the start still is, and does its work.
async fn still_serves(cluster: &mut Cluster, pid: u32, after: &str) {
    cluster.wait_healthy(Duration::from_secs(20)).await.unwrap_or_else(|error| panic!("after {after}: {error:#}"));
    assert_eq!(cluster.pid(1), Some(pid), "after {after}: the server is another one");
    let mut raw = Raw::open(&cluster.endpoint(1), TTL).await.unwrap_or_else(|error| panic!("after {after}: {error:#}"));
    let result = raw.txn(wire::then(vec![wire::put("/alive", after.to_owned())])).await;
    result.unwrap_or_else(|error| panic!("after {after}: {error:#}"));
}

fn txn(op: Op) -> v1::Txn {
    wire::then(vec![op])
}

fn compare(path: &str, test: Option<v1::compare::Test>) -> v1::Txn {
    let mut txn = txn(wire::put("/a", "x"));
    txn.compare = vec![v1::Compare { path: path.into(), test }];
    txn
}

fn make(change: impl FnOnce(&mut v1::op::Create)) -> v1::Txn {
    let mut create = v1::op::Create { path: "/made".into(), create_parents: true, ..Default::default() };
    change(&mut create);
    txn(Op::Create(create))
}

/// What is asked, the code of the refusal, parts of its message.
type Case = (&'static str, v1::Txn, Code, Vec<String>);

fn case(what: &'static str, txn: v1::Txn, code: Code, parts: &[&str]) -> Case {
    (what, txn, code, parts.iter().map(|part| (*part).to_owned()).collect())
}

fn bad_paths() -> Vec<(&'static str, String, Vec<&'static str>)> {
    vec![
        ("a relative path", "a/b".into(), vec!["begin with '/'", "\"/a/b\""]),
        ("an empty path", String::new(), vec!["begin with '/'"]),
        ("a trailing slash", "/a/".into(), vec!["end with '/'", "\"/a/\""]),
        ("an empty component", "/a//b".into(), vec!["names nothing", "/a//b"]),
        ("a dot", "/a/./b".into(), vec!["names nothing", "\".\""]),
        ("two dots", "/a/../b".into(), vec!["names nothing", "\"..\""]),
        ("a zero byte", "/a\0b".into(), vec!["control character", "byte 2"]),
        ("a line's end", "/a\nb".into(), vec!["control character", "byte 2"]),
        ("a path too long", format!("/{}", "x".repeat(1024)), vec!["1025 bytes", "the limit is 1024"]),
        ("a path too deep", "/d".repeat(65), vec!["65 components", "the limit is 64"]),
    ]
}

fn bad_txns() -> Vec<Case> {
    let mut all = Vec::new();
    for (what, path, parts) in bad_paths() {
        for op in [
            wire::create(&path, v1::Kind::Persistent),
            wire::put(&path, "x"),
            wire::delete(&path),
            Op::Get(v1::op::Get { path: path.clone() }),
            Op::List(v1::op::List { path: path.clone() }),
        ] {
            all.push(case(what, txn(op), Code::InvalidArgument, &parts));
        }
        let mut with_place = parts.clone();
        with_place.push("comparison 0");
        let test = Some(v1::compare::Test::Exists(true));
        all.push(case(what, compare(&path, test), Code::InvalidArgument, &with_place));
    }
    let ops = |n: usize| wire::then((0..n).map(|n| wire::put(&format!("/many/{n}"), "x")).collect());
    let number = |relation| v1::compare::Test::Version(v1::compare::Number { relation, value: 1 });
    let mut compares = txn(wire::put("/a", "x"));
    compares.compare =
        (0..129).map(|_| v1::Compare { path: "/".into(), test: Some(v1::compare::Test::Exists(true)) }).collect();
    let mut otherwise = v1::Txn { otherwise: ops(129).then, ..Default::default() };
    otherwise.compare = vec![v1::Compare { path: "/".into(), test: Some(v1::compare::Test::Exists(true)) }];
    let both = |put: Op| wire::then(vec![wire::put("/fine", "x"), put]);
    all.extend([
        case("nothing at all", v1::Txn::default(), Code::InvalidArgument, &["empty", "at least one"]),
        case(
            "an operation of no kind",
            v1::Txn { then: vec![v1::Op { op: None }], ..Default::default() },
            Code::InvalidArgument,
            &["empty", "create, put, delete, get, list"],
        ),
        case("a comparison of nothing", compare("/a", None), Code::InvalidArgument, &["no test", "held_since"]),
        case("no relation", compare("/a", Some(number(7))), Code::InvalidArgument, &["relation 7", "EQUAL"]),
        case("no kind", make(|create| create.kind = 9), Code::InvalidArgument, &["kind 9", "EPHEMERAL"]),
        case(
            "a TTL without time",
            make(|create| create.kind = v1::Kind::Ttl.into()),
            Code::InvalidArgument,
            &["ttl_ms"],
        ),
        case("time without TTL", make(|create| create.ttl_ms = 5), Code::InvalidArgument, &["ttl_ms=5", "TTL nodes"]),
        case(
            "parents of a mortal kind",
            make(|create| create.parents_kind = v1::Kind::Ephemeral.into()),
            Code::InvalidArgument,
            &["parents_kind 1", "CONTAINER"],
        ),
        case("the reserved subtree", txn(wire::put("/conclave/x", "x")), Code::Denied, &["/conclave/x", "belongs to"]),
        case("the reserved node", txn(wire::put("/conclave", "x")), Code::Denied, &["/conclave"]),
        case("deleting the reserved", txn(wire::delete("/conclave")), Code::Denied, &["/conclave"]),
        case("making the root", txn(wire::create("/", v1::Kind::Persistent)), Code::Denied, &["root"]),
        case("removing the root", txn(wire::delete("/")), Code::Denied, &["root"]),
        case(
            "one byte too many",
            both(wire::put("/big", vec![0; (1 << 20) + 1])),
            Code::TooLarge,
            &["data_bytes_max", "1048576", "1048577"],
        ),
        case("129 operations", ops(129), Code::TooLarge, &["txn_ops_max", "128", "129"]),
        case("129 others", otherwise, Code::TooLarge, &["txn_ops_max", "128", "129"]),
        case("129 comparisons", compares, Code::TooLarge, &["txn_ops_max", "128", "129"]),
        case(
            "a number that makes the path too long",
            make(|create| {
                create.path = format!("/{}", "x".repeat(1020));
                create.sequential = true;
            }),
            Code::InvalidArgument,
            &["1031 bytes", "the limit is 1024"],
        ),
        case(
            "no parent",
            both(Op::Put(v1::op::Put { path: "/no/such/x".into(), ..Default::default() })),
            Code::NoParent,
            &["/no", "create_parents"],
        ),
        case("a node that is there", both(wire::create("/there", v1::Kind::Persistent)), Code::NodeExists, &["/there"]),
        case(
            "a node with children",
            both(wire::delete("/full")),
            Code::NotEmpty,
            &["/full", "recursive", "child_count=1"],
        ),
    ]);
    all
}

fn check(what: &str, error: &v1::Error, code: Code, parts: &[String]) {
    assert_eq!(error.code(), code, "{what}: {error:?}");
    assert_eq!(error.effect(), v1::Effect::None, "{what}: certainly nothing was done: {error:?}");
    assert!(
        error.message.len() < 3_000,
        "{what}: the message repeats the whole request: {} bytes",
        error.message.len()
    );
    for part in parts {
        assert!(error.message.contains(part.as_str()), "{what}: {part:?} is not in {:?}", error.message);
    }
}

async fn furnish(cluster: &Cluster) {
    let mut raw = Raw::open(&cluster.endpoint(1), TTL).await.expect("a session");
    let ops = vec![wire::put("/there", "x"), wire::put("/full/child", "x"), wire::put("/a", "x")];
    raw.txn(wire::then(ops)).await.expect("made");
    raw.say(vec![Say::Close(v1::Close {})]);
}

/// Transactions that make no sense or ask too much: the same answer with a session and without, the number used up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_transaction_is_refused_with_its_reason() {
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    furnish(&cluster).await;
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let mut store = StoreClient::new(channel.clone());
    let mut raw = Raw::open_on(channel, TTL).await.expect("a session");
    let before = raw.read(wire::get("/")).await.expect("a read").revision;
    for (what, txn, code, parts) in bad_txns() {
        let several = txn.then.len() == 2;
        let reply = store.apply(txn.clone()).await.unwrap_or_else(|status| panic!("{what}: {status}")).into_inner();
        let Some(v1::txn_reply::Body::Error(error)) = reply.body else { panic!("{what}: {reply:?}") };
        check(what, &error, code, &parts);
        assert!(!several || error.op == Some(1), "{what}: the second operation is to blame: {error:?}");

        let id = raw.send_txn(txn.clone());
        let reply = raw.reply(id, &mut Vec::new()).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let Some(v1::reply::Body::Error(error)) = reply.body else { panic!("{what}: {reply:?}") };
        check(what, &error, code, &parts);
        // Asked again under the same number, the same is answered.
        let id = raw.send_numbered(raw.next_number() - 1, txn);
        let reply = raw.reply(id, &mut Vec::new()).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(reply.body, Some(v1::reply::Body::Error(error)), "{what}: the first answer");
        raw.acknowledge(raw.next_number() - 1);
    }
    let after = raw.read(wire::get("/")).await.expect("a read").revision;
    assert_eq!(before, after, "nothing of all this made a revision");
    // Every number was used up, so the next one is not out of order.
    let ephemeral = make(|create| create.kind = v1::Kind::Ephemeral.into());
    raw.txn(ephemeral.clone()).await.expect("this one is fine");
    let child = raw.send_txn(txn(wire::put("/made/child", "x")));
    let reply = raw.reply(child, &mut Vec::new()).await.expect("a reply");
    let Some(v1::reply::Body::Error(error)) = reply.body else { panic!("{reply:?}") };
    check("a child of an ephemeral", &error, Code::EphemeralParent, &["/made".into()]);
    let reply = store.apply(make(|create| {
        create.path = "/other".into();
        create.kind = v1::Kind::Ephemeral.into();
    }));
    let reply = reply.await.expect("a reply").into_inner();
    let Some(v1::txn_reply::Body::Error(error)) = reply.body else { panic!("{reply:?}") };
    check("an ephemeral of nobody", &error, Code::InvalidArgument, &["session".into(), "/other".into()]);
    still_serves(&mut cluster, pid, "bad transactions").await;
}

/// Reads and watches that make no sense, or ask for what is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_read_and_watch_is_refused_with_its_reason() {
    use v1::read::{HistoryQuery, ListQuery, Query, QueuesQuery};
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    furnish(&cluster).await;
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let mut store = StoreClient::new(channel.clone());
    let mut raw = Raw::open_on(channel.clone(), TTL).await.expect("a session");
    // History keeps 50 revisions; here are more.
    for n in 0..120 {
        raw.txn(txn(wire::put("/a", n.to_string()))).await.expect("a write");
    }
    let newest = raw.read(wire::get("/a")).await.expect("a read").revision;
    let future = (newest + 1_000).to_string();

    let mut reads: Vec<(&str, v1::Read, Code, Vec<String>)> = Vec::new();
    let mut add = |what, read, code, parts: &[&str]| {
        reads.push((what, read, code, parts.iter().map(|part| (*part).to_owned()).collect()));
    };
    let ask = |query| v1::Read { query: Some(query), ..Default::default() };
    for (what, path, parts) in bad_paths() {
        add(what, wire::get(&path), Code::InvalidArgument, &parts);
        add(
            what,
            ask(Query::List(ListQuery { path: path.clone(), ..Default::default() })),
            Code::InvalidArgument,
            &parts,
        );
        let history = Query::History(HistoryQuery { path: path.clone(), ..Default::default() });
        add(what, ask(history), Code::InvalidArgument, &parts);
        if !path.is_empty() {
            let queues = Query::Queues(QueuesQuery { prefix: path, ..Default::default() });
            add(what, ask(queues), Code::InvalidArgument, &parts);
        }
    }
    add("nothing", v1::Read::default(), Code::InvalidArgument, &["asks for nothing", "get, list, queues, history"]);
    let at = |revision| v1::Read { at_revision: revision, ..wire::get("/a") };
    add("the future", at(newest + 1_000), Code::FutureRevision, &[&future, "not yet", "newest"]);
    add("the forgotten past", at(1), Code::Compacted, &["compacted", "oldest known is"]);
    let list = |after: &str| ListQuery { path: "/a".into(), after: after.into(), ..Default::default() };
    add(
        "a list of nothing",
        ask(Query::List(ListQuery { path: "/no".into(), ..Default::default() })),
        Code::NoNode,
        &["/no"],
    );
    add("after what is elsewhere", ask(Query::List(list("/b"))), Code::InvalidArgument, &["after=/b", "not below"]);
    let queues = Query::Queues(QueuesQuery::default());
    let past_queues = v1::Read { at_revision: newest, query: Some(queues), ..Default::default() };
    add("queues of the past", past_queues, Code::InvalidArgument, &["past revision"]);
    for (what, read, code, parts) in reads {
        let reply = store.query(read.clone()).await.unwrap_or_else(|status| panic!("{what}: {status}")).into_inner();
        let Some(v1::read_reply::Body::Error(error)) = reply.body else { panic!("{what}: {reply:?}") };
        check(what, &error, code, &parts);
        let id = raw.send_read(read);
        let reply = raw.reply(id, &mut Vec::new()).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(reply.body, Some(v1::reply::Body::Error(error)), "{what}: with a session");
    }

    let subtree = v1::Scope::Subtree.into();
    let mut watches: Vec<(&str, v1::WatchOpen, WatchOver, Vec<&str>)> = Vec::new();
    for (what, path, parts) in bad_paths() {
        let open = v1::WatchOpen { watch: 3, path, scope: subtree, from_revision: 0 };
        watches.push((what, open, WatchOver::Invalid, parts));
    }
    let watch = |scope, from_revision| v1::WatchOpen { watch: 3, path: "/a".into(), scope, from_revision };
    watches.push(("no scope", watch(8, 0), WatchOver::Invalid, vec!["scope 8", "SUBTREE"]));
    watches.push(("the forgotten past", watch(subtree, 1), WatchOver::Compacted, vec!["compacted", "oldest known"]));
    for (what, open, reason, parts) in watches {
        raw.say(vec![Say::Watch(open.clone())]);
        let ended = raw.until("WatchEnded", |item| match item {
            Hear::WatchEnded(ended) => Some(ended.clone()),
            _ => None,
        });
        let ended = ended.await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!((ended.watch, ended.reason()), (3, reason), "{what}: {}", ended.message);
        for part in parts {
            assert!(ended.message.contains(part), "{what}: {part:?} is not in {:?}", ended.message);
        }
        let resume = ended.resume_revision;
        assert_eq!(resume > 1, reason == WatchOver::Compacted, "{what}: resume from {resume}");
        let mut items = store.watch(open).await.unwrap_or_else(|status| panic!("{what}: {status}")).into_inner();
        match items.message().await.unwrap_or_else(|status| panic!("{what}: {status}")).and_then(|item| item.item) {
            Some(v1::watch_item::Item::Ended(unary)) => assert_eq!(unary, ended, "{what}: without a session"),
            other => panic!("{what}: {other:?}"),
        }
        // A watch that ended by itself is over: its name is free, cancelling it is no mistake.
        raw.say(vec![Say::Cancel(v1::WatchCancel { watch: 3 })]);
    }

    // One of the future waits for it.
    raw.say(vec![Say::Watch(watch(subtree, newest + 2))]);
    raw.txn(txn(wire::put("/a", "not told"))).await.expect("a write");
    let told = raw.send_txn(txn(wire::put("/a", "told")));
    let mut others = Vec::new();
    raw.reply(told, &mut others).await.expect("a reply");
    let events: Vec<u64> = others
        .iter()
        .filter_map(|item| if let Hear::Events(events) = item { Some(events.revision) } else { None })
        .collect();
    assert_eq!(events, [newest + 2]);

    // Queue watches.
    let queue = |path: &str, permits| v1::QueueWatch { watch: 4, path: path.into(), permits, blocking: String::new() };
    for (what, open, reason, parts) in [
        ("a node without a number", queue("/a", 1), WatchOver::Gone, vec!["/a", "sequential"]),
        ("a node that is not", queue("/a/no", 1), WatchOver::Gone, vec!["/a/no", "sequential"]),
        ("the root", queue("/", 1), WatchOver::Invalid, vec!["root"]),
        ("no path", queue("a", 1), WatchOver::Invalid, vec!["begin with '/'"]),
        ("no permits", queue("/a", 0), WatchOver::Invalid, vec!["permits is 0"]),
    ] {
        raw.say(vec![Say::QueueWatch(open)]);
        let ended = raw.until("WatchEnded", |item| match item {
            Hear::WatchEnded(ended) if ended.watch == 4 => Some(ended.clone()),
            _ => None,
        });
        let ended = ended.await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(ended.reason(), reason, "{what}: {}", ended.message);
        for part in parts {
            assert!(ended.message.contains(part), "{what}: {part:?} is not in {:?}", ended.message);
        }
    }

    // More watches than one stream may have.
    let mut raw = Raw::open_on(channel, TTL).await.expect("a session");
    raw.say((1..=9).map(|name| Say::Watch(v1::WatchOpen { watch: name, ..watch(subtree, 0) })).collect());
    let ended = raw.until("WatchEnded", |item| match item {
        Hear::WatchEnded(ended) => Some(ended.clone()),
        _ => None,
    });
    let ended = ended.await.expect("the ninth is refused");
    assert_eq!((ended.watch, ended.reason()), (9, WatchOver::Invalid));
    assert!(ended.message.contains("watches_per_stream_max is 8"), "{}", ended.message);
    // A watch that nobody has can be cancelled; the stream lives.
    raw.say(vec![Say::Cancel(v1::WatchCancel { watch: 999 })]);
    raw.txn(txn(wire::put("/a", "fine"))).await.expect("the stream goes on");
    still_serves(&mut cluster, pid, "bad reads and watches").await;
}

fn frame(items: Vec<Say>) -> Bytes {
    let items = items.into_iter().map(|item| ClientItem { item: Some(item) }).collect();
    ClientFrame { items }.encode_to_vec().into()
}

fn hello() -> v1::Hello {
    wire::new_session(TTL)
}

/// How a stream with these messages ends.
async fn over(channel: &Channel, what: &str, messages: Vec<Bytes>) -> v1::SessionEnded {
    let heard = wire::stream_bytes(channel.clone(), messages, Duration::from_secs(30)).await;
    match heard.unwrap_or_else(|status| panic!("{what}: {status:?}")).pop() {
        Some(Hear::Ended(ended)) => ended,
        other => panic!("{what}: the last word is no end: {other:?}"),
    }
}

/// Session streams that break the protocol: each is told why it is over, and a session is not lost by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_stream_is_told_why_it_is_over() {
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    furnish(&cluster).await;
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let raw = Raw::open_on(channel.clone(), TTL).await.expect("a session");
    let known = raw.resume_hello();
    let call = |id| Say::Call(v1::Call { id, body: Some(v1::call::Body::Read(wire::get("/a"))), ..Default::default() });
    let with = |change: fn(&mut v1::Hello)| {
        let mut hello = hello();
        change(&mut hello);
        Say::Hello(hello)
    };
    let watch = || Say::Watch(v1::WatchOpen { watch: 1, path: "/a".into(), scope: 0, from_revision: 0 });
    let queue = || Say::QueueWatch(v1::QueueWatch { watch: 1, path: "/a".into(), permits: 1, blocking: String::new() });
    let mut not_utf8 = frame(vec![Say::Hello(v1::Hello { name: "NAME".into(), ..hello() })]).to_vec();
    let at = not_utf8.windows(4).position(|window| window == b"NAME").expect("the name");
    not_utf8[at] = 0xff;
    let big = wire::put("/big", vec![7; 2 << 20]);
    let big = Say::Call(v1::Call { id: 1, number: 1, body: Some(v1::call::Body::Txn(txn(big))), ..Default::default() });

    let cases: Vec<(&str, Vec<Bytes>, Over, Vec<&str>)> = vec![
        ("a call before Hello", vec![frame(vec![call(1)])], Over::Protocol, vec!["first item", "Hello"]),
        ("an empty first frame", vec![frame(vec![])], Over::Protocol, vec!["first item", "Hello"]),
        (
            "Hello twice",
            vec![frame(vec![Say::Hello(hello()), Say::Hello(hello())])],
            Over::Protocol,
            vec!["first item"],
        ),
        (
            "Hello twice, in two frames",
            vec![frame(vec![Say::Hello(hello())]), frame(vec![Say::Hello(hello())])],
            Over::Protocol,
            vec!["first item"],
        ),
        (
            "an item of a kind to come",
            vec![frame(vec![Say::Hello(hello())]), Bytes::from_static(&[0x0a, 0x04, 0xfa, 0x06, 0x01, 0x00])],
            Over::Protocol,
            vec!["does not know"],
        ),
        ("a TTL of 0", vec![frame(vec![with(|hello| hello.ttl_ms = 0)])], Over::Refused, vec!["ttl_min", "500"]),
        ("a TTL too short", vec![frame(vec![with(|hello| hello.ttl_ms = 499)])], Over::Refused, vec!["ttl_min", "499"]),
        (
            "a TTL too long",
            vec![frame(vec![with(|hello| hello.ttl_ms = 86_400_001)])],
            Over::Refused,
            vec!["ttl_max", "86400000"],
        ),
        (
            "a secret too short",
            vec![frame(vec![with(|hello| hello.secret = Bytes::from_static(b"short"))])],
            Over::Refused,
            vec!["5 bytes", "16"],
        ),
        (
            "a name too long",
            vec![frame(vec![with(|hello| hello.name = "n".repeat(257))])],
            Over::Refused,
            vec!["name_bytes_max", "256", "257"],
        ),
        (
            "a session nobody opened",
            vec![frame(vec![with(|hello| hello.session = 987_654_321)])],
            Over::NoSession,
            vec!["no such session"],
        ),
        (
            "another secret",
            vec![frame(vec![Say::Hello(v1::Hello {
                secret: Bytes::from_static(b"another--secret!"),
                ..known.clone()
            })])],
            Over::WrongSecret,
            vec!["secret"],
        ),
        (
            "garbage",
            vec![Bytes::from_static(b"\xff\xff\xff\xff garbage")],
            Over::Protocol,
            vec!["no message of this protocol"],
        ),
        (
            "garbage later",
            vec![frame(vec![Say::Hello(hello())]), Bytes::from_static(b"\x0a\xff\x01")],
            Over::Protocol,
            vec!["no message of this protocol"],
        ),
        ("text that is no UTF-8", vec![Bytes::from(not_utf8)], Over::Protocol, vec!["UTF-8"]),
        (
            "a frame too large",
            vec![frame(vec![Say::Hello(hello())]), frame(vec![big])],
            Over::Protocol,
            vec!["too large", "request_bytes_max is 2097152"],
        ),
        (
            "two watches of one name",
            vec![frame(vec![Say::Hello(hello()), watch(), watch()])],
            Over::Protocol,
            vec!["watch", "1"],
        ),
        (
            "a watch and a queue watch of one name",
            vec![frame(vec![Say::Hello(hello()), watch(), queue()])],
            Over::Protocol,
            vec!["watch", "1"],
        ),
        (
            "twice as many calls as are allowed and more",
            vec![frame(std::iter::once(Say::Hello(hello())).chain((1..=40).map(call)).collect())],
            Over::Protocol,
            vec!["unanswered", "in_flight_max=16"],
        ),
    ];
    for (what, messages, reason, parts) in cases {
        let ended = over(&channel, what, messages).await;
        assert_eq!(ended.reason(), reason, "{what}: {}", ended.message);
        for part in parts {
            assert!(ended.message.contains(part), "{what}: {part:?} is not in {:?}", ended.message);
        }
    }
    // None of that touched the session whose secret was guessed.
    let mut raw = raw;
    raw.txn(txn(wire::put("/a", "mine"))).await.expect("the session goes on");
    still_serves(&mut cluster, pid, "broken streams").await;
}

/// Numbers out of order, too many calls at once, and batches that are merely huge: the stream lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_floods_get_an_answer_each() {
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let mut raw = Raw::open_on(channel.clone(), TTL).await.expect("a session");
    let write = || txn(wire::put("/n", "x"));
    let error_of = |reply: v1::Reply| match reply.body {
        Some(v1::reply::Body::Error(error)) => error,
        other => panic!("expected an error, heard {other:?}"),
    };
    let id = raw.send_numbered(0, write());
    let error = error_of(raw.reply(id, &mut Vec::new()).await.expect("a reply"));
    check("no number", &error, Code::InvalidArgument, &["number".into(), "1, 2, 3".into()]);
    let id = raw.send_numbered(2, write());
    let error = error_of(raw.reply(id, &mut Vec::new()).await.expect("a reply"));
    check("a gap", &error, Code::OutOfOrder, &["number=2".into(), "expected=1".into()]);
    assert_eq!((error.expected, error.retry), (1, true));
    let id = raw.send_numbered(1, write());
    let first = wire::txn_of(raw.reply(id, &mut Vec::new()).await.expect("a reply")).expect("applied");
    let id = raw.send_numbered(1, write());
    let again = wire::txn_of(raw.reply(id, &mut Vec::new()).await.expect("a reply")).expect("applied");
    assert_eq!(first, again, "a repetition gets the first answer");
    let acknowledge = |id, number, acknowledged| {
        let body = Some(v1::call::Body::Txn(txn(wire::put("/n", "y"))));
        Say::Call(v1::Call { id, number, acknowledged, body, ..Default::default() })
    };
    let id = raw.call_id();
    raw.say(vec![acknowledge(id, 2, 1)]);
    wire::txn_of(raw.reply(id, &mut Vec::new()).await.expect("a reply")).expect("applied");
    let id = raw.send_numbered(1, write());
    let error = error_of(raw.reply(id, &mut Vec::new()).await.expect("a reply"));
    assert_eq!(error.code(), Code::AnswerForgotten, "{error:?}");
    assert_eq!(error.effect(), v1::Effect::Unknown, "it may have been applied, once: {error:?}");
    let id = raw.call_id();
    raw.say(vec![acknowledge(id, 3, 99)]);
    let error = error_of(raw.reply(id, &mut Vec::new()).await.expect("a reply"));
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert!(error.message.contains("acknowledged=99"), "{error:?}");
    let id = raw.call_id();
    raw.say(vec![Say::Call(v1::Call { id, number: 0, ..Default::default() })]);
    let error = error_of(raw.reply(id, &mut Vec::new()).await.expect("a reply"));
    check("a call of no kind", &error, Code::InvalidArgument, &["no body".into(), "txn, read".into()]);

    // Reads of one frame wait for one round: the bound is met exactly.
    let calls = 30;
    let reads: Vec<u64> = (0..calls).map(|_| raw.call_id()).collect();
    let call = |id: &u64| {
        Say::Call(v1::Call { id: *id, body: Some(v1::call::Body::Read(wire::get("/n"))), ..Default::default() })
    };
    raw.say(reads.iter().map(call).collect());
    let mut refused = 0;
    for (n, id) in reads.iter().enumerate() {
        match raw.next().await.expect("the stream goes on") {
            Some(Hear::Reply(reply)) => {
                assert_eq!(reply.id, *id, "replies come in the order of the calls");
                match reply.body {
                    Some(v1::reply::Body::Read(_)) => assert!(n < IN_FLIGHT_MAX, "call {n} was one too many"),
                    Some(v1::reply::Body::Error(error)) => {
                        check("too many calls", &error, Code::Overloaded, &["in_flight_max is 16".into()]);
                        assert!(error.retry, "{error:?}");
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("expected a reply, heard {other:?}"),
        }
    }
    assert_eq!(refused, calls - IN_FLIGHT_MAX);

    // As many items as a frame can hold.
    let many = 150_000;
    raw.say((0..many).map(|id| Say::KeepAlive(v1::KeepAlive { id })).collect());
    let acknowledged = raw.until("the last keep-alive's acknowledgement", |item| match item {
        Hear::KeepAlive(ack) if ack.id == many - 1 => Some(()),
        _ => None,
    });
    acknowledged.await.expect("they are alive");
    let id = raw.send_numbered(3, txn(wire::put("/n", "after")));
    wire::txn_of(raw.reply(id, &mut Vec::new()).await.expect("a reply")).expect("number 3 was not used up before");
    still_serves(&mut cluster, pid, "floods").await;
}

/// Bytes that are no message, in calls without a session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_no_messages_get_a_status_in_words() {
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    let channel = wire::connect(&cluster.endpoint(1)).await.expect("a connection");
    let spoilt = |message: Vec<u8>| {
        let mut bytes = message;
        let at = bytes.windows(4).position(|window| window == b"SPOI").expect("the mark");
        bytes[at] = 0xff;
        Bytes::from(bytes)
    };
    let path = "/SPOI";
    let apply = "/conclave.v1.Store/Apply";
    let query = "/conclave.v1.Store/Query";
    let cases: Vec<(&str, &'static str, Bytes, Vec<&str>)> = vec![
        ("a path that is no UTF-8", apply, spoilt(txn(wire::put(path, "x")).encode_to_vec()), vec!["UTF-8"]),
        ("a read of such a path", query, spoilt(wire::get(path).encode_to_vec()), vec!["UTF-8"]),
        ("garbage", apply, Bytes::from_static(b"\xff\xff\xff\xff\xff"), vec!["no message of this protocol"]),
        ("a message cut short", query, Bytes::from_static(&[0x22, 0x7f, b'/']), vec!["no message of this protocol"]),
        (
            "a message too large",
            apply,
            txn(wire::put("/big", vec![0; 2 << 20])).encode_to_vec().into(),
            vec!["too large", "request_bytes_max is 2097152"],
        ),
        (
            "a session's admin, spoilt",
            "/conclave.v1.Admin/KillSession",
            Bytes::from_static(b"\x08"),
            vec!["no message of this protocol"],
        ),
    ];
    for (what, method, message, parts) in cases {
        let status = wire::unary_bytes(channel.clone(), method, message).await.expect_err(what);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{what}: {status:?}");
        for part in parts {
            assert!(status.message().contains(part), "{what}: {part:?} is not in {:?}", status.message());
        }
    }
    let status = wire::unary_bytes(channel, "/conclave.v1.Store/Nothing", Bytes::new()).await.expect_err("no method");
    assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
    still_serves(&mut cluster, pid, "garbage").await;
}

fn conclave(cluster: &Cluster, args: &[OsString]) -> Output {
    Command::new(binary("conclave").expect("it is built"))
        .args(["--endpoints", &cluster.endpoint(1)])
        .args(args)
        .output()
        .expect("it runs")
}

/// The same over the command line: an exit code for the shell, a line for people, nothing on the standard output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_is_wrong() {
    const USAGE: i32 = 64;
    const REFUSED: i32 = 65;
    const NOT_FOUND: i32 = 66;
    const DENIED: i32 = 77;
    let mut cluster = start().await;
    let pid = cluster.pid(1).expect("it runs");
    furnish(&cluster).await;
    for n in 0..120 {
        let client = conclave_client::Client::connect(cluster.endpoints()).await.expect("a client");
        client.put("/a", n.to_string()).await.expect("a write");
    }
    let file = cluster.dir().join("large");
    std::fs::write(&file, vec![0; (1 << 20) + 1]).expect("a file");
    let huge = cluster.dir().join("huge");
    std::fs::write(&huge, vec![0; 3 << 20]).expect("a file");
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let spoilt = || OsString::from_vec(b"/sp\xff".to_vec());
    let mut many = words(&["txn"]);
    for n in 0..129 {
        many.extend(words(&["--then", &format!("put /many/{n} x")]));
    }

    let mut cases: Vec<(&str, Vec<OsString>, i32, Vec<&str>)> = vec![
        ("no UTF-8 in a path to get", vec!["get".into(), spoilt()], USAGE, vec!["UTF-8"]),
        ("no UTF-8 in a path to put", vec!["put".into(), spoilt(), "x".into()], USAGE, vec!["UTF-8"]),
        (
            "the reserved subtree",
            words(&["put", "/conclave/x", "y"]),
            DENIED,
            vec!["/conclave/x", "belongs to the cluster"],
        ),
        ("the root", words(&["del", "/", "--recursive"]), DENIED, vec!["root"]),
        (
            "data too large",
            vec!["put".into(), "/big".into(), "--file".into(), file.into()],
            REFUSED,
            vec!["data_bytes_max", "1048576", "1048577"],
        ),
        (
            "a request too large",
            vec!["put".into(), "/big".into(), "--file".into(), huge.into()],
            REFUSED,
            vec!["2097152"],
        ),
        ("129 operations", many, REFUSED, vec!["txn_ops_max", "128", "129"]),
        ("no parent", words(&["put", "--no-parents", "/no/such/x", "y"]), REFUSED, vec!["parent", "/no"]),
        ("a node with children", words(&["del", "/full"]), REFUSED, vec!["children", "/full"]),
        ("a node that is not", words(&["get", "/nothing"]), NOT_FOUND, vec!["/nothing"]),
        ("the future", words(&["get", "/a", "--rev", "99999"]), REFUSED, vec!["99999", "not yet"]),
        ("the forgotten past", words(&["get", "/a", "--rev", "1"]), REFUSED, vec!["compacted"]),
        ("no transaction", words(&["txn", "--then", "fly /a"]), USAGE, vec!["fly"]),
        ("no such command", words(&["fly"]), USAGE, vec!["fly"]),
        ("no arguments", words(&["put"]), USAGE, vec!["PATH"]),
        ("a lock of no name", words(&["lock", "", "--", "true"]), USAGE, vec!["end with '/'", "/locks/deploy"]),
        ("a lock of no path", words(&["lock", "a//b", "--", "true"]), USAGE, vec!["names nothing", "/locks/deploy"]),
        ("a TTL too short", words(&["lock", "/l", "--ttl", "1ms", "--", "true"]), USAGE, vec!["--ttl 1ms", "500ms"]),
    ];
    for (what, path, parts) in bad_paths() {
        if !path.contains('\0') {
            cases.push((what, words(&["get", &path]), USAGE, parts.clone()));
            cases.push((what, words(&["put", &path, "x"]), USAGE, parts));
        }
    }
    for (what, args, code, parts) in cases {
        let output = conclave(&cluster, &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(!said.trim().is_empty(), "{what}: nothing was said");
        assert!(!said.contains("panicked"), "{what}: {said}");
        for part in parts {
            assert!(said.contains(part), "{what}: {part:?} is not in {said:?}");
        }
    }
    eventually("the server", || async { cluster.probe(1).await.map_err(|error| error.to_string()) }).await;
    still_serves(&mut cluster, pid, "the command line").await;
}
