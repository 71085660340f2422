//! A simulated server: the production core and hub, driven as `raft::node` drives them, on a simulated disk.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use conclave_proto::{Index, ServerId, SessionId, peer::peer_item::Item};
use conclave_server::{
    chain,
    raft::{
        Answer, ChangeError, ConfirmError, Core, Member, MemberChange, Options, ProposeError, Publish, Status,
        core::{Fatal, Outbound},
    },
    service::hub::{Hub, Publisher},
    storage::{SnapshotInfo, StoreError},
};
use conclave_state::{Applied, Command, Entry, Machine, RequestId};
use parking_lot::{Mutex, RwLock};
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};

use crate::{
    disk::{Platter, SimStore, Snapshot},
    event::Event,
    exec::{Process, Sim},
    life::{Died, Life, Point},
    oracle::{Oracles, Seen},
    time::{LocalClock, MS, Micros},
};

/// What is asked of a node; as the production node's requests.
pub enum Ask {
    /// See [`Core::propose`].
    Propose { count: u64, data: Vec<u8>, answer: Answer },
    /// See [`Core::barrier`].
    Barrier { deadline_ms: u64, reply: oneshot::Sender<Result<Index, ConfirmError>> },
    /// See [`Core::renew`].
    Renew { session: SessionId, deadline_ms: u64, reply: oneshot::Sender<Result<(), ConfirmError>> },
    /// See [`Core::change_members`].
    Change { what: MemberChange, reply: oneshot::Sender<Result<String, ChangeError>> },
    /// See [`Core::transfer`].
    Transfer { to: ServerId, reply: oneshot::Sender<Result<ServerId, String>> },
    /// Hands leadership over and ends.
    Stop { deadline_ms: u64 },
    /// See [`Core::step_raft`].
    Raft(Message),
    /// See [`Core::step`].
    Item(Item),
    /// See [`Core::unreachable`].
    Unreachable(ServerId),
    /// A peer's stream ended.
    StreamLost(ServerId),
    /// See [`Core::gone`].
    Gone(ServerId),
    /// See [`Core::fetched`].
    Fetched { message: Message, machine: Box<Machine>, incoming: Arc<Snapshot> },
    /// See [`Core::fetch_failed`].
    FetchFailed { message: Message },
    /// See [`Core::snapshot_taken`].
    SnapshotTaken(Result<SnapshotInfo, StoreError>),
    /// See [`Core::snapshot_served`].
    SnapshotServed { to: ServerId, ok: bool },
}

/// A running node, as everybody beside its owner sees it. One per start.
pub struct NodeHandle {
    /// The server.
    pub id: u64,
    /// Which start of it.
    pub start: u64,
    /// Drawn for this start.
    pub run: u64,
    /// Its state.
    pub machine: Arc<RwLock<Machine>>,
    /// Its view of itself.
    pub status: watch::Receiver<Arc<Status>>,
    /// Its watches.
    pub hub: Arc<Hub>,
    /// How long it lives.
    pub life: Arc<Life>,
    /// Its clock.
    pub clock: LocalClock,
    sim: Sim,
    mailbox: Arc<Mailbox>,
    count: AtomicU64,
}

struct Mailbox {
    asks: Mutex<VecDeque<Ask>>,
    server: u64,
    start: u64,
    sim: Sim,
}

/// From a request's arrival to the node's thread being awake.
const WAKE_US: Micros = 20;

impl Mailbox {
    fn push(&self, ask: Ask) {
        let mut asks = self.asks.lock();
        let sleeps = asks.is_empty();
        asks.push_back(ask);
        if sleeps {
            let event = Event::Turn { server: self.server, start: self.start };
            self.sim.schedule(self.sim.now() + WAKE_US, event);
        }
    }
}

impl NodeHandle {
    /// Puts something into its mailbox; in vain if it is dead.
    pub fn ask(&self, ask: Ask) {
        if !self.life.is_over() {
            self.mailbox.push(ask);
        }
    }

