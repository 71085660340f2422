//! ZooKeeper's lock, by the recipe of its documentation ("ZooKeeper Recipes and Solutions", Locks).
//!
//! In its words: create a node, ephemeral and sequential; list; if the own node has the lowest number, the lock is held;
//! otherwise watch the node with the next lower number, wait until it is gone, and list again. To release, delete the
//! node. What the recipe leaves open, and its page on programming advises: a client that is disconnected from its servers
//! does not take the lock for its own.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, bail};
use conclave_suite::client::{
    Outcome, ServerView, Spec,
    lock::{Acquired, Lock, token},
    observer::{ANSWER_WITHIN, Observe, watch},
    runtime,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    sync::Mutex,
    time::timeout,
};
use zookeeper_client::{Acls, Client, CreateMode, Error, SessionState};

/// One call, other than waiting for the lock.
const PATIENCE: Duration = Duration::from_secs(3);
/// Trying once is waiting for so long: time for two calls and their answers.
const WAIT_MIN: Duration = Duration::from_millis(300);
/// The observer's sessions, of which nothing depends.
const OBSERVER_TTL: Duration = Duration::from_secs(10);
/// Where the observer writes.
const PROBE: &str = "/chaos-probe";

pub struct NodeLock {
    runtime: Runtime,
    cluster: String,
    ttl: Duration,
    session: Option<Arc<Client>>,
    /// The node that holds the lock.
    hold: Option<String>,
}

async fn connect(cluster: &str, ttl: Duration) -> anyhow::Result<Client> {
    let connect = Client::connector().with_session_timeout(ttl).with_fail_eagerly().connect(cluster);
    Ok(timeout(PATIENCE, connect).await.context("no session in time")??)
}

/// Makes a node that stays, and those above it.
async fn make(client: &Client, path: &str) -> anyhow::Result<()> {
    let made = timeout(PATIENCE, client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all()))).await;
    match made.context("no answer in time")? {
        Ok(()) | Err(Error::NodeExists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What became of standing in line.
enum Turn {
    /// The lock is held by the node that this transaction created.
    Held(i64),
    /// The time was over, and the node is deleted.
    TimedOut,
}

/// Waits until the own node is the lowest, and says which transaction created it.
async fn wait_for(client: &Client, dir: &str, own: &str) -> anyhow::Result<i64> {
    loop {
        let children = client.list_children(dir).await?;
        // Ten digits always: names compare as numbers do.
        let Some(before) = children.iter().filter(|name| name.as_str() < own).max() else { break };
        let (stat, watcher) = client.check_and_watch_stat(&format!("{dir}/{before}")).await?;
        if stat.is_some() {
            watcher.changed().await;
        }
    }
    let stat = client.check_stat(&format!("{dir}/{own}")).await?;
    Ok(stat.context("the session ended while it waited")?.czxid)
}

async fn stand_in_line(client: &Client, dir: &str, wait: Duration) -> anyhow::Result<(String, Turn)> {
    make(client, dir).await?;
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("{dir}/lock-");
    let create = timeout(PATIENCE, client.create(&prefix, b"", &mode));
    let (_, sequence) = create.await.context("no answer in time")??;
    let own = format!("lock-{sequence}");
    let path = format!("{dir}/{own}");
    match timeout(wait.max(WAIT_MIN), wait_for(client, dir, &own)).await {
        Ok(created) => Ok((path, Turn::Held(created?))),
        Err(_) => {
            timeout(PATIENCE, client.delete(&path, None)).await.context("no answer in time")??;
            Ok((path, Turn::TimedOut))
        }
    }
}

impl NodeLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let cluster = spec.endpoints.join(",");
        Ok(Self { runtime: runtime()?, cluster, ttl: spec.ttl, session: None, hold: None })
    }

    /// Closes the session, and with it goes whatever it may hold or wait for; unheard it ends with its time-out.
    fn leave(&mut self) {
        let _inside = self.runtime.enter();
        self.session = None;
    }
}

