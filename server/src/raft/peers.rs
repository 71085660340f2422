//! Between servers: one outgoing stream of messages to each peer, and the service that takes theirs.
//!
//! Messages wait in a bounded queue per peer and may be dropped, which Raft makes good; nothing here is waited for by
//! the node's thread.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use conclave_faults::point;
use conclave_proto::{
    ServerId,
    peer::{
        PeerEnd, PeerFrame, PeerHello, PeerItem, SnapshotRequest, VouchReply, VouchRequest, peer_client::PeerClient,
        peer_item::Item, peer_server::Peer,
    },
};
use conclave_tls::Identity;
use futures_util::{FutureExt as _, Stream};
use parking_lot::Mutex;
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Rpc, Response, Status, Streaming, transport::Endpoint};

use super::{
    Member,
    core::Outbound,
    mailbox::Mailbox,
    node::Request,
    trust::{Shown, Trust, server_certificate},
};
use crate::{
    storage::disk::IncomingDir,
    tls::{self, Once},
};

/// Version of the protocol between servers.
const PROTOCOL: u32 = 1;
/// Most bytes of items in one frame, but for a single larger item.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a frame that is accepted.
pub const FRAME_BYTES_LIMIT: usize = 64 << 20;
/// Bytes that wait for a peer while there is no connection to it; then the older ones go.
const UNCONNECTED_BYTES_MAX: usize = 256 << 10;
/// A connection is given this long to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between attempts to connect: first, and longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Times a snapshot is fetched before it is given up; its sender would not offer another at once.
const FETCHES_MAX: u32 = 10;
/// How often a peer whose stream broke is asked whether it is still there.
const PROBES: u32 = 3;
/// Most peers that are connected only because they introduced themselves.
const INTRODUCED_MAX: usize = 16;
/// What a peer that left the cluster is still sent must be gone by then.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A silent connection is probed after this long, and given up if it stays silent as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

pub(super) type Inbox = Arc<Mailbox<Request<IncomingDir>>>;

/// Who we are to peers.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) id: ServerId,
    pub(super) cluster: String,
    pub(super) data_dir: std::path::PathBuf,
    pub(super) queue_bytes_max: usize,
    /// Without it, plain text.
    pub(super) identity: Option<Arc<Identity>>,
}

impl Local {
    /// What a stream to a peer begins with; the address is empty as long as it is not known.
    fn hello(&self, peer: ServerId, address: String) -> PeerHello {
        PeerHello { cluster: self.cluster.clone(), from: self.id.0, to: peer.0, protocol: PROTOCOL, address }
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<PeerItem>,
    bytes: usize,
    waker: Option<Waker>,
    connected: bool,
    /// Streams of earlier connections end when they see a newer one.
    connection: u64,
}

/// Bytes of an item on the wire, roughly.
fn item_bytes(item: &Item) -> usize {
    32 + match item {
        Item::Raft(bytes) => bytes.len(),
        Item::Renew(renew) => renew.sessions.len() * 8,
        Item::Renewed(renewed) => (renewed.sessions.len() + renewed.unknown.len()) * 8,
        Item::Refused(refused) => refused.counts.len() * 8,
        Item::ChangeMembers(change) => change.change.len(),
        Item::MembersChanged(changed) => changed.text.len(),
        Item::Hello(_) | Item::StateHash(_) => 64,
    }
}

/// The items for one peer, as a stream of frames.
struct Outgoing {
    queue: Arc<Mutex<Queue>>,
    connection: u64,
    hello: Option<PeerHello>,
}

impl Stream for Outgoing {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        // A panic would leave the connection open and nothing sent on it for ever; so the stream ends, and the next begins.
        catch_unwind(AssertUnwindSafe(|| self.next_frame(context))).unwrap_or(Poll::Ready(None))
    }
}

