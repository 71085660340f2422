//! Conclave's lock, by its client library.

use std::time::Duration;

use anyhow::Context as _;
use conclave_client::{Client, Config, Effect, Error, ErrorKind, Guard, Session, SessionOptions};
use tokio::runtime::Runtime;

use super::{
    Outcome, Spec,
    lock::{Acquired, Lock},
};

/// Beyond what was asked for; after that the call counts as unknown.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct SessionLock {
    runtime: Runtime,
    client: Client,
    options: SessionOptions,
    session: Option<Session>,
    guard: Option<Guard>,
}

/// Two threads of the library's own, as a program would have them.
pub fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no threads")
}

impl SessionLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let client = Client::new(Config::new(spec.endpoints.clone()))?;
        drop(_inside);
        let options = SessionOptions::new().ttl(spec.ttl).name(&spec.name);
        Ok(Self { runtime, client, options, session: None, guard: None })
    }
}

fn ended(error: &Error) -> Outcome {
    // A call that was certainly not made, and a hold that certainly was not there, say so; all else is unknown.
    if error.effect() == Effect::None || error.kind() == ErrorKind::LockLost { Outcome::Fail } else { Outcome::Info }
}

impl Lock for SessionLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.session.as_ref().is_some_and(Session::is_alive) {
            return Ok(());
        }
        let open = self.client.session(self.options.clone());
        let open = async { tokio::time::timeout(PATIENCE, open).await };
        self.session = Some(self.runtime.block_on(open).context("no session in time")??);
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let Some(session) = &self.session else { return Acquired::Not(Outcome::Fail, "no session".into()) };
        let asked = session.lock(format!("/locks/{key}")).wait(wait).acquire();
        match self.runtime.block_on(async { tokio::time::timeout(wait + PATIENCE, asked).await }) {
            Ok(Ok(guard)) => {
                let token = Some(guard.token());
                self.guard = Some(guard);
                Acquired::Held { token, lease_from_ns: None }
            }
            Ok(Err(error)) => Acquired::Not(ended(&error), error.to_string()),
            Err(_) => Acquired::Not(Outcome::Info, "no answer in time".into()),
        }
    }

    fn held(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_held)
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(guard) = self.guard.take() else { return (Outcome::Fail, Some("not held".into())) };
        match self.runtime.block_on(async { tokio::time::timeout(PATIENCE, guard.release()).await }) {
            Ok(Ok(())) => (Outcome::Ok, None),
            Ok(Err(error)) => (ended(&error), Some(error.to_string())),
            Err(_) => (Outcome::Info, Some("no answer in time".into())),
        }
    }

    fn close(&mut self) {
        if let Some(session) = self.session.take() {
            // If it fails the session ends by its TTL.
            let _ = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, session.close()).await });
        }
    }
}
