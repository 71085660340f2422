//! One start of a client: a session, and what is done with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use conclave_client::{
    CheckedConfig, Compare, Config, Credentials, Effect, Error, Guard, Leadership, LostReason, Op, Relation, Session,
    SessionOptions, fence::Fenced as _, sans_io,
};
use conclave_proto::{NodePath, SessionId};
use parking_lot::Mutex;

use super::{
    Clients, Shared,
    env::Env,
    plan::{Job, KEYS, Line, Patience},
    seat::Clock,
    seen::{ClientSeen, Ended, Listener, Scope},
    watching::{Watching, Wish, watch},
};
use crate::{
    exec::Process,
    time::{MS, Micros, SECOND},
};

/// A look at the session and at what is held, so often.
const LOOK: Duration = Duration::from_millis(200);
/// Opening a session may take so long.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// Room for events of a watch that a few changes fill.
const WATCH_BUFFER_SMALL: usize = 4 << 10;
/// Permits of each semaphore.
const PERMITS: u32 = 3;

/// See the module.
pub struct Actor {
    pub(super) shared: Arc<Shared>,
    env: Arc<Env>,
    /// Its tasks' process.
    pub process: Process,
    pub(super) listener: Arc<Listener>,
    ttl: Duration,
    config: CheckedConfig,
    rng: Mutex<fastrand::Rng>,
    session: tokio::sync::Mutex<Option<Session>>,
    to_resume: Mutex<Option<Credentials>>,
    /// Its session was another process's before.
    heir: AtomicBool,
    /// When it asked for its session's end: from then on no guard of that session says held, though whoever has it may look
    /// later.
    closed: Mutex<BTreeMap<SessionId, Micros>>,
    /// What it stands in line for.
    lines: Mutex<BTreeSet<(u8, u8)>>,
    pub(super) watching: Watching,
    /// Its watches are paused now and then, as their events have no room.
    pub(super) small: bool,
}

/// What is held.
enum Held {
    Guard(Guard),
    Leadership(Leadership),
}

impl Held {
    fn guard(&self) -> &Guard {
        match self {
            Self::Guard(guard) => guard,
            Self::Leadership(leadership) => leadership,
        }
    }

    async fn release(self) -> Result<(), Error> {
        match self {
            Self::Guard(guard) => guard.release().await,
            Self::Leadership(leadership) => leadership.resign().await,
        }
    }
}

