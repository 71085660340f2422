//! Conclave's lock, by its client library.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use conclave_client::{
    BootTime, Client, Config, Effect, Error, ErrorKind, Guard, LostReason, Role, Session, SessionOptions,
};
use nix::sys::signal::{Signal, raise};
use tokio::runtime::Runtime;

use super::{
    Access, Happened, Outcome, ServerView, Spec,
    lock::{Acquired, Lock},
    observer::{ANSWER_WITHIN, Observe, watch},
    tell,
};
use crate::clock::now_ns;

/// Beyond what was asked for; after that the call counts as unknown.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct SessionLock {
    runtime: Runtime,
    locks: String,
    client: Client,
    options: SessionOptions,
    ttl: Duration,
    session: Option<Session>,
    guard: Option<Arc<Guard>>,
}

/// Two threads of the library's own, as a program would have them.
pub fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no threads")
}

impl Access {
    /// The library's configuration for these servers.
    #[must_use]
    pub fn config(&self, endpoints: Vec<String>) -> Config {
        let mut config = Config::new(endpoints);
        if let Some(ca) = &self.ca {
            config = config.with_ca(ca);
        }
        if let Some((certificate, key)) = &self.certificate {
            config = config.with_certificate(certificate, key);
        }
        if let Some(token) = &self.token_file {
            config = config.with_token_file(token);
        }
        config
    }
}

/// The same for the servers of this run.
pub fn config(spec: &Spec) -> Config {
    spec.access.config(spec.endpoints.clone())
}

impl SessionLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let client = Client::new(config(spec))?;
        drop(_inside);
        let options = SessionOptions::new().ttl(spec.ttl).name(&spec.name);
        let locks = format!("{}/locks", spec.namespace);
        Ok(Self { runtime, locks, client, options, ttl: spec.ttl, session: None, guard: None })
    }
}

/// Opens a session, tells of it, and will tell of its end.
pub async fn open(client: &Client, options: SessionOptions) -> anyhow::Result<Session> {
    let session = tokio::time::timeout(PATIENCE, client.session(options)).await.context("no session in time")??;
    let (id, ttl) = (session.id().0, session.ttl());
    tell(Happened::Opened { session: id, ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) });
    let mut state = session.state();
    let mut deadline = None;
    // A weak look at it: the last strong one closes the session.
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            let now = BootTime::now();
            match &*state.borrow_and_update() {
                conclave_client::SessionState::Connected => deadline = None,
                conclave_client::SessionState::Jeopardy { deadline: then } => deadline = Some(*then),
                conclave_client::SessionState::Lost { reason } => {
                    // One that stood still saw nothing come.
                    let due = deadline.filter(|_| *reason == LostReason::DeadlinePassed);
                    let late_ms = due.and_then(|due| u64::try_from(now.since(due).as_millis()).ok());
                    tell(Happened::Over { session: id, reason: format!("{reason:?}"), late_ms });
                    return;
                }
            }
        }
    });
    Ok(session)
}

/// Tells of a grant what the servers know it by.
pub fn granted(session: &Session, key: &str, guard: &Guard) {
    tell(Happened::Granted {
        key: key.into(),
        token: guard.token().as_i64(),
        session: session.id().0,
        node: guard.node_path().into(),
        revision: session.seen_revision().0,
    });
}

/// What the library says of a session that is lost; it may be so just after it was held.
const LOST: BootTime = BootTime::from_millis(0);

/// Looks whether it holds, and at how the client comes to say so (I6): never past its deadline, and a deadline no further
/// off than one that counts from a keep-alive sent at this moment.
pub fn held(guard: &Guard, ttl: Duration) -> bool {
    let before = BootTime::now();
    let held = guard.is_held();
    let deadline = guard.deadline();
    let after = BootTime::now();
    let broken = if held && deadline <= before && deadline != LOST {
        Some(format!("held at {before}, although the deadline was {deadline}"))
    } else if deadline.since(after) > ttl {
        Some(format!("the deadline {deadline} is more than the TTL after {after}"))
    } else {
        None
    };
    if broken.is_some() {
        tell(Happened::Judged { invariant: "I6".into(), broken });
    }
    held
}

