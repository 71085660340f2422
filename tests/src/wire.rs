//! The wire by hand: session streams without the client library, so that a test can say things the library never
//! would, and stop listening when it likes.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context as _, bail};
use bytes::{Buf, BufMut, Bytes};
use conclave_proto::v1::{
    self, ClientFrame, ClientItem, Hello, ServerFrame, client_item::Item as Say, server_item::Item as Hear,
    sessions_client::SessionsClient,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{
    Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::PATIENCE;

/// Longest message taken from a server, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection of its own to one server.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    let endpoint =
        Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("cannot connect to {}", endpoint.uri()))
}

/// One side of a session stream.
pub struct Raw {
    say: mpsc::UnboundedSender<ClientFrame>,
    hear: Streaming<ServerFrame>,
    heard: VecDeque<Hear>,
    /// The server's first word.
    pub welcome: v1::Welcome,
    secret: Bytes,
    next_call: u64,
    next_number: u64,
    acknowledged: u64,
}

impl Raw {
    /// Opens a session on a connection of its own.
    ///
    /// # Errors
    /// If the server does not welcome it.
    pub async fn open(endpoint: &str, ttl: Duration) -> anyhow::Result<Self> {
        Self::open_on(connect(endpoint).await?, ttl).await
    }

    /// Opens a session on this connection.
    ///
    /// # Errors
    /// If the server does not welcome it.
    pub async fn open_on(channel: Channel, ttl: Duration) -> anyhow::Result<Self> {
        Self::hello(channel, new_session(ttl)).await
    }

    /// Begins a stream with this Hello.
    ///
    /// # Errors
    /// If the server does not welcome it, with its reason.
    pub async fn hello(channel: Channel, hello: Hello) -> anyhow::Result<Self> {
        let secret = hello.secret.clone();
        let (say, mut hear) = stream(channel, vec![Say::Hello(hello)]).await?;
        let mut heard = VecDeque::new();
        let welcome = match next(&mut hear, &mut heard).await? {
            Some(Hear::Welcome(welcome)) => welcome,
            Some(Hear::Ended(ended)) => bail!("{:?}: {}", ended.reason(), ended.message),
            other => bail!("expected Welcome, heard {other:?}"),
        };
        let next_number = welcome.last_number + 1;
        Ok(Self { say, hear, heard, welcome, secret, next_call: 1, next_number, acknowledged: 0 })
    }

    /// What resumes this session.
    #[must_use]
    pub fn resume_hello(&self) -> Hello {
        Hello {
            session: self.welcome.session,
            secret: self.secret.clone(),
            ttl_ms: self.welcome.ttl_ms,
            name: String::new(),
            seen_revision: 0,
            ..Hello::default()
        }
    }

    /// Says these things, in one frame. What the server has hung up on is not noticed here.
    pub fn say(&self, items: Vec<Say>) {
        let items = items.into_iter().map(|item| ClientItem { item: Some(item) }).collect();
        let _ = self.say.send(ClientFrame { items });
    }

    /// The next thing the server says; none when it has ended the stream.
    ///
    /// # Errors
    /// If it says nothing for a minute, or the connection broke.
    pub async fn next(&mut self) -> anyhow::Result<Option<Hear>> {
        next(&mut self.hear, &mut self.heard).await
    }

