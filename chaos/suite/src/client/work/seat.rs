//! What every thread of work has: its way to the servers, and of telling what it does.

use std::{collections::BTreeMap, time::Duration};

use conclave_client::{Client, Error, Revision, Session, SessionOptions};
use serde_json::Value;

use crate::{
    client::{
        Happened, Outcome, Spec,
        conclave::{PATIENCE, config, ended, open},
        tell_of,
    },
    clock::now_ns,
};

/// A thread of work.
pub struct Seat {
    pub spec: Spec,
    /// Which of the client's, from 0 on.
    pub task: u32,
    pub client: Client,
    pub random: fastrand::Rng,
    session: Option<Session>,
    /// Nobody else's: the time, as a client that was killed begins again, and which client and thread this is.
    began: u64,
    count: u64,
    /// What was last read here, by key.
    pub known: BTreeMap<String, Value>,
}

impl Seat {
    pub fn new(spec: &Spec, task: u32) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(config(spec))?,
            random: fastrand::Rng::with_seed(spec.seed.wrapping_add(u64::from(task))),
            spec: spec.clone(),
            task,
            session: None,
            count: 0,
            began: u64::try_from(now_ns() / 1_000_000)? * 1_000 + u64::from(spec.number) * 16 + u64::from(task),
            known: BTreeMap::new(),
        })
    }

    /// The present session, or a new one if it is lost.
    pub async fn session(&mut self) -> anyhow::Result<Session> {
        if let Some(session) = self.session.as_ref().filter(|session| session.is_alive()) {
            return Ok(session.clone());
        }
        let session = open(&self.client, self.options()).await?;
        Ok(self.session.insert(session).clone())
    }

    /// How sessions are opened here.
    pub fn options(&self) -> SessionOptions {
        SessionOptions::new().ttl(self.spec.ttl).name(&self.spec.name)
    }

    /// Stops using the present session without ending it.
    pub fn abandon(&mut self) -> Option<Session> {
        self.session.take()
    }

    /// Ends the present session.
    pub async fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            // If it fails the session ends by its TTL.
            let _ = tokio::time::timeout(PATIENCE, session.close()).await;
        }
    }

    /// A number that nobody else writes.
    pub fn unique(&mut self) -> u64 {
        self.count += 1;
        self.began * 100_000 + self.count
    }

    /// One of the keys.
    pub fn key(&mut self) -> String {
        let at = self.random.usize(..self.spec.keys.len());
        self.spec.keys[at].clone()
    }

    /// Where something of this run is.
    pub fn path(&self, below: &str) -> String {
        format!("{}/{below}", self.spec.namespace)
    }

    /// Where a lock is.
    pub fn lock(&self, key: &str) -> String {
        format!("{}/locks/{key}", self.spec.namespace)
    }

    /// A name that changes every two seconds, for all clients at the same time: what a search has to look at at once
    /// stays small.
    pub fn rolling(&mut self, stem: &str) -> String {
        let at = self.random.usize(..self.spec.keys.len()) + 1;
        format!("{stem}-{at}-{}", now_ns() / 2_000_000_000)
    }

    pub fn tell(&self, happened: Happened) {
        tell_of(now_ns(), self.task, happened);
    }

    pub fn called(&self, f: &str, key: &str, value: Value) {
        self.tell(Happened::Call { f: f.into(), key: key.into(), value });
    }

    pub fn returned(&self, f: &str, key: &str, outcome: Outcome, value: Value, error: Option<String>) {
        self.tell(Happened::Return { f: f.into(), key: key.into(), outcome, value, error, lease_from_ns: None });
    }

    pub fn acknowledged(&self, revision: Revision, path: &str, data: Option<String>) {
        self.tell(Happened::Acknowledged { revision: revision.0, path: path.into(), data });
    }

    /// Asks, and tells of the call and of its return. `said` makes the outcome out of an answer; a failure by comparison
    /// has no error text, as histories want it.
    pub async fn ask<T, F>(
        &self,
        f: &str,
        key: &str,
        argument: Value,
        call: F,
        said: impl FnOnce(&T) -> (Outcome, Value),
    ) -> Answer<T>
    where
        F: IntoFuture<Output = Result<T, Error>>,
    {
        self.called(f, key, argument.clone());
        match tokio::time::timeout(self.patience(), call.into_future()).await {
            Ok(Ok(answer)) => {
                let (outcome, value) = said(&answer);
                self.returned(f, key, outcome, value, None);
                Answer::Said(answer)
            }
            Ok(Err(error)) => {
                // Whose session ends while it campaigns may have led by then, and others saw it lead.
                let outcome = if f == "campaign" { Outcome::Info } else { ended(&error) };
                self.returned(f, key, outcome, argument, Some(error.to_string()));
                if outcome == Outcome::Fail { Answer::Refused } else { Answer::Unknown }
            }
            Err(_) => {
                self.returned(f, key, Outcome::Info, argument, Some("no answer in time".into()));
                Answer::Unknown
            }
        }
    }

    /// Beyond the longest that the library itself tries.
    fn patience(&self) -> Duration {
        PATIENCE + self.spec.wait
    }
}

/// What came of asking.
pub enum Answer<T> {
    /// This.
    Said(T),
    /// Certainly nothing happened.
    Refused,
    /// It may have happened.
    Unknown,
}

impl<T> Answer<T> {
    pub fn said(self) -> Option<T> {
        match self {
            Self::Said(answer) => Some(answer),
            Self::Refused | Self::Unknown => None,
        }
    }
}