impl Outgoing {
    fn next_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        point!("peer-send", |_| Poll::Ready(None));
        let mut items = Vec::new();
        if let Some(hello) = self.hello.take() {
            items.push(PeerItem { item: Some(Item::Hello(hello)) });
        }
        let mut queue = self.queue.lock();
        if queue.connection != self.connection {
            return Poll::Ready(None);
        }
        let mut bytes = 0;
        while bytes < FRAME_BYTES_MAX
            && let Some(item) = queue.items.pop_front()
        {
            bytes += item.item.as_ref().map_or(0, item_bytes);
            items.push(item);
        }
        queue.bytes -= bytes;
        if items.is_empty() {
            queue.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(PeerFrame { items }))
    }
}

struct OnePeer {
    address: String,
    queue: Arc<Mutex<Queue>>,
    staged: Vec<PeerItem>,
    stop: CancellationToken,
}

/// All peers, as the node's thread sees them.
pub(super) struct Peers {
    local: Local,
    inbox: Inbox,
    runtime: tokio::runtime::Handle,
    peers: BTreeMap<ServerId, OnePeer>,
    /// Those of them that are no members as far as is known here, and where they say that they are reached: others
    /// know them, since they came by the cluster's name. Gone when the process ends, or they become members.
    introduced: BTreeMap<ServerId, String>,
    /// What this server says of itself; empty as long as it is not known to be a member.
    own_address: Arc<Mutex<String>>,
    stop: CancellationToken,
}

impl Peers {
    pub(super) fn new(local: Local, inbox: Inbox, runtime: tokio::runtime::Handle) -> Self {
        let (peers, introduced) = (BTreeMap::new(), BTreeMap::new());
        Self { local, inbox, runtime, peers, introduced, own_address: Arc::default(), stop: CancellationToken::new() }
    }

