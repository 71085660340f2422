//! etcd's lock: the `Lock` call of its lock service, under a lease that is kept alive.
//!
//! As its Go client does (`concurrency.Session`), the lease is renewed every third of its time, and it counts as lost when no
//! renewal was acknowledged for the whole of it; here from when the acknowledged one was sent, which is earlier.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use conclave_suite::{
    client::{
        Outcome, ServerView, Spec,
        lock::{Acquired, Lock, token},
        observer::{ANSWER_WITHIN, Observe, watch},
        runtime,
    },
    clock::{now_ns, ns},
};
use etcd_client::{Client, Compare, CompareOp, ConnectOptions, LockOptions, Txn, TxnOp};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};

/// One call, other than waiting for the lock.
const PATIENCE: Duration = Duration::from_secs(3);
/// Trying once is waiting for so long: time for a call and its answer.
const WAIT_MIN: Duration = Duration::from_millis(300);
/// Between renewals after one that failed; so does the Go client.
const RENEW_AGAIN: Duration = Duration::from_millis(500);

pub struct LeaseLock {
    runtime: Runtime,
    endpoints: Vec<String>,
    ttl: Duration,
    session: Option<Session>,
    hold: Option<Hold>,
}

struct Session {
    client: Client,
    lease: i64,
    /// The lease lasts until here, as far as the client can know.
    until_ns: Arc<AtomicI64>,
    keeper: JoinHandle<()>,
}

struct Hold {
    key: Vec<u8>,
    created: i64,
    until_ns: Arc<AtomicI64>,
}

/// Connections that are known to be dead after at most a second and a half.
async fn connect(endpoints: &[String]) -> anyhow::Result<Client> {
    let options = ConnectOptions::new()
        .with_connect_timeout(ANSWER_WITHIN)
        .with_keep_alive(ANSWER_WITHIN / 2, ANSWER_WITHIN)
        .with_keep_alive_while_idle(true);
    Client::connect(endpoints, Some(options)).await.context("no connection")
}

/// Renews the lease until it is lost. A lease that is lost stays so.
async fn keep(mut client: Client, lease: i64, ttl: Duration, until_ns: Arc<AtomicI64>) {
    while now_ns() < until_ns.load(Ordering::Relaxed) {
        if let Ok(Ok((mut ask, mut answers))) = timeout(ANSWER_WITHIN, client.lease_keep_alive(lease)).await {
            loop {
                let sent_ns = now_ns();
                if !matches!(timeout(ANSWER_WITHIN, ask.keep_alive()).await, Ok(Ok(()))) {
                    break;
                }
                match timeout(ANSWER_WITHIN, answers.message()).await {
                    Ok(Ok(Some(answer))) if answer.ttl() > 0 => {
                        let renewed_ns = sent_ns + ns(Duration::from_secs(answer.ttl().unsigned_abs()));
                        // An answer that was read too late, as after a pause, is one all the same if it was in time.
                        until_ns.fetch_max(renewed_ns, Ordering::Relaxed);
                    }
                    Ok(Ok(Some(_))) => {
                        until_ns.store(0, Ordering::Relaxed);
                        return;
                    }
                    _ => break,
                }
                tokio::time::sleep(ttl / 3).await;
            }
        }
        tokio::time::sleep(RENEW_AGAIN).await;
    }
    until_ns.store(0, Ordering::Relaxed);
}

impl Session {
    async fn open(endpoints: &[String], ttl: Duration) -> anyhow::Result<Self> {
        let mut client = connect(endpoints).await?;
        let seconds = i64::try_from(ttl.as_secs_f64().ceil() as u64)?;
        let sent_ns = now_ns();
        let granted = client.lease_grant(seconds, None).await.context("no lease")?;
        // etcd may grant more than was asked for, never less.
        let granted_ttl = Duration::from_secs(granted.ttl().unsigned_abs());
        ensure!(granted_ttl >= ttl, "a lease of {granted_ttl:?} instead of {ttl:?}");
        let until_ns = Arc::new(AtomicI64::new(sent_ns + ns(granted_ttl)));
        let keeper = tokio::spawn(keep(client.clone(), granted.id(), granted_ttl, Arc::clone(&until_ns)));
        Ok(Self { client, lease: granted.id(), until_ns, keeper })
    }

    fn is_alive(&self) -> bool {
        now_ns() < self.until_ns.load(Ordering::Relaxed)
    }
}

