//! A cluster as its users see it.

use std::{pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use conclave_proto::v1::{self, admin_client::AdminClient, store_client::StoreClient};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    Admin, Credentials, Effect, Error, ErrorKind, IntoConfig, Result, Session, SessionOptions,
    config::MESSAGE_BYTES_MAX,
    endpoints::{Endpoints, describe, never_sent},
    env::Env,
    link::Link,
    requests::Via,
    session::Network,
};

/// A cluster. Cheap to clone; connections are shared among clones and among all sessions.
///
/// Calls made here belong to no session: nothing ephemeral, no locks, and a write whose answer was lost fails with an
/// unknown outcome. Open a [`Session`] for everything else.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
}

pub(crate) struct ClientInner {
    pub(crate) endpoints: Arc<Endpoints>,
    /// What sessions need.
    env: Arc<dyn Env>,
}

/// Waits between tries of a call without a session.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// A server that has not answered for so long is asked nothing new, and what may be asked twice is asked elsewhere; each
/// round through all servers is twice as patient. A server that stands still keeps its connections: nothing else tells.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether a call can be sent again although its effect is not known.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Repeat {
    /// It changes nothing.
    Safe,
    /// Only if it certainly did nothing.
    IfNothingHappened,
}

impl ClientInner {
    /// Sends a call to one server after the other, until one answers, a failure is final, or the time is up.
    pub(crate) async fn call<T, F>(&self, repeat: Repeat, send: impl Fn(Link) -> F) -> Result<T>
    where
        F: Future<Output = Result<Result<T, v1::Error>, Status>>,
    {
        let endpoints = &self.endpoints;
        let until = Instant::now() + endpoints.config.request_timeout;
        let mut said = vec![None; endpoints.len()];
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        let mut tried = 0;
        let mut patience = PATIENCE;
        loop {
            let at = endpoints.cursor();
            let (generation, channel) = endpoints.channel(at);
            let mut answer = pin!(send(channel));
            let mut answered = tokio::time::timeout_at(until.min(Instant::now() + patience), &mut answer).await;
            if answered.is_err() && Instant::now() < until && endpoints.len() > 1 {
                endpoints.advance(at);
                if repeat == Repeat::Safe {
                    said[at] = Some("no answer in time".to_owned());
                    tried += 1;
                    if tried % endpoints.len() == 0 {
                        patience *= 2;
                    }
                    continue;
                }
            }
            if answered.is_err() {
                answered = tokio::time::timeout_at(until, answer).await;
            }
            let error = match answered {
                Ok(Ok(Ok(answer))) => return Ok(answer),
                Ok(Ok(Err(error))) => {
                    let error = Error::from_wire(error);
                    // Whether a revision will ever be is the caller's to know.
                    let theirs = !error.is_retryable() || error.kind() == ErrorKind::FutureRevision;
                    if theirs || (repeat != Repeat::Safe && error.effect() == Effect::Unknown) {
                        return Err(error);
                    }
                    error
                }
                Ok(Err(status)) => {
                    let error = from_status(&status, endpoints.name(at));
                    let again = error.is_retryable() && (repeat == Repeat::Safe || error.effect() == Effect::None);
                    if !again {
                        return Err(error);
                    }
                    error
                }
                Err(_) => {
                    endpoints.discard(at, generation);
                    endpoints.advance(at);
                    said[at] = Some("no answer in time".to_owned());
                    let effect = if repeat == Repeat::Safe { Effect::None } else { Effect::Unknown };
                    return Err(endpoints.unavailable(&said).with_effect(effect));
                }
            };
            said[at] = Some(error.to_string());
            endpoints.advance(at);
            tried += 1;
            if tried % endpoints.len() == 0 {
                let wait = waits.next().unwrap_or(RETRY_MAX);
                if Instant::now() + wait >= until {
                    return Err(if error.kind() == ErrorKind::Unavailable {
                        endpoints.unavailable(&said)
                    } else {
                        error
                    });
                }
                tokio::time::sleep(wait).await;
            }
        }
    }

