//! Clients: processes of their own, so that they can be stopped in the middle of anything.
//!
//! A client is told what to do in its one argument ([`Spec`]) and says what happens, a line of JSON each ([`Told`]), on
//! its standard output. It works until its standard input says `stop` or ends, finishes what it has begun, and ends.

mod audit;
mod conclave;
pub mod lock;
mod lockfile;
pub mod observer;
pub mod recipes;
mod redis;
mod redlock;
mod sentinel;
mod work;
mod worker;

use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::conclave::runtime;
use self::recipes::Recipes;
pub(crate) use self::work::bank;
use crate::clock::now_ns;
use crate::resource::Address;
pub use crate::workload::Workload;

/// How a client locks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The client library's lock.
    Conclave,
    /// GET, then SET PX; DEL.
    RedisGetSet,
    /// SET NX PX; DEL.
    RedisSetNx,
    /// SET NX PX; compared before DEL.
    RedisSetNxOwner,
    /// The same at the primary that Sentinels name.
    RedisFailover,
    /// The same at a majority of independent servers.
    Redlock,
    /// etcd's `Lock` call under a lease.
    Etcd,
    /// An ephemeral sequential node in ZooKeeper.
    Zookeeper,
    /// A file that only one can create.
    Lockfile,
}

/// What a client is there for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Does the workload.
    Work,
    /// Watches the service: who leads, and when writes are taken.
    Observe,
    /// At the end, when all is quiet, asks every replica what it has.
    Audit,
}

/// The namespace of runs on servers of their own.
pub const NAMESPACE: &str = "/chaos";

/// How clients are let in, as the client library's options of the same names say it. Servers of the suite ask for nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Access {
    /// Who signed the servers' certificates.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where its token is.
    pub token_file: Option<PathBuf>,
}

/// What a client is and does.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Spec {
    /// As in histories.
    pub name: String,
    /// From 1 on, for values that nobody else writes.
    pub number: u32,
    /// See [`Role`].
    pub role: Role,
    /// See [`Recipe`].
    pub recipe: Recipe,
    /// See [`Workload`].
    pub workload: Workload,
    /// Of all servers, the one to begin with first; where there is no server, the directory that clients share.
    pub endpoints: Vec<String>,
    /// What Conclave's servers ask for before they let anybody in.
    pub access: Access,
    /// Conclave's clients touch nothing outside of this node.
    pub namespace: String,
    /// Locks to choose from.
    pub keys: Vec<String>,
    /// The lease.
    pub ttl: Duration,
    /// Longest wait for a lock.
    pub wait: Duration,
    /// Shortest and longest time under the lock.
    pub hold: (Duration, Duration),
    /// How often an observer writes.
    pub probe_every: Duration,
    /// Of the client's own choices.
    pub seed: u64,
    /// What is touched under the lock.
    pub resource: Option<Address>,
    /// The bug that is active in the client library.
    pub planted: Option<String>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It certainly did not.
    Fail,
    /// Nobody can say.
    Info,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServerView {
    /// Whether it answered.
    pub answers: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Its term.
    pub term: u64,
    /// Last applied index.
    pub applied: u64,
    /// Of its state after that.
    pub hash: String,
}

