//! What calls are made on: a connection, and the token that goes with each call.

use std::{
    fmt, fs,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{self, HeaderValue, header::AUTHORIZATION},
    },
    transport::Channel,
};

use crate::{Error, ErrorKind, Result};

/// A token's file is read again after this long at the earliest.
const TOKEN_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// What a token's file says, read again when it is used and has become old: tokens are changed without a restart.
pub(crate) struct Token {
    file: PathBuf,
    header: Mutex<(HeaderValue, Instant)>,
}

impl Token {
    pub(crate) fn load(file: PathBuf) -> Result<Arc<Self>> {
        let header = read_token(&file).map_err(|words| Error::new(ErrorKind::Config, words))?;
        Ok(Arc::new(Self { file, header: Mutex::new((header, Instant::now())) }))
    }

    fn header(&self) -> HeaderValue {
        let mut held = self.header.lock();
        if held.1.elapsed() >= TOKEN_AGAIN_AFTER {
            held.1 = Instant::now();
            match read_token(&self.file) {
                Ok(header) => held.0 = header,
                Err(error) => tracing::warn!(error, "the token last read is used"),
            }
        }
        held.0.clone()
    }
}

/// Nobody reads the token off a debug line.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

fn read_token(file: &PathBuf) -> Result<HeaderValue, String> {
    let text =
        fs::read_to_string(file).map_err(|error| format!("cannot read the token {}: {error}", file.display()))?;
    let token = text.trim();
    let wrong = |why: &str| format!("the token file {} {why}", file.display());
    if token.is_empty() {
        return Err(wrong("is empty"));
    }
    if token.len() > TOKEN_BYTES_MAX || token.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(wrong(
            "must hold one token and nothing else: up to 4096 letters, digits and signs, without blanks",
        ));
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| wrong("holds no token"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// What calls are made on.
#[derive(Clone)]
pub(crate) struct Link {
    channel: Channel,
    token: Option<Arc<Token>>,
}

impl Link {
    pub(crate) fn new(channel: Channel, token: Option<Arc<Token>>) -> Self {
        Self { channel, token }
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = <Channel as Service<http::Request<Body>>>::Response;
    type Error = <Channel as Service<http::Request<Body>>>::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.header());
        }
        self.channel.call(request)
    }
}

/// Whether what is sent to this host stays on the machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
