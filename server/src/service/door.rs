//! The door: who comes in, and words for what is turned away before it reaches a service.
//!
//! Connections beyond `connections_max` are let in as far as a small reserve goes, but only to talk as a peer: a flood
//! of clients must not cost the cluster its quorum. Everybody else on them is told which limit was reached. Beyond the
//! reserve connections are closed at once.

use std::{
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
use futures_util::{Stream, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::server::Connected,
};

/// Connections beyond `connections_max` that may still talk as peers.
pub const CONNECTIONS_RESERVE: usize = 128;
/// After a failed accept (mostly: out of file descriptors).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    connections_max: usize,
    open: AtomicUsize,
    refused: AtomicU64,
}

impl Admission {
    /// Room for so many, and [`CONNECTIONS_RESERVE`].
    #[must_use]
    pub fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, open: AtomicUsize::new(0), refused: AtomicU64::new(0) })
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

    fn admit(self: &Arc<Self>, tcp: TcpStream) -> Option<Connection> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place(self.clone());
        if open > self.connections_max + CONNECTIONS_RESERVE {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Small frames must not wait for acknowledgements of earlier ones.
        tcp.set_nodelay(true).ok()?;
        let full = (open > self.connections_max).then_some(self.connections_max);
        let info = Info { remote: tcp.peer_addr().ok(), full };
        Some(Connection { tcp, info, _place: place })
    }
}

#[derive(Debug)]
struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What requests know of their connection.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// On a reserved connection: the limit that was reached.
    full: Option<usize>,
}

/// An admitted connection.
#[derive(Debug)]
pub struct Connection {
    tcp: TcpStream,
    info: Info,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        self.info
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let accepted = listener.accept().await;
    point!("door-accept", Err);
    accepted
}

/// Accepts for ever.
pub fn accept(listener: TcpListener, admission: Arc<Admission>) -> impl Stream<Item = io::Result<Connection>> {
    futures_util::stream::unfold((listener, admission), |(listener, admission)| async move {
        loop {
            match accept_one(&listener).await {
                Ok((tcp, remote)) => match admission.admit(tcp) {
                    Some(connection) => return Some((Ok(connection), (listener, admission))),
                    None => tracing::warn!(
                        %remote,
                        connections_max = admission.connections_max,
                        "connection closed: too many"
                    ),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    })
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub struct Door<S> {
    inner: S,
    admission: Arc<Admission>,
    /// For peers: reserved connections are theirs.
    peers: bool,
}

impl<S> Door<S> {
    /// For clients.
    pub fn new(inner: S, admission: Arc<Admission>) -> Self {
        Self { inner, admission, peers: false }
    }

    /// For peers.
    pub fn for_peers(inner: S, admission: Arc<Admission>) -> Self {
        Self { inner, admission, peers: true }
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

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let full = request.extensions().get::<Info>().and_then(|info| info.full);
        if let Some(max) = full
            && !self.peers
        {
            self.admission.refused.fetch_add(1, Ordering::Relaxed);
            let message = format!("limit reached: connections_max is {max} on this server, try another one");
            return Box::pin(async { Ok(Status::resource_exhausted(message).into_http()) });
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