    /// Keeps a peer connected from now on.
    fn keep(&mut self, peer: ServerId, address: String) {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let stop = self.stop.child_token();
        let connection = Connection {
            local: self.local.clone(),
            own_address: Arc::clone(&self.own_address),
            peer,
            address: address.clone(),
            queue: Arc::clone(&queue),
            inbox: Arc::clone(&self.inbox),
        };
        let keep = needed(Arc::clone(&self.inbox), "keeping a peer connected", connection.keep());
        self.runtime.spawn(stop.clone().run_until_cancelled_owned(keep));
        self.peers.insert(peer, OnePeer { address, queue, staged: Vec::new(), stop });
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Outbound for Peers {
    fn send(&mut self, to: ServerId, item: Item) {
        point!("peer-queue", |_| ());
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.staged.push(PeerItem { item: Some(item) });
        }
    }

    fn flush(&mut self) {
        for (id, peer) in &mut self.peers {
            if peer.staged.is_empty() {
                continue;
            }
            let mut overflow = false;
            let mut queue = peer.queue.lock();
            let bytes_max = if queue.connected { self.local.queue_bytes_max } else { UNCONNECTED_BYTES_MAX };
            for item in peer.staged.drain(..) {
                let bytes = item.item.as_ref().map_or(0, item_bytes);
                if queue.bytes + bytes > bytes_max && !queue.items.is_empty() {
                    overflow = true;
                    if queue.connected {
                        continue;
                    }
                    queue.items.clear();
                    queue.bytes = 0;
                }
                queue.bytes += bytes;
                queue.items.push_back(item);
            }
            let waker = queue.waker.take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
            if overflow {
                tracing::debug!(peer = %id, "too much waits for a peer: messages are dropped");
                let _ = self.inbox.push_always(Request::Unreachable(*id));
            }
        }
    }

    fn probe(&mut self, peer: ServerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let (inbox, address, stop) = (Arc::clone(&self.inbox), known.address.clone(), known.stop.clone());
        self.runtime.spawn(stop.run_until_cancelled_owned(async move {
            point!("peer-probe", |_| ());
            // A process on its way out may close its streams before its port.
            for _ in 0..PROBES {
                let attempt = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await;
                if matches!(attempt, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused) {
                    let _ = inbox.push_always(Request::Gone(peer));
                    return;
                }
                tokio::time::sleep(BACKOFF.0).await;
            }
        }));
    }

    fn fetch_snapshot(&mut self, message: Message) {
        let from = ServerId(message.from);
        let Some(peer) = self.peers.get(&from) else {
            let _ = self.inbox.push_always(Request::FetchFailed { message });
            return;
        };
        let (local, inbox, address) = (self.local.clone(), Arc::clone(&self.inbox), peer.address.clone());
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            let mut tries = 1;
            let request = loop {
                let fetch = super::snapshot::fetch(&local, &address, &message);
                let result = tokio::select! {
                    result = AssertUnwindSafe(fetch).catch_unwind() => {
                        result.unwrap_or_else(|_| Err("fetching it failed: a broken invariant".to_owned()))
                    }
                    () = stop.cancelled() => return,
                };
                match result {
                    Ok((machine, dir)) => break Request::Fetched { message, machine, incoming: IncomingDir(dir) },
                    Err(error) => {
                        tracing::warn!(peer = %from, error, tries, "a snapshot could not be fetched");
                        if tries == FETCHES_MAX {
                            break Request::FetchFailed { message };
                        }
                        tries += 1;
                        tokio::time::sleep(BACKOFF.1).await;
                    }
                }
            };
            let _ = inbox.push_always(request);
        });
    }

    fn introduced(&mut self, peer: ServerId, address: String) {
        let full = self.introduced.len() >= INTRODUCED_MAX && !self.introduced.contains_key(&peer);
        if self.peers.contains_key(&peer) || peer == self.local.id || full {
            return;
        }
        tracing::info!(%peer, address, "a peer that is no member as far as is known here introduces itself");
        self.introduced.insert(peer, address.clone());
        self.keep(peer, address);
    }

    fn members(&mut self, members: &[Member]) {
        if let Some(own) = members.iter().find(|member| member.id == self.local.id) {
            let news = std::mem::replace(&mut *self.own_address.lock(), own.peer_address.clone()) != own.peer_address;
            if news {
                // Those who were greeted before do not know it yet.
                for (id, peer) in &mut self.peers {
                    let hello = self.local.hello(*id, own.peer_address.clone());
                    peer.staged.push(PeerItem { item: Some(Item::Hello(hello)) });
                }
            }
        }
        self.introduced.retain(|id, _| !members.iter().any(|member| member.id == *id));
        // To those that leave, too: that they were removed is among what they are told.
        self.flush();
        let (runtime, introduced, own) = (&self.runtime, &self.introduced, self.local.id);
        self.peers.retain(|id, peer| {
            let stays = members.iter().any(|member| member.id == *id && member.peer_address == peer.address)
                || introduced.get(id) == Some(&peer.address);
            if !stays {
                let stop = peer.stop.clone();
                runtime.spawn(async move {
                    tokio::time::sleep(LAST_WORDS).await;
                    stop.cancel();
                });
            }
            stays
        });
        for member in members.iter().filter(|member| member.id != own) {
            if self.peers.contains_key(&member.id) {
                continue;
            }
            self.keep(member.id, member.peer_address.clone());
        }
    }
}

/// Runs what the server cannot do without: a panic in it stops the node, as one in the node's own thread does.
async fn needed(inbox: Inbox, what: &'static str, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        let _ = inbox.push_always(Request::Broken(what));
    }
}

/// Keeps one peer connected.
struct Connection {
    local: Local,
    own_address: Arc<Mutex<String>>,
    peer: ServerId,
    address: String,
    queue: Arc<Mutex<Queue>>,
    inbox: Inbox,
}

