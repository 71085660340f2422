//! The door: who comes in, and words for what is turned away before it reaches a service.
//!
//! Connections beyond `connections_max` are let in as far as a small reserve goes, but only to talk as a peer: a flood
//! of clients must not cost the cluster its quorum. Everybody else on them is told which limit was reached. Beyond the
//! reserve connections are closed at once.
//!
//! Where there is TLS, a connection counts from when it is accepted, and its handshake happens beside the accepting of
//! others: bounded in time and in number, so that those who connect and say nothing are in nobody's way.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use conclave_faults::point;
use conclave_proto::v1;
use conclave_tls::{AcceptError, Acceptor, Certificate};
use futures_util::{Stream, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::server::Connected,
};

use super::admit::{Gate, Way};
use crate::{raft::Shown, tls::Wire};

/// Connections beyond `connections_max` that may still talk as peers.
pub const CONNECTIONS_RESERVE: usize = 128;
/// After a failed accept (mostly: out of file descriptors).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A handshake takes at most this long.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Most handshakes under way on one port. The oldest makes room for the next: one that takes longest is least likely to
/// come to something.
const HANDSHAKES_MAX: usize = 512;

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    connections_max: usize,
    open: AtomicUsize,
    refused: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl Admission {
    /// Room for so many, and [`CONNECTIONS_RESERVE`].
    #[must_use]
    pub fn new(connections_max: usize) -> Arc<Self> {
        let (open, refused, handshakes_failed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { connections_max, open, refused, handshakes_failed })
    }

    /// Open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Turned away since the start: closed, or told of the limit.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// TLS handshakes that came to nothing since the start.
    #[must_use]
    pub fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream) -> Option<Entered> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place(self.clone());
        if open > self.connections_max + CONNECTIONS_RESERVE {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Small frames must not wait for acknowledgements of earlier ones.
        tcp.set_nodelay(true).ok()?;
        let full = (open > self.connections_max).then_some(self.connections_max);
        let info = Info { remote: tcp.peer_addr().ok(), full, encrypted: false, certificate: None };
        Some(Entered { tcp, info, place })
    }
}

#[derive(Debug)]
struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that was counted, and has said nothing yet.
struct Entered {
    tcp: TcpStream,
    info: Info,
    place: Place,
}

impl Entered {
    fn plain(self) -> Connection {
        Connection { io: Box::new(self.tcp), info: self.info, _place: self.place }
    }

    async fn shake(self, acceptor: Acceptor) -> Option<Connection> {
        let Self { tcp, mut info, place } = self;
        let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(tcp)).await;
        let why = match shaken {
            Ok(Ok(accepted)) => {
                info.encrypted = true;
                info.certificate = accepted.certificate.map(Arc::new);
                return Some(Connection { io: accepted.stream, info, _place: place });
            }
            // Somebody looked whether the port is open.
            Ok(Err(AcceptError::Silent)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done after {} s", HANDSHAKE_WITHIN.as_secs()),
        };
        place.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        let remote = info.remote.map(|remote| remote.to_string()).unwrap_or_default();
        tracing::info!(remote, why, "no TLS handshake");
        None
    }
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
pub struct Info {
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// On a reserved connection: the limit that was reached.
    full: Option<usize>,
    /// It speaks TLS.
    pub encrypted: bool,
    /// What the other end showed, and our CA signed.
    pub certificate: Option<Arc<Certificate>>,
}

/// An admitted connection.
pub struct Connection {
    io: Box<dyn Wire>,
    info: Info,
    _place: Place,
}

impl Connection {
    /// The other end.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.info.remote
    }
}

impl Connected for Connection {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let accepted = listener.accept().await;
    point!("door-accept", Err);
    accepted
}

/// Accepts for ever; with an acceptor, over TLS.
pub fn accept(
    listener: TcpListener,
    admission: Arc<Admission>,
    acceptor: Option<Acceptor>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let accepting = Accepting { listener, admission, acceptor, handshakes: JoinSet::new(), begun: VecDeque::new() };
    futures_util::stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
}

struct Accepting {
    listener: TcpListener,
    admission: Arc<Admission>,
    acceptor: Option<Acceptor>,
    /// Under way, or done and not fetched yet.
    handshakes: JoinSet<Option<Connection>>,
    /// The same, the oldest first.
    begun: VecDeque<AbortHandle>,
}

