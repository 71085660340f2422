//! TLS on a server: the identities that its configuration names, kept fresh, and connections to other servers.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use conclave_tls::{FileError, Files, First, Identity};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};

use crate::{config::Config, service::admit::Gate};

/// For a handshake with another server, after the connection has come about.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);

/// Who a server is, on each of its ports. None: plain text.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    /// Towards clients; on the HTTP port too, if that speaks TLS.
    pub clients: Option<Arc<Identity>>,
    /// Towards peers; often the same files.
    pub peers: Option<Arc<Identity>>,
    /// The HTTP port speaks TLS.
    pub http: bool,
}

impl Identities {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(config: &Config) -> Result<Self, FileError> {
        let load = |files: Option<Files>| files.map(Identity::load).transpose();
        let clients = load(config.tls_files())?;
        let peers = match config.peer_tls_files() {
            files if files == config.tls_files() => clients.clone(),
            files => load(files)?,
        };
        let identities = Self { clients, peers, http: config.tls.http };
        for (_, identity) in identities.each() {
            examine(identity);
        }
        Ok(identities)
    }

    /// Each once, with what it is for.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, &Arc<Identity>)> {
        let same = matches!((&self.clients, &self.peers), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        let clients = self.clients.iter().map(move |identity| (if same { "all" } else { "clients" }, identity));
        clients.chain(self.peers.iter().filter(move |_| !same).map(|identity| ("peers", identity)))
    }
}

/// What is no error, and still not as it should be.
fn examine(identity: &Identity) {
    if let Some((key, mode)) = identity.files().key_open_to_others() {
        tracing::warn!(
            key = %key.display(),
            mode = format!("{mode:o}"),
            "others than its owner may use the private key: chmod 600"
        );
    }
    if let Some(own) = identity.own() {
        let left = seconds_left(own.not_after_seconds());
        if left <= 0 {
            tracing::error!(
                certificate = own.name(),
                "this server's certificate has expired: nobody will talk to it until there is a new one"
            );
        }
        if !own.is_for_servers() {
            tracing::error!(certificate = own.name(), "this server's certificate is a client's: nobody will take it");
        }
    }
}

/// Until a moment, by the wall clock; negative after it.
pub(crate) fn seconds_left(until: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    until.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Takes over files that change: looks after every `every`, and at SIGHUP. Never ends.
pub(crate) async fn keep_fresh(identities: Identities, gate: Arc<Gate>, every: Duration) {
    let mut hangup = signal(SignalKind::hangup()).expect("a handler for a signal that can be handled");
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = hangup.recv() => tracing::info!("SIGHUP: looking for new certificates and tokens"),
        }
        let (identities, gate) = (identities.clone(), gate.clone());
        let looked = tokio::task::spawn_blocking(move || {
            for (usage, identity) in identities.each() {
                match identity.refresh() {
                    Ok(false) => {}
                    Ok(true) => {
                        let own = identity.own();
                        let certificate = own.as_ref().map(|own| own.name().to_owned()).unwrap_or_default();
                        let days_left = own.map_or(0, |own| seconds_left(own.not_after_seconds()) / 86_400);
                        tracing::info!(
                            usage,
                            certificate,
                            days_left,
                            "new certificates are in force for new connections"
                        );
                        examine(identity);
                    }
                    Err(error) => {
                        tracing::error!(usage, %error, "new certificates are refused, the old ones stay in force")
                    }
                }
            }
            match gate.refresh() {
                Ok(false) => {}
                Ok(true) => tracing::info!("new tokens are in force"),
                Err(error) => tracing::error!(error, "new tokens are refused, the old ones stay in force"),
            }
        });
        let _ = looked.await;
    }
}

/// Says once which ports others can listen in on. Plain text on loopback stays on the machine.
pub(crate) fn warn_of_plain_text(ports: &[(&'static str, SocketAddr, bool)]) -> Vec<&'static str> {
    let open = ports.iter().filter(|(_, address, encrypted)| !encrypted && !address.ip().is_loopback());
    open.map(|&(port, address, _)| {
        tracing::warn!(port, %address, "plain text off this machine: others can read it and change it; see [tls]");
        port
    })
    .collect()
}

/// A connection to another server, encrypted or not.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes TLS out of an open connection to `address`, if there is an identity to do so with.
pub(crate) async fn secure(
    identity: Option<&Arc<Identity>>,
    tcp: TcpStream,
    address: &str,
) -> io::Result<Box<dyn Wire>> {
    let Some(identity) = identity else { return Ok(Box::new(tcp)) };
    let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, identity.connect(tcp, host_of(address), First::Server));
    let stream = shaken.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"))?;
    Ok(Box::new(stream?))
}

/// The scheme of URIs to other servers.
pub(crate) fn scheme(identity: Option<&Arc<Identity>>) -> &'static str {
    if identity.is_some() { "https" } else { "http" }
}

/// The host of host:port, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Hands an open connection to tonic, once.
pub(crate) struct Once(pub(crate) Option<Box<dyn Wire>>);

impl tower_service::Service<http::Uri> for Once {
    type Response = TokioIo<Box<dyn Wire>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new);
        Box::pin(async move { stream.ok_or_else(|| io::Error::other("the connection is lost")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_a_certificate_names() {
        for (address, host) in [("a.b:1", "a.b"), ("10.0.0.1:7401", "10.0.0.1"), ("[::1]:7401", "::1")] {
            assert_eq!(host_of(address), host);
        }
    }

    #[test]
    fn only_plain_text_off_this_machine_is_warned_of() {
        let at = |text: &str| text.parse().expect("an address");
        let ports = [
            ("client", at("0.0.0.0:1"), false),
            ("peer", at("10.0.0.1:2"), true),
            ("http", at("127.0.0.1:3"), false),
            ("other", at("[::]:4"), false),
        ];
        assert_eq!(warn_of_plain_text(&ports), ["client", "other"]);
    }
}
