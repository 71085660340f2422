//! Clients that speak to the nodes without streams: numbered transactions, renewals and barriers, as the session service
//! hands them over. They retry under the same number until they know, and judge nothing themselves.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use conclave_client::Effect;
use conclave_proto::{NodePath, RequestNumber, Revision, SessionId};
use conclave_server::raft::{ConfirmError, ProposeError};
use conclave_state::{By, Command, Compare, EndReason, Kind, Op, OpResult, Outcome, Refusal, Test, Txn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::seen::{ClientSeen, Ended},
    exec::{Process, Sim},
    node::{Ask, NodeHandle},
    oracle::{Oracles, Seen},
    plan::Act,
    profile::PATIENCE,
    time::{MS, Micros},
};

/// Where the running servers are.
pub type Directory = Arc<Mutex<BTreeMap<u64, Arc<NodeHandle>>>>;

/// What clients met, for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Sessions opened.
    pub sessions: u64,
    /// Requests answered.
    pub answered: u64,
    /// Attempts whose outcome was unknown.
    pub unknown: u64,
    /// Attempts that certainly did nothing.
    pub definite: u64,
    /// Renewals acknowledged.
    pub renewed: u64,
    /// Linearizable reads answered.
    pub reads: u64,
    /// Sessions found ended.
    pub lost: u64,
}

/// What all clients share.
#[derive(Clone)]
pub struct Surroundings {
    /// The simulator.
    pub sim: Sim,
    /// Where servers are.
    pub directory: Directory,
    /// Who judges.
    pub oracles: Arc<Mutex<Oracles>>,
    /// See [`Counts`].
    pub counts: Arc<Mutex<Counts>>,
    /// The newest revision that any client was told of.
    pub told: Arc<Mutex<Revision>>,
}

/// Resolves to none after so long.
pub async fn within<T>(sim: &Sim, us: Micros, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut sleep = sim.sleep(us);
    poll_fn(|context| {
        if let Poll::Ready(value) = work.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        pin!(&mut sleep).poll(context).map(|()| None)
    })
    .await
}

/// Why an attempt has no outcome.
enum Failure {
    /// It did nothing.
    Definite,
    /// Nobody knows.
    Unknown,
}

struct Session {
    id: SessionId,
    ttl_ms: u64,
    next: u64,
    places: VecDeque<Place>,
}

#[derive(Clone)]
struct Place {
    path: NodePath,
    since: Revision,
}

/// Of one session: who renews it looks here.
#[derive(Default)]
struct Pulse {
    over: bool,
    silent_until: Micros,
}

/// One client. It does one thing after the other.
pub struct Client {
    id: u64,
    around: Surroundings,
    rng: fastrand::Rng,
    server: u64,
    servers: u64,
    session: Option<Session>,
    pulse: Arc<Mutex<Pulse>>,
    left: Vec<Place>,
    /// Writes without a session.
    puts: u64,
}

/// The path of a lock.
#[must_use]
pub fn lock_path(lock: u8) -> NodePath {
    NodePath::parse(&format!("/locks/l{lock}")).expect("a path")
}

/// The third lock is a semaphore, with two permits.
const SEMAPHORE: u8 = 2;

impl Client {
    /// Starts a client: what is sent into the channel it does.
    pub fn spawn(id: u64, servers: u64, around: Surroundings, rng: fastrand::Rng) -> mpsc::UnboundedSender<(u64, Act)> {
        let (sender, mut acts) = mpsc::unbounded_channel();
        let sim = around.sim.clone();
        let mut client = Self {
            id,
            around,
            rng,
            server: 1,
            servers,
            session: None,
            pulse: Arc::default(),
            left: Vec::new(),
            puts: 0,
        };
        sim.spawn(Process::Client(id, 0), async move {
            while let Some((server, act)) = acts.recv().await {
                client.server = server;
                client.act(act).await;
            }
        });
        sender
    }

    fn sim(&self) -> &Sim {
        &self.around.sim
    }

    async fn act(&mut self, act: Act) {
        let sim = self.sim().clone();
        sim.note("act", [self.id, self.server, 0], || format!("client {}: {act:?}", self.id));
        if self.session.is_none() {
            match act {
                Act::PutOnce { .. } | Act::ReadEverywhere => {}
                Act::Open { ttl_ms } => self.open(ttl_ms).await,
                Act::Enqueue { .. } | Act::Put { .. } => self.open(2_000).await,
                _ => return,
            }
        }
        match act {
            Act::Open { .. } => {}
            Act::Enqueue { lock, shared } => self.enqueue(lock, shared).await,
            Act::Leave => {
                let Some(session) = &mut self.session else { return };
                let Some(place) = session.places.pop_front() else { return };
                self.leave(place.clone()).await;
                self.left.push(place);
            }
            Act::LateLeave => {
                if let Some(place) = self.left.last().cloned() {
                    self.leave(place).await;
                }
            }
            Act::Put { key, value } => {
                let data = Bytes::copy_from_slice(&value.to_le_bytes());
                let op = Op::Put { path: key_path(key), data, create_parents: true };
                self.request(Txn { then: vec![op], ..Txn::default() }).await;
            }
            Act::PutOnce { key } => self.put_once(key).await,
            Act::Delete { key } => {
                let op = Op::Delete { path: key_path(key), recursive: false };
                self.request(Txn { then: vec![op], ..Txn::default() }).await;
            }
            Act::Raze { lock } => {
                let op = Op::Delete { path: lock_path(lock), recursive: true };
                self.request(Txn { then: vec![op], ..Txn::default() }).await;
            }
            Act::Read => self.read().await,
            Act::ReadEverywhere => self.read_everywhere().await,
            Act::Close => self.close().await,
            Act::Vanish => self.vanish(),
            Act::Silent { lasts } => self.pulse.lock().silent_until = sim.now() + lasts,
        }
    }