    pub(crate) async fn apply(&self, txn: v1::Txn) -> Result<v1::TxnResult> {
        self.call(Repeat::IfNothingHappened, |channel| {
            let txn = txn.clone();
            async move {
                let reply = StoreClient::new(channel).apply(txn).await?.into_inner();
                match reply.body {
                    Some(v1::txn_reply::Body::Txn(result)) => Ok(Ok(result)),
                    Some(v1::txn_reply::Body::Error(error)) => Ok(Err(error)),
                    None => Err(Status::internal("an empty answer")),
                }
            }
        })
        .await
    }

    pub(crate) async fn query(&self, read: v1::Read) -> Result<v1::ReadResult> {
        self.call(Repeat::Safe, |channel| {
            let read = read.clone();
            async move {
                let store = StoreClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                let reply = { store }.query(read).await?.into_inner();
                match reply.body {
                    Some(v1::read_reply::Body::Read(result)) => Ok(Ok(result)),
                    Some(v1::read_reply::Body::Error(error)) => Ok(Err(error)),
                    None => Err(Status::internal("an empty answer")),
                }
            }
        })
        .await
    }
}

/// A failure of the transport, or of the server before it understood the call.
pub(crate) fn from_status(status: &Status, endpoint: &str) -> Error {
    use tonic::Code;
    let what = describe(status);
    let error = |kind| Error::new(kind, format!("{endpoint}: {what}"));
    match status.code() {
        _ if never_sent(status) => error(ErrorKind::Unavailable).with_retry(),
        Code::InvalidArgument | Code::FailedPrecondition => error(ErrorKind::InvalidArgument),
        Code::OutOfRange => error(ErrorKind::TooLarge),
        Code::ResourceExhausted => error(ErrorKind::Overloaded).with_retry(),
        Code::PermissionDenied | Code::Unauthenticated => error(ErrorKind::Denied),
        Code::Unimplemented => error(ErrorKind::Unavailable),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal | Code::DeadlineExceeded => {
            error(ErrorKind::Unavailable).with_effect(Effect::Unknown).with_retry()
        }
        _ => error(ErrorKind::Internal).with_effect(Effect::Unknown),
    }
}

impl Client {
    /// Checks the options and that one server answers.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`], or [`crate::ErrorKind::Unavailable`] with what each endpoint said.
    pub async fn connect(config: impl IntoConfig) -> Result<Self> {
        let client = Self::new(config)?;
        client
            .inner
            .call(Repeat::Safe, |channel| async move {
                AdminClient::new(channel).status(v1::StatusRequest {}).await.map(|_| Ok(()))
            })
            .await?;
        Ok(client)
    }

    /// Checks the options; connects when first needed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`].
    pub fn new(config: impl IntoConfig) -> Result<Self> {
        let endpoints = Arc::new(Endpoints::new(config.into_config()?));
        let env = Arc::new(Network(endpoints.clone()));
        Ok(Self { inner: Arc::new(ClientInner { endpoints, env }) })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if no server answers within the request timeout, [`crate::ErrorKind::Limit`]
    /// or [`crate::ErrorKind::InvalidArgument`] for what the servers do not allow.
    pub async fn session(&self, options: SessionOptions) -> Result<Session> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("the system has no randomness: {error}")))?;
        Session::open(self.inner.env.clone(), &self.inner.endpoints.config, options, secret).await
    }

    /// Goes on with a session that another process (or an earlier run of this one) opened, and that nobody uses any
    /// more: whoever still does is told that it was replaced. What it had under way either happened before this returns, or
    /// never will.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SessionLost`] if it has ended.
    pub async fn resume(&self, credentials: Credentials) -> Result<Session> {
        Session::resume(self.inner.env.clone(), &self.inner.endpoints.config, credentials).await
    }

    /// What operators ask.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { client: self.inner.clone() }
    }

    /// The configured endpoints.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints.names()
    }

    fn via(&self) -> Via {
        Via::Client(self.inner.clone())
    }

    crate::requests::store_requests!();
}
