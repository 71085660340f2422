//! The locks on one Redis server.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use redis::{Connection, RedisError, Value};

use super::{
    Outcome, Recipe, Spec,
    lock::{Acquired, Lock},
};
use crate::clock::{now_ns, ns};

/// How often a waiter looks again.
const RETRY_EVERY: Duration = Duration::from_millis(5);
/// One command, and one attempt to connect.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_000);
/// Compares and deletes at once; as on the page of SET.
const RELEASE: &str = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

pub struct KeyLock {
    recipe: Recipe,
    ttl: Duration,
    client: redis::Client,
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

pub fn connect(client: &redis::Client) -> anyhow::Result<Connection> {
    let connection = client.get_connection_with_timeout(ANSWER_WITHIN).context("no connection")?;
    connection.set_read_timeout(Some(ANSWER_WITHIN)).context("no time-out")?;
    connection.set_write_timeout(Some(ANSWER_WITHIN)).context("no time-out")?;
    Ok(connection)
}

impl KeyLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let endpoint = spec.endpoints.first().context("no server")?;
        Ok(Self {
            recipe: spec.recipe,
            ttl: spec.ttl,
            client: redis::Client::open(endpoint.as_str()).context("an endpoint")?,
            connection: None,
            random: fastrand::Rng::new(),
            hold: None,
        })
    }

    /// A connection that failed is not used again: an answer might still be on its way in it.
    fn ask(&mut self, command: &redis::Cmd) -> Result<Value, RedisError> {
        let Some(connection) = &mut self.connection else {
            return Err(RedisError::from((redis::ErrorKind::Io, "no connection")));
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
        let answer = self.ask(&set).map_err(|error| (Outcome::Info, error))?;
        Ok((answer != Value::Nil).then_some(sent))
    }
}

impl Lock for KeyLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.client)?);
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
                Err((outcome, error)) => return Acquired::Not(outcome, error.to_string()),
            }
        }
    }

    fn held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| now_ns() < hold.until_ns)
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(hold) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        if self.connection.is_none()
            && let Err(error) = self.prepare()
        {
            return (Outcome::Fail, Some(format!("{error:#}")));
        }
        let owner = self.recipe == Recipe::RedisSetNxOwner;
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
            Err(error) => (Outcome::Info, Some(error.to_string())),
        }
    }
}