    /// Numbers a transaction and sends it; its call id.
    pub fn send_txn(&mut self, txn: v1::Txn) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.send_numbered(number, txn)
    }

    /// As [`Raw::send_txn`], with a watch of the place in the queue of the node that its first operation creates.
    pub fn send_in_line(&mut self, txn: v1::Txn, queue: v1::QueueWatch) -> u64 {
        let (id, number, acknowledged) = (self.call_id(), self.next_number, self.acknowledged);
        self.next_number += 1;
        let (body, queue) = (Some(v1::call::Body::Txn(txn)), Some(queue));
        self.say(vec![Say::Call(v1::Call { id, number, acknowledged, body, queue, queue_op: 0 })]);
        id
    }

    /// Sends a transaction under this number; its call id.
    pub fn send_numbered(&mut self, number: u64, txn: v1::Txn) -> u64 {
        let id = self.call_id();
        let (acknowledged, body) = (self.acknowledged, Some(v1::call::Body::Txn(txn)));
        self.say(vec![Say::Call(v1::Call { id, number, acknowledged, body, ..Default::default() })]);
        id
    }

    /// Sends a read; its call id.
    pub fn send_read(&mut self, read: v1::Read) -> u64 {
        let id = self.call_id();
        self.say(vec![Say::Call(v1::Call { id, body: Some(v1::call::Body::Read(read)), ..Default::default() })]);
        id
    }

    /// From now on says that it has the answers of all numbers up to this one.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledged = number;
    }

    /// A call id that was not used yet.
    pub fn call_id(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call - 1
    }

    /// The next number of this session that was not used yet.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Listens for the reply to this call; everything heard before it goes to `others`.
    ///
    /// # Errors
    /// If the stream ends first.
    pub async fn reply(&mut self, id: u64, others: &mut Vec<Hear>) -> anyhow::Result<v1::Reply> {
        loop {
            match self.next().await? {
                Some(Hear::Reply(reply)) if reply.id == id => return Ok(reply),
                Some(Hear::Ended(ended)) => bail!("the stream ended: {:?}: {}", ended.reason(), ended.message),
                Some(other) => others.push(other),
                None => bail!("the stream ended without a reply to call {id}"),
            }
        }
    }

    /// A transaction and its result, which is acknowledged by the next one. What else is heard meanwhile is forgotten.
    ///
    /// # Errors
    /// The server's error, in words.
    pub async fn txn(&mut self, txn: v1::Txn) -> anyhow::Result<v1::TxnResult> {
        let (id, number) = (self.send_txn(txn), self.next_number - 1);
        let reply = self.reply(id, &mut Vec::new()).await?;
        self.acknowledged = number;
        txn_of(reply)
    }

    /// A read and its result. What else is heard meanwhile is forgotten.
    ///
    /// # Errors
    /// The server's error, in words.
    pub async fn read(&mut self, read: v1::Read) -> anyhow::Result<v1::ReadResult> {
        let id = self.send_read(read);
        match self.reply(id, &mut Vec::new()).await?.body {
            Some(v1::reply::Body::Read(result)) => Ok(result),
            Some(v1::reply::Body::Error(error)) => bail!("{:?}: {}", error.code(), error.message),
            other => bail!("expected a read's result, heard {other:?}"),
        }
    }

    /// Listens until `wanted` takes an item; everything before is forgotten.
    ///
    /// # Errors
    /// If the stream ends first, with the last words.
    pub async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Hear) -> Option<T>) -> anyhow::Result<T> {
        let mut last = None;
        while let Some(item) = self.next().await? {
            if let Some(found) = wanted(&item) {
                return Ok(found);
            }
            last = Some(item);
        }
        bail!("the stream ended before {what}; its last words were {last:?}")
    }

    /// Listens until the server has ended the stream; why it did.
    ///
    /// # Errors
    /// If it ends without a reason.
    pub async fn ended(&mut self) -> anyhow::Result<v1::SessionEnded> {
        self.until("SessionEnded", |item| match item {
            Hear::Ended(ended) => Some(ended.clone()),
            _ => None,
        })
        .await
    }
}

/// A transaction's result, out of its reply.
///
/// # Errors
/// The server's error, in words.
pub fn txn_of(reply: v1::Reply) -> anyhow::Result<v1::TxnResult> {
    match reply.body {
        Some(v1::reply::Body::Txn(result)) => Ok(result),
        Some(v1::reply::Body::Error(error)) => bail!("{:?}: {}", error.code(), error.message),
        other => bail!("expected a transaction's result, heard {other:?}"),
    }
}

/// A Hello that opens a session.
#[must_use]
pub fn new_session(ttl: Duration) -> Hello {
    let secret = Bytes::from_static(b"sixteen-bytes-ok");
    let ttl_ms = u64::try_from(ttl.as_millis()).expect("a TTL");
    Hello { secret, ttl_ms, name: "a test".into(), ..Hello::default() }
}

