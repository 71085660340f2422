//! The locks on one key of one Redis server.

use std::{
    sync::{Mutex, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use redis::{Connection, ErrorKind, RedisError, Value};

use super::{
    Outcome, Recipe, ServerView, Spec,
    lock::{Acquired, Lock, leased},
    observer::{ANSWER_WITHIN, ObserveBlocking, watch_blocking},
};
use crate::clock::{now_ns, ns};

/// How often a waiter looks again.
const RETRY_EVERY: Duration = Duration::from_millis(5);
/// Until a command is sent again that a server refused: it has no replicas at the moment, or is one itself.
const REFUSED_FOR: Duration = Duration::from_millis(50);
/// Compares and deletes at once; as on the page of SET.
pub const RELEASE: &str =
    "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

/// Where the lock is now.
type Find = Box<dyn Fn() -> anyhow::Result<Connection>>;

pub struct KeyLock {
    recipe: Recipe,
    ttl: Duration,
    find: Find,
    connection: Option<Connection>,
    /// Makes values that nobody else uses.
    random: fastrand::Rng,
    hold: Option<Hold>,
}

struct Hold {
    key: String,
    value: String,
    /// The service may give it away from here on.
    until_ns: i64,
}

/// What a server refuses it has not done; of what was not answered nobody can say.
fn effect(error: &RedisError) -> Outcome {
    if matches!(error.kind(), ErrorKind::Server(_)) || error.code().is_some() { Outcome::Fail } else { Outcome::Info }
}

/// A connection whose every call ends within this time.
pub fn connect(endpoint: &str, within: Duration) -> anyhow::Result<Connection> {
    let client = redis::Client::open(endpoint).with_context(|| format!("{endpoint} is no endpoint"))?;
    let connection = client.get_connection_with_timeout(within).context("no connection")?;
    connection.set_read_timeout(Some(within)).context("no time-out")?;
    connection.set_write_timeout(Some(within)).context("no time-out")?;
    Ok(connection)
}

impl KeyLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let endpoint = spec.endpoints.first().context("no server")?.clone();
        Ok(Self::found(spec, Box::new(move || connect(&endpoint, ANSWER_WITHIN))))
    }

    /// On a server that is looked for whenever there is no connection.
    pub fn found(spec: &Spec, find: Find) -> Self {
        Self { recipe: spec.recipe, ttl: spec.ttl, find, connection: None, random: fastrand::Rng::new(), hold: None }
    }

    /// Whether the value is compared before the key is deleted.
    fn compares(&self) -> bool {
        matches!(self.recipe, Recipe::RedisSetNxOwner | Recipe::RedisFailover)
    }

    /// A connection that failed is not used again: an answer might still be on its way in it.
    fn ask(&mut self, command: &redis::Cmd) -> Result<Value, RedisError> {
        let Some(connection) = &mut self.connection else {
            return Err(RedisError::from((ErrorKind::Io, "no connection")));
        };
        let answer = command.query::<Value>(connection);
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    /// Whether it took the key, which it asked for at this moment; a failure may be of either kind.
    fn attempt(&mut self, key: &str, value: &str) -> Result<Option<i64>, (Outcome, RedisError)> {
        if self.recipe == Recipe::RedisGetSet {
            let found = self.ask(redis::cmd("GET").arg(key)).map_err(|error| (Outcome::Fail, error))?;
            if found != Value::Nil {
                return Ok(None);
            }
        }
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value);
        if self.recipe != Recipe::RedisGetSet {
            set.arg("NX");
        }
        set.arg("PX").arg(u64::try_from(self.ttl.as_millis()).expect("a lease of centuries"));
        let sent = now_ns();
        let answer = self.ask(&set).map_err(|error| (effect(&error), error))?;
        Ok((answer != Value::Nil).then_some(sent))
    }
}