impl Lock for NodeLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        match self.session.as_ref().map(|session| session.state()) {
            Some(SessionState::SyncConnected) => return Ok(()),
            Some(SessionState::Disconnected) => bail!("disconnected"),
            _ => self.leave(),
        }
        self.session = Some(Arc::new(self.runtime.block_on(connect(&self.cluster, self.ttl))?));
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let Some(session) = &self.session else { return Acquired::Not(Outcome::Fail, "no session".into()) };
        match self.runtime.block_on(stand_in_line(session, &format!("/locks/{key}"), wait)) {
            Ok((path, Turn::Held(created))) => {
                self.hold = Some(path);
                Acquired::Held { token: token(created), lease_from_ns: None }
            }
            Ok((_, Turn::TimedOut)) => Acquired::Not(Outcome::Fail, "timed out: not free".into()),
            Err(error) => {
                // A node of ours may stand in line: it goes with the session.
                self.leave();
                Acquired::Not(Outcome::Info, format!("{error:#}"))
            }
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        let session = self.session.clone().filter(|_| self.hold.is_some());
        Box::new(move || session.as_ref().is_some_and(|session| session.state() == SessionState::SyncConnected))
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(path) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        let Some(session) = &self.session else { return (Outcome::Fail, Some("no session".into())) };
        let failed = match self.runtime.block_on(async { timeout(PATIENCE, session.delete(&path, None)).await }) {
            Ok(Ok(())) => return (Outcome::Ok, None),
            // The node went with its session before.
            Ok(Err(error @ (Error::NoNode | Error::SessionExpired))) => (Outcome::Fail, error.to_string()),
            Ok(Err(error)) => (Outcome::Info, error.to_string()),
            Err(_) => (Outcome::Info, "no answer in time".into()),
        };
        self.leave();
        (failed.0, Some(failed.1))
    }

    fn close(&mut self) {
        self.leave();
        // The library tells the server on its own threads.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// For each server its address and a session with it alone, made when there is none.
struct Observer(Vec<(String, Arc<Mutex<Option<Arc<Client>>>>)>);

/// What a server answers to the four-letter word `srvr`.
async fn srvr(address: &str) -> anyhow::Result<String> {
    let mut server = TcpStream::connect(address).await?;
    server.write_all(b"srvr").await?;
    let mut answer = String::new();
    server.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// One that does not serve says so, and has no mode.
fn view(answer: &str) -> Option<ServerView> {
    let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mode = field("Mode:")?;
    let zxid = field("Zxid:").and_then(|zxid| u64::from_str_radix(zxid.trim_start_matches("0x"), 16).ok())?;
    // A transaction's number begins with the epoch of the leader that proposed it.
    Some(ServerView { answers: true, leads: mode == "leader", term: zxid >> 32, applied: zxid, hash: String::new() })
}

impl Observe for Observer {
    async fn servers(&self) -> Vec<ServerView> {
        let ask = |address: String| {
            tokio::spawn(async move {
                let answer = timeout(ANSWER_WITHIN, srvr(&address)).await.ok().and_then(Result::ok);
                answer.as_deref().and_then(view).unwrap_or_default()
            })
        };
        let asked: Vec<_> = self.0.iter().map(|(address, _)| ask(address.clone())).collect();
        let mut servers = Vec::new();
        for server in asked {
            servers.push(server.await.unwrap_or_default());
        }
        servers
    }

    /// To one server after the other: who is out of reach keeps no other write waiting.
    async fn write(&self, nth: usize) -> bool {
        let (address, kept) = &self.0[nth % self.0.len()];
        let write = async {
            let client = session(address, kept).await?;
            match client.set_data(PROBE, b"written", None).await {
                Ok(_) => Ok(()),
                Err(Error::NoNode) => make(&client, PROBE).await,
                Err(error) => Err(error.into()),
            }
        };
        matches!(timeout(ANSWER_WITHIN, write).await, Ok(Ok(())))
    }
}

async fn session(address: &str, kept: &Mutex<Option<Arc<Client>>>) -> anyhow::Result<Arc<Client>> {
    // While one write makes it the others are lost: none is to wait.
    let mut kept = kept.try_lock().context("being made")?;
    match &*kept {
        Some(client) if !client.state().is_terminated() => Ok(Arc::clone(client)),
        _ => {
            let client = Arc::new(connect(address, OBSERVER_TTL).await?);
            *kept = Some(Arc::clone(&client));
            Ok(client)
        }
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let servers = spec.endpoints.iter().map(|address| (address.clone(), Arc::default())).collect();
    watch(async || Ok(Observer(servers)), spec.probe_every, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is() {
        let answer =
            "Zookeeper version: 3.8.0\nLatency min/avg/max: 0/0.0/0\nZxid: 0x300000007\nMode: leader\nNode count: 5\n";
        let leader = view(answer).expect("it serves");
        assert!(leader.answers && leader.leads);
        assert_eq!((leader.term, leader.applied), (3, 0x3_0000_0007));
        assert!(!view(&answer.replace("leader", "follower")).expect("it serves").leads);
        assert_eq!(view("This ZooKeeper instance is not currently serving requests\n"), None);
    }
}