    async fn travel(&mut self) {
        let takes = self.rng.u64(50..600);
        self.around.sim.sleep(takes).await;
    }

    fn node(&self) -> Option<Arc<NodeHandle>> {
        self.around.directory.lock().get(&self.server).cloned()
    }

    /// One attempt at one server.
    async fn propose(&mut self, command: Command) -> Result<Outcome, Failure> {
        self.travel().await;
        let Some(node) = self.node() else {
            self.sim().sleep(2 * MS).await;
            return Err(Failure::Definite);
        };
        let (sender, receiver) = oneshot::channel();
        node.propose(
            command,
            Box::new(move |result| {
                let _ = sender.send(result.map(|(_, applied)| applied.outcome.clone()));
            }),
        );
        let answer = within(self.sim(), PATIENCE, receiver).await;
        // It leaves the server no earlier than its turn has come so far.
        let late = node.life.spent();
        self.sim().sleep(late).await;
        self.travel().await;
        let lost = self.rng.u32(..100) < 3;
        let result = match answer {
            Some(Ok(_)) if lost => Err(Failure::Unknown),
            Some(Ok(Ok(outcome))) => Ok(outcome),
            Some(Ok(Err(error))) => Err(failure(error)),
            Some(Err(_)) | None => Err(Failure::Unknown),
        };
        let mut counts = self.around.counts.lock();
        match &result {
            Ok(_) => counts.answered += 1,
            Err(Failure::Definite) => counts.definite += 1,
            Err(Failure::Unknown) => counts.unknown += 1,
        }
        drop(counts);
        result
    }

    async fn elsewhere(&mut self) {
        self.server = 1 + self.server % self.servers;
        let pause = self.rng.u64(10 * MS..150 * MS);
        self.around.sim.sleep(pause).await;
    }

    async fn open(&mut self, ttl_ms: u64) {
        for _ in 0..20 {
            let mut secret = [0; 16];
            self.rng.fill(&mut secret);
            let command = Command::OpenSession { secret, run: 0, ttl_ms, name: format!("client {}", self.id) };
            match self.propose(command).await {
                Ok(Outcome::Opened { session: id }) => {
                    self.around.counts.lock().sessions += 1;
                    self.session = Some(Session { id, ttl_ms, next: 1, places: VecDeque::new() });
                    self.pulse = Arc::default();
                    self.renew_on(id, ttl_ms);
                    return;
                }
                _ => self.elsewhere().await,
            }
        }
    }

    /// Renews the session until it is over.
    fn renew_on(&mut self, id: SessionId, ttl_ms: u64) {
        let (around, pulse, mut rng) = (self.around.clone(), Arc::clone(&self.pulse), self.rng.fork());
        let (mut server, servers) = (self.server, self.servers);
        around.sim.clone().spawn(Process::Client(self.id, 0), async move {
            let sim = &around.sim;
            loop {
                sim.sleep(ttl_ms * MS / 3).await;
                if pulse.lock().over {
                    return;
                }
                if pulse.lock().silent_until > sim.now() {
                    continue;
                }
                let sent = sim.now();
                sim.sleep(rng.u64(50..600)).await;
                let node = around.directory.lock().get(&server).cloned();
                let Some(node) = node else {
                    server = 1 + server % servers;
                    continue;
                };
                let (reply, answer) = oneshot::channel();
                node.ask(Ask::Renew { session: id, deadline_ms: node.now_ms() + 1_000, reply });
                let answer = within(sim, 1_200 * MS, answer).await;
                sim.sleep(node.life.spent() + rng.u64(50..600)).await;
                match answer {
                    Some(Ok(Ok(()))) => {
                        around.counts.lock().renewed += 1;
                        sim.note("renewed", [id.0, sent, 0], || format!("session {id:x}, sent at {sent}"));
                        around.oracles.lock().see(sim.now(), &Seen::Renewed { session: id, sent });
                    }
                    Some(Ok(Err(ConfirmError::NoSession))) => {
                        around.counts.lock().lost += 1;
                        pulse.lock().over = true;
                        return;
                    }
                    _ => server = 1 + server % servers,
                }
            }
        });
    }

