//! Sessions: a client's claim to be alive, which its ephemeral nodes and locks hang on.

use std::{fmt, sync::Arc, time::Duration};

use conclave_proto::{Revision, ServerId, SessionId, v1};
use tokio::sync::{oneshot, watch};

mod core;
mod driver;
mod network;
mod wire;

use self::core::{Begin, Core};
pub use self::driver::Outgoing;
pub(crate) use self::{core::Polled, driver::Shared, network::Network, wire::call_body};
use crate::{
    BootTime, Config, Election, Error, ErrorKind, LockRequest, Result, SemaphoreRequest,
    env::{Env, timeout, unavailable},
    requests::Via,
};

/// TTL of a session that does not say otherwise.
pub const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub(crate) ttl: Duration,
    pub(crate) name: Option<String>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { ttl: TTL_DEFAULT, name: None }
    }
}

impl SessionOptions {
    /// TTL 10 s, named after this host and process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the session outlives silence: 500 ms to 24 h, in whole milliseconds (the servers' limits decide). A short one
    /// frees the locks of a dead process sooner and forgives shorter troubles.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Who this is, for people that look at locks; at most 256 bytes. Default: `host/pid`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// What it takes to go on with a session. The secret is as good as the session: keep it so.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    /// The session.
    pub id: SessionId,
    /// 16 bytes.
    pub secret: [u8; 16],
    /// Its TTL.
    pub ttl: Duration,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// Why a session, and everything that hung on it, is lost.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LostReason {
    /// No server confirmed it in time: from here on they may give its locks away.
    DeadlinePassed,
    /// The servers ended it after its TTL of silence.
    Expired,
    /// An administrator ended it.
    Killed,
    /// This process closed it.
    Closed,
    /// Another process resumed it.
    Replaced,
    /// The servers do not know it (any more), or the secret is wrong.
    Unknown,
    /// The servers and this client do not understand each other; a bug.
    Protocol(String),
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadlinePassed => f.write_str("no server confirmed it before its deadline"),
            Self::Expired => f.write_str("it expired after its TTL of silence"),
            Self::Killed => f.write_str("an administrator ended it"),
            Self::Closed => f.write_str("it was closed"),
            Self::Replaced => f.write_str("another process resumed it"),
            Self::Unknown => f.write_str("the servers do not know it (any more)"),
            Self::Protocol(what) => write!(f, "protocol error: {what}"),
        }
    }
}

/// How a session fares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionState {
    /// A server confirmed it lately.
    Connected,
    /// No server did for a while. Unless one does, it is lost at the deadline.
    Jeopardy {
        /// When.
        deadline: BootTime,
    },
    /// It is over, and so is everything that hung on it.
    Lost {
        /// Why.
        reason: LostReason,
    },
}

/// The shared part of a [`Session`]: the last one dropped closes the session.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Starts a session, and returns once a server has confirmed it.
    async fn start(env: Arc<dyn Env>, config: &Config, begin: Begin, secret: [u8; 16]) -> Result<Arc<Self>> {
        let (waiter, opened) = oneshot::channel();
        let core = Core::new(begin, secret, env.random(), config.watch_buffer_bytes, config.calls_max, waiter);
        let handle = Arc::new(Self { shared: Arc::new(Shared::new(core, env.clone())) });
        env.spawn(Box::pin(driver::drive(handle.shared.clone())));
        match timeout(&*env, config.request_timeout, opened).await {
            Some(Ok(result)) => result.map(|()| handle),
            Some(Err(_)) => Err(gone()),
            None => Err(unavailable(&env.endpoints(), &handle.shared.failures())),
        }
    }

    pub(crate) async fn apply(&self, txn: v1::Txn) -> Result<v1::TxnResult> {
        let body = wire::call_body(&v1::Call { body: Some(v1::call::Body::Txn(txn)), ..Default::default() });
        let (waiter, answer) = oneshot::channel();
        self.shared.with(|core, now| core.apply(now, body, waiter));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub(crate) async fn query(&self, read: v1::Read) -> Result<v1::ReadResult> {
        let body = wire::call_body(&v1::Call { body: Some(v1::call::Body::Read(read)), ..Default::default() });
        let (waiter, answer) = oneshot::channel();
        self.shared.with(|core, now| core.query(now, body, waiter));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|core, now| core.close(now, None));
    }
}

/// Every waiter is answered before its session ends; so this is never seen.
pub(crate) fn gone() -> Error {
    Error::internal("the session ended without an answer")
}

