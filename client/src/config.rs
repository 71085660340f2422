//! What a client is told before it starts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use conclave_tls::{Files, Identity, Pair, bare_host};
use tonic::transport::Uri;

use crate::{
    Error, ErrorKind, Result,
    link::{Token, is_loopback},
};

/// Time allowed for a TCP connection, at the most; short TTLs shorten it.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// Time allowed for a call without a session, retries included.
pub const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes of events kept for a watch whose reader is slow, before the client tells the server to hold them back.
pub const WATCH_BUFFER_BYTES_DEFAULT: usize = 1 << 20;
/// Calls one session keeps unanswered before further ones are refused with [`ErrorKind::Overloaded`].
pub const CALLS_MAX_DEFAULT: usize = 65_536;
/// Largest message accepted from a server, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Options of a [`crate::Client`]. Build with [`Config::new`], change by name, check with [`Config::build`].
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) endpoints: Vec<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) prefer_leader: bool,
    pub(crate) start_at: Option<usize>,
    pub(crate) watch_buffer_bytes: usize,
    pub(crate) calls_max: usize,
    ca: Option<PathBuf>,
    pair: Option<Pair>,
    token_file: Option<PathBuf>,
}

impl Config {
    /// Servers to talk to, as `https://host:port`, or `http://host:port` for plain text. `host:port` will do: that is
    /// https where a [CA](Config::with_ca) is given. One that answers is enough; name all, so that the loss of any is no
    /// trouble.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            prefer_leader: false,
            start_at: None,
            watch_buffer_bytes: WATCH_BUFFER_BYTES_DEFAULT,
            calls_max: CALLS_MAX_DEFAULT,
            ca: None,
            pair: None,
            token_file: None,
        }
    }

    /// The same options for other servers.
    #[must_use]
    pub fn with_endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The CA's certificates (PEM) that servers' certificates must be signed by; what TLS needs. This file, and those of
    /// [`Config::with_certificate`], are read again for each new connection: they can change without a restart.
    #[must_use]
    pub fn with_ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// The certificate (PEM, with those between it and the CA's) and private key by which servers know this client.
    #[must_use]
    pub fn with_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.pair = Some(Pair { cert: cert.into(), key: key.into() });
        self
    }

    /// A file with the token by which servers know this client. Read again every 10 s while it is used. Sent over TLS and
    /// to this machine's own addresses only.
    #[must_use]
    pub fn with_token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// Time allowed for a TCP connection before the next server is tried. 1 ms to 60 s; default 1 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Time allowed for a call without a session, retries included. 1 ms to 1 h; default 10 s. Calls of a session end
    /// with the session instead.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Talk to the leader where it is known: one hop less for writes, less spreading of reads. Default: off.
    #[must_use]
    pub fn with_leader_preferred(mut self, prefer: bool) -> Self {
        self.prefer_leader = prefer;
        self
    }

    /// The endpoint (counted from 0, modulo their number) to begin with, instead of a random one.
    #[must_use]
    pub fn with_first_endpoint(mut self, index: usize) -> Self {
        self.start_at = Some(index);
        self
    }

    /// Bytes of events kept for a watch whose reader is slow. 1 KiB to 1 GiB; default 1 MiB. Beyond it the watch is
    /// paused at the server and goes on, without a gap, once the reader has caught up.
    #[must_use]
    pub fn with_watch_buffer_bytes(mut self, bytes: usize) -> Self {
        self.watch_buffer_bytes = bytes;
        self
    }

    /// Calls a session keeps unanswered before further ones are refused. 1 to 1,000,000; default 65,536.
    #[must_use]
    pub fn with_calls_max(mut self, calls: usize) -> Self {
        self.calls_max = calls;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: which option, what it was, what it may be.
    pub fn build(mut self) -> Result<CheckedConfig> {
        let bad = |message: String| Err(Error::new(ErrorKind::Config, message));
        if self.endpoints.is_empty() {
            return bad("no endpoints: name at least one server, such as http://127.0.0.1:7401".to_owned());
        }
        let mut uris = Vec::new();
        for text in &mut self.endpoints {
            let trimmed = text.trim();
            let scheme = if self.ca.is_some() { "https" } else { "http" };
            let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("{scheme}://{trimmed}") };
            let uri = full.parse::<Uri>().ok().filter(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.port_u16().is_some() && uri.path() == "/"
            });
            let Some(uri) = uri else {
                return bad(format!("endpoint {text:?} is not host:port, https://host:port or http://host:port"));
            };
            let encrypted = uri.scheme_str() == Some("https");
            if encrypted && self.ca.is_none() {
                return bad(format!(
                    "endpoint {text:?} speaks TLS: name the CA that signed the servers' certificates (--ca, CONCLAVE_CA)"
                ));
            }
            if !encrypted && self.token_file.is_some() && !is_loopback(bare_host(&uri)) {
                return bad(format!(
                    "endpoint {text:?}: a token is not sent over plain text to another machine, write https://"
                ));
            }
            uris.push(uri);
            *text = full;
        }
        let identity = match (&self.ca, &self.pair) {
            (None, None) => None,
            (None, Some(_)) => {
                return bad("a certificate is shown over TLS only: name the CA, too (--ca, CONCLAVE_CA)".to_owned());
            }
            (Some(ca), pair) => match Identity::load(Files { ca: ca.clone(), pair: pair.clone() }) {
                Ok(identity) => Some(identity),
                Err(error) => return bad(error.to_string()),
            },
        };
        let token = self.token_file.clone().map(Token::load).transpose()?;
        for (name, value, max) in [
            ("connect_timeout", self.connect_timeout, Duration::from_secs(60)),
            ("request_timeout", self.request_timeout, Duration::from_secs(3600)),
        ] {
            if value < Duration::from_millis(1) || value > max {
                return bad(format!("{name} is {value:?}, it must be from 1ms to {max:?}"));
            }
        }
        if !(1 << 10..=1 << 30).contains(&self.watch_buffer_bytes) {
            return bad(format!("watch_buffer_bytes is {}, it must be from 1 KiB to 1 GiB", self.watch_buffer_bytes));
        }
        if !(1..=1_000_000).contains(&self.calls_max) {
            return bad(format!("calls_max is {}, it must be from 1 to 1000000", self.calls_max));
        }
        Ok(CheckedConfig { config: self, uris, identity, token })
    }
}