    /// A numbered transaction, until its outcome is known or the session over.
    async fn request(&mut self, txn: Txn) -> Option<Outcome> {
        let session = self.session.as_mut()?;
        let (id, number) = (session.id, session.next);
        session.next += 1;
        for _ in 0..40 {
            if self.pulse.lock().over {
                break;
            }
            let by = By { session: id, run: 0, number: RequestNumber(number), acknowledged: RequestNumber(number - 1) };
            match self.propose(Command::Txn { by: Some(by), txn: txn.clone() }).await {
                Ok(Outcome::Refused(Refusal::NoSession { .. })) => break,
                Ok(outcome) => {
                    let now = self.sim().now();
                    let seen = Seen::Acknowledged { session: id, number, outcome: &outcome };
                    self.around.oracles.lock().see(now, &seen);
                    if let Outcome::Txn(result) = &outcome {
                        let mut told = self.around.told.lock();
                        *told = (*told).max(result.revision);
                    }
                    return Some(outcome);
                }
                Err(_) => self.elsewhere().await,
            }
        }
        self.vanish();
        None
    }

    async fn enqueue(&mut self, lock: u8, shared: bool) {
        let path = lock_path(lock);
        let mut then = Vec::new();
        let name = if lock == SEMAPHORE {
            let data = Bytes::from_static(b"{\"permits\":2}");
            then.push(Op::Put { path: path.clone(), data, create_parents: true });
            "permit-"
        } else if shared {
            "read-"
        } else {
            "lock-"
        };
        then.push(Op::Create {
            path: NodePath::parse(&format!("{path}/{name}")).expect("a path"),
            data: Bytes::new(),
            kind: Kind::Ephemeral,
            sequential: true,
            create_parents: Some(Kind::Container),
        });
        let Some(Outcome::Txn(result)) = self.request(Txn { then, ..Txn::default() }).await else { return };
        let Some(OpResult::Created { path, .. }) = result.results.last().cloned() else { return };
        if let Some(session) = &mut self.session {
            session.places.push_back(Place { path, since: result.revision });
        }
    }

    async fn leave(&mut self, place: Place) {
        let compare = vec![Compare { path: place.path.clone(), test: Test::HeldSince(place.since) }];
        let then = vec![Op::Delete { path: place.path, recursive: false }];
        self.request(Txn { compare, then, ..Txn::default() }).await;
    }

    /// As a tool writes: no number, so no second attempt; whoever asks is told what is known.
    async fn put_once(&mut self, key: u8) {
        self.puts += 1;
        let value = format!("bare {} {}:", self.id, self.puts);
        let op = Op::Put { path: key_path(key), data: value.clone().into(), create_parents: true };
        let ended = match self.propose(Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } }).await {
            Ok(Outcome::Txn(result)) => Ended::Ok(result.revision.0),
            Ok(_) | Err(Failure::Definite) => Ended::Failed(Effect::None),
            Err(Failure::Unknown) => Ended::Failed(Effect::Unknown),
        };
        let seen = ClientSeen::Wrote { op: u64::MAX, path: key_path(key).to_string(), value, ended };
        self.around.oracles.lock().see(self.sim().now(), &Seen::Client(&seen));
    }

    async fn read(&mut self) {
        let told = *self.around.told.lock();
        self.travel().await;
        let Some(node) = self.node() else { return };
        read_at(&self.around, node, told).await;
    }

    async fn read_everywhere(&mut self) {
        let told = *self.around.told.lock();
        self.travel().await;
        let nodes: Vec<_> = self.around.directory.lock().values().cloned().collect();
        for node in nodes {
            let around = self.around.clone();
            let sim = self.sim().clone();
            sim.spawn(Process::Client(self.id, 0), async move { read_at(&around, node, told).await });
        }
    }

    async fn close(&mut self) {
        let Some(session) = self.session.take() else { return };
        self.pulse.lock().over = true;
        let command = Command::EndSession { session: session.id, run: None, reason: EndReason::Closed };
        for _ in 0..5 {
            if self.propose(command.clone()).await.is_ok() {
                return;
            }
            self.elsewhere().await;
        }
        self.silent(&session);
    }

    fn vanish(&mut self) {
        let Some(session) = self.session.take() else { return };
        self.pulse.lock().over = true;
        self.silent(&session);
    }

    fn silent(&self, session: &Session) {
        let now = self.sim().now();
        let seen = Seen::Silent { session: session.id, ttl_ms: session.ttl_ms };
        self.around.oracles.lock().see(now, &seen);
    }
}

/// A linearizable read at one server, begun when so much had been told.
async fn read_at(around: &Surroundings, node: Arc<NodeHandle>, told: Revision) {
    let sim = &around.sim;
    let (reply, answer) = oneshot::channel();
    node.ask(Ask::Barrier { deadline_ms: node.now_ms() + 1_000, reply });
    if let Some(Ok(Ok(_))) = within(sim, PATIENCE, answer).await {
        let revision = node.machine.read().revision();
        around.counts.lock().reads += 1;
        around.oracles.lock().see(sim.now(), &Seen::Read { server: node.id, revision, told });
    }
}

fn key_path(key: u8) -> NodePath {
    NodePath::parse(&format!("/kv/k{key}")).expect("a path")
}

fn failure(error: ProposeError) -> Failure {
    if error.is_indefinite() { Failure::Unknown } else { Failure::Definite }
}