/// What happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Happened {
    /// Connected.
    Ready,
    /// It was killed; told by whoever did it.
    Killed,
    /// A call, in the checker's terms: of a lock, the value is the token.
    Call { f: String, key: String, value: Value },
    /// And its return. `lease_from_ns`: when the request was sent from which the lease counts, for locks that end by
    /// themselves however alive their holder is.
    Return { f: String, key: String, outcome: Outcome, value: Value, error: Option<String>, lease_from_ns: Option<i64> },
    /// The client takes the lock for its own. `room`: so many may hold at once with it; 0: as many as like, who say so too.
    Begin {
        key: String,
        token: Option<i64>,
        #[serde(default = "alone")]
        room: u32,
    },
    /// It no longer does. `lost`: because it learned of that; otherwise it gives it back. `seen_ns`: when it last looked
    /// and still held.
    End { key: String, lost: bool, seen_ns: i64 },
    /// It read the resource, now it works.
    Read { key: String },
    /// The resource refused its token.
    Refused { key: String, token: Option<i64>, error: String },
    /// Something that is no result.
    Trouble { error: String },
    /// A session was opened, with the TTL that the servers agreed to.
    Opened { session: u64, ttl_ms: u64 },
    /// The client learned that a session is over. `late_ms`: so long after its deadline, where that was the reason.
    Over { session: u64, reason: String, late_ms: Option<u64> },
    /// A session fell silent, and its nodes went, all at once (`revisions` is 1), or are there still. Until its deadline the
    /// servers owed it its life.
    Lapsed { session: u64, silent_ns: i64, deadline_ns: i64, gone_ns: Option<i64>, revisions: usize },
    /// A grant with what the servers know it by; `revision` is the newest that the session had seen by then.
    Granted { key: String, token: i64, session: u64, node: String, revision: u64 },
    /// A change was acknowledged; no data: the node was removed.
    Acknowledged { revision: u64, path: String, data: Option<String> },
    /// A change certainly did not happen, which would have left this data, that nobody else writes.
    Rejected { path: String, data: String },
    /// A client saw for itself that an invariant does not hold, or that it does in a case that counts.
    Judged { invariant: String, broken: Option<String> },
    /// A watch began (again) at this revision, `scope` being `node`, `children` or `subtree`.
    Watching { watch: String, path: String, scope: String, from: u64 },
    /// A watch told of a revision.
    Seen { watch: String, revision: u64, changes: Vec<Change> },
    /// A watch ended; on purpose: without an error. What comes before `next` was told.
    Unwatched { watch: String, next: u64, error: Option<String> },
    /// Some of a replica's own account of its changes, from `oldest` on, in their order.
    Replica { server: usize, oldest: u64, changes: Vec<Change> },
    /// A server's metrics.
    Metrics { server: usize, text: String },
    /// What is open when all clients have left and had time to: sessions (id, name), and holders and waiters (node, owner).
    Remains { sessions: Vec<(u64, String)>, members: Vec<(String, Option<u64>)> },
    /// A write was acknowledged that had been sent at this time.
    Written { sent_ns: i64 },
    /// The servers, in their order.
    Servers { servers: Vec<ServerView> },
}

fn alone() -> u32 {
    1
}

/// A change of a node, as replicas and watches tell it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    /// At which revision.
    pub revision: u64,
    /// `created`, `changed` or `deleted`.
    pub kind: String,
    /// Which node.
    pub path: String,
    /// Its data, as text.
    pub data: String,
    /// The session it dies with.
    pub owner: Option<u64>,
    /// The number its parent gave it.
    pub sequence: Option<u64>,
    /// The revision that made it.
    pub made: u64,
}

/// What happened, and when.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Told {
    /// See [`now_ns`].
    pub at_ns: i64,
    /// Which of the client's own threads of work, from 0 on.
    #[serde(default, skip_serializing_if = "is_first")]
    pub task: u32,
    /// What.
    #[serde(flatten)]
    pub happened: Happened,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_first(task: &u32) -> bool {
    *task == 0
}

/// Says what happened at this moment.
pub fn tell(happened: Happened) {
    tell_at(now_ns(), happened);
}

fn tell_at(at_ns: i64, happened: Happened) {
    tell_of(at_ns, 0, happened);
}

fn tell_of(at_ns: i64, task: u32, happened: Happened) {
    let mut line = serde_json::to_vec(&Told { at_ns, task, happened }).expect("plain values");
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Who asked is gone if nobody listens; there is nothing to go on for.
    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// A line for a client: it is to stop itself when its turn comes (SIGSTOP).
pub(crate) const STOP_AT_TURN: &str = "stop at turn";
/// It no longer is.
pub(crate) const PASS_TURN: &str = "pass turn";

/// What a client process does, from its only argument on, with the recipes that its program knows.
///
/// # Errors
/// If it cannot begin.
pub fn main(spec: &str, recipes: &dyn Recipes) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_str(spec).context("what a client is told")?;
    if let Some(key) = &spec.planted {
        conclave_faults::plant_everywhere(key).map_err(anyhow::Error::msg)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told_to = Arc::clone(&stop);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line.as_deref() {
                Ok(STOP_AT_TURN) => conclave::stop_at_turn(true),
                Ok(PASS_TURN) => conclave::stop_at_turn(false),
                _ => break,
            }
        }
        told_to.store(true, Ordering::Relaxed);
    });
    match spec.role {
        Role::Work if spec.workload.is_for_any_lock() => worker::run(&spec, recipes, &stop),
        Role::Work => work::run(&spec, &stop),
        Role::Observe => recipes.observe(&spec, &stop),
        Role::Audit => audit::run(&spec),
    }
}
