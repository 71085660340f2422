//! The HTTP port: is it alive, is it ready, how is it doing, what is it.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use conclave_faults::point;
use conclave_tls::Acceptor;
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    service::{
        Service,
        door::{self, Admission, Connection},
    },
};

/// The node's thread must take a request within this time. Generous: a slow disk is not a dead process.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);
/// A replica further behind than this many entries is not ready.
const READY_BEHIND_MAX: u64 = 4_096;

/// Connections to this port at a time. Probes and scrapers need few.
const CONNECTIONS_MAX: usize = 256;

/// What the port shows.
pub struct Pages {
    /// The server.
    pub service: Arc<Service>,
    /// Its metrics.
    pub metrics: Metrics,
}

/// The port's connections, as the other ports' come in.
struct Incoming {
    connections: Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>,
    local: SocketAddr,
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.connections.next().await {
                Some(Ok(connection)) => {
                    let remote = connection.remote().unwrap_or(self.local);
                    return (connection, remote);
                }
                Some(Err(_)) => {}
                // It never ends.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Serves until `stop`; with an acceptor, over TLS.
pub async fn serve(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    pages: Pages,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let connections = Box::pin(door::accept(listener, Admission::new(CONNECTIONS_MAX), acceptor));
    let incoming = Incoming { connections, local };
    let router = Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version));
    #[cfg(feature = "faults")]
    let router = router.route("/faults", get(faults).post(arm_faults));
    let router = router.fallback(nothing_here).with_state(Arc::new(pages));
    axum::serve(incoming, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

const INDEX: &str = "conclaved\n\n/livez    is the process alive?\n/readyz   can it serve?\n/metrics  for Prometheus\n\
                     /version  what is it?\n";

async fn index() -> &'static str {
    INDEX
}

async fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, format!("there is no such page; this is\n\n{INDEX}")).into_response()
}

/// Does not need a quorum: restarting a server that has lost its peers helps nobody.
async fn livez(State(pages): State<Arc<Pages>>) -> Response {
    let handle = &pages.service.handle;
    let ended = tokio::select! {
        biased;
        ended = handle.ended() => Some(ended),
        asked = tokio::time::timeout(ALIVE_WITHIN, handle.remaining()) => match asked {
            Ok(_) => None,
            Err(_) => Some(Err(format!("the node's thread has not answered for {} s", ALIVE_WITHIN.as_secs()))),
        },
    };
    match ended {
        None => "alive\n".into_response(),
        Some(Ok(())) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
        Some(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Why this server should get no clients now; `None` if it should.
#[must_use]
pub fn unready(service: &Service) -> Option<String> {
    if service.stop.is_cancelled() {
        return Some("stopping".to_owned());
    }
    let status = service.handle.status().borrow().clone();
    if status.diverged {
        return Some("this replica's state has diverged from its peers': it serves nothing".to_owned());
    }
    if status.leader.0 == 0 {
        return Some("no leader is known".to_owned());
    }
    let applied = service.handle.state().applied();
    let behind = status.committed.0.saturating_sub(applied.0);
    (behind > READY_BEHIND_MAX).then(|| format!("{behind} committed entries are not applied yet"))
}

async fn readyz(State(pages): State<Arc<Pages>>) -> Response {
    point!("http-ready", |error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response());
    match unready(&pages.service) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    point!("http-metrics", |error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], pages.metrics.text()).into_response()
}

/// The fail points that are armed and how often they were come by: `name hits`, one a line.
#[cfg(feature = "faults")]
async fn faults() -> String {
    conclave_faults::armed().iter().map(|point| format!("{} {}\n", point.name, point.hits)).collect()
}

/// Arms fail points: `name=actions`, one a line.
#[cfg(feature = "faults")]
async fn arm_faults(list: String) -> Response {
    match conclave_faults::arm_all(&list) {
        Ok(()) => faults().await.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn version(State(pages): State<Arc<Pages>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "name": "conclaved",
        "version": env!("CARGO_PKG_VERSION"),
        "id": pages.service.id.0,
        "cluster": pages.service.cluster,
    }))
}