impl Connection {
    /// Never ends.
    async fn keep(self) {
        let mut backoff = BACKOFF.0;
        // A refusal that stays the same is told once.
        let mut told = String::new();
        loop {
            let began = Instant::now();
            let error = self.connect_and_send().await;
            let lost;
            let was_connected = {
                let mut queue = self.queue.lock();
                queue.connection += 1;
                lost = !queue.items.is_empty();
                queue.items.clear();
                queue.bytes = 0;
                std::mem::take(&mut queue.connected)
            };
            if lost || was_connected {
                // Forwarded proposals may be among what is lost.
                let _ = self.inbox.push_always(Request::Unreachable(self.peer));
            }
            if was_connected {
                tracing::info!(peer = %self.peer, address = self.address, error = %error, "lost the connection to a peer");
                told.clear();
            } else if error.kind() == io::ErrorKind::InvalidData && error.to_string() != told {
                // The peer is there, and TLS with it fails: somebody has to do something about that.
                told = error.to_string();
                tracing::warn!(peer = %self.peer, address = self.address, error = told, "cannot connect to a peer");
            } else {
                tracing::debug!(peer = %self.peer, address = self.address, error = %error, "cannot connect to a peer");
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    // Nobody listens there: its process is gone.
                    let _ = self.inbox.push_always(Request::Gone(self.peer));
                }
            }
            if was_connected && began.elapsed() > BACKOFF.1 {
                // Try again at once: if it is refused now, we know more.
                backoff = BACKOFF.0;
                continue;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Ends when the connection does, with the reason.
    async fn connect_and_send(&self) -> io::Error {
        point!("peer-connect", |error| error);
        let channel = match connect(&self.local, &self.address).await {
            Ok(channel) => channel,
            Err(error) => return error,
        };
        let connection = {
            let mut queue = self.queue.lock();
            queue.connected = true;
            queue.connection
        };
        tracing::debug!(peer = %self.peer, address = self.address, "connected to a peer");
        let hello = self.local.hello(self.peer, self.own_address.lock().clone());
        let outgoing = Outgoing { queue: Arc::clone(&self.queue), connection, hello: Some(hello) };
        let mut client = PeerClient::new(channel).max_encoding_message_size(FRAME_BYTES_LIMIT);
        point!("peer-hello", |error| error);
        match client.stream(outgoing).await {
            Ok(end) => io::Error::other(end.into_inner().message),
            Err(status) => {
                if status.code() == tonic::Code::FailedPrecondition {
                    tracing::error!(peer = %self.peer, address = self.address, why = status.message(), "a peer refuses us");
                }
                io::Error::other(status.to_string())
            }
        }
    }
}

/// The socket is opened here and not by tonic, so that a refused connection is seen as what it is.
pub(super) async fn connect(local: &Local, address: &str) -> io::Result<tonic::transport::Channel> {
    let identity = local.identity.as_ref();
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let stream = tls::secure(identity, stream, address).await?;
    let endpoint = Endpoint::from_shared(format!("{}://{address}", tls::scheme(identity)))
        .map_err(io::Error::other)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20);
    endpoint.connect_with_connector(Once(Some(stream))).await.map_err(io::Error::other)
}

/// What peers call. Mount [`PeerService::server`] on the listener they know.
#[derive(Clone)]
pub struct PeerService {
    pub(super) local: Local,
    pub(super) inbox: Inbox,
    pub(super) trust: Trust,
}

impl PeerService {
    /// The tonic service, with its limits.
    #[must_use]
    pub fn server(&self) -> conclave_proto::peer::peer_server::PeerServer<Self> {
        conclave_proto::peer::peer_server::PeerServer::new(self.clone()).max_decoding_message_size(FRAME_BYTES_LIMIT)
    }

