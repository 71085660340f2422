//! Clients: processes of their own, so that they can be stopped in the middle of anything.
//!
//! A client is told what to do in its one argument ([`Spec`]) and says what happens, a line of JSON each ([`Told`]), on
//! its standard output. It works until its standard input says `stop` or ends, finishes what it has begun, and ends.

mod conclave;
mod lock;
mod observer;
mod redis;
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

use crate::clock::now_ns;

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
}

/// What is done under the lock.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Nothing but holding it.
    Lock,
    /// A read and a write of a resource that compares tokens.
    Fenced,
    /// The same of one that does not.
    Unfenced,
}

/// What a client is and does.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Spec {
    /// As in histories.
    pub name: String,
    /// Watches the service rather than using its locks.
    pub observer: bool,
    /// See [`Recipe`].
    pub recipe: Recipe,
    /// See [`Workload`].
    pub workload: Workload,
    /// Of all servers, the one to begin with first.
    pub endpoints: Vec<String>,
    /// Locks to choose from.
    pub keys: Vec<String>,
    /// The lease.
    pub ttl: Duration,
    /// Longest wait for a lock.
    pub wait: Duration,
    /// Shortest and longest time under the lock.
    pub hold: (Duration, Duration),
    /// Of the client's own choices.
    pub seed: u64,
    /// The resource.
    pub db: Option<PathBuf>,
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
    /// A call of `acquire` or `release`.
    Call { f: String, key: String, token: Option<i64> },
    /// And its return. `lease_from_ns`: when the request was sent from which the lease counts, for locks that end by
    /// themselves however alive their holder is.
    Return {
        f: String,
        key: String,
        outcome: Outcome,
        token: Option<i64>,
        error: Option<String>,
        lease_from_ns: Option<i64>,
    },
    /// The client takes the lock for its own.
    Begin { key: String, token: Option<i64> },
    /// It no longer does. `lost`: because it learned of that; otherwise it gives it back.
    End { key: String, lost: bool },
    /// It read the resource, now it works.
    Read { key: String },
    /// The resource refused its token.
    Refused { key: String, token: Option<i64>, error: String },
    /// Something that is no result.
    Trouble { error: String },
    /// A write was acknowledged that had been sent at this time.
    Written { sent_ns: i64 },
    /// The servers, in their order.
    Servers { servers: Vec<ServerView> },
}

/// What happened, and when.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Told {
    /// See [`now_ns`].
    pub at_ns: i64,
    /// What.
    #[serde(flatten)]
    pub happened: Happened,
}

/// Says what happened at this moment.
fn tell(happened: Happened) {
    tell_at(now_ns(), happened);
}

fn tell_at(at_ns: i64, happened: Happened) {
    let mut line = serde_json::to_vec(&Told { at_ns, happened }).expect("plain values");
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Who asked is gone if nobody listens; there is nothing to go on for.
    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// What a client process does, from its only argument on.
///
/// # Errors
/// If it cannot begin.
pub fn main(spec: &str) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_str(spec).context("what a client is told")?;
    let stop = Arc::new(AtomicBool::new(false));
    let told_to = Arc::clone(&stop);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.map_or(true, |line| line == "stop") {
                break;
            }
        }
        told_to.store(true, Ordering::Relaxed);
    });
    if spec.observer { observer::run(&spec, &stop) } else { worker::run(&spec, &stop) }
}