impl Lock for KeyLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.connection.is_none() {
            self.connection = Some((self.find)()?);
        }
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let value = format!("{:032x}", self.random.u128(..));
        let until = Instant::now() + wait;
        loop {
            match self.attempt(key, &value) {
                Ok(Some(sent)) => {
                    self.hold = Some(Hold { key: key.into(), value, until_ns: sent + ns(self.ttl) });
                    return Acquired::Held { token: None, lease_from_ns: Some(sent) };
                }
                Ok(None) if Instant::now() >= until => {
                    return Acquired::Not(Outcome::Fail, "timed out: not free".into());
                }
                Ok(None) => thread::sleep(RETRY_EVERY),
                Err((Outcome::Fail, error)) => {
                    // Refused, or not even sent. Somewhere else, or a little later, it may be taken.
                    thread::sleep(REFUSED_FOR);
                    if Instant::now() >= until || self.prepare().is_err() {
                        return Acquired::Not(Outcome::Fail, error.to_string());
                    }
                }
                Err((outcome, error)) => return Acquired::Not(outcome, error.to_string()),
            }
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        leased(self.hold.as_ref().map(|hold| hold.until_ns))
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(hold) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        if self.connection.is_none()
            && let Err(error) = self.prepare()
        {
            return (Outcome::Fail, Some(format!("{error:#}")));
        }
        let owner = self.compares();
        let answer = if owner {
            self.ask(redis::cmd("EVAL").arg(RELEASE).arg(1).arg(&hold.key).arg(&hold.value))
        } else {
            self.ask(redis::cmd("DEL").arg(&hold.key))
        };
        match answer {
            Ok(Value::Int(1)) if owner || now_ns() < hold.until_ns => (Outcome::Ok, None),
            // What was deleted may have been somebody else's: the client cannot say.
            Ok(Value::Int(1)) => (Outcome::Info, Some("the lease had run out".into())),
            Ok(_) if owner => (Outcome::Fail, Some("the key was gone, or another's".into())),
            // Somebody else deleted it, or it ran out: in any case it is given back, and no later grant is wrong.
            Ok(_) => (Outcome::Info, Some("the key was gone".into())),
            Err(error) => (effect(&error), Some(error.to_string())),
        }
    }
}

struct Observer {
    endpoint: String,
    asking: Mutex<Option<Connection>>,
}

/// One command on a connection that is made when it is not there, and not used again after a failure.
pub fn once(kept: &Mutex<Option<Connection>>, endpoint: &str, command: &redis::Cmd) -> anyhow::Result<Value> {
    let mut kept = kept.lock().expect("nobody panics with it");
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(endpoint, ANSWER_WITHIN)?,
    };
    let answer = command.query(&mut connection)?;
    *kept = Some(connection);
    Ok(answer)
}

impl ObserveBlocking for Observer {
    fn count(&self) -> usize {
        1
    }

    fn server(&self, _: usize) -> ServerView {
        let answers = once(&self.asking, &self.endpoint, &redis::cmd("PING")).is_ok();
        ServerView { answers, ..ServerView::default() }
    }

    fn write(&self) -> bool {
        probe(&self.endpoint).is_ok()
    }
}

/// A write on a connection of its own, so that one that hangs keeps no other from being sent.
pub fn probe(endpoint: &str) -> anyhow::Result<()> {
    redis::cmd("INCR").arg("chaos:probe").query::<()>(&mut connect(endpoint, ANSWER_WITHIN)?).context("not written")
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let endpoint = spec.endpoints.first().context("no server")?.clone();
    watch_blocking(Observer { endpoint, asking: Mutex::default() }, spec.probe_every, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_certain_and_silence_is_not() {
        let refused = redis::parse_redis_value(b"-NOREPLICAS Not enough good replicas to write.\r\n")
            .and_then(Value::extract_error)
            .expect_err("a refusal");
        assert_eq!(effect(&refused), Outcome::Fail);
        assert_eq!(effect(&std::io::Error::from(std::io::ErrorKind::TimedOut).into()), Outcome::Info);
    }
}
