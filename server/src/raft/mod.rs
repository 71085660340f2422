//! Consensus: one thread owns the Raft node and the state machine; everybody else holds a [`Handle`].
//!
//! What a handle promises:
//! * nothing here blocks a caller or waits for room: a full mailbox is an answer ([`ProposeError::Overloaded`]);
//! * a proposal is answered exactly once, on the node's thread, after its changes were published to the
//!   [`Publish`]er: applied, refused before it was proposed, or unknown;
//! * whoever reads the state under the read lock has had every change up to its revision published before.

mod confirm;
pub mod core;
mod mailbox;
mod node;
mod options;
mod peers;
mod snapshot;
mod trust;
mod waiters;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use conclave_faults::point;
use conclave_proto::{Index, Revision, ServerId, SessionId, Term};
use conclave_state::{Applied, Command, Entry, Machine, RequestId};
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use self::mailbox::Mailbox;
#[doc(hidden)]
pub use self::snapshot::{FetchError, check_chunk};
pub use self::{core::Core, options::Options, peers::PeerService, trust::Shown};
use crate::storage::{
    Identity, StoreError,
    disk::{Disk, IncomingDir},
};

/// Hears of every applied entry, in order, while the state is locked for writing. Must never block.
pub trait Publish: Send + 'static {
    /// `machine` is the state right after the entry.
    fn publish(&mut self, machine: &Machine, index: Index, applied: &Applied);
    /// A snapshot replaced the state: changes between the last published revision and this one will not be told.
    fn replaced(&mut self, machine: &Machine);
}

/// Why a proposal has no outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Definite: no leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// Definite: the mailbox, or the log's uncommitted tail, is full.
    #[error("overloaded")]
    Overloaded,
    /// Indefinite: leadership changed hands before the entry was seen applied.
    #[error("leadership was lost before the answer")]
    LeadershipLost,
    /// Indefinite: no answer within the server's own deadline.
    #[error("no answer in time")]
    Timeout,
    /// Indefinite: the server is stopping. (Definite before it was proposed: then `NoLeader`.)
    #[error("the server is stopping")]
    Stopping,
    /// Definite: this replica's state differs from its peers'.
    #[error("this replica's state has diverged")]
    Diverged,
}

impl ProposeError {
    /// False: certainly not applied.
    #[must_use]
    pub fn is_indefinite(self) -> bool {
        matches!(self, Self::LeadershipLost | Self::Timeout | Self::Stopping)
    }
}

/// Called once, on the node's thread with the state locked, or at once by the proposer's if the mailbox does not take
/// the proposal: must not block and must not take that lock.
pub type Answer = Box<dyn FnOnce(Result<(&Machine, &Applied), ProposeError>) + Send>;

/// Why a read or a renewal could not be confirmed. Always definite: nothing changes by them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfirmError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader could not confirm its quorum in time.
    #[error("the leader could not confirm its quorum in time")]
    Timeout,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// This replica's state differs from its peers'.
    #[error("this replica's state has diverged")]
    Diverged,
    /// The session is not (or no more) known to the leader.
    #[error("no such session")]
    NoSession,
}

/// What this server knows of itself, for status, readiness and metrics. Published whenever it changes, at most a tick
/// late for the counters.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// This server.
    pub id: ServerId,
    /// 0 while none is known.
    pub leader: ServerId,
    /// Leader, follower, (pre-)candidate or learner.
    pub role: Role,
    /// Raft's term.
    pub term: Term,
    /// Last committed index known here.
    pub committed: Index,
    /// Last applied index.
    pub applied: Index,
    /// Last index in the log.
    pub last: Index,
    /// The log begins after this index.
    pub compacted: Index,
    /// Index of the newest snapshot taken or installed; 0 for none.
    pub snapshot: Index,
    /// Voters and learners.
    pub members: Vec<Member>,
    /// On the leader: id, matched index, recently active.
    pub progress: Vec<(ServerId, Index, bool)>,
    /// State differs from the peers'; nothing is served.
    pub diverged: bool,
    /// The store's revision.
    pub revision: Revision,
}

/// A server's part in Raft.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// Follows, votes.
    #[default]
    Follower,
    /// Leads.
    Leader,
    /// Seeks votes.
    Candidate,
    /// Follows, does not vote.
    Learner,
}

