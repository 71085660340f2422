//! What a client is told before it starts.

use std::time::Duration;

use tonic::transport::Uri;

use crate::{Error, ErrorKind, Result};

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
}

impl Config {
    /// Servers to talk to, as `http://host:port` (`host:port` will do). One that answers is enough; name all, so that
    /// the loss of any is no trouble.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            prefer_leader: false,
            start_at: None,
            watch_buffer_bytes: WATCH_BUFFER_BYTES_DEFAULT,
            calls_max: CALLS_MAX_DEFAULT,
        }
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
            let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
            match full.parse::<Uri>() {
                Ok(uri) if uri.scheme_str() == Some("http") && uri.port_u16().is_some() && uri.path() == "/" => {
                    uris.push(uri);
                }
                Ok(uri) if uri.scheme_str() == Some("https") => {
                    return bad(format!("endpoint {text:?}: TLS is not supported yet, write http://"));
                }
                _ => return bad(format!("endpoint {text:?} is not host:port or http://host:port")),
            }
            *text = full;
        }
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
        Ok(CheckedConfig { config: self, uris })
    }
}

/// Options that have been checked; see [`Config::build`].
#[derive(Clone, Debug)]
pub struct CheckedConfig {
    pub(crate) config: Config,
    pub(crate) uris: Vec<Uri>,
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
        let cases: [(Config, &str); 8] = [
            (Config::new(Vec::<String>::new()), "no endpoints"),
            (Config::new(["localhost"]), "\"localhost\" is not host:port"),
            (Config::new(["http://a:1/x"]), "is not host:port"),
            (Config::new(["https://a:1"]), "TLS is not supported yet"),
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