impl Accepting {
    async fn next(&mut self) -> Connection {
        loop {
            let accepted = tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(connection)) => return connection,
                    // It failed, or had to make room.
                    Ok(None) | Err(_) => continue,
                },
                accepted = accept_one(&self.listener) => accepted,
            };
            match accepted {
                Ok((tcp, remote)) => match (self.admission.admit(tcp), &self.acceptor) {
                    (Some(entered), None) => return entered.plain(),
                    (Some(entered), Some(acceptor)) => {
                        let acceptor = acceptor.clone();
                        self.begin(entered, acceptor);
                    }
                    (None, _) => tracing::warn!(
                        %remote,
                        connections_max = self.admission.connections_max,
                        "connection closed: too many"
                    ),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    fn begin(&mut self, entered: Entered, acceptor: Acceptor) {
        while self.begun.front().is_some_and(AbortHandle::is_finished) {
            self.begun.pop_front();
        }
        if self.begun.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.begun.pop_front()
        {
            self.admission.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            oldest.abort();
        }
        self.begun.push_back(self.handshakes.spawn(entered.shake(acceptor)));
    }
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub struct Door<S> {
    inner: S,
    admission: Arc<Admission>,
    /// Who may come in. None for peers: reserved connections are theirs, and their service looks at certificates itself.
    gate: Option<Arc<Gate>>,
}

impl<S> Door<S> {
    /// For clients.
    pub fn new(inner: S, admission: Arc<Admission>, gate: Arc<Gate>) -> Self {
        Self { inner, admission, gate: Some(gate) }
    }

    /// For peers.
    pub fn for_peers(inner: S, admission: Arc<Admission>) -> Self {
        Self { inner, admission, gate: None }
    }

    /// What is to be answered instead of the service; otherwise the request knows who is calling.
    fn turn_away(&self, request: &mut http::Request<Body>) -> Option<Status> {
        let info = request.extensions().get::<Info>().cloned();
        let certificate = info.as_ref().and_then(|info| info.certificate.clone());
        let Some(gate) = &self.gate else {
            request.extensions_mut().insert(Shown(certificate));
            return None;
        };
        if let Some(max) = info.as_ref().and_then(|info| info.full) {
            self.admission.refused.fetch_add(1, Ordering::Relaxed);
            let message = format!("limit reached: connections_max is {max} on this server, try another one");
            return Some(Status::resource_exhausted(message));
        }
        let way = Way {
            remote: info.as_ref().and_then(|info| info.remote),
            encrypted: info.is_some_and(|info| info.encrypted),
            certificate: certificate.as_deref(),
        };
        match gate.enter(&way, request.headers(), request.uri().path()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                None
            }
            Err(status) => Some(*status),
        }
    }
}

impl<S: NamedService> NamedService for Door<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Door<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<http::Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(status) = self.turn_away(&mut request) {
            return Box::pin(async { Ok(status.into_http()) });
        }
        let response = self.inner.call(request);
        Box::pin(async {
            let mut response = response.await?;
            if let Some(status) = Status::from_header_map(response.headers())
                && status.code() != Code::Ok
            {
                let (code, message) = explain(status.code(), status.message());
                if message != status.message() {
                    response = Status::new(code, message).into_http();
                }
            }
            Ok(response)
        })
    }
}

/// The same refusal in the words of the one who asked.
#[must_use]
pub fn explain(code: Code, message: &str) -> (Code, String) {
    if message.contains("decoded message length too large") {
        let mut numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        if let (Some(found), Some(limit)) = (numbers.next(), numbers.next()) {
            let message = format!("request too large: it has {found} bytes, request_bytes_max is {limit}");
            return (Code::InvalidArgument, message);
        }
    }
    if message.contains("UTF-8") {
        return (Code::InvalidArgument, format!("bad request: text must be UTF-8: {message}"));
    }
    if message.contains("decode") && matches!(code, Code::Internal | Code::InvalidArgument) {
        return (Code::InvalidArgument, format!("bad request: it is no message of this protocol: {message}"));
    }
    (code, message.to_owned())
}

/// The error of a unary call that has no error field of its own in its reply.
#[must_use]
pub fn status(error: &v1::Error) -> Status {
    use v1::Code as C;
    let code = match error.code() {
        C::InvalidArgument | C::TooLarge => Code::InvalidArgument,
        C::Denied => Code::PermissionDenied,
        C::NoNode | C::NoSession | C::SessionExpired => Code::NotFound,
        C::Overloaded | C::Limit => Code::ResourceExhausted,
        C::Timeout => Code::DeadlineExceeded,
        C::NoLeader | C::Unavailable | C::LeadershipLost | C::Diverged => Code::Unavailable,
        C::Internal => Code::Internal,
        _ => Code::FailedPrecondition,
    };
    Status::new(code, error.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_transport_refuses_is_told_in_words() {
        for (code, message, told) in [
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes",
                "request too large: it has 3000000 bytes, request_bytes_max is 2097152",
            ),
            (
                Code::Internal,
                "failed to decode Protobuf message: Put.path: invalid string value: data is not UTF-8 encoded",
                "text must be UTF-8",
            ),
            (Code::Internal, "failed to decode Protobuf message: buffer underflow", "no message of this protocol"),
        ] {
            let (code, explained) = explain(code, message);
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(explained.contains(told), "{told:?} is not in {explained:?}");
        }
        assert_eq!(explain(Code::Unavailable, "gone"), (Code::Unavailable, "gone".to_owned()));
    }
}