/// One server of the cluster.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// host:port other servers reach it at.
    pub peer_address: String,
    /// host:port clients reach it at.
    pub client_address: String,
    /// Not (yet) a voter.
    pub learner: bool,
}

/// A change of membership asked for by an administrator.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum MemberChange {
    /// A newcomer that receives the log and does not vote.
    AddLearner(Member),
    /// A learner that has caught up becomes a voter (joint consensus).
    Promote(ServerId),
    /// A voter or learner leaves (joint consensus).
    Remove(ServerId),
}

/// Why a change of membership was not seen made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// Definite: what was wrong.
    #[error("{0}")]
    Refused(String),
    /// Indefinite: the change may have been made, or may yet be.
    #[error("{0}")]
    Unknown(String),
}

impl ChangeError {
    fn stopping() -> Self {
        Self::Unknown("the server is stopping".to_owned())
    }
}

/// Cheap to clone. See the module's promises.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Shared>,
}

struct Shared {
    state: Arc<RwLock<Machine>>,
    inbox: peers::Inbox,
    server: u64,
    run: u64,
    count: AtomicU64,
    started: Instant,
    status: watch::Receiver<Arc<Status>>,
    ended: watch::Receiver<node::Ended>,
    data_dir: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// In words.
    #[error("the options contradict each other: {0}")]
    Options(String),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was found there.
    #[error(transparent)]
    Node(#[from] self::core::Fatal),
    /// No thread.
    #[error("cannot start the node's thread")]
    Thread(#[source] std::io::Error),
}

/// Opens the store and starts the node's thread. To be called within a tokio runtime, on which the connections to
/// peers live. The service must be mounted where the other members expect this server.
///
/// # Errors
/// See [`StartError`].
pub fn start(options: Options, publish: Box<dyn Publish>) -> Result<(Handle, PeerService), StartError> {
    options.check().map_err(StartError::Options)?;
    let runtime = tokio::runtime::Handle::current();
    let identity = Identity { cluster: options.cluster.clone(), server: options.id };
    let bootstrap = options.first_membership();
    let (store, recovered) = Disk::open(&options.data_dir, &identity, bootstrap.as_ref())?;
    let run = getrandom::u64().map_err(|error| StartError::Options(format!("no random numbers: {error}")))?;
    let inbox: peers::Inbox = Arc::new(Mailbox::new(options.mailbox_max));
    let (status_sender, status) = watch::channel(Arc::default());
    let (ended_sender, ended) = watch::channel(None);
    let snapshots = Arc::clone(&inbox);
    let snapshot_taken: self::core::SnapshotTaken = Arc::new(move |result| {
        let _ = snapshots.push_always(node::Request::SnapshotTaken(result));
    });
    let local = peers::Local {
        id: options.id,
        cluster: options.cluster.clone(),
        data_dir: options.data_dir.clone(),
        queue_bytes_max: options.peer_queue_bytes_max,
        identity: options.identity.clone(),
    };
    let trust = trust::Trust::new(local.clone(), options.members.clone(), status.clone());
    let tick = options.tick;
    let server = options.id.0;
    let data_dir = options.data_dir.clone();
    let core = Core::new(options, run, store, recovered, publish, status_sender, snapshot_taken)?;
    let state = Arc::clone(core.machine());
    let started = Instant::now();
    let node = node::Node {
        core,
        mailbox: Arc::clone(&inbox),
        out: peers::Peers::new(local.clone(), Arc::clone(&inbox), runtime),
        started,
        tick,
        ended: ended_sender,
    };
    point!("node-start", |error| Err(StartError::Thread(error)));
    std::thread::Builder::new().name("node".to_owned()).spawn(move || node.run()).map_err(StartError::Thread)?;
    let service = PeerService { local, inbox: Arc::clone(&inbox), trust };
    let shared = Shared { state, inbox, server, run, count: AtomicU64::new(0), started, status, ended, data_dir };
    Ok((Handle { inner: Arc::new(shared) }, service))
}

fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Handle {
    /// The state. Hold it briefly: applying waits for readers.
    pub fn state(&self) -> parking_lot::RwLockReadGuard<'_, Machine> {
        self.inner.state.read()
    }

    fn deadline_ms(&self, within: Duration) -> u64 {
        let at = self.inner.started.elapsed().saturating_add(within);
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
    }

    /// Proposes a command; a follower forwards it. `answer` is called exactly once: on the node's thread or, if the
    /// mailbox does not take it, before this returns.
    pub fn propose(&self, command: Command, answer: Answer) {
        let count = self.inner.count.fetch_add(1, Ordering::Relaxed);
        let request = RequestId { server: self.inner.server, run: self.inner.run, count };
        let data = Entry { request, at_ms: wall_clock_ms(), command }.encode();
        match self.inner.inbox.push(node::Request::Propose { count, data, answer }) {
            Ok(()) => {}
            Err(mailbox::Refused::Full(node::Request::Propose { answer, .. })) => {
                answer(Err(ProposeError::Overloaded));
            }
            Err(mailbox::Refused::Full(request) | mailbox::Refused::Closed(request)) => request.refuse(),
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> node::Request<IncomingDir>,
        full: T,
        closed: T,
    ) -> T {
        let (reply, answer) = oneshot::channel();
        match self.inner.inbox.push(request(reply)) {
            Ok(()) => answer.await.unwrap_or(closed),
            Err(mailbox::Refused::Full(_)) => full,
            Err(mailbox::Refused::Closed(_)) => closed,
        }
    }

    /// Resolves when this replica has applied everything that was committed anywhere when the call was made
    /// (read index, Raft dissertation section 6.4). Calls made together share one round.
    ///
    /// # Errors
    /// See [`ConfirmError`].
    pub async fn barrier(&self, within: Duration) -> Result<Index, ConfirmError> {
        let deadline_ms = self.deadline_ms(within);
        let request = |reply| node::Request::Barrier { deadline_ms, reply };
        self.ask(request, Err(ConfirmError::Timeout), Err(ConfirmError::Stopping)).await
    }

    /// Renews a session with the leader, which confirms its quorum after it has received the renewal. Calls made
    /// together share one round.
    ///
    /// # Errors
    /// See [`ConfirmError`].
    pub async fn renew(&self, session: SessionId, within: Duration) -> Result<(), ConfirmError> {
        let deadline_ms = self.deadline_ms(within);
        let request = |reply| node::Request::Renew { session, deadline_ms, reply };
        self.ask(request, Err(ConfirmError::Timeout), Err(ConfirmError::Stopping)).await
    }

    /// Time left to each session by the leader's clock, in milliseconds; none on a follower.
    pub async fn remaining(&self) -> Option<Vec<(SessionId, u64)>> {
        self.ask(|reply| node::Request::Remaining { reply }, None, None).await
    }

    /// Changes the membership and resolves when the change (and the way out of its joint configuration) is applied.
    /// Works from any server.
    ///
    /// # Errors
    /// What was wrong, in words, and whether the change may yet be made.
    pub async fn change_members(&self, change: MemberChange) -> Result<String, ChangeError> {
        let what = change;
        let request = |reply| node::Request::Change { what, reply };
        self.ask(request, Err(ChangeError::Refused("overloaded".to_owned())), Err(ChangeError::stopping())).await
    }

    /// Hands leadership over; 0 for whoever is most up to date. Works from any server.
    ///
    /// # Errors
    /// What was wrong, in words.
    pub async fn transfer(&self, to: ServerId) -> Result<ServerId, String> {
        let request = |reply| node::Request::Transfer { to, reply };
        self.ask(request, Err("overloaded".to_owned()), Err("the server is stopping".to_owned())).await
    }

    /// This server's view of itself, and when it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.inner.status.clone()
    }

    /// Bytes used in the data directory. Reads directories: not for the hot path.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        crate::storage::disk::used_bytes(&self.inner.data_dir)
    }

    /// Hands leadership over if this server leads, answers what waits, and stops the thread.
    pub async fn stop(&self, within: Duration) {
        let deadline_ms = self.deadline_ms(within);
        let (reply, _) = oneshot::channel();
        let _ = self.inner.inbox.push_always(node::Request::Stop { deadline_ms, reply });
        let _ = self.ended().await;
    }

    /// Resolves when the thread has ended and the store is closed.
    ///
    /// # Errors
    /// Why it could not go on: the process should end.
    pub async fn ended(&self) -> Result<(), String> {
        let mut ended = self.inner.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ok(())),
            Err(_) => Err("the node's thread is gone".to_owned()),
        }
    }
}
