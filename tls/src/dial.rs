//! Opening connections for tonic, and for whatever else takes a tower service.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::{First, Identity, Stream};

/// Opens connections with TLS, with what is in the identity's files at that moment.
#[derive(Clone, Debug)]
pub struct Dial(pub Arc<Identity>);

impl Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The caller limits the time.
    fn call(&mut self, uri: Uri) -> Self::Future {
        let identity = Arc::clone(&self.0);
        Box::pin(async move {
            if let Err(error) = identity.refresh() {
                tracing::warn!(%error, "the TLS files read before are used");
            }
            let host = bare_host(&uri);
            let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            tcp.set_nodelay(true)?;
            identity.connect(tcp, host, First::Server).await.map(TokioIo::new)
        })
    }
}

/// The host without the brackets that an IPv6 address has in a URI.
#[must_use]
pub fn bare_host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