    /// Proposes a command, as `raft::Handle` does.
    pub fn propose(&self, command: Command, answer: Answer) {
        let count = self.count.fetch_add(1, Relaxed);
        let request = RequestId { server: self.id, run: self.run, count };
        let at_ms = self.clock.wall_ms(self.sim.now());
        let data = Entry { request, at_ms, command }.encode();
        if self.life.is_over() {
            answer(Err(ProposeError::NoLeader));
        } else {
            self.mailbox.push(Ask::Propose { count, data, answer });
        }
    }

    /// Its monotonic clock, in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.at(self.sim.now()) / MS
    }
}

/// What a turn did to the world outside.
pub enum Effect {
    /// Items went out, so long after the turn began.
    Frame { after_us: Micros, to: u64, items: Vec<Item> },
    /// See [`Outbound::fetch_snapshot`].
    Fetch(Box<Message>),
    /// See [`Outbound::probe`].
    Probe(u64),
    /// See [`Outbound::members`].
    Members(Vec<u64>),
}

struct Out {
    life: Arc<Life>,
    staged: Vec<(u64, Vec<Item>)>,
    effects: Vec<Effect>,
}

impl Outbound for Out {
    fn send(&mut self, to: ServerId, item: Item) {
        self.life.point(Point::Send);
        match self.staged.iter_mut().find(|(server, _)| *server == to.0) {
            Some((_, items)) => items.push(item),
            None => self.staged.push((to.0, vec![item])),
        }
    }

    fn fetch_snapshot(&mut self, message: Message) {
        self.effects.push(Effect::Fetch(Box::new(message)));
    }

    fn probe(&mut self, peer: ServerId) {
        self.effects.push(Effect::Probe(peer.0));
    }

    fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        self.life.point(Point::Flush);
        let after_us = self.life.spent();
        self.effects.extend(self.staged.drain(..).map(|(to, items)| Effect::Frame { after_us, to, items }));
    }

    fn members(&mut self, members: &[Member]) {
        self.effects.push(Effect::Members(members.iter().map(|member| member.id.0).collect()));
    }
}

/// Between the core and the hub: the oracles hear what the hub hears.
struct Ear {
    publisher: Publisher,
    hub: Arc<Hub>,
    life: Arc<Life>,
    platter: Arc<Mutex<Platter>>,
    oracles: Arc<Mutex<Oracles>>,
    server: u64,
    sim: Sim,
}

impl Publish for Ear {
    fn publish(&mut self, machine: &Machine, index: Index, applied: &Applied) {
        self.life.point(Point::Publish);
        let before = self.hub.totals().queue_ready;
        self.publisher.publish(machine, index, applied);
        let woken = self.hub.totals().queue_ready - before;
        let disk = self.platter.lock();
        let entry = disk.entry(index.0).expect("what is applied was stored");
        self.oracles.lock().applied(self.sim.now(), self.server, entry, machine, applied, woken);
    }

    fn replaced(&mut self, machine: &Machine) {
        self.publisher.replaced(machine);
        self.oracles.lock().replaced(self.sim.now(), self.server, machine);
    }
}

/// How a turn, or a start, ended a node.
#[derive(Debug)]
pub enum Ended {
    /// It was cut, as a fault wanted.
    Cut(Point),
    /// It stopped, as it was told.
    Stopped,
    /// It could not go on, and had a reason.
    Excused(String),
    /// It could not go on, though nothing was wrong with its disk.
    Broken(String),
}

/// The owner's side.
pub struct Node {
    core: Core<SimStore>,
    oracles: Arc<Mutex<Oracles>>,
    out: Out,
    handle: Arc<NodeHandle>,
    taken: VecDeque<Ask>,
    next_tick_ms: u64,
    tick_ms: u64,
    stop_by_ms: Option<u64>,
    /// Its thread is in a turn until then.
    pub busy_until: Micros,
    /// The next turn that time asks for.
    pub turn_at: Micros,
    /// Turns taken.
    pub turns: u64,
}

/// What a start needs.
pub struct Start<'a> {
    /// See [`Options`].
    pub options: Options,
    /// Which start of this server.
    pub start: u64,
    /// Its disk.
    pub platter: &'a Arc<Mutex<Platter>>,
    /// Its clock.
    pub clock: &'a LocalClock,
    /// The simulator.
    pub sim: &'a Sim,
    /// Who judges.
    pub oracles: &'a Arc<Mutex<Oracles>>,
    /// Of this start.
    pub rng: fastrand::Rng,
}

