//! Redlock, as the page "Distributed Locks with Redis" (redis.io) tells it.
//!
//! In its words: take the time; try to set the key on all N servers one after the other, each within a time that is small
//! beside the lease; the lock is acquired if a majority was set and less time has passed than the lease is long; it is
//! valid for the lease less the time that passed, less an allowance for drift; otherwise unlock all, wait for a random
//! time, and try again.

use std::{
    sync::{Mutex, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use redis::{Connection, Value};

use super::{
    Outcome, ServerView, Spec,
    lock::{Acquired, Lock, leased},
    observer::{ObserveBlocking, watch_blocking},
    redis::{RELEASE, connect, once, probe},
};
use crate::clock::{now_ns, ns};

/// One server; the page proposes 5 to 50 ms.
const SERVER_WITHIN: Duration = Duration::from_millis(50);
/// Shortest and longest wait before the next try, so that rivals do not split the vote again, in milliseconds.
const RETRY_MS: std::ops::Range<u64> = 10..60;

/// What the author's implementation allows for drift between clocks: a hundredth of the lease and 2 ms.
fn drift(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

pub struct Redlock {
    endpoints: Vec<String>,
    connections: Vec<Option<Connection>>,
    ttl: Duration,
    random: fastrand::Rng,
    hold: Option<Hold>,
}

struct Hold {
    key: String,
    value: String,
    /// The lock is valid until here.
    until_ns: i64,
}

impl Redlock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        anyhow::ensure!(!spec.endpoints.is_empty(), "no server");
        let connections = spec.endpoints.iter().map(|_| None).collect();
        Ok(Self {
            endpoints: spec.endpoints.clone(),
            connections,
            ttl: spec.ttl,
            random: fastrand::Rng::new(),
            hold: None,
        })
    }

    fn majority(&self) -> usize {
        self.endpoints.len() / 2 + 1
    }

    /// The answer of one server, if it answers in time. A connection that failed is not used again.
    fn ask(&mut self, at: usize, command: &redis::Cmd) -> Option<Value> {
        let mut connection = match self.connections[at].take() {
            Some(connection) => connection,
            None => connect(&self.endpoints[at], SERVER_WITHIN).ok()?,
        };
        let answer = command.query(&mut connection).ok()?;
        self.connections[at] = Some(connection);
        Some(answer)
    }

    /// On how many servers this answer came.
    fn count(&mut self, command: &redis::Cmd, wanted: impl Fn(&Value) -> bool) -> usize {
        (0..self.endpoints.len()).filter(|at| self.ask(*at, command).is_some_and(|answer| wanted(&answer))).count()
    }

    /// Also on servers that did not say that they had set it.
    fn unlock(&mut self, key: &str, value: &str) -> usize {
        let command = redis::cmd("EVAL").arg(RELEASE).arg(1).arg(key).arg(value).clone();
        self.count(&command, |answer| *answer == Value::Int(1))
    }
}

impl Lock for Redlock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let (until, ttl_ms) = (Instant::now() + wait, u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX));
        loop {
            // A value of its own for every try.
            let value = format!("{:032x}", self.random.u128(..));
            let set = redis::cmd("SET").arg(key).arg(&value).arg("NX").arg("PX").arg(ttl_ms).clone();
            let began_ns = now_ns();
            let set = self.count(&set, |answer| *answer != Value::Nil);
            let until_ns = began_ns + ns(self.ttl) - ns(drift(self.ttl));
            if set >= self.majority() && now_ns() < until_ns {
                self.hold = Some(Hold { key: key.into(), value, until_ns });
                // What is promised is the validity, not the lease of the keys.
                return Acquired::Held { token: None, lease_from_ns: Some(began_ns - ns(drift(self.ttl))) };
            }
            self.unlock(key, &value);
            if Instant::now() >= until {
                return Acquired::Not(Outcome::Fail, format!("timed out: set on {set} of {}", self.endpoints.len()));
            }
            thread::sleep(Duration::from_millis(self.random.u64(RETRY_MS)));
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        leased(self.hold.as_ref().map(|hold| hold.until_ns))
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(hold) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        let freed = self.unlock(&hold.key, &hold.value);
        if freed >= self.majority() {
            return (Outcome::Ok, None);
        }
        // The others may have run out, been lost, or be out of reach: it ends there at the latest with the lease.
        (Outcome::Info, Some(format!("freed on {freed} of {}", self.endpoints.len())))
    }
}

struct Observer {
    endpoints: Vec<String>,
    asking: Vec<Mutex<Option<Connection>>>,
}

impl ObserveBlocking for Observer {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn server(&self, at: usize) -> ServerView {
        let answers = once(&self.asking[at], &self.endpoints[at], &redis::cmd("PING")).is_ok();
        ServerView { answers, ..ServerView::default() }
    }

    /// What the lock needs: a majority that takes a write.
    fn write(&self) -> bool {
        thread::scope(|scope| {
            let probes: Vec<_> = self.endpoints.iter().map(|endpoint| scope.spawn(|| probe(endpoint))).collect();
            let written = probes.into_iter().filter_map(|probe| probe.join().ok());
            written.filter(Result::is_ok).count() > self.endpoints.len() / 2
        })
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let endpoints = spec.endpoints.clone();
    let asking = endpoints.iter().map(|_| Mutex::default()).collect();
    watch_blocking(Observer { endpoints, asking }, spec.probe_every, stop)
}