fn key_path(key: u8) -> String {
    format!("/data/key-{key}")
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

/// How a call ended, for the oracles. What the session's end cut off is unknown.
fn ended<T, U>(result: Result<T, Error>, ok: impl FnOnce(T) -> U) -> Ended<U> {
    match result {
        Ok(value) => Ended::Ok(ok(value)),
        Err(error) => Ended::Failed(error.effect()),
    }
}

impl Actor {
    /// Without a session yet.
    #[must_use]
    pub(super) fn new(
        shared: Arc<Shared>,
        env: Arc<Env>,
        process: Process,
        listener: Arc<Listener>,
        ttl: Duration,
        rng: fastrand::Rng,
    ) -> Self {
        let mut rng = rng;
        let room = if rng.u32(..3) == 0 { WATCH_BUFFER_SMALL } else { 1 << 20 };
        let config = Config::new(["simulated:1"]).with_watch_buffer_bytes(room).with_request_timeout(OPEN_WITHIN);
        Self {
            shared,
            env,
            process,
            listener,
            ttl,
            config: config.build().expect("within the bounds"),
            rng: Mutex::new(rng),
            session: tokio::sync::Mutex::new(None),
            to_resume: Mutex::default(),
            heir: AtomicBool::new(false),
            closed: Mutex::default(),
            lines: Mutex::default(),
            watching: Watching::default(),
            small: room == WATCH_BUFFER_SMALL,
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        self.env.clock()
    }

    fn local_ms(&self) -> u64 {
        self.clock().clock.at(self.shared.sim.now()) / MS
    }

    /// It will go on with this session.
    pub fn resume(&self, credentials: Credentials) {
        *self.to_resume.lock() = Some(credentials);
    }

    /// What another needs to go on with its session.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        Some(self.session.try_lock().ok()?.as_ref()?.credentials())
    }

    /// Begins a job.
    pub fn begin(self: Arc<Self>, job: Job) {
        let sim = self.shared.sim.clone();
        sim.spawn(self.process, async move { self.run(job).await });
    }

    /// A session that lives; opened if need be.
    pub(super) async fn session(self: &Arc<Self>) -> Option<Session> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_alive()) {
            return Some(session.clone());
        }
        *slot = None;
        let env: Arc<dyn sans_io::Env> = self.env.clone();
        let resume = self.to_resume.lock().take();
        self.heir.store(resume.is_some(), Relaxed);
        let opened = match resume {
            Some(credentials) => {
                self.shared.count("sessions resumed by another process");
                sans_io::resume(env, &self.config, credentials).await
            }
            None => {
                let options = SessionOptions::new().ttl(self.ttl).name("simulated");
                let mut secret = [0; 16];
                self.rng.lock().fill(&mut secret);
                sans_io::open(env, &self.config, options, secret).await
            }
        };
        let Ok(session) = opened else {
            self.shared.count("sessions not opened");
            return None;
        };
        self.shared.count("sessions opened");
        self.shared.sim.spawn(self.process, look_after(self.clone(), session.clone()));
        *slot = Some(session.clone());
        Some(session)
    }

    /// A reply reflected this revision.
    fn saw(&self, op: u64, session: SessionId, revision: u64) {
        let mut newest = self.shared.newest_revision.lock();
        *newest = (*newest).max(revision);
        drop(newest);
        self.watching.beside(self, op, session, revision);
    }

    fn value(&self) -> String {
        let number = self.shared.number();
        let padding = self.rng.lock().usize(..1_500);
        format!("{number}:{}", "x".repeat(padding))
    }

    async fn run(self: Arc<Self>, job: Job) {
        let Some(session) = self.session().await else { return };
        // What its predecessor stands in line for stays in line: the oracles could not tell whose place is whose.
        if matches!(job, Job::Hold { .. }) && self.heir.load(Relaxed) {
            return;
        }
        let op = self.shared.number();
        match job {
            Job::Hold { line, which, patience, holds, drops } => {
                let kind = match line {
                    Line::Lock { .. } => 0,
                    Line::Permit => 1,
                    Line::Lead => 2,
                };
                // One place in each line, so that the oracles can tell whose it is.
                if self.lines.lock().insert((kind, which)) {
                    let leaves = Leaves(self.clone(), (kind, which));
                    self.hold(session, line, which, patience, holds, drops).await;
                    drop(leaves);
                }
            }
            Job::Put { key } => {
                let value = self.value();
                self.called(op, vec![(key_path(key), Some(value.clone()))]);
                let put = session.put(key_path(key), value.clone()).create_parents().await;
                self.wrote(op, &session, key, value, ended(put, |put| put.revision.0));
            }
            Job::Swap { key } => {
                self.called(op, Vec::new());
                let got = session.get(key_path(key)).read().await;
                let Ok(got) = got else { return };
                self.told_read(op, &session, key, None, Ended::Ok(&got));
                let Some(node) = got.node else { return };
                let (op, value) = (self.shared.number(), self.value());
                self.called(op, vec![(key_path(key), Some(value.clone()))]);
                let unchanged = Compare::modify_revision(key_path(key), Relation::Equal, node.modify_revision);
                let swapped = session.txn().when(unchanged).put(key_path(key), value.clone()).commit().await;
                let ended = match swapped {
                    Ok(result) if result.succeeded => Ended::Ok(result.revision.0),
                    Ok(_) => Ended::Failed(Effect::None),
                    Err(error) => Ended::Failed(error.effect()),
                };
                self.wrote(op, &session, key, value, ended);
            }
            Job::PutAll => {
                let values: Vec<_> = (0..KEYS).map(|_| self.value()).collect();
                self.called(op, (0..KEYS).map(key_path).zip(values.iter().cloned().map(Some)).collect());
                let mut txn = session.txn();
                for (key, value) in (0..KEYS).zip(&values) {
                    txn = txn.then(Op::put(key_path(key), value.clone()).create_parents());
                }
                let ended = ended(txn.commit().await, |result| result.revision.0);
                for (key, value) in (0..KEYS).zip(values) {
                    self.wrote(op, &session, key, value, ended.clone());
                }
            }
            Job::Spoil { key } => {
                let value = self.value();
                self.called(op, vec![(key_path(key), Some(value.clone()))]);
                let again = Op::create(key_path(key), "");
                let spoilt = session.txn().then(Op::put(key_path(key), value.clone()).create_parents()).then(again);
                self.wrote(op, &session, key, value, ended(spoilt.commit().await, |result| result.revision.0));
            }
            Job::Delete { key } => {
                self.called(op, vec![(key_path(key), None)]);
                let deleted = ended(session.delete(key_path(key)).await, |deleted| deleted.revision.0);
                self.shared.count("deletes");
                let revision = if let Ended::Ok(revision) = &deleted { Some(*revision) } else { None };
                self.listener.tell(&ClientSeen::Deleted { op, path: key_path(key), ended: deleted });
                if let Some(revision) = revision {
                    self.saw(op, session.id(), revision);
                }
            }
            Job::Get { key, stale } => {
                let least = stale.then(|| session.seen_revision().0);
                self.called(op, Vec::new());
                let request = session.get(key_path(key));
                let request = match least {
                    Some(least) => request.stale_ok().not_older_than(conclave_client::Revision(least)),
                    None => request,
                };
                match request.read().await {
                    Ok(got) => self.told_read(op, &session, key, least, Ended::Ok(&got)),
                    Err(error) => self.told_read(op, &session, key, least, Ended::Failed(error.effect())),
                }
            }
            Job::Watch { scope, key, lasts, slow, past } => {
                let (path, scope) = match scope {
                    0 => (path(&key_path(key)), Scope::Node),
                    1 => (path("/data"), Scope::Children),
                    _ => (path("/data"), Scope::Subtree),
                };
                let newest = *self.shared.newest_revision.lock();
                let back = self.rng.lock().u64(..40);
                let from = (past && newest > 0).then(|| newest.saturating_sub(back).max(1));
                let until = self.shared.sim.now() + lasts;
                watch(&self, Wish { path, scope, from, until, slow }).await;
            }
            Job::Close => {
                self.shared.count("sessions closed");
                self.closed.lock().entry(session.id()).or_insert(self.shared.sim.now());
                let _ = session.close().await;
            }
            Job::Kill => {
                self.shared.count("sessions killed");
                self.listener.tell(&ClientSeen::Killed { session: session.id() });
                self.shared.kill_session(session.id());
            }
            Job::HandOver => {}
        }
    }

    fn called(&self, op: u64, writes: Vec<(String, Option<String>)>) {
        self.listener.tell(&ClientSeen::Called { op, writes });
    }

    fn wrote(&self, op: u64, session: &Session, key: u8, value: String, ended: Ended<u64>) {
        self.shared.count(match &ended {
            Ended::Ok(_) => "writes",
            Ended::Failed(Effect::None) => "writes refused",
            Ended::Failed(_) => "writes with unknown outcome",
        });
        let revision = if let Ended::Ok(revision) = &ended { Some(*revision) } else { None };
        self.listener.tell(&ClientSeen::Wrote { op, path: key_path(key), value, ended });
        if let Some(revision) = revision {
            self.saw(op, session.id(), revision);
        }
    }

    fn told_read(&self, op: u64, session: &Session, key: u8, stale: Option<u64>, ended: Ended<&conclave_client::Got>) {
        self.shared.count(if stale.is_some() { "stale reads" } else { "reads" });
        let (ended, revision) = match ended {
            Ended::Failed(effect) => (Ended::Failed(effect), None),
            Ended::Ok(got) => {
                let data = got.node.as_ref().map(|node| String::from_utf8_lossy(&node.data).into_owned());
                (Ended::Ok((data, got.revision.0)), Some(got.revision.0))
            }
        };
        self.listener.tell(&ClientSeen::Read { op, path: key_path(key), stale, ended });
        if let Some(revision) = revision {
            self.saw(op, session.id(), revision);
        }
    }

    async fn hold(
        self: &Arc<Self>,
        session: Session,
        line: Line,
        which: u8,
        patience: Patience,
        holds: Micros,
        drops: bool,
    ) {
        let (sim, hold, called) = (&self.shared.sim, self.shared.number(), self.shared.sim.now());
        let lock = match line {
            Line::Lock { .. } => format!("/lines/lock-{which}"),
            Line::Permit => format!("/lines/semaphore-{which}"),
            Line::Lead => format!("/lines/election-{which}"),
        };
        let lock = path(&lock);
        self.shared.count("acquires");
        self.listener.tell(&ClientSeen::Asked { hold, session: session.id(), lock: lock.clone() });
        let got = {
            let acquire = acquire(&session, line, &lock, patience);
            match patience {
                Patience::Drop(after) => {
                    let sleep = self.clock().after(Duration::from_micros(after));
                    tokio::select! {
                        biased;
                        got = acquire => Some(got),
                        () = sleep => {
                            self.shared.count("acquires dropped");
                            None
                        }
                    }
                }
                _ => Some(acquire.await),
            }
        };
        let Some(Ok(held)) = got else {
            self.listener.tell(&ClientSeen::NotAcquired { hold });
            return;
        };
        self.shared.count("holds");
        let guard = held.guard();
        let token = guard.token();
        let exclusive = match line {
            Line::Lock { shared } => !shared,
            Line::Lead => true,
            Line::Permit => false,
        };
        let from = sim.now();
        let alive = guard.is_held();
        self.listener.tell(&ClientSeen::Acquired { hold, token: token.get(), exclusive, called, alive });
        let until = from + holds.min(Clients::HOLD_MAX);
        let mut lost = Box::pin(guard.lost());
        // The true time and how long the guard still said it would hold, when last looked at.
        let mut looked = (sim.now(), self.left_ms(guard));
        let believed_until = loop {
            if sim.now() >= until || *self.shared.quiet.lock() {
                break sim.now();
            }
            let (late, touches) = {
                let mut rng = self.rng.lock();
                let late = if rng.u32(..4) == 0 { rng.u64(..2 * SECOND) } else { rng.u64(..MS) };
                (late, exclusive && rng.u32(..2) == 0)
            };
            if touches {
                self.touch(which, token, late);
            }
            let sleep = self.clock().after(LOOK.min(Duration::from_micros(holds / 3 + 100)));
            let gone = tokio::select! {
                biased;
                _ = &mut lost => true,
                () = sleep => !guard.is_held(),
            };
            if gone {
                self.shared.count("holds lost");
                break sim.now().min(looked.0 + looked.1 * MS * 1_004 / 1_000);
            }
            looked = (sim.now(), self.left_ms(guard));
        };
        drop(lost);
        if line != Line::Permit {
            let closed = self.closed.lock().get(&session.id()).copied();
            let until = believed_until.min(closed.unwrap_or(Micros::MAX));
            self.listener.tell(&ClientSeen::Believed {
                session: session.id(),
                lock: lock.clone(),
                exclusive,
                from,
                until,
            });
        }
        if drops {
            drop(held);
        } else if held.release().await.is_ok() {
            self.shared.count("releases");
        }
        self.listener.tell(&ClientSeen::Over { hold });
    }

    fn left_ms(&self, guard: &Guard) -> Micros {
        guard.deadline().as_millis().saturating_sub(self.local_ms())
    }

    /// Writes to a resource, a while later: perhaps long after the hold is over.
    fn touch(self: &Arc<Self>, resource: u8, token: conclave_client::FencingToken, late: Micros) {
        let this = self.clone();
        self.shared.sim.spawn(self.process, async move {
            this.shared.sim.sleep(late).await;
            let accepted = this.shared.fence.lock().enter(&format!("resource-{resource}"), token).is_ok();
            this.shared.count(if accepted { "writes accepted by a fence" } else { "writes refused by a fence" });
            this.listener.tell(&ClientSeen::Touched { resource, token: token.get(), accepted });
        });
    }

    /// Everything has been quiet for a while.
    pub fn settle(&self) {
        let alive = self.session.try_lock().is_ok_and(|slot| slot.as_ref().is_some_and(Session::is_alive));
        if alive {
            self.watching.quiet(self);
        }
    }
}