/// An open session. Cheap to clone. A task of the runtime that opened it keeps it alive: a runtime whose threads are all
/// blocked for longer than the TTL loses it. It survives reconnects and changes of leader; when its last clone and the last guard
/// made from it are gone it is closed.
#[derive(Clone)]
pub struct Session {
    pub(crate) handle: Arc<Handle>,
}

impl Session {
    /// Opens a session; see [`crate::Client::session`].
    pub(crate) async fn open(
        env: Arc<dyn Env>,
        config: &Config,
        options: SessionOptions,
        secret: [u8; 16],
    ) -> Result<Self> {
        let ttl_ms = u64::try_from(options.ttl.as_millis()).unwrap_or(u64::MAX);
        if ttl_ms == 0 {
            let message = format!("a session's TTL is {:?}, it must be whole milliseconds", options.ttl);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let name = options.name.unwrap_or_else(default_name);
        let handle = Handle::start(env, config, Begin::Open { name, ttl_ms }, secret).await?;
        Ok(Self { handle })
    }

    /// Goes on with a session; see [`crate::Client::resume`].
    pub(crate) async fn resume(env: Arc<dyn Env>, config: &Config, credentials: Credentials) -> Result<Self> {
        let ttl_ms = u64::try_from(credentials.ttl.as_millis()).unwrap_or(u64::MAX);
        let begin = Begin::Resume { session: credentials.id.0, ttl_ms };
        let handle = Handle::start(env, config, begin, credentials.secret).await?;
        Ok(Self { handle })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        SessionId(self.handle.shared.with(|core, _| core.session()))
    }

    /// The TTL the servers agreed to.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.handle.shared.with(|core, _| core.ttl_ms()))
    }

    /// What another process needs to go on with it.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let (id, secret, ttl) = self.handle.shared.with(|core, _| (core.session(), core.secret(), core.ttl_ms()));
        Credentials { id: SessionId(id), secret, ttl: Duration::from_millis(ttl) }
    }

    /// How it fares, and when that changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.handle.shared.state()
    }

    /// When it is lost unless a server confirms it before. The clock is looked at now: a moment past means lost.
    #[must_use]
    pub fn deadline(&self) -> BootTime {
        self.handle.shared.deadline()
    }

    /// Whether it is certainly alive at this moment, by the clock.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.handle.shared.check().is_ok()
    }

    /// The server it talks to at present (or talked to last).
    #[must_use]
    pub fn server(&self) -> ServerId {
        ServerId(self.handle.shared.with(|core, _| core.server()))
    }

    /// Resolves with the reason once it is lost.
    pub async fn lost(&self) -> LostReason {
        let mut state = self.handle.shared.state();
        loop {
            if let Err(reason) = self.handle.shared.check() {
                return reason;
            }
            // The sender lives as long as this session does.
            let _ = state.changed().await;
        }
    }

    /// The newest revision it has seen.
    #[must_use]
    pub fn seen_revision(&self) -> Revision {
        self.handle.shared.with(|core, _| core.seen())
    }

    /// Ends it and everything it owns.
    ///
    /// # Errors
    /// With an unknown outcome if no server confirmed; it then ends by its TTL.
    pub async fn close(&self) -> Result<()> {
        let (waiter, closed) = oneshot::channel();
        self.handle.shared.with(|core, now| core.close(now, Some(waiter)));
        closed.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Stops using it without ending it, so that [`crate::Client::resume`] can go on with it within its TTL.
    pub async fn detach(self) -> Credentials {
        let credentials = self.credentials();
        self.handle.shared.with(|core, _| core.detach());
        credentials
    }

    fn via(&self) -> Via {
        Via::Session(self.handle.clone())
    }

    crate::requests::store_requests!();

    /// Asks for the lock at `path`; exclusive unless [`LockRequest::shared`].
    pub fn lock(&self, path: impl Into<String>) -> LockRequest {
        LockRequest::new(self.handle.clone(), path.into())
    }

    /// Asks for one of `permits` permits at `path`. All who use it must name the same number.
    pub fn semaphore(&self, path: impl Into<String>, permits: u32) -> SemaphoreRequest {
        SemaphoreRequest::new(self.handle.clone(), path.into(), permits)
    }

    /// The election at `path`.
    #[must_use]
    pub fn election(&self, path: impl Into<String>) -> Election {
        Election::new(self.handle.clone(), path.into())
    }
}

/// `host/pid`.
fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    format!("{host}/{}", std::process::id())
}
