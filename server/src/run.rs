//! A server from its start to its stop. The caller brings the listeners and decides when to stop, so that a test can use
//! port 0 and end it politely.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use conclave_faults::point;
use conclave_proto::{ServerId, v1};
use conclave_tls::{FileError, Port};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    config::{Config, ConfigError},
    http::{self, Pages},
    metrics::{Metrics, Security},
    raft::{self, StartError},
    service::{
        Service, SessionsServer,
        admin::Admin,
        admit::Gate,
        door::{self, Admission, Door},
        hub::Hub,
        store::Store,
    },
    tls::{self, Identities},
};

/// One stalled stream must not use up the room of its siblings on a connection: the connection's window is many times
/// a stream's.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// See [`STREAM_WINDOW_BYTES`].
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// A client that is gone without a word is noticed after this and [`PING_WITHIN`].
const PING_EVERY: Duration = Duration::from_secs(10);
/// See [`PING_EVERY`].
const PING_WITHIN: Duration = Duration::from_secs(10);
/// For handing over leadership.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);
/// For streams to end after they were told to go elsewhere.
const GO_WITHIN: Duration = Duration::from_secs(2);
/// For connections to close after that. Peers keep theirs open until they are cut.
const CLOSE_WITHIN: Duration = Duration::from_millis(300);

/// The listeners of a server.
pub struct Sockets {
    /// For clients; for peers, too, if they have none of their own.
    pub client: TcpListener,
    /// For peers.
    pub peer: Option<TcpListener>,
    /// For `/metrics` and its like.
    pub http: TcpListener,
}

impl Sockets {
    /// As the configuration says.
    ///
    /// # Errors
    /// [`RunError::Listen`].
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        let bind = async |name: &'static str, address: SocketAddr| {
            point!("listen-bind", |source| Err(RunError::Listen { name, address, source }));
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { name, address, source })
        };
        Ok(Self {
            client: bind("listen_client", config.listen_client).await?,
            peer: match config.listen_peer {
                Some(address) => Some(bind("listen_peer", address).await?),
                None => None,
            },
            http: bind("listen_http", config.listen_http).await?,
        })
    }
}

/// Why a server does not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files that TLS needs.
    #[error(transparent)]
    Tls(#[from] FileError),
    /// The file of tokens.
    #[error("{0}")]
    Tokens(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {name} {address}")]
    Listen {
        /// The setting.
        name: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The node could not go on.
    #[error("the node stopped: {0}")]
    Node(String),
    /// A listener failed.
    #[error("cannot serve")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Serves until `stop` resolves: then hands leadership over, sends clients elsewhere, and returns.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, sockets: Sockets, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    config.check()?;
    let identities = Identities::load(&config)?;
    let token_file = Some(&*config.auth.token_file).filter(|path| !path.as_os_str().is_empty());
    let gate = Gate::new(config.auth.mode, token_file).map_err(RunError::Tokens)?;
    let hub = Hub::new(config.limits.watches_per_stream_max);
    let mut options = config.options();
    options.identity = identities.peers.clone();
    let timings = options.timings.clone();
    let (handle, peers) = raft::start(options, Box::new(hub.publisher()))?;
    let id = ServerId(config.id);
    let service = Service::new(handle.clone(), hub.clone(), id, config.cluster.clone(), config.limits.clone());
    let admission = Admission::new(config.limits.connections_max);
    let plain_text = tls::warn_of_plain_text(&ports(&config, &sockets, &identities));
    let security = Security { identities: identities.clone(), gate: gate.clone(), plain_text };
    let metrics = Metrics::new(&service, &admission, &timings, security);
    tracing::info!(
        node = config.id,
        cluster = config.cluster,
        client = %local(&sockets.client),
        peers = %sockets.peer.as_ref().map_or_else(|| "the same".to_owned(), local),
        http = %local(&sockets.http),
        tls = identities.clients.is_some(),
        auth = ?config.auth.mode,
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "conclaved starts"
    );

    let (health, health_server) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(conclave_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are the ones the code was generated from");
    let request_max = config.limits.request_bytes_max.0 as usize;
    let store = v1::store_server::StoreServer::new(Store(service.clone())).max_decoding_message_size(request_max);
    let admin = Admin {
        service: service.clone(),
        identity: identities.clients.clone(),
        peers_encrypted: identities.peers.is_some(),
    };
    let admin = v1::admin_server::AdminServer::new(admin).max_decoding_message_size(request_max);
    let mut builder = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.limits.streams_per_connection_max)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WITHIN));
    let peers = Door::for_peers(peers.server(), admission.clone());
    let mut router = builder
        .add_service(Door::new(SessionsServer::new(service.clone()), admission.clone(), gate.clone()))
        .add_service(Door::new(store, admission.clone(), gate.clone()))
        .add_service(Door::new(admin, admission.clone(), gate.clone()))
        // Whoever only wants to know whether the server is well need not say who they are.
        .add_service(health_server)
        .add_service(reflection);

    let closing = CancellationToken::new();
    let closed = || closing.clone().cancelled_owned();
    let mut serving = JoinSet::new();
    match sockets.peer {
        None => router = router.add_service(peers),
        Some(listener) => {
            let acceptor = identities.peers.as_ref().map(|identity| identity.acceptor(Port::Peers));
            let incoming = door::accept(listener, admission.clone(), acceptor);
            serving.spawn(builder.add_service(peers).serve_with_incoming_shutdown(incoming, closed()));
        }
    }
    let acceptor = identities.clients.as_ref().map(|identity| identity.acceptor(Port::Clients));
    let incoming = door::accept(sockets.client, admission.clone(), acceptor);
    serving.spawn(router.serve_with_incoming_shutdown(incoming, closed()));
    let http_tls = identities.clients.as_ref().filter(|_| identities.http);
    let http_tls = http_tls.map(|identity| identity.acceptor(Port::Http));
    let fresh = tokio::spawn(tls::keep_fresh(identities, gate, config.tls.reload_every.0));
    let pages = Pages { service: service.clone(), metrics };
    let http = tokio::spawn(http::serve(sockets.http, http_tls, pages, closing.clone()));
    let mut watcher = tokio::spawn(watch_status(service.clone(), health));

    let mut http = http;
    let mut ended = tokio::select! {
        () = stop => None,
        ended = handle.ended() => Some(RunError::Node(ended.err().unwrap_or_else(|| "without a reason".to_owned()))),
        served = serving.join_next() => Some(RunError::Serve(match served {
            Some(Ok(Err(error))) => error.into(),
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => "a port closed".into(),
        })),
        // It ends with the node, which then says why.
        _ = &mut watcher => Some(RunError::Node(match tokio::time::timeout(CLOSE_WITHIN, handle.ended()).await {
            Ok(ended) => ended.err().unwrap_or_else(|| "without a reason".to_owned()),
            Err(_) => "watching the status failed: a broken invariant".to_owned(),
        })),
        served = &mut http => Some(RunError::Serve(match served {
            Ok(Ok(())) => "the HTTP port closed".into(),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        })),
    };
    if ended.is_none() {
        tracing::info!(node = config.id, "stopping: handing over");
        hand_over(&service).await;
    }
    point!("stop-drain");
    // Clients go elsewhere, with a word; their sessions live on.
    service.stop.cancel();
    service.tasks.close();
    let _ = tokio::time::timeout(GO_WITHIN, service.tasks.wait()).await;
    handle.stop(HAND_OVER_WITHIN).await;
    if ended.is_none() {
        // It may have failed at the last moment.
        ended = handle.ended().await.err().map(RunError::Node);
    }
    closing.cancel();
    let deadline = tokio::time::Instant::now() + CLOSE_WITHIN;
    while tokio::time::timeout_at(deadline, serving.join_next()).await.is_ok_and(|ended| ended.is_some()) {}
    serving.abort_all();
    let _ = tokio::time::timeout_at(deadline, &mut http).await;
    http.abort();
    fresh.abort();
    watcher.abort();
    tracing::info!(node = config.id, "stopped");
    ended.map_or(Ok(()), Err)
}

