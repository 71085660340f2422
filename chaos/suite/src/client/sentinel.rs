//! The lock on one key of a replicated Redis: at the primary, which Sentinels name.
//!
//! As Redis's "Guidelines for Redis clients with support for Redis Sentinel" has it: ask one Sentinel after the other until
//! one answers, connect to whom it names, and see by ROLE that it is the primary; all again whenever the connection fails.

use std::{
    sync::{Mutex, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use redis::{Connection, Value};

use super::{
    ServerView, Spec,
    observer::{ANSWER_WITHIN, ObserveBlocking, watch_blocking},
    redis::{KeyLock, connect, once},
};
use crate::target::redis_failover::{NAME, SENTINEL_PORT};

/// One question to a Sentinel: "a few hundred milliseconds", say the guidelines.
const SENTINEL_WITHIN: Duration = Duration::from_millis(300);

pub fn lock(spec: &Spec) -> anyhow::Result<KeyLock> {
    let sentinels = sentinels(&spec.endpoints);
    ensure!(!sentinels.is_empty(), "no Sentinel among {:?}", spec.endpoints);
    Ok(KeyLock::found(spec, Box::new(move || primary(&sentinels))))
}

fn is_sentinel(endpoint: &str) -> bool {
    endpoint.ends_with(&format!(":{SENTINEL_PORT}"))
}

fn sentinels(endpoints: &[String]) -> Vec<String> {
    endpoints.iter().filter(|endpoint| is_sentinel(endpoint)).cloned().collect()
}

/// Whom this Sentinel names.
fn named(sentinel: &str) -> anyhow::Result<String> {
    let mut connection = connect(sentinel, SENTINEL_WITHIN)?;
    let mut ask = redis::cmd("SENTINEL");
    let (host, port): (String, u16) = ask.arg("get-master-addr-by-name").arg(NAME).query(&mut connection)?;
    Ok(format!("redis://{host}:{port}"))
}

fn primary(sentinels: &[String]) -> anyhow::Result<Connection> {
    let named = sentinels.iter().find_map(|sentinel| named(sentinel).ok()).context("no Sentinel answers")?;
    let mut connection = connect(&named, ANSWER_WITHIN)?;
    if !leads(&redis::cmd("ROLE").query(&mut connection)?) {
        bail!("{named} is named as the primary and is none");
    }
    Ok(connection)
}

/// Whether this answer to ROLE is a primary's.
fn leads(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(Value::BulkString(role)) => role.as_slice() == b"master",
        Some(Value::SimpleString(role)) => role == "master",
        _ => false,
    }
}

struct Observer {
    endpoints: Vec<String>,
    asking: Vec<Mutex<Option<Connection>>>,
    /// Whom a Sentinel named last.
    named: Mutex<String>,
}

impl ObserveBlocking for Observer {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn server(&self, at: usize) -> ServerView {
        let endpoint = &self.endpoints[at];
        if is_sentinel(endpoint) {
            let found = named(endpoint);
            let answers = found.is_ok();
            if let Ok(found) = found {
                *self.named.lock().expect("nobody panics with it") = found;
            }
            return ServerView { answers, ..ServerView::default() };
        }
        let Ok(role) = once(&self.asking[at], endpoint, &redis::cmd("ROLE")) else { return ServerView::default() };
        // A deposed primary takes itself for one until a Sentinel reaches it: who is named counts for more.
        let term = u64::from(*self.named.lock().expect("nobody panics with it") == *endpoint);
        ServerView { answers: true, leads: leads(&role), term, ..ServerView::default() }
    }

    fn write(&self) -> bool {
        let written = primary(&sentinels(&self.endpoints))
            .and_then(|mut primary| Ok(redis::cmd("INCR").arg("chaos:probe").query::<i64>(&mut primary)?));
        written.is_ok()
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let endpoints = spec.endpoints.clone();
    let asking = endpoints.iter().map(|_| Mutex::default()).collect();
    watch_blocking(Observer { endpoints, asking, named: Mutex::default() }, spec.probe_every, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_known_by_its_role_and_a_sentinel_by_its_port() {
        let role = |name: &str| Value::Array(vec![Value::BulkString(name.into()), Value::Int(0)]);
        assert!(leads(&role("master")));
        assert!(!leads(&role("slave")));
        assert!(!leads(&Value::Nil));
        let all = ["redis://10.0.0.1:6379".to_owned(), "redis://10.0.0.2:26379".to_owned()];
        assert_eq!(sentinels(&all), all[1..]);
    }
}
