//! Who we are: files, and what was made of them last.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::{
    Certificate, FileError, Files,
    accept::{Acceptor, Port},
    files::{CERTIFICATE, Contents, Parsed, blame, unusable_ca},
};

/// An identity from files, taken over when they change. See the crate's promises.
pub struct Identity {
    files: Files,
    now: RwLock<Arc<Loaded>>,
    /// What the files were last refused for, so that it is said once.
    complaint: Mutex<Option<String>>,
    failures: AtomicU64,
}

/// What connections are made with.
pub(crate) struct Loaded {
    contents: Contents,
    own: Option<Certificate>,
    /// By [`Port`]; none without a certificate of our own.
    servers: Option<[Arc<ServerConfig>; 3]>,
    /// For HTTP/2, and for HTTP/1.1.
    pub(crate) clients: [Arc<ClientConfig>; 2],
}

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(files: Files) -> Result<Arc<Self>, FileError> {
        let contents = files.read()?;
        let loaded = Loaded::new(contents, &files)?;
        let (now, complaint, failures) = (RwLock::new(Arc::new(loaded)), Mutex::new(None), AtomicU64::new(0));
        Ok(Arc::new(Self { files, now, complaint, failures }))
    }

    /// Reads the files again, and takes over what is in them if it is new and can be used. Whether it was. Blocks for as
    /// long as it takes to read a few small files.
    ///
    /// # Errors
    /// Why new files are not used; what was in force stays in force. Told once, not at every look at the same files.
    pub fn refresh(&self) -> Result<bool, FileError> {
        let result = self.files.read().and_then(|contents| {
            if contents == self.loaded().contents { Ok(None) } else { Loaded::new(contents, &self.files).map(Some) }
        });
        let mut complaint = self.complaint.lock();
        match result {
            Ok(news) => {
                *complaint = None;
                let changed = news.is_some();
                if let Some(loaded) = news {
                    *self.now.write() = Arc::new(loaded);
                }
                Ok(changed)
            }
            Err(error) => {
                let words = error.to_string();
                if complaint.as_ref() == Some(&words) {
                    return Ok(false);
                }
                *complaint = Some(words);
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Our own certificate.
    #[must_use]
    pub fn own(&self) -> Option<Certificate> {
        self.loaded().own.clone()
    }

    /// How often new files were refused.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// For the connections of one port. The one way to get TLS on a listener.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>, port: Port) -> Acceptor {
        Acceptor::new(Arc::clone(self), port)
    }

    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.now.read())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Loaded {
    fn new(contents: Contents, files: &Files) -> Result<Self, FileError> {
        let Parsed { ca, pair } = contents.parse(files)?;
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate).map_err(|error| unusable_ca(error, files))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let wrong = |error: rustls::Error| blame(&error, CERTIFICATE, files);
        let mut own = None;
        let mut servers = None;
        if let Some((chain, key)) = &pair {
            let unusable = |why: String| blame(&rustls::Error::General(why), CERTIFICATE, files);
            own = Some(Certificate::parse(chain[0].clone()).map_err(unusable)?);
            let server = |port: Port| -> Result<Arc<ServerConfig>, FileError> {
                let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_protocol_versions(&[&TLS13])
                    .map_err(wrong)?;
                let builder = match verifier(port, &roots, &provider, files)? {
                    Some(verifier) => builder.with_client_cert_verifier(verifier),
                    None => builder.with_no_client_auth(),
                };
                let mut config = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(wrong)?;
                config.alpn_protocols = vec![if port == Port::Http { HTTP1 } else { HTTP2 }.to_vec()];
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                Ok(Arc::new(config))
            };
            servers = Some([server(Port::Clients)?, server(Port::Peers)?, server(Port::Http)?]);
        }
        let client = |protocol: &[u8]| -> Result<Arc<ClientConfig>, FileError> {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])
                .map_err(wrong)?
                .with_root_certificates(Arc::clone(&roots));
            let mut config = match &pair {
                Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(wrong)?,
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![protocol.to_vec()];
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        };
        let clients = [client(HTTP2)?, client(HTTP1)?];
        Ok(Self { contents, own, servers, clients })
    }

    pub(crate) fn server(&self, port: Port) -> Option<Arc<ServerConfig>> {
        self.servers.as_ref().map(|servers| Arc::clone(&servers[port as usize]))
    }
}

/// Who may come in by this port: clients may show a certificate and peers must; whoever reads metrics has none.
fn verifier(
    port: Port,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    files: &Files,
) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, FileError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
    let builder = match port {
        Port::Clients => builder.allow_unauthenticated(),
        Port::Peers => builder,
        Port::Http => return Ok(None),
    };
    builder.build().map(Some).map_err(|error| unusable_ca(error, files))
}