/// Whatever happens, its place in line is free again.
struct Leaves(Arc<Actor>, (u8, u8));

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.lines.lock().remove(&self.1);
    }
}

async fn acquire(session: &Session, line: Line, lock: &NodePath, patience: Patience) -> Result<Held, Error> {
    let path = lock.as_str();
    match line {
        Line::Lock { shared } => {
            let request = session.lock(path);
            let request = if shared { request.shared() } else { request };
            let request = match patience {
                Patience::Try => request.try_now(),
                Patience::Wait(time) => request.wait(Duration::from_micros(time)),
                Patience::Ever | Patience::Drop(_) => request,
            };
            request.await.map(Held::Guard)
        }
        Line::Permit => {
            let request = session.semaphore(path, PERMITS);
            let request = match patience {
                Patience::Try => request.try_now(),
                Patience::Wait(time) => request.wait(Duration::from_micros(time)),
                Patience::Ever | Patience::Drop(_) => request,
            };
            request.await.map(Held::Guard)
        }
        Line::Lead => session.election(path).campaign("simulated").await.map(Held::Leadership),
    }
}

/// Looks at a session until it is lost.
async fn look_after(actor: Arc<Actor>, session: Session) {
    let id = session.id();
    loop {
        let sleep = actor.clock().after(LOOK);
        let lost = tokio::select! {
            biased;
            reason = session.lost() => Some(reason),
            () = sleep => None,
        };
        let (local_ms, bound) = (actor.local_ms(), actor.listener.bound_ms(id.0));
        let Some(bound_ms) = bound else { continue };
        match lost {
            None if session.is_alive() => {
                actor.listener.tell(&ClientSeen::Alive { session: id, local_ms, bound_ms });
            }
            None => {}
            Some(reason) => {
                actor.shared.count(match reason {
                    LostReason::DeadlinePassed => "sessions lost at their deadline",
                    LostReason::Expired => "sessions told that they expired",
                    LostReason::Replaced => "sessions told that they were replaced",
                    LostReason::Killed => "sessions told that they were killed",
                    LostReason::Closed => "sessions closed",
                    _ => "sessions lost otherwise",
                });
                // A process that stood still is told when it goes on.
                let paused = actor.shared.paused_until(actor.process);
                if reason == LostReason::DeadlinePassed && paused + 10 * SECOND < actor.shared.sim.now() {
                    actor.listener.tell(&ClientSeen::Lost { session: id, local_ms, bound_ms });
                }
                return;
            }
        }
    }
}