/// Every port: its name, where it listens, whether it speaks TLS.
fn ports(config: &Config, sockets: &Sockets, identities: &Identities) -> Vec<(&'static str, SocketAddr, bool)> {
    let at = |listener: &TcpListener, configured| listener.local_addr().unwrap_or(configured);
    let mut ports = vec![
        ("client", at(&sockets.client, config.listen_client), identities.clients.is_some()),
        ("http", at(&sockets.http, config.listen_http), identities.http),
    ];
    if let Some(peer) = &sockets.peer {
        ports.push(("peer", at(peer, config.listen_client), identities.peers.is_some()));
    }
    ports
}

fn local(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// Leadership goes to another member before this server is gone, so that nobody has to wait for an election.
async fn hand_over(service: &Arc<Service>) {
    let status = service.handle.status().borrow().clone();
    if status.leader != service.id || status.members.len() < 2 {
        return;
    }
    point!("stop-hand-over", |error| tracing::warn!(%error, "leadership was not handed over"));
    match tokio::time::timeout(HAND_OVER_WITHIN, service.handle.transfer(ServerId(0))).await {
        Ok(Ok(leader)) => tracing::info!(%leader, "leadership was handed over"),
        Ok(Err(why)) => tracing::warn!(why, "leadership was not handed over"),
        Err(_) => tracing::warn!("leadership was not handed over in time"),
    }
}

/// Tells gRPC health what the status says, and sends clients away from a replica that must not serve.
async fn watch_status(service: Arc<Service>, health: tonic_health::server::HealthReporter) {
    use tonic_health::ServingStatus;
    let mut status = service.handle.status();
    loop {
        point!("status-watch");
        let serving = http::unready(&service).is_none();
        let word = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", v1::sessions_server::SERVICE_NAME, v1::store_server::SERVICE_NAME] {
            health.set_service_status(name, word).await;
        }
        if status.borrow_and_update().diverged {
            let message = "this replica's state has diverged from its peers'";
            service.hub.end_all(v1::session_ended::Reason::GoingAway, message);
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = service.stop.cancelled() => {
                health.set_service_status("", ServingStatus::NotServing).await;
                return;
            }
        }
    }
}
