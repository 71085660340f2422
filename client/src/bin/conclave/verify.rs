//! `conclave verify`: does the cluster do what it is there for?
//!
//! A write, a read, two grants of a lock with a rising token, and a transaction under the lock, below a path of its own
//! that is removed again.

use std::time::Duration;

use conclave_client::{Client, Guard, Session, SessionOptions};
use serde::Serialize;

use crate::{
    exit::{self, Failure},
    output::Out,
    units,
};

const HOME: &str = "/verify";
/// Of the session that takes the lock; what is left of a run that was killed is gone after it.
const TTL: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct VerifyJson {
    ok: bool,
    encrypted: bool,
    caller: String,
    steps: Vec<String>,
}

/// Says what was done, step by step.
struct Steps<'a> {
    out: &'a mut Out,
    done: Vec<String>,
}

impl Steps<'_> {
    fn say(&mut self, step: String) -> Result<(), Failure> {
        if !self.out.is_json() {
            self.out.line(format!("ok: {step}"))?;
            self.out.flush()?;
        }
        self.done.push(step);
        Ok(())
    }
}

/// Goes through all of it.
pub async fn run(client: &Client, timeout: Duration, out: &mut Out) -> Result<(), Failure> {
    let mut steps = Steps { out, done: Vec::new() };
    let answers = client.admin().status().await;
    let answered: Vec<_> = answers.iter().filter_map(|answer| Some((answer, answer.status.as_ref().ok()?))).collect();
    let Some((_, first)) = answered.first() else {
        let why = answers.into_iter().find_map(|answer| answer.status.err());
        return Err(why.map_or_else(|| Failure::new(exit::UNAVAILABLE, "no server answered"), Failure::from));
    };
    let encrypted = answered.iter().all(|(answer, _)| answer.encrypted);
    let caller = first.caller.clone();
    steps.say(format!(
        "{} of {} endpoints answer, {}, and know this client as {caller}",
        answered.len(),
        answers.len(),
        if encrypted { "encrypted" } else { "in plain text" }
    ))?;

    let home = format!("{HOME}/{}-{}", std::process::id(), units::now_ms());
    client.create(home.clone()).create_container_parents().await?;
    let session = client.session(SessionOptions::new().ttl(TTL).name(format!("verify/{}", std::process::id()))).await?;
    let result = exercise(client, &session, &home, timeout, &mut steps).await;
    let closed = session.close().await;
    let removed = client.delete(home.clone()).recursive().await;
    result?;
    closed?;
    removed?;
    steps.say(format!("removed {home}"))?;
    let done = steps.done;
    if out.is_json() { out.json(&VerifyJson { ok: true, encrypted, caller, steps: done }) } else { Ok(()) }
}

async fn exercise(
    client: &Client,
    session: &Session,
    home: &str,
    timeout: Duration,
    steps: &mut Steps<'_>,
) -> Result<(), Failure> {
    let wrong = |what: String| Failure::new(exit::INTERNAL, what);
    let key = format!("{home}/key");
    let value = format!("written at {}", units::utc(units::now_ms()));
    let put = client.put(key.clone(), value.clone()).await?;
    steps.say(format!("wrote {key} at revision {}", put.revision))?;

    let lock = format!("{home}/lock");
    let acquire = async || -> Result<Guard, Failure> { Ok(session.lock(lock.clone()).wait(timeout).acquire().await?) };
    let first = acquire().await?;
    let token = first.token();
    steps.say(format!("took {lock} with token {token}"))?;
    first.txn().put(key.clone(), value.clone()).commit().await?;
    steps.say("wrote again, under the lock".to_owned())?;
    first.release().await?;
    let second = acquire().await?;
    let next = second.token();
    second.release().await?;
    if next <= token {
        return Err(wrong(format!("the second grant has token {next}, the first had {token}: tokens must rise")));
    }
    steps.say(format!("took it again with token {next}, which is larger"))?;

    match client.get(key.clone()).await? {
        Some(node) if node.data == value.as_bytes() => steps.say(format!("read {key} back")),
        Some(_) => Err(wrong(format!("{key} holds something else than was written"))),
        None => Err(wrong(format!("{key} was written and is not there"))),
    }
}