thread_local! {
    /// Where the last panic of this thread was.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
    /// A simulated server is at work in it.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Panics of simulated servers are reported as what they are, and not printed when they happen. For the whole process.
pub fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or(String::new(), |place| format!(" at {}:{}", place.file(), place.line()));
        PLACE.with_borrow_mut(|last| *last = place);
        if !AT_WORK.get() {
            usual(panic);
        }
    }));
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    format!("{text}{}", PLACE.with_borrow(String::clone))
}

/// Runs a part of a node's life; an end comes out as a value.
fn live<T>(life: &Life, part: impl FnOnce() -> Result<T, Fatal>) -> Result<T, Ended> {
    let excused = |why: String| {
        if life.excused.load(Relaxed) { Ended::Excused(why) } else { Ended::Broken(why) }
    };
    AT_WORK.set(true);
    let result = catch_unwind(AssertUnwindSafe(part));
    AT_WORK.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fatal)) => Err(excused(chain(&fatal))),
        Err(panic) => match panic.downcast::<Died>() {
            Ok(died) => Err(Ended::Cut(died.0)),
            Err(panic) => Err(excused(format!("a panic: {}", words(&*panic)))),
        },
    }
}

impl Node {
    /// Opens the disk and starts the core, as `raft::start` does.
    ///
    /// # Errors
    /// How it ended at once.
    pub fn start(with: Start<'_>) -> Result<Self, Ended> {
        let Start { options, start, platter, clock, sim, oracles, mut rng } = with;
        let life = Arc::new(Life::default());
        let id = options.id.0;
        let run = rng.u64(..);
        let process = Process::Server(id, start);
        let bootstrap = options.first_membership();
        let disk_rng = rng.fork();
        let opened =
            SimStore::open(platter, bootstrap.as_ref(), Arc::clone(&life), sim.clone(), process, disk_rng, oracles);
        let (store, recovered) = opened.map_err(|error| Ended::Excused(chain(&error)))?;
        oracles.lock().restored(sim.now(), id, &recovered.machine);
        let hub = Hub::new(1_000);
        let ear = Ear {
            publisher: hub.publisher(),
            hub: Arc::clone(&hub),
            life: Arc::clone(&life),
            platter: Arc::clone(platter),
            oracles: Arc::clone(oracles),
            server: id,
            sim: sim.clone(),
        };
        let mailbox = Arc::new(Mailbox { asks: Mutex::default(), server: id, start, sim: sim.clone() });
        let snapshots = Arc::clone(&mailbox);
        let (status_sender, status) = watch::channel(Arc::default());
        let tick_ms = u64::try_from(options.tick.as_millis()).expect("a tick is short");
        let core = live(&life, || {
            Core::new(
                options,
                run,
                store,
                recovered,
                Box::new(ear),
                status_sender,
                Arc::new(move |result| snapshots.push(Ask::SnapshotTaken(result))),
            )
        })?;
        let handle = NodeHandle {
            id,
            start,
            run,
            machine: Arc::clone(core.machine()),
            status,
            hub,
            life: Arc::clone(&life),
            clock: clock.clone(),
            sim: sim.clone(),
            mailbox,
            count: AtomicU64::new(0),
        };
        let now_ms = handle.now_ms();
        let out = Out { life, staged: Vec::new(), effects: Vec::new() };
        let mut node = Self {
            core,
            oracles: Arc::clone(oracles),
            out,
            handle: Arc::new(handle),
            taken: VecDeque::new(),
            next_tick_ms: now_ms + tick_ms,
            tick_ms,
            stop_by_ms: None,
            busy_until: sim.now(),
            turn_at: Micros::MAX,
            turns: 0,
        };
        let wall_ms = clock.wall_ms(sim.now());
        live(&node.handle.life, || {
            node.core.at(now_ms, wall_ms);
            node.core.settle(&mut node.out)
        })?;
        Ok(node)
    }

    /// For everybody else.
    #[must_use]
    pub fn handle(&self) -> &Arc<NodeHandle> {
        &self.handle
    }