    fn check_hello(&self, hello: &PeerHello) -> Result<(), Box<Status>> {
        point!("peer-check-hello", |error| Err(Box::new(Status::unavailable(error.to_string()))));
        let local = &self.local;
        let refuse = |why: String| {
            tracing::error!(peer = hello.from, why, "refused a peer");
            Err(Box::new(Status::failed_precondition(why)))
        };
        if hello.cluster != local.cluster {
            return refuse(format!(
                "server {} belongs to cluster {:?}, server {} to cluster {:?}",
                hello.from, hello.cluster, local.id, local.cluster
            ));
        }
        if hello.to != local.id.0 {
            return refuse(format!("this is server {}, the caller takes it for server {}", local.id, hello.to));
        }
        if hello.from == local.id.0 {
            return refuse(format!("two servers have id {}", local.id));
        }
        if hello.protocol != PROTOCOL {
            return refuse(format!(
                "server {} speaks version {} of the protocol between servers, server {} version {PROTOCOL}",
                hello.from, hello.protocol, local.id
            ));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn stream(&self, request: Rpc<Streaming<PeerFrame>>) -> Result<Response<PeerEnd>, Status> {
        point!("peer-accept", |error| Err(Status::unavailable(error.to_string())));
        let shown = request.extensions().get::<Shown>().cloned();
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap_or_default();
        let Some(PeerItem { item: Some(Item::Hello(hello)) }) = first.items.first() else {
            return Err(Status::failed_precondition("the first item must be a hello"));
        };
        self.check_hello(hello).map_err(|status| *status)?;
        let from = ServerId(hello.from);
        self.check_certificate(shown.as_ref(), from, &hello.address).await?;
        let result = self.receive(from, first, &mut frames).await;
        let _ = self.hand_over([Request::StreamLost(from)]);
        result.map(|()| Response::new(PeerEnd { message: "the stream ended".to_owned() }))
    }

    type SnapshotStream = super::snapshot::Chunks;

    async fn snapshot(&self, request: Rpc<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let shown = request.extensions().get::<Shown>().cloned();
        let request = request.into_inner();
        if request.cluster != self.local.cluster {
            return Err(Status::failed_precondition(format!(
                "server {} asks for a snapshot of cluster {:?}, this is cluster {:?}",
                request.from, request.cluster, self.local.cluster
            )));
        }
        self.check_certificate(shown.as_ref(), ServerId(request.from), "").await?;
        super::snapshot::serve(&self.local, Arc::clone(&self.inbox), request).map(Response::new)
    }

    async fn vouch(&self, request: Rpc<VouchRequest>) -> Result<Response<VouchReply>, Status> {
        let shown = request.extensions().get::<Shown>().cloned();
        let request = request.into_inner();
        if self.local.identity.is_some() {
            // Whoever asks may have been forgotten here, so any server of the CA is told; it learns little.
            server_certificate(shown.as_ref(), ServerId(request.from)).map_err(Status::failed_precondition)?;
        }
        let member =
            request.cluster == self.local.cluster && self.trust.is_member(ServerId(request.id), &request.address);
        Ok(Response::new(VouchReply { member }))
    }
}

impl PeerService {
    async fn check_certificate(&self, shown: Option<&Shown>, from: ServerId, address: &str) -> Result<(), Status> {
        self.trust.check(shown, from, address).await.map_err(|why| {
            tracing::error!(peer = %from, why, "refused a peer");
            Status::failed_precondition(why)
        })
    }

    async fn receive(
        &self,
        from: ServerId,
        mut frame: PeerFrame,
        frames: &mut Streaming<PeerFrame>,
    ) -> Result<(), Status> {
        loop {
            let mut requests = Vec::with_capacity(frame.items.len());
            for item in frame.items {
                match item.item {
                    Some(Item::Raft(bytes)) => {
                        point!("peer-decode", |error| Err(Status::invalid_argument(error.to_string())));
                        let message = Message::decode(&bytes[..])
                            .map_err(|error| Status::invalid_argument(format!("not a raft message: {error}")))?;
                        requests.push(Request::Raft(message));
                    }
                    // The first of the stream, and another one when its sender has learnt where it is reached.
                    Some(Item::Hello(hello)) if !hello.address.is_empty() => {
                        requests.push(Request::Introduced { peer: from, address: hello.address });
                    }
                    // Nothing new, or from a newer version.
                    Some(Item::Hello(_)) | None => {}
                    Some(item) => requests.push(Request::Item(item)),
                }
            }
            self.hand_over(requests)?;
            point!("peer-receive", |error| Err(Status::unavailable(error.to_string())));
            match frames.message().await? {
                Some(next) => frame = next,
                None => return Ok(()),
            }
        }
    }

    fn hand_over(&self, requests: impl IntoIterator<Item = Request<IncomingDir>>) -> Result<(), Status> {
        point!("peer-hand-over", |error| Err(Status::unavailable(error.to_string())));
        // What does not fit is lost, and Raft makes it good.
        self.inbox.push_all(requests).map_err(|()| Status::unavailable("the server is stopping"))
    }
}
