//! The servers, and one connection to each that all sessions share.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use conclave_proto::v1::{self, admin_client::AdminClient};
use conclave_tls::Dial;
use parking_lot::Mutex;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    CheckedConfig, Config, Error,
    env::unavailable,
    link::{Link, Token},
};

/// Receive windows. One reader task empties each stream at once, so these only bound what is on its way.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// A connection with calls under way is probed after this much silence, and given up after as much again.
const PROBE: Duration = Duration::from_secs(3);
/// Asking who leads must not take longer than this: any server will do in the end.
const LEADER_PATIENCE: Duration = Duration::from_millis(500);

struct Slot {
    name: String,
    endpoint: Endpoint,
    /// None where it speaks plain text.
    dial: Option<Dial>,
    channel: Mutex<Option<Channel>>,
    generation: AtomicUsize,
}

pub(crate) struct Endpoints {
    slots: Vec<Slot>,
    pub(crate) config: Config,
    token: Option<Arc<Token>>,
    /// Where calls without a session go first.
    cursor: AtomicUsize,
}

impl Endpoints {
    pub(crate) fn new(checked: CheckedConfig) -> Self {
        let CheckedConfig { config, uris, identity, token } = checked;
        let slots: Vec<_> = uris
            .into_iter()
            .zip(&config.endpoints)
            .map(|(uri, name)| Slot {
                name: name.clone(),
                dial: identity.clone().filter(|_| uri.scheme_str() == Some("https")).map(Dial),
                endpoint: Endpoint::from(uri)
                    .connect_timeout(config.connect_timeout)
                    .tcp_nodelay(true)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .http2_keep_alive_interval(PROBE)
                    .keep_alive_timeout(PROBE),
                channel: Mutex::new(None),
                generation: AtomicUsize::new(0),
            })
            .collect();
        let start = config.start_at.unwrap_or_else(random) % slots.len();
        Self { slots, config, token, cursor: AtomicUsize::new(start) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn name(&self, at: usize) -> &str {
        &self.slots[at].name
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.slots.iter().map(|slot| slot.name.clone()).collect()
    }

    /// Whether nobody on the way to it can read or change what is said.
    pub(crate) fn is_encrypted(&self, at: usize) -> bool {
        self.slots[at].dial.is_some()
    }

    /// The connection to an endpoint, made when it is first used; and which it is, for [`Endpoints::discard`].
    pub(crate) fn channel(&self, at: usize) -> (usize, Link) {
        let slot = &self.slots[at];
        let mut channel = slot.channel.lock();
        let channel = channel.get_or_insert_with(|| match &slot.dial {
            Some(dial) => slot.endpoint.connect_with_connector_lazy(dial.clone()),
            None => slot.endpoint.connect_lazy(),
        });
        (slot.generation.load(Ordering::Relaxed), Link::new(channel.clone(), self.token.clone()))
    }

    /// A connection that does not answer is not used for anything new.
    pub(crate) fn discard(&self, at: usize, generation: usize) {
        let slot = &self.slots[at];
        let mut channel = slot.channel.lock();
        if slot.generation.load(Ordering::Relaxed) == generation {
            *channel = None;
            slot.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where a session begins: spread, unless told otherwise.
    pub(crate) async fn first(&self) -> usize {
        let spread = self.config.start_at.unwrap_or_else(random) % self.len();
        if self.config.prefer_leader { self.leader(spread).await.unwrap_or(spread) } else { spread }
    }

    /// Where a session goes on after `at`.
    pub(crate) async fn after(&self, at: usize) -> usize {
        let next = (at + 1) % self.len();
        if self.config.prefer_leader && next != at { self.leader(next).await.unwrap_or(next) } else { next }
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor.load(Ordering::Relaxed) % self.len()
    }

    /// Calls without a session go on with the next one, unless somebody moved on already.
    pub(crate) fn advance(&self, from: usize) {
        let next = (from + 1) % self.len();
        let _ = self.cursor.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No server answered; what each said.
    pub(crate) fn unavailable(&self, said: &[Option<String>]) -> Error {
        unavailable(&self.names(), said)
    }

    /// The endpoint of the leader, as the server at `ask` knows it.
    async fn leader(&self, ask: usize) -> Option<usize> {
        let (_, channel) = self.channel(ask);
        let mut admin = AdminClient::new(channel);
        let status = tokio::time::timeout(LEADER_PATIENCE, admin.status(v1::StatusRequest {})).await.ok()?.ok()?;
        let status = status.into_inner();
        let leader = status.members.iter().find(|member| member.id == status.leader)?;
        self.slots.iter().position(|slot| slot.name.ends_with(&format!("//{}", leader.client_address)))
    }
}

pub(crate) fn random() -> usize {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    usize::from_ne_bytes(bytes) >> 1
}

/// Whether a call certainly never reached a server.
pub(crate) fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() || connect_timed_out(error) {
            return true;
        }
        source = error.source();
    }
    false
}

/// A host that is gone refuses nothing: the connection is given up after its time. tonic's connector puts that time around
/// what it calls a `ConnectError`. Nothing else of a channel has a limit of tokio's.
fn connect_timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<tokio::time::error::Elapsed>())
}

/// The root of a failure, in words.
pub(crate) fn describe(status: &Status) -> String {
    let mut deepest: Option<&(dyn std::error::Error + 'static)> = status.source();
    while let Some(source) = deepest.and_then(|error| error.source()) {
        deepest = Some(source);
    }
    match deepest {
        Some(error) => error.to_string(),
        None if status.message().is_empty() => status.code().to_string(),
        None => status.message().to_owned(),
    }
}