    /// Whether it leads, and in which term.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.core.is_leader()
    }

    /// Nothing was asked of it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.handle.mailbox.asks.lock().is_empty()
    }

    /// What the last turn did.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out.effects)
    }

    /// When it has something to do even if nothing comes, by its own clock.
    #[must_use]
    pub fn wakes_at(&self) -> Micros {
        let tick_us = self.next_tick_ms * MS;
        self.core.wakes_at().map_or(tick_us, |wake_ms| tick_us.min(wake_ms * MS))
    }

    /// One turn of the node's thread.
    ///
    /// # Errors
    /// How it ended the node.
    pub fn turn(&mut self, true_us: Micros) -> Result<(), Ended> {
        self.turns += 1;
        let handle = Arc::clone(&self.handle);
        handle.life.start_turn();
        std::mem::swap(&mut self.taken, &mut *handle.mailbox.asks.lock());
        let now_ms = handle.clock.at(true_us) / MS;
        let wall_ms = handle.clock.wall_ms(true_us);
        let result = live(&handle.life, || {
            handle.life.point(Point::Turn);
            self.core.at(now_ms.max(self.core.now_ms()), wall_ms);
            while let Some(ask) = self.taken.pop_front() {
                self.take(ask)?;
            }
            if now_ms >= self.next_tick_ms {
                self.core.tick()?;
                self.next_tick_ms += self.tick_ms;
                if self.next_tick_ms < now_ms {
                    self.next_tick_ms = now_ms + self.tick_ms;
                }
            }
            if let Some(by_ms) = self.stop_by_ms
                && (now_ms >= by_ms || !self.core.resign())
            {
                self.core.settle(&mut self.out)?;
                self.core.store_state()?;
                return Ok(true);
            }
            self.core.settle(&mut self.out)?;
            Ok(false)
        });
        self.busy_until = true_us + handle.life.spent();
        match result {
            Ok(false) => Ok(()),
            Ok(true) => Err(Ended::Stopped),
            Err(ended) => Err(ended),
        }
    }

    /// The node is no more; everybody who waits is told so if it could still tell.
    pub fn end(mut self, told: bool) {
        self.handle.life.end();
        if told {
            let _ = catch_unwind(AssertUnwindSafe(|| self.core.end()));
        }
    }

    fn renewal_asked(&self, session: SessionId) {
        self.oracles.lock().see(self.handle.sim.now(), &Seen::RenewalAsked { session });
    }

    fn take(&mut self, ask: Ask) -> Result<(), Fatal> {
        let core = &mut self.core;
        match ask {
            Ask::Propose { count, data, answer } => core.propose(count, data, answer),
            Ask::Barrier { deadline_ms, reply } => core.barrier(deadline_ms, reply),
            Ask::Renew { session, deadline_ms, reply } => {
                self.renewal_asked(session);
                self.core.renew(session, deadline_ms, reply);
            }
            Ask::Change { what, reply } => core.change_members(what, reply),
            Ask::Transfer { to, reply } => core.transfer(to, reply),
            Ask::Stop { deadline_ms } => {
                self.stop_by_ms = Some(self.stop_by_ms.map_or(deadline_ms, |by| by.min(deadline_ms)));
            }
            Ask::Raft(message) => core.step_raft(message, &mut self.out)?,
            Ask::Item(Item::Raft(bytes)) => {
                let message = Message::decode(&bytes[..]).expect("it was encoded here");
                core.step_raft(message, &mut self.out)?;
            }
            Ask::Item(item) => {
                if let Item::Renew(renew) = &item {
                    for &session in &renew.sessions {
                        self.renewal_asked(SessionId(session));
                    }
                }
                self.core.step(item)?;
            }
            Ask::Unreachable(peer) => core.unreachable(peer),
            Ask::StreamLost(peer) => self.out.probe(peer),
            Ask::Gone(peer) => core.gone(peer),
            Ask::Fetched { message, machine, incoming } => {
                core.fetched(message, *machine, incoming, &mut self.out)?;
            }
            Ask::FetchFailed { message } => core.fetch_failed(&message),
            Ask::SnapshotTaken(result) => core.snapshot_taken(result),
            Ask::SnapshotServed { to, ok } => core.snapshot_served(to, ok),
        }
        Ok(())
    }
}