/// Options that have been checked; see [`Config::build`].
#[derive(Clone, Debug)]
pub struct CheckedConfig {
    pub(crate) config: Config,
    pub(crate) uris: Vec<Uri>,
    /// For those of them that speak TLS.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) token: Option<Arc<Token>>,
}

/// Makes options out of what the caller has: a list of endpoints, or options checked before.
pub trait IntoConfig {
    /// # Errors
    /// As [`Config::build`].
    fn into_config(self) -> Result<CheckedConfig>;
}

impl IntoConfig for CheckedConfig {
    fn into_config(self) -> Result<CheckedConfig> {
        Ok(self)
    }
}

impl IntoConfig for Config {
    fn into_config(self) -> Result<CheckedConfig> {
        self.build()
    }
}

impl<const N: usize> IntoConfig for [&str; N] {
    fn into_config(self) -> Result<CheckedConfig> {
        Config::new(self).build()
    }
}

impl<const N: usize> IntoConfig for [String; N] {
    fn into_config(self) -> Result<CheckedConfig> {
        Config::new(self).build()
    }
}

impl IntoConfig for Vec<String> {
    fn into_config(self) -> Result<CheckedConfig> {
        Config::new(self).build()
    }
}

impl IntoConfig for &[String] {
    fn into_config(self) -> Result<CheckedConfig> {
        Config::new(self.iter().cloned()).build()
    }
}

impl IntoConfig for &str {
    fn into_config(self) -> Result<CheckedConfig> {
        Config::new(self.split(',')).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let cases: [(Config, &str); 13] = [
            (Config::new(Vec::<String>::new()), "no endpoints"),
            (Config::new(["localhost"]), "\"localhost\" is not host:port"),
            (Config::new(["http://a:1/x"]), "is not host:port"),
            (Config::new(["ftp://a:1"]), "is not host:port, https://host:port"),
            (Config::new(["https://a:1"]), "name the CA that signed the servers' certificates"),
            (Config::new(["a:1"]).with_certificate("c", "k"), "name the CA, too"),
            (Config::new(["a:1"]).with_ca("/no/ca.crt"), "cannot read the CA /no/ca.crt"),
            (Config::new(["localhost:1", "b:1"]).with_token_file("t"), "\"b:1\": a token is not sent over plain text"),
            (Config::new(["localhost:1"]).with_token_file("/no/token"), "cannot read the token /no/token"),
            (
                Config::new(["a:1"]).with_connect_timeout(Duration::ZERO),
                "connect_timeout is 0ns, it must be from 1ms to 60s",
            ),
            (Config::new(["a:1"]).with_request_timeout(Duration::from_secs(7200)), "request_timeout is 7200s"),
            (Config::new(["a:1"]).with_watch_buffer_bytes(10), "watch_buffer_bytes is 10"),
            (Config::new(["a:1"]).with_calls_max(0), "calls_max is 0"),
        ];
        for (config, part) in cases {
            let error = config.clone().build().expect_err(part);
            assert!(error.to_string().contains(part), "{config:?}: {error}");
            assert_eq!(error.kind(), ErrorKind::Config);
        }
        assert_eq!(Config::new(["a:1", " http://b:2 "]).build().expect("good").uris.len(), 2);
        assert_eq!("a:1,b:2".into_config().expect("good").config.endpoints, ["http://a:1", "http://b:2"]);
    }
}
