//! Whole servers in this process, on ports of the system's choice, spoken to over gRPC without the client library.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use conclave_proto::v1::{self, client_item::Item as Ask, server_item::Item as Told, session_ended, watch_ended};
use conclave_server::{
    config::{Config, Limits, Member, Size},
    run::{Sockets, run},
};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

struct Server {
    id: u64,
    client: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Cluster {
    servers: Vec<Server>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(size: u64, change: impl Fn(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut sockets = Vec::new();
        let mut members = Vec::new();
        for id in 1..=size {
            let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let socket = Sockets { client: bind().await, peer: None, http: bind().await };
            let address = socket.client.local_addr().expect("an address").to_string();
            members.push(Member { id, address, client_address: String::new() });
            sockets.push(socket);
        }
        let servers = sockets
            .into_iter()
            .zip(1..)
            .map(|(socket, id)| {
                let mut config = Config {
                    id,
                    cluster: "test".into(),
                    data_dir: dir.path().join(id.to_string()),
                    members: members.clone(),
                    ..Config::default()
                };
                change(&mut config);
                let stop = CancellationToken::new();
                let (client, http) = (socket.client.local_addr().unwrap(), socket.http.local_addr().unwrap());
                let stopped = stop.clone().cancelled_owned();
                let task = tokio::spawn(async move { run(config, socket, stopped).await.expect("it runs") });
                Server { id, client, http, stop, task }
            })
            .collect();
        let cluster = Self { servers, _dir: dir };
        for server in &cluster.servers {
            within("a ready server", async {
                while !get(server.http, "/readyz").await.starts_with("HTTP/1.1 200") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
        cluster
    }

    async fn leader(&self) -> &Server {
        within("a leader", async {
            loop {
                for server in &self.servers {
                    let status = server.admin().await.status(v1::StatusRequest {}).await;
                    if let Ok(status) = status
                        && status.into_inner().role() == v1::Role::Leader
                    {
                        return server;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    async fn stop(self) {
        for server in self.servers {
            server.stop.cancel();
            within("a stopped server", server.task).await.expect("it stopped well");
        }
    }
}

impl Server {
    async fn channel(&self) -> Channel {
        endpoint(self.client).connect().await.expect("a connection")
    }

    async fn admin(&self) -> v1::admin_client::AdminClient<Channel> {
        v1::admin_client::AdminClient::new(self.channel().await)
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = get(self.http, "/metrics").await;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let value = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).rsplit(' ').next();
        value.and_then(|value| value.parse().ok()).expect("a number")
    }
}

/// Small windows for streams, a large one for the connection: as the client library should have it.
fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(16 << 20)
}

async fn get(address: SocketAddr, page: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {page} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// A session stream, spoken by hand.
struct Stream {
    out: mpsc::UnboundedSender<v1::ClientFrame>,
    inbound: Streaming<v1::ServerFrame>,
    items: VecDeque<Told>,
    number: u64,
    acknowledged: u64,
}

const SECRET: &[u8] = &[7; 16];

fn hello() -> v1::Hello {
    v1::Hello { secret: Bytes::from_static(SECRET), ttl_ms: 3_600_000, name: "a test".into(), ..Default::default() }
}

impl Stream {
    async fn open(channel: Channel, first: Vec<Ask>) -> Self {
        let (out, frames) = mpsc::unbounded_channel();
        out.send(frame(first)).expect("room");
        let mut client = v1::sessions_client::SessionsClient::new(channel).max_decoding_message_size(64 << 20);
        let inbound = client.stream(UnboundedReceiverStream::new(frames)).await.expect("a stream").into_inner();
        Self { out, inbound, items: VecDeque::new(), number: 0, acknowledged: 0 }
    }

    /// A new session.
    async fn session(channel: Channel) -> (Self, v1::Welcome) {
        Self::greet(channel, hello()).await
    }

    async fn greet(channel: Channel, hello: v1::Hello) -> (Self, v1::Welcome) {
        let mut stream = Self::open(channel, vec![Ask::Hello(hello)]).await;
        match stream.next().await {
            Told::Welcome(welcome) => (stream, welcome),
            other => panic!("no welcome: {other:?}"),
        }
    }

    fn send(&self, items: Vec<Ask>) {
        let _ = self.out.send(frame(items)); // the stream may have ended
    }

    async fn try_next(&mut self) -> Result<Option<Told>, Status> {
        within("an item", async {
            loop {
                if let Some(item) = self.items.pop_front() {
                    return Ok(Some(item));
                }
                match self.inbound.message().await? {
                    None => return Ok(None),
                    Some(frame) => {
                        self.items.extend(frame.items.into_iter().map(|item| item.item.expect("an item")));
                    }
                }
            }
        })
        .await
    }

    async fn next(&mut self) -> Told {
        self.try_next().await.expect("no error").expect("not the end")
    }

    async fn reply(&mut self) -> v1::Reply {
        match self.next().await {
            Told::Reply(reply) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    async fn ended(&mut self) -> v1::SessionEnded {
        let ended = match self.next().await {
            Told::Ended(ended) => ended,
            other => panic!("not ended: {other:?}"),
        };
        assert_eq!(self.try_next().await.expect("no error"), None, "nothing follows");
        ended
    }

    /// The next numbered call.
    fn txn(&mut self, then: Vec<v1::op::Op>) -> v1::Call {
        self.number += 1;
        // Whoever waits for each reply before the next call has all earlier ones.
        v1::Call { acknowledged: self.acknowledged, ..call(self.number, then) }
    }

    async fn put(&mut self, path: &str, data: &[u8]) -> v1::Reply {
        let call = self.txn(vec![put(path, data)]);
        self.send(vec![Ask::Call(call)]);
        let reply = self.reply().await;
        self.acknowledged = self.number;
        reply
    }

    /// Enters a queue; the reply.
    async fn enter(&mut self, path: &str, watch: u64) -> v1::Reply {
        let mut call = self.txn(vec![sequential(path)]);
        call.queue = Some(v1::QueueWatch { watch, permits: 1, blocking: "lock-".into(), path: String::new() });
        self.send(vec![Ask::Call(call)]);
        self.reply().await
    }
}

fn frame(items: Vec<Ask>) -> v1::ClientFrame {
    v1::ClientFrame { items: items.into_iter().map(|item| v1::ClientItem { item: Some(item) }).collect() }
}

fn call(number: u64, then: Vec<v1::op::Op>) -> v1::Call {
    let then = then.into_iter().map(|op| v1::Op { op: Some(op) }).collect();
    let body = Some(v1::call::Body::Txn(v1::Txn { then, ..Default::default() }));
    v1::Call { id: number, number, body, ..Default::default() }
}

fn put(path: &str, data: &[u8]) -> v1::op::Op {
    v1::op::Op::Put(v1::op::Put { path: path.into(), data: Bytes::copy_from_slice(data), create_parents: true })
}

fn sequential(path: &str) -> v1::op::Op {
    v1::op::Op::Create(v1::op::Create {
        path: path.into(),
        kind: v1::Kind::Ephemeral.into(),
        sequential: true,
        create_parents: true,
        parents_kind: v1::Kind::Container.into(),
        ..Default::default()
    })
}

fn delete(path: &str) -> v1::op::Op {
    v1::op::Op::Delete(v1::op::Delete { path: path.into(), recursive: false })
}

fn read(id: u64, query: v1::read::Query) -> Ask {
    let read = v1::Read { query: Some(query), ..Default::default() };
    Ask::Call(v1::Call { id, body: Some(v1::call::Body::Read(read)), ..Default::default() })
}

fn watch(watch: u64, path: &str, scope: v1::Scope, from_revision: u64) -> Ask {
    Ask::Watch(v1::WatchOpen { watch, path: path.into(), scope: scope.into(), from_revision })
}

fn error(reply: &v1::Reply) -> &v1::Error {
    match &reply.body {
        Some(v1::reply::Body::Error(error)) => error,
        other => panic!("no error: {other:?}"),
    }
}

fn result(reply: &v1::Reply) -> &v1::TxnResult {
    match &reply.body {
        Some(v1::reply::Body::Txn(result)) => result,
        other => panic!("no result: {other:?}"),
    }
}

fn created(reply: &v1::Reply) -> String {
    match &result(reply).results[0].result {
        Some(v1::op_result::Result::Created(created)) => created.path.clone(),
        other => panic!("nothing created: {other:?}"),
    }
}

fn data(reply: &v1::Reply) -> Option<Bytes> {
    match &reply.body {
        Some(v1::reply::Body::Read(v1::ReadResult { result: Some(v1::read_result::Result::Get(got)), .. })) => {
            got.node.as_ref().map(|node| node.data.clone())
        }
        other => panic!("nothing read: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_calls_are_answered_in_order_and_events_come_before_replies() {
    let cluster = Cluster::start(1, |_| {}).await;
    let (mut stream, welcome) = Stream::session(cluster.servers[0].channel().await).await;
    assert_eq!((welcome.server, &*welcome.cluster, welcome.last_number), (1, "test", 0));
    stream.send(vec![watch(1, "/a", v1::Scope::Node, 0)]);
    assert!(matches!(stream.next().await, Told::WatchStarted(_)));
    let (first, second) = (stream.txn(vec![put("/a", b"1")]), stream.txn(vec![put("/a", b"2")]));
    stream.send(vec![
        Ask::Call(first),
        read(101, v1::read::Query::Get("/a".into())),
        Ask::Call(second),
        read(102, v1::read::Query::Get("/a".into())),
        read(103, v1::read::Query::Get("/none".into())),
    ]);
    let mut replies = Vec::new();
    let mut told = 0;
    while replies.len() < 5 {
        match stream.next().await {
            Told::Events(events) => told = events.revision,
            Told::Reply(reply) => {
                assert!(told >= reply.revision, "a change is seen in a reply before it is told: {reply:?}");
                replies.push(reply);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(replies.iter().map(|reply| reply.id).collect::<Vec<_>>(), [1, 101, 2, 102, 103]);
    let seen = data(&replies[1]).expect("there");
    assert!(seen == "1" || seen == "2", "a read sees the writes before it: {seen:?}");
    assert_eq!(data(&replies[3]), Some(Bytes::from_static(b"2")));
    assert_eq!(data(&replies[4]), None);
    // A repetition gets the first answer, a gap is refused with what is expected.
    stream.send(vec![Ask::Call(call(2, vec![put("/a", b"again")])), Ask::Call(call(9, vec![put("/a", b"gap")]))]);
    assert_eq!(result(&stream.reply().await), result(&replies[2]));
    let gap = stream.reply().await;
    assert_eq!((error(&gap).code(), error(&gap).expected), (v1::Code::OutOfOrder, 3));
    // Closing.
    stream.send(vec![Ask::Close(v1::Close {})]);
    assert_eq!(stream.ended().await.reason(), session_ended::Reason::Closed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_pass_on_in_order_and_wake_one_at_a_time() {
    let cluster = Cluster::start(1, |_| {}).await;
    let channel = cluster.servers[0].channel().await;
    let mut waiters = Vec::new();
    for n in 0..20 {
        let (mut stream, _) = Stream::session(channel.clone()).await;
        let reply = stream.enter("/locks/a/lock-", 1).await;
        assert_eq!(reply.queue_ready, n == 0, "{reply:?}");
        waiters.push((created(&reply), stream));
    }
    // The fifth ends its session, the seventh gives up its place.
    let mut fifth = waiters.remove(4).1;
    fifth.send(vec![Ask::Close(v1::Close {})]);
    assert!(matches!(fifth.next().await, Told::WatchEnded(ended) if ended.reason() == watch_ended::Reason::Gone));
    assert_eq!(fifth.ended().await.reason(), session_ended::Reason::Closed);
    let (node, mut stream) = waiters.remove(5);
    let leave = stream.txn(vec![delete(&node)]);
    stream.send(vec![Ask::Call(leave)]);
    let ended = stream.next().await;
    let Told::WatchEnded(ended) = ended else { panic!("{ended:?}") };
    assert_eq!(ended.reason(), watch_ended::Reason::Gone);
    assert_eq!(result(&stream.reply().await).results.len(), 1);
    let server = &cluster.servers[0];
    let mut ready = server.metric("conclave_queue_ready_total").await;
    for n in 0..waiters.len() - 1 {
        let (node, stream) = &mut waiters[n];
        let release = stream.txn(vec![delete(node)]);
        stream.send(vec![Ask::Call(release)]);
        assert_eq!(result(&stream.reply().await).results.len(), 1);
        let next = waiters[n + 1].1.next().await;
        assert!(matches!(next, Told::QueueReady(v1::QueueReady { watch: 1, .. })), "{next:?}");
        ready += 1.0;
        assert_eq!(server.metric("conclave_queue_ready_total").await, ready, "one release wakes one waiter");
    }
    assert_eq!(server.metric("conclave_queue_watches").await, 0.0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_delays_nobody_and_catches_up() {
    let cluster = Cluster::start(1, |_| {}).await;
    let server = &cluster.servers[0];
    let channel = server.channel().await;
    let (mut slow, _) = Stream::session(channel.clone()).await;
    slow.send(vec![watch(1, "/", v1::Scope::Subtree, 0)]);
    assert!(matches!(slow.next().await, Told::WatchStarted(_)));
    // On the same connection.
    let (mut writer, _) = Stream::session(channel).await;
    let count = 3_000;
    for n in 0..count {
        let reply = writer.put(&format!("/n/{}", n % 7), &[1; 2_000]).await;
        assert_eq!(result(&reply).revision, n + 1);
    }
    assert_eq!(server.metric("conclave_watches_behind").await, 1.0);
    let waiting = server.metric("conclave_outbox_bytes_largest").await;
    assert!(waiting <= f64::from(1 << 20), "{waiting} bytes wait");
    // Its own requests go through meanwhile; their answers come after the events they reflect.
    let own = slow.txn(vec![put("/own", b"x")]);
    slow.send(vec![Ask::Call(own), Ask::KeepAlive(v1::KeepAlive { id: 77 })]);
    within("the slow reader's own write", async {
        while server.metric("conclave_revision").await < (count + 1) as f64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut next = 1;
    let mut acknowledged = false;
    loop {
        match slow.next().await {
            Told::Events(events) => {
                assert_eq!(events.revision, next, "in order, none twice, none missing");
                next += 1;
            }
            Told::KeepAlive(ack) => acknowledged = ack.id == 77,
            Told::Reply(reply) => {
                assert_eq!((reply.id, next), (1, count + 2));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(acknowledged);
    assert_eq!(server.metric("conclave_watches_behind").await, 0.0);
    writer.put("/n/0", b"live").await;
    assert!(matches!(slow.next().await, Told::Events(v1::Events { revision, .. }) if revision == next));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_on_another_server_and_its_former_stream_is_told() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await.id;
    let [first, second] = [0, 1].map(|n| cluster.servers.iter().filter(|server| server.id != leader).nth(n).unwrap());
    let (mut stream, welcome) = Stream::session(first.channel().await).await;
    let reply = stream.enter("/locks/a/lock-", 5).await;
    assert!(reply.queue_ready);
    let mut resume = v1::Hello { session: welcome.session, seen_revision: reply.revision, ..hello() };

    // A second stream to the same server replaces the first.
    let (mut stream2, again) = Stream::greet(first.channel().await, resume.clone()).await;
    assert_eq!((again.session, again.last_number), (welcome.session, 1));
    assert_eq!(stream.ended().await.reason(), session_ended::Reason::Replaced);

    // On another server the retry of an unanswered call meets its answer.
    let (mut stream3, _) = Stream::greet(second.channel().await, resume.clone()).await;
    let repeated = stream3.enter("/locks/a/lock-", 6).await;
    assert_eq!((result(&repeated), repeated.queue_ready), (result(&reply), true));

    // Nobody else gets in.
    resume.secret = Bytes::from_static(&[8; 16]);
    let mut stranger = Stream::open(second.channel().await, vec![Ask::Hello(resume.clone())]).await;
    assert_eq!(stranger.ended().await.reason(), session_ended::Reason::WrongSecret);
    resume.session = 12_345;
    let mut stranger = Stream::open(second.channel().await, vec![Ask::Hello(resume)]).await;
    assert_eq!(stranger.ended().await.reason(), session_ended::Reason::NoSession);

    // A follower knows the sessions from the leader; killing one tells its streams.
    let mut admin = second.admin().await;
    let sessions = admin.sessions(v1::SessionsRequest::default()).await.expect("an answer").into_inner();
    let [session] = &sessions.sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((session.session, &*session.name, session.owned), (welcome.session, "a test", 1));
    assert!(session.remaining_ms > 0 && session.remaining_ms <= 3_600_000, "{session:?}");
    let killed = admin.kill_session(v1::KillRequest { session: welcome.session }).await.expect("an answer");
    assert_eq!(killed.into_inner().error, None);
    assert_eq!(stream3.ended().await.reason(), session_ended::Reason::Killed);
    assert_eq!(stream2.ended().await.reason(), session_ended::Reason::Killed);
    let killed = admin.kill_session(v1::KillRequest { session: welcome.session }).await.expect("an answer");
    assert_eq!(killed.into_inner().error.expect("refused").code(), v1::Code::NoSession);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_taken_over_hears_its_former_process_no_more() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await.id;
    let [first, second] = [0, 1].map(|n| cluster.servers.iter().filter(|server| server.id != leader).nth(n).unwrap());
    let mine = v1::Hello { run: 1, ..hello() };
    let (mut stream, welcome) = Stream::greet(first.channel().await, mine.clone()).await;
    let _reply = stream.enter("/locks/a/lock-", 5).await;

    // Another process needs to say that it takes the session over; then the numbers from there on are its own.
    let stranger = v1::Hello { session: welcome.session, run: 2, ..hello() };
    let mut refused = Stream::open(second.channel().await, vec![Ask::Hello(stranger.clone())]).await;
    assert_eq!(refused.ended().await.reason(), session_ended::Reason::Replaced);
    let takes_over = v1::Hello { take_over: true, ..stranger.clone() };
    let (mut heir, again) = Stream::greet(second.channel().await, takes_over).await;
    assert_eq!((again.session, again.last_number), (welcome.session, 1));

    // The former stream is on another server, which learns of it from the log; its process does not come back.
    assert_eq!(stream.ended().await.reason(), session_ended::Reason::Replaced);
    let back = v1::Hello { session: welcome.session, ..mine };
    let mut back = Stream::open(first.channel().await, vec![Ask::Hello(back)]).await;
    assert_eq!(back.ended().await.reason(), session_ended::Reason::Replaced);

    // The heir goes on where the numbers stand, and may lose its stream like anybody.
    heir.send(vec![Ask::Call(call(2, vec![put("/heir", b"")]))]);
    assert_eq!(result(&heir.reply().await).results.len(), 1);
    let (_again, welcome) = Stream::greet(first.channel().await, stranger).await;
    assert_eq!(welcome.last_number, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_session_and_keep_alives_do_not_let_it() {
    let cluster = Cluster::start(3, |_| {}).await;
    let mut lively = Vec::new();
    for server in &cluster.servers {
        let hello = v1::Hello { ttl_ms: 5_000, ..hello() };
        lively.push(Stream::greet(server.channel().await, hello).await.0);
    }
    let hello = v1::Hello { ttl_ms: 500, ..hello() };
    let (mut silent, _) = Stream::greet(cluster.servers[0].channel().await, hello).await;
    assert!(silent.enter("/locks/a/lock-", 1).await.queue_ready);
    let waiter = lively[1].enter("/locks/a/lock-", 1).await;
    assert!(!waiter.queue_ready);
    // Longer than the TTL of the lively ones: only their keep-alives hold them.
    let mut ready = false;
    let begun = std::time::Instant::now();
    let mut id = 0;
    while begun.elapsed() < Duration::from_secs(7) || !ready {
        assert!(begun.elapsed() < PATIENCE, "the lock of the silent one does not pass on");
        id += 1;
        for stream in &mut lively {
            stream.send(vec![Ask::KeepAlive(v1::KeepAlive { id })]);
        }
        for stream in &mut lively {
            loop {
                match stream.next().await {
                    Told::KeepAlive(ack) => {
                        assert_eq!(ack.id, id);
                        break;
                    }
                    Told::QueueReady(_) => ready = true,
                    other => panic!("{other:?}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(silent.ended().await.reason(), session_ended::Reason::Expired);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_hands_over_and_sends_its_clients_elsewhere() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await.id;
    let at = cluster.servers.iter().position(|server| server.id == leader).unwrap();
    let (mut stream, welcome) = Stream::session(cluster.servers[at].channel().await).await;
    let reply = stream.put("/a", b"1").await;
    let server = cluster.servers.remove(at);
    server.stop.cancel();
    assert_eq!(stream.ended().await.reason(), session_ended::Reason::GoingAway);
    within("a stopped server", server.task).await.expect("it stopped well");
    let resume = v1::Hello { session: welcome.session, seen_revision: reply.revision, ..hello() };
    let (mut stream, again) = Stream::greet(cluster.servers[0].channel().await, resume).await;
    assert_eq!(again.last_number, 1);
    stream.number = 1;
    assert_eq!(result(&stream.put("/a", b"2").await).revision, reply.revision + 1);
    cluster.stop().await;
}

/// Bytes as they are, for what no client library would send.
#[derive(Clone, Copy, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What the server answers to these bytes: on the unary call, and on a session's stream.
async fn answers_to(channel: &Channel, unary: Bytes, streamed: Bytes) -> (Status, v1::SessionEnded) {
    use prost::Message as _;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/conclave.v1.Store/Apply");
    let status = grpc.unary(tonic::Request::new(unary), path, Raw).await.expect_err("refused");

    let first = Bytes::from(frame(vec![Ask::Hello(hello())]).encode_to_vec());
    let frames = tokio_stream::iter([first, streamed]);
    grpc.ready().await.expect("ready");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/conclave.v1.Sessions/Stream");
    let mut told = grpc.streaming(tonic::Request::new(frames), path, Raw).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(bytes) = within("a frame", told.message()).await.expect("frames") {
        for item in v1::ServerFrame::decode(bytes).expect("a frame").items {
            last = item.item;
        }
    }
    match last {
        Some(Told::Ended(ended)) => (status, ended),
        other => panic!("the stream ended with {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_get_a_clear_error() {
    use prost::Message as _;
    let cluster = Cluster::start(1, |_| {}).await;
    let channel = cluster.servers[0].channel().await;
    // A transaction with a put whose path is the byte 0xff, as it is and within a frame's call.
    let strange = |path: &[u8]| {
        let block = |tag: u8, inside: &[u8]| [&[tag, inside.len() as u8], inside].concat();
        let put = block(0x0a, path); // Put.path
        let op = block(0x12, &put); // Op.put
        let txn = block(0x12, &op); // Txn.then
        let call = [&[0x08, 1, 0x10, 1][..], &block(0x22, &txn)].concat(); // id, number, Call.txn
        (Bytes::from(txn), Bytes::from(block(0x0a, &block(0x12, &call)))) // ClientFrame.items, ClientItem.call
    };
    let (well, framed) = strange(b"/a");
    assert_eq!(
        v1::Txn::decode(well).expect("a txn").then[0].op,
        Some(v1::op::Op::Put(v1::op::Put { path: "/a".into(), ..Default::default() }))
    );
    assert!(matches!(v1::ClientFrame::decode(framed).expect("a frame").items[0].item, Some(Ask::Call(_))));
    let (not_utf8, framed_not_utf8) = strange(b"/\xff");
    let huge = Bytes::from(
        v1::Txn { then: vec![v1::Op { op: Some(put("/a", &vec![0; 3 << 20])) }], ..Default::default() }.encode_to_vec(),
    );
    let framed_huge = Bytes::from(frame(vec![Ask::Call(call(1, vec![put("/a", &vec![0; 3 << 20])]))]).encode_to_vec());
    let garbage = Bytes::from_static(&[0xff; 40]);
    for (name, unary, framed, words) in [
        ("not UTF-8", not_utf8, framed_not_utf8, vec!["UTF-8", "path"]),
        ("too large", huge, framed_huge, vec!["request too large", "request_bytes_max is 2097152"]),
        ("garbage", garbage.clone(), garbage, vec!["no message of this protocol"]),
    ] {
        let (status, ended) = answers_to(&channel, unary, framed).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
        assert_eq!(ended.reason(), session_ended::Reason::Protocol, "{name}: {ended:?}");
        for words in words {
            assert!(status.message().contains(words), "{name}: {words:?} is not in {:?}", status.message());
            assert!(ended.message.contains(words), "{name}: {words:?} is not in {:?}", ended.message);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_get_a_clear_error_and_use_up_their_number() {
    use v1::Code::{Denied, EphemeralParent, InvalidArgument, NoParent, TooLarge};
    let cluster = Cluster::start(1, |_| {}).await;
    let channel = cluster.servers[0].channel().await;
    let (mut stream, _) = Stream::session(channel.clone()).await;
    let mut store = v1::store_client::StoreClient::new(channel);
    let ephemeral = v1::op::Op::Create(v1::op::Create {
        path: "/e".into(),
        kind: v1::Kind::Ephemeral.into(),
        ..Default::default()
    });
    let call = stream.txn(vec![ephemeral.clone()]);
    stream.send(vec![Ask::Call(call)]);
    assert_eq!(created(&stream.reply().await), "/e");
    let alone = |path: &str| v1::op::Op::Put(v1::op::Put { path: path.into(), ..Default::default() });
    for (name, ops, code, words) in [
        ("empty", vec![], InvalidArgument, "the transaction is empty"),
        ("relative", vec![put("a", b"")], InvalidArgument, "write \"/a\""),
        ("empty path", vec![put("", b"")], InvalidArgument, "must begin with '/'"),
        ("deep", vec![put(&"/x".repeat(65), b"")], InvalidArgument, "65 components, the limit is 64"),
        ("long", vec![put(&format!("/{}", "x".repeat(1024)), b"")], InvalidArgument, "the limit is 1024"),
        ("large", vec![put("/a", &vec![0; (1 << 20) + 1])], TooLarge, "data_bytes_max is 1048576"),
        ("huge batch", (0..129).map(|_| put("/a", b"")).collect(), TooLarge, "txn_ops_max is 128"),
        ("reserved", vec![put("/conclave/x", b"")], Denied, "/conclave"),
        ("root", vec![delete("/")], Denied, "/"),
        ("orphan", vec![alone("/no/parent")], NoParent, "parent is missing"),
        ("ephemeral parent", vec![put("/e/child", b"")], EphemeralParent, "ephemeral"),
    ] {
        let call = stream.txn(ops.clone());
        stream.send(vec![Ask::Call(call)]);
        let reply = stream.reply().await;
        let streamed = error(&reply);
        assert_eq!(streamed.code(), code, "{name}: {streamed:?}");
        assert!(streamed.message.contains(words), "{name}: {words:?} is not in {:?}", streamed.message);
        assert_eq!((streamed.effect(), streamed.retry), (v1::Effect::None, false), "{name}");
        let then = ops.into_iter().map(|op| v1::Op { op: Some(op) }).collect();
        let answer = store.apply(v1::Txn { then, ..Default::default() }).await.expect("an answer").into_inner();
        assert_eq!(answer.body, Some(v1::txn_reply::Body::Error(streamed.clone())), "{name}: as on the stream");
    }
    // Without a session nothing can be ephemeral.
    let then = vec![v1::Op { op: Some(ephemeral) }];
    let answer = store.apply(v1::Txn { then, ..Default::default() }).await.expect("an answer").into_inner();
    let Some(v1::txn_reply::Body::Error(refused)) = answer.body else { panic!("{answer:?}") };
    assert!(refused.message.contains("needs a session"), "{refused:?}");

    // Reads.
    let list = |path: &str, after: &str| {
        v1::read::Query::List(v1::read::ListQuery { path: path.into(), after: after.into(), ..Default::default() })
    };
    for (query, at, code, words) in [
        (None, 0, InvalidArgument, "asks for nothing"),
        (Some(v1::read::Query::Get("x".into())), 0, InvalidArgument, "must begin with '/'"),
        (Some(v1::read::Query::Get("/x".into())), 999_999, v1::Code::FutureRevision, "revision 999999 is not yet"),
        (Some(list("/none", "")), 0, v1::Code::NoNode, "no such node: path=/none"),
        (Some(list("/e", "/a")), 0, InvalidArgument, "after=/a is not below path=/e"),
        (Some(v1::read::Query::Queues(v1::read::QueuesQuery::default())), 1, InvalidArgument, "past revision"),
    ] {
        let read = v1::Read { query: query.clone(), at_revision: at, ..Default::default() };
        let answer = store.query(read).await.expect("an answer").into_inner();
        let Some(v1::read_reply::Body::Error(refused)) = answer.body else { panic!("{query:?}: {answer:?}") };
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message.contains(words), "{words:?} is not in {:?}", refused.message);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_the_rules_are_told_which() {
    let cluster = Cluster::start(1, |_| {}).await;
    let channel = cluster.servers[0].channel().await;
    let open = |name| watch(name, "/", v1::Scope::Subtree, 0);
    let short = v1::Hello { secret: Bytes::from_static(b"short"), ..hello() };
    let brief = v1::Hello { ttl_ms: 1, ..hello() };
    for (items, reason, words) in [
        (vec![Ask::KeepAlive(v1::KeepAlive { id: 1 })], session_ended::Reason::Protocol, "must be Hello"),
        (vec![], session_ended::Reason::Protocol, "must be Hello"),
        (vec![Ask::Hello(hello()), Ask::Hello(hello())], session_ended::Reason::Protocol, "only be the first"),
        (vec![Ask::Hello(short)], session_ended::Reason::Refused, "5 bytes, it must have 16"),
        (vec![Ask::Hello(brief)], session_ended::Reason::Refused, "ttl"),
        (vec![Ask::Hello(hello()), open(1), open(1)], session_ended::Reason::Protocol, "watch 1 is open"),
    ] {
        let shown = format!("{items:?}");
        let mut stream = Stream::open(channel.clone(), items).await;
        let ended = loop {
            match stream.next().await {
                Told::Ended(ended) => break ended,
                Told::Welcome(_) | Told::WatchStarted(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ended.reason(), reason, "{shown}: {ended:?}");
        assert!(ended.message.contains(words), "{shown}: {words:?} is not in {:?}", ended.message);
    }
    // A call that is nothing, a transaction without a number.
    let (mut stream, _) = Stream::session(channel.clone()).await;
    let nothing = v1::Call { id: 5, number: 1, ..Default::default() };
    let unnumbered = v1::Call { id: 6, ..call(0, vec![put("/a", b"")]) };
    stream.send(vec![Ask::Call(nothing), Ask::Call(unnumbered)]);
    stream.number = 1;
    for (id, words) in [(5, "no body"), (6, "needs a number")] {
        let reply = stream.reply().await;
        assert_eq!((reply.id, error(&reply).code()), (id, v1::Code::InvalidArgument));
        assert!(error(&reply).message.contains(words), "{reply:?}");
    }
    assert_eq!(result(&stream.put("/a", b"").await).revision, 1, "the number was used up");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_by_name() {
    let cluster = Cluster::start(1, |config| {
        config.limits = Limits { connections_max: 2, in_flight_max: 4, watches_per_stream_max: 3, ..Limits::default() };
        config.limits.outbox_bytes_max = Size(64 << 10);
    })
    .await;
    let server = &cluster.servers[0];
    let channel = server.channel().await;
    let (mut stream, welcome) = Stream::session(channel).await;
    assert_eq!(welcome.in_flight_max, 4);
    // Reads are answered by the stream's own task, after it has received the whole frame.
    stream.send((1..=8).map(|id| read(id, v1::read::Query::Get("/a".into()))).collect());
    for id in 1..=8 {
        let reply = stream.reply().await;
        assert_eq!(reply.id, id, "in order, refused or not");
        match &reply.body {
            Some(v1::reply::Body::Error(error)) => {
                assert_eq!((id > 4, error.code()), (true, v1::Code::Overloaded), "{error:?}");
                assert!(error.retry && error.message.contains("in_flight_max is 4"), "{error:?}");
            }
            _ => assert!(id <= 4, "{reply:?}"),
        }
    }
    stream.send((1..=4).map(|name| watch(name, "/x", v1::Scope::Node, 0)).collect());
    for name in 1..=4 {
        match stream.next().await {
            Told::WatchStarted(started) => assert!(started.watch == name && name <= 3),
            Told::WatchEnded(ended) => {
                assert!(name == 4 && ended.message.contains("watches_per_stream_max is 3"), "{ended:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // One connection is ours, one the node's or none: further ones are told the limit.
    let mut kept = Vec::new();
    let told = loop {
        let channel = server.channel().await;
        let mut store = v1::store_client::StoreClient::new(channel.clone());
        kept.push(channel);
        match store.query(v1::Read::default()).await {
            Ok(_) => assert!(kept.len() < 3, "no limit"),
            Err(status) => break status,
        }
    };
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(told.message().contains("connections_max is 2"), "{told:?}");
    // A client that never waits for its answers is sent away.
    stream.send((1..=100).map(|id| read(id, v1::read::Query::Get("/a".into()))).collect());
    let ended = loop {
        match stream.next().await {
            Told::Ended(ended) => break ended,
            Told::Reply(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended.reason(), session_ended::Reason::Protocol);
    assert!(ended.message.contains("in_flight_max=4"), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_watch_list_and_ask_for_history_without_a_session() {
    let cluster = Cluster::start(1, |_| {}).await;
    let server = &cluster.servers[0];
    let mut store = v1::store_client::StoreClient::new(server.channel().await);
    for n in 0..5 {
        let then = vec![v1::Op { op: Some(put(&format!("/a/{n}"), b"x")) }];
        store.apply(v1::Txn { then, ..Default::default() }).await.expect("an answer");
    }
    let open = v1::WatchOpen { watch: 9, path: "/a".into(), scope: v1::Scope::Subtree.into(), from_revision: 2 };
    let mut watch = store.watch(open).await.expect("a watch").into_inner();
    let mut told = Vec::new();
    while told.len() < 4 {
        match within("an item", watch.message()).await.expect("no error").and_then(|item| item.item) {
            Some(v1::watch_item::Item::Started(started)) => assert_eq!(started.from_revision, 2),
            Some(v1::watch_item::Item::Events(events)) => told.push((events.watch, events.revision)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [(9, 2), (9, 3), (9, 4), (9, 5)]);
    let query = async |store: &mut v1::store_client::StoreClient<Channel>, query| {
        let read = v1::Read { query: Some(query), ..Default::default() };
        match store.query(read).await.expect("an answer").into_inner().body {
            Some(v1::read_reply::Body::Read(read)) => read.result.expect("a result"),
            other => panic!("{other:?}"),
        }
    };
    let list = v1::read::ListQuery { path: "/a".into(), limit: 2, after: "/a/1".into(), ..Default::default() };
    match query(&mut store, v1::read::Query::List(list)).await {
        v1::read_result::Result::List(list) => {
            let paths: Vec<_> = list.nodes.iter().map(|node| &*node.path).collect();
            assert_eq!((paths, list.more), (vec!["/a/2", "/a/3"], true));
            assert!(list.nodes[0].data.is_empty(), "data was not asked for");
        }
        other => panic!("{other:?}"),
    }
    let history = v1::read::HistoryQuery { path: "/a/1".into(), ..Default::default() };
    match query(&mut store, v1::read::Query::History(history)).await {
        v1::read_result::Result::History(history) => {
            let revisions: Vec<_> = history.revisions.iter().map(|events| events.revision).collect();
            assert_eq!((revisions, history.next_revision), (vec![2], 0));
        }
        other => panic!("{other:?}"),
    }
    // The pages for people and probes.
    assert!(get(server.http, "/livez").await.contains("alive"));
    assert!(get(server.http, "/version").await.contains("\"cluster\":\"test\""));
    assert!(get(server.http, "/nothing").await.starts_with("HTTP/1.1 404"));
    let metrics = get(server.http, "/metrics").await;
    for line in metrics.lines().filter(|line| line.starts_with("# HELP")) {
        assert!(line.split(' ').count() > 4, "a metric says what it is: {line}");
    }
    assert!(metrics.contains("conclave_limit{limit=\"outbox_bytes_max\"} 1048576"), "{metrics}");
    let stored = server.metric("conclave_log_sync_seconds_bucket{le=\"+Inf\"}").await;
    assert!(stored > 0.0 && metrics.ends_with("# EOF\n"), "{metrics}");
    drop(watch);
    within("a watch that was dropped to go", async {
        while server.metric("conclave_watches").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    let health = health.check(tonic_health::pb::HealthCheckRequest::default()).await.expect("an answer");
    assert_eq!(health.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_that_vanish_leave_nothing_behind() {
    let cluster = Cluster::start(1, |_| {}).await;
    let server = &cluster.servers[0];
    let (mut holder, _) = Stream::session(server.channel().await).await;
    assert!(holder.enter("/locks/a/lock-", 1).await.queue_ready);
    let channel = server.channel().await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let (mut stream, _) = Stream::session(channel.clone()).await;
        let calls = (1..=500).map(|number| {
            let mut call = stream.txn(vec![sequential("/locks/a/lock-")]);
            let blocking = "lock-".into();
            call.queue = Some(v1::QueueWatch { watch: number, permits: 1, blocking, path: String::new() });
            Ask::Call(call)
        });
        let calls: Vec<Ask> = calls.collect();
        stream.send(calls);
        crowd.push(stream);
    }
    for stream in &mut crowd {
        for _ in 0..500 {
            assert!(!stream.reply().await.queue_ready);
        }
    }
    assert_eq!(server.metric("conclave_queue_watches").await, 10_000.0);
    // Half close their session, half are cut off.
    let ready = server.metric("conclave_queue_ready_total").await;
    for (n, stream) in crowd.into_iter().enumerate() {
        if n % 2 == 0 {
            stream.send(vec![Ask::Close(v1::Close {})]);
            tokio::spawn(async move {
                let mut stream = stream;
                while let Ok(Some(_)) = stream.try_next().await {}
            });
        }
    }
    within("the waiters to be forgotten", async {
        while server.metric("conclave_queue_watches").await > 0.0 || server.metric("conclave_streams_open").await > 1.0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(server.metric("conclave_queue_ready_total").await, ready, "nobody was woken");
    assert_eq!(server.metric("conclave_outbox_bytes").await, 0.0);
    cluster.stop().await;
}