/// Whether the process stops itself the next time that it is woken with a grant.
static AT_TURN: AtomicBool = AtomicBool::new(false);

pub fn stop_at_turn(asked: bool) {
    AT_TURN.store(asked, Ordering::Relaxed);
}

/// From the last step of an acquire to a look at what it granted: so short that nothing else can have ended the hold.
const AT_ONCE_NS: i64 = 100_000;

/// An acquire that is looked at (I4): it checks the session after the wait, so what it grants is held when it returns.
async fn checked(asked: impl Future<Output = conclave_client::Result<Guard>>) -> conclave_client::Result<Guard> {
    let (mut asked, mut step, mut step_ns) = (pin!(asked), 0, 0);
    let granted = poll_fn(|context| {
        step += 1;
        // It asks in the first and is in the line by the second: what wakes it then is its turn, or that it waits no longer.
        if step > 2 && AT_TURN.swap(false, Ordering::Relaxed) {
            let _ = raise(Signal::SIGSTOP);
        }
        step_ns = now_ns();
        asked.as_mut().poll(context)
    })
    .await?;
    // A process that is stopped between the two looks too late, and says nothing.
    if !granted.is_held() && now_ns() - step_ns < AT_ONCE_NS {
        let broken = Some(format!("{} was told as granted to a session that was lost", granted.node_path()));
        tell(Happened::Judged { invariant: "I4".into(), broken });
    }
    Ok(granted)
}

/// What a failure leaves certain.
pub fn ended(error: &Error) -> Outcome {
    // A call that was certainly not made, and a hold that certainly was not there, say so; all else is unknown.
    if error.effect() == Effect::None || error.kind() == ErrorKind::LockLost { Outcome::Fail } else { Outcome::Info }
}

impl Lock for SessionLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.session.as_ref().is_some_and(Session::is_alive) {
            return Ok(());
        }
        self.session = Some(self.runtime.block_on(open(&self.client, self.options.clone()))?);
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let Some(session) = &self.session else { return Acquired::Not(Outcome::Fail, "no session".into()) };
        let asked = session.lock(format!("{}/{key}", self.locks));
        let asked = checked(if wait.is_zero() { asked.try_now() } else { asked.wait(wait) }.acquire());
        match self.runtime.block_on(async { tokio::time::timeout(wait + PATIENCE, asked).await }) {
            Ok(Ok(guard)) => {
                granted(session, key, &guard);
                let token = Some(guard.token());
                self.guard = Some(Arc::new(guard));
                Acquired::Held { token, lease_from_ns: None }
            }
            Ok(Err(error)) => Acquired::Not(ended(&error), error.to_string()),
            Err(_) => Acquired::Not(Outcome::Info, "no answer in time".into()),
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        let (guard, ttl) = (self.guard.clone(), self.ttl);
        Box::new(move || guard.as_ref().is_some_and(|guard| held(guard, ttl)))
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(guard) = self.guard.take().and_then(Arc::into_inner) else {
            return (Outcome::Fail, Some("not held".into()));
        };
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

struct Observer {
    client: Client,
    probe: String,
}

impl Observe for Observer {
    async fn servers(&self) -> Vec<ServerView> {
        let servers = self.client.admin().status().await;
        let servers = servers.into_iter().map(|server| match server.status {
            Ok(status) => ServerView {
                answers: true,
                leads: status.role == Role::Leader,
                term: status.term.0,
                applied: status.applied.0,
                hash: status.state_hash,
            },
            Err(_) => ServerView::default(),
        });
        servers.collect()
    }

    async fn write(&self, _: usize) -> bool {
        self.client.put(self.probe.clone(), "written").create_parents().await.is_ok()
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let config = config(spec).with_request_timeout(ANSWER_WITHIN);
    let probe = format!("{}/probe", spec.namespace);
    watch(async || Ok(Observer { client: Client::new(config)?, probe }), spec.probe_every, stop)
}