impl LeaseLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        Ok(Self { runtime: runtime()?, endpoints: spec.endpoints.clone(), ttl: spec.ttl, session: None, hold: None })
    }

    /// Ends the session, and with it whatever it may hold or wait for; without an answer it ends with its lease.
    fn leave(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.keeper.abort();
            session.until_ns.store(0, Ordering::Relaxed);
            let revoke = async { timeout(ANSWER_WITHIN, session.client.lease_revoke(session.lease)).await };
            let _ = self.runtime.block_on(revoke);
        }
    }

    fn unknown(&mut self, error: String) -> Acquired {
        self.leave();
        Acquired::Not(Outcome::Info, error)
    }
}

/// The revision at which the key was created, if it is there and this lease's.
async fn created(client: &mut Client, key: &[u8], lease: i64) -> anyhow::Result<i64> {
    let found = timeout(PATIENCE, client.get(key, None)).await.context("no answer in time")??;
    let key = found.kvs().first().filter(|key| key.lease() == lease);
    Ok(key.context("the lease ended while it waited")?.create_revision())
}

impl Lock for LeaseLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.session.as_ref().is_some_and(Session::is_alive) {
            return Ok(());
        }
        self.leave();
        let open = async { timeout(PATIENCE, Session::open(&self.endpoints, self.ttl)).await };
        self.session = Some(self.runtime.block_on(open).context("no session in time")??);
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let Some(session) = &mut self.session else { return Acquired::Not(Outcome::Fail, "no session".into()) };
        let asked = self.runtime.block_on(async {
            let options = LockOptions::new().with_lease(session.lease);
            let answer = timeout(wait.max(WAIT_MIN), session.client.lock(format!("locks/{key}"), Some(options)));
            let key = answer.await.context("timed out")??.key().to_vec();
            let created = created(&mut session.client, &key, session.lease).await?;
            Ok::<_, anyhow::Error>((key, created))
        });
        let until_ns = Arc::clone(&session.until_ns);
        match asked {
            Ok((key, created)) => {
                self.hold = Some(Hold { key, created, until_ns });
                Acquired::Held { token: token(created), lease_from_ns: None }
            }
            // A key of ours may be waiting there: it goes with the session.
            Err(error) => self.unknown(format!("{error:#}")),
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        let until_ns = self.hold.as_ref().map(|hold| Arc::clone(&hold.until_ns));
        Box::new(move || until_ns.as_ref().is_some_and(|until_ns| now_ns() < until_ns.load(Ordering::Relaxed)))
    }

    /// What `Unlock` does, and it says whether there was anything to delete.
    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(hold) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        let Some(session) = &mut self.session else { return (Outcome::Fail, Some("no session".into())) };
        let own = Compare::create_revision(hold.key.clone(), CompareOp::Equal, hold.created);
        let delete = Txn::new().when([own]).and_then([TxnOp::delete(hold.key, None)]);
        let answer = self.runtime.block_on(async { timeout(PATIENCE, session.client.txn(delete)).await });
        let failed = match answer {
            Ok(Ok(answer)) if answer.succeeded() => return (Outcome::Ok, None),
            Ok(Ok(_)) => (Outcome::Fail, "the key was gone".into()),
            Ok(Err(error)) => (Outcome::Info, error.to_string()),
            Err(_) => (Outcome::Info, "no answer in time".into()),
        };
        self.leave();
        (failed.0, Some(failed.1))
    }

    fn close(&mut self) {
        self.leave();
    }
}

/// A client for each server.
struct Observer(Vec<Client>);

impl Observe for Observer {
    async fn servers(&self) -> Vec<ServerView> {
        let ask = |mut server: Client| {
            tokio::spawn(async move {
                let Ok(Ok(status)) = timeout(ANSWER_WITHIN, server.status()).await else {
                    return ServerView::default();
                };
                let own = status.header().map_or(0, |header| header.member_id());
                ServerView {
                    answers: true,
                    leads: own == status.leader(),
                    term: status.raft_term(),
                    applied: status.raft_applied_index(),
                    hash: String::new(),
                }
            })
        };
        let asked: Vec<_> = self.0.iter().cloned().map(ask).collect();
        let mut servers = Vec::new();
        for server in asked {
            servers.push(server.await.unwrap_or_default());
        }
        servers
    }

    /// To one server after the other: who is out of reach keeps no other write waiting.
    async fn write(&self, nth: usize) -> bool {
        let mut server = self.0[nth % self.0.len()].clone();
        matches!(timeout(ANSWER_WITHIN, server.put("chaos/probe", "written", None)).await, Ok(Ok(_)))
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let make = async || {
        let mut servers = Vec::new();
        for endpoint in &spec.endpoints {
            servers.push(connect(std::slice::from_ref(endpoint)).await?);
        }
        Ok(Observer(servers))
    };
    watch(make, spec.probe_every, stop)
}