/// Both ends of a session stream whose first frame holds these items.
///
/// # Errors
/// If the server refuses the stream itself.
pub async fn stream(
    channel: Channel,
    first: Vec<Say>,
) -> anyhow::Result<(mpsc::UnboundedSender<ClientFrame>, Streaming<ServerFrame>)> {
    let (say, said) = mpsc::unbounded_channel();
    let items = first.into_iter().map(|item| ClientItem { item: Some(item) }).collect();
    say.send(ClientFrame { items }).expect("the receiver is here");
    let outgoing = futures_util::stream::unfold(said, |mut said| async move { said.recv().await.map(|f| (f, said)) });
    let mut client = SessionsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok((say, client.stream(outgoing).await?.into_inner()))
}

/// The next item of a stream.
///
/// # Errors
/// If there is none within [`PATIENCE`], or the connection broke.
pub async fn next(hear: &mut Streaming<ServerFrame>, heard: &mut VecDeque<Hear>) -> anyhow::Result<Option<Hear>> {
    loop {
        if let Some(item) = heard.pop_front() {
            return Ok(Some(item));
        }
        let frame = tokio::time::timeout(PATIENCE, hear.message()).await;
        match frame.with_context(|| format!("the server said nothing for {PATIENCE:?}"))?? {
            Some(frame) => heard.extend(frame.items.into_iter().filter_map(|item| item.item)),
            None => return Ok(None),
        }
    }
}

/// Sends bytes as the one message of a unary call, whatever they are.
///
/// # Errors
/// The server's status.
pub async fn unary_bytes(channel: Channel, method: &'static str, message: Bytes) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(method);
    Ok(grpc.unary(tonic::Request::new(message), path, AsIs).await?.into_inner())
}

/// Sends these bytes as the messages of a session stream, and collects what the server answers until it ends the
/// stream, or for as long as `listen`.
///
/// # Errors
/// The status that the stream ended with.
pub async fn stream_bytes(channel: Channel, messages: Vec<Bytes>, listen: Duration) -> Result<Vec<Hear>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/conclave.v1.Sessions/Stream");
    // Stays open: only the server can end it.
    use futures_util::StreamExt as _;
    let outgoing = futures_util::stream::iter(messages).chain(futures_util::stream::pending());
    let mut hear = grpc.streaming(tonic::Request::new(outgoing), path, AsIs).await?.into_inner();
    let mut heard = Vec::new();
    while let Ok(message) = tokio::time::timeout(listen, hear.message()).await {
        let Some(bytes) = message? else { break };
        let frame = ServerFrame::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
        heard.extend(frame.items.into_iter().filter_map(|item| item.item));
    }
    Ok(heard)
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A transaction without comparisons.
#[must_use]
pub fn then(ops: Vec<v1::op::Op>) -> v1::Txn {
    v1::Txn { then: ops.into_iter().map(|op| v1::Op { op: Some(op) }).collect(), ..Default::default() }
}

/// Writes data, with the parents it needs.
#[must_use]
pub fn put(path: &str, data: impl Into<Bytes>) -> v1::op::Op {
    v1::op::Op::Put(v1::op::Put { path: path.into(), data: data.into(), create_parents: true })
}

/// Makes an ephemeral sequential node, its parents containers: the node of a lock.
#[must_use]
pub fn in_line(path: &str) -> v1::op::Op {
    v1::op::Op::Create(v1::op::Create {
        path: path.into(),
        kind: v1::Kind::Ephemeral.into(),
        sequential: true,
        create_parents: true,
        parents_kind: v1::Kind::Container.into(),
        ..Default::default()
    })
}

/// Makes a node of this kind, with the persistent parents it needs.
#[must_use]
pub fn create(path: &str, kind: v1::Kind) -> v1::op::Op {
    v1::op::Op::Create(v1::op::Create {
        path: path.into(),
        kind: kind.into(),
        create_parents: true,
        ..Default::default()
    })
}

/// Removes a node.
#[must_use]
pub fn delete(path: &str) -> v1::op::Op {
    v1::op::Op::Delete(v1::op::Delete { path: path.into(), recursive: false })
}

/// A linearizable read of one node.
#[must_use]
pub fn get(path: &str) -> v1::Read {
    v1::Read { query: Some(v1::read::Query::Get(path.into())), ..Default::default() }
}

/// The path that the first operation, a create, made.
///
/// # Panics
/// If it was none.
#[must_use]
pub fn made(result: &v1::TxnResult) -> String {
    match &result.results[0].result {
        Some(v1::op_result::Result::Created(created)) => created.path.clone(),
        other => panic!("not a create: {other:?}"),
    }
}
