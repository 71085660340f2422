//! Simulated clients: the production library over simulated roads, clocks and processes.
//!
//! Sessions, their drivers, locks, semaphores, elections and watches are the library's own; so are the session streams at
//! the servers' side. What is simulated is what lies between and around them.

pub mod actor;
mod env;
pub mod plan;
mod road;
pub mod seat;
pub mod seen;
mod watching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conclave_client::Credentials;
use conclave_client::fence::Fence;
use conclave_proto::SessionId;
use conclave_server::config::Limits;
use conclave_state::{Command, EndReason};
use parking_lot::Mutex;

use self::{
    actor::Actor,
    env::Env,
    plan::{Job, Trouble},
    road::{Roads, Way},
    seen::{ClientSeen, Listener},
};
use crate::{
    exec::{Order, Process, Sim},
    node::NodeHandle,
    oracle::{Oracles, Seen},
    plan::generator,
    profile::TTLS_MS,
    time::{LocalClock, Micros},
};

/// Clients are numbered from here, so that they are not taken for those that propose by themselves.
pub const FIRST: u64 = 1_000;

/// What clients share: the outside world, and numbers for what they do.
pub struct Shared {
    /// The simulator.
    pub sim: Sim,
    roads: Roads,
    oracles: Arc<Mutex<Oracles>>,
    /// Servers clients know.
    servers: Vec<u64>,
    nodes: Mutex<BTreeMap<u64, Arc<NodeHandle>>>,
    /// Resources that compare tokens.
    pub fence: Mutex<Fence>,
    next: Mutex<u64>,
    /// What clients did, by name.
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    /// When clients that stand still, or did, go on.
    paused: Mutex<BTreeMap<Process, Micros>>,
    /// Clients that are to stand still when they are next told of a grant, and for how long.
    freezes: Mutex<BTreeMap<u64, Micros>>,
    /// No new work is begun.
    pub quiet: Mutex<bool>,
    /// What slow and handed-over sessions of the past have been told.
    pub newest_revision: Mutex<u64>,
}

impl Shared {
    /// A number never given before.
    pub fn number(&self) -> u64 {
        let mut next = self.next.lock();
        *next += 1;
        *next
    }

    /// Counts something.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// When a process that stood still went on; 0 if it never did.
    #[must_use]
    pub fn paused_until(&self, process: Process) -> Micros {
        self.paused.lock().get(&process).copied().unwrap_or_default()
    }

    /// A process stands still for so long, from before its next task on.
    fn pause(&self, process: Process, stands: Micros) {
        let until = self.sim.now() + stands;
        if self.paused_until(process) >= until {
            return;
        }
        self.paused.lock().insert(process, until);
        self.sim.order(process, Order::Stop);
    }

    /// A client is told that its turn has come.
    fn granted(&self, client: u64, process: Process) {
        if let Some(stands) = self.freezes.lock().remove(&client) {
            self.count("clients frozen at a grant");
            self.pause(process, stands);
            self.go_on(process);
        }
    }

    /// It goes on when its last pause is over.
    fn go_on(&self, process: Process) {
        let (until, sim) = (self.paused_until(process), self.sim.clone());
        self.sim.spawn(Process::World, async move {
            sim.sleep_until(until).await;
            sim.order(process, Order::GoOn);
        });
    }

    /// An administrator ends a session, through whichever server is there.
    pub fn kill_session(&self, session: SessionId) {
        let node = self.nodes.lock().values().next().cloned();
        if let Some(node) = node {
            let command = Command::EndSession { session, run: None, reason: EndReason::Killed };
            node.propose(command, Box::new(|_| {}));
        }
    }
}

struct Seat {
    starts: u64,
    clock: LocalClock,
    rng: fastrand::Rng,
    actor: Option<Arc<Actor>>,
    credentials: Option<Credentials>,
}

/// All clients of a run.
pub struct Clients {
    shared: Arc<Shared>,
    seats: Arc<Mutex<BTreeMap<u64, Seat>>>,
    limits: Limits,
}

impl Clients {
    /// So many clients, which know those servers.
    #[must_use]
    pub fn new(sim: &Sim, seed: u64, clients: u64, servers: Vec<u64>, oracles: &Arc<Mutex<Oracles>>) -> Self {
        let roads = Roads::new(sim.clone(), generator(seed, "roads"));
        let shared = Arc::new(Shared {
            sim: sim.clone(),
            roads,
            oracles: oracles.clone(),
            servers,
            nodes: Mutex::default(),
            fence: Mutex::default(),
            next: Mutex::default(),
            counts: Mutex::default(),
            paused: Mutex::default(),
            freezes: Mutex::default(),
            quiet: Mutex::default(),
            newest_revision: Mutex::default(),
        });
        let mut rng = generator(seed, "clients");
        let seats = (FIRST..FIRST + clients)
            .map(|id| {
                let clock = LocalClock::new(sim.now(), rng.u64(1_000_000..1_000_000_000));
                let seat = Seat { starts: 0, clock, rng: rng.fork(), actor: None, credentials: None };
                (id, seat)
            })
            .collect();
        // Small bounds are met.
        let mut limits = Limits::default();
        limits.outbox_bytes_max.0 = 8 << 10;
        limits.in_flight_max = 16;
        Self { shared, seats: Arc::new(Mutex::new(seats)), limits }
    }

    /// A server listens.
    pub fn server_started(&self, node: &Arc<NodeHandle>) {
        self.shared.nodes.lock().insert(node.id, node.clone());
        seat::open(&self.shared.sim, &self.shared.roads, node, self.limits.clone());
    }

    /// It does no more.
    pub fn server_ended(&self, server: u64) {
        self.shared.nodes.lock().remove(&server);
        self.shared.roads.deafen(server);
    }

    fn actor(&self, client: u64) -> Arc<Actor> {
        let mut seats = self.seats.lock();
        let seat = seats.get_mut(&client).expect("a client of the plan");
        if let Some(actor) = &seat.actor {
            return actor.clone();
        }
        seat.starts += 1;
        let shared = &self.shared;
        let process = Process::Client(client, seat.starts);
        let listener = Arc::new(Listener::new(&shared.sim, &shared.oracles));
        let env = Env::new(
            shared,
            seat.clock.clone(),
            process,
            client,
            seat.rng.usize(..shared.servers.len()),
            seat.rng.fork(),
            listener.clone(),
        );
        let ttl = Duration::from_millis(TTLS_MS[seat.rng.usize(..TTLS_MS.len())]);
        let actor = Actor::new(shared.clone(), Arc::new(env), process, listener, ttl, seat.rng.fork());
        let actor = Arc::new(actor);
        if let Some(credentials) = seat.credentials.take() {
            actor.resume(credentials);
        }
        seat.actor = Some(actor.clone());
        actor
    }

    /// A client begins something.
    pub fn begin(&self, client: u64, job: Job) {
        if *self.shared.quiet.lock() {
            return;
        }
        if job != Job::HandOver {
            self.actor(client).begin(job);
            return;
        }
        // Its present process lives on and is told that it was replaced.
        let credentials = self.seats.lock().get(&client).and_then(|seat| seat.actor.as_ref()?.credentials());
        if let Some(credentials) = credentials {
            self.shared.count("handed over");
            let seen = ClientSeen::HandedOver { session: credentials.id };
            self.shared.oracles.lock().see(self.shared.sim.now(), &Seen::Client(&seen));
            let former = self.seats.lock().get_mut(&client).and_then(|seat| {
                seat.credentials = Some(credentials);
                seat.actor.take()
            });
            let _successor = self.actor(client);
            // The former one lives on until it has noticed.
            if let Some(former) = former {
                let sim = self.shared.sim.clone();
                self.shared.sim.spawn(Process::World, async move {
                    sim.sleep(10 * crate::time::SECOND).await;
                    sim.order(former.process, Order::Kill);
                });
            }
        }
    }

    /// Something happens to a client.
    pub fn meet(&self, client: u64, trouble: Trouble) {
        let (shared, sim) = (self.shared.clone(), self.shared.sim.clone());
        match trouble {
            Trouble::Crash { down } => {
                let former = self.seats.lock().get_mut(&client).and_then(|seat| seat.actor.take());
                if let Some(former) = former {
                    shared.count("clients crashed");
                    sim.order(former.process, Order::Kill);
                    let _ = down; // a new process starts with the next job
                }
            }
            Trouble::Pause { stands } => {
                let seats = self.seats.lock();
                let Some(actor) = seats.get(&client).and_then(|seat| seat.actor.as_ref()) else { return };
                if shared.paused_until(actor.process) < sim.now() {
                    shared.count("clients paused");
                    shared.pause(actor.process, stands);
                    shared.go_on(actor.process);
                }
            }
            Trouble::Freeze { stands } => drop(shared.freezes.lock().insert(client, stands)),
            Trouble::Drift { ppm } => {
                shared.count("clients' clocks drifted");
                if let Some(seat) = self.seats.lock().get(&client) {
                    seat.clock.drift(sim.now(), ppm);
                }
            }
            Trouble::CutOff { server, up, down, lasts } => {
                shared.count("clients cut off");
                let mut roads = Vec::new();
                for &to in shared.servers.iter().filter(|id| server == 0 || **id == server) {
                    for way in [Way::Up, Way::Down] {
                        if (way == Way::Up && up) || (way == Way::Down && down) {
                            shared.roads.block(client, to, way);
                            roads.push((to, way));
                        }
                    }
                }
                sim.clone().spawn(Process::World, async move {
                    sim.sleep(lasts).await;
                    for (to, way) in roads {
                        shared.roads.unblock(client, to, way);
                    }
                });
            }
            Trouble::Jitter { jitter_us, lasts } => {
                for &to in &shared.servers {
                    shared.roads.jitter(client, to, jitter_us);
                }
                sim.clone().spawn(Process::World, async move {
                    sim.sleep(lasts).await;
                    for &to in &shared.servers {
                        shared.roads.jitter(client, to, 0);
                    }
                });
            }
            Trouble::Reset => {
                shared.count("clients' streams reset");
                for &to in &shared.servers {
                    shared.roads.reset(client, to);
                }
            }
        }
    }

    /// No new work is begun; holders let go.
    pub fn quiet(&self) {
        *self.shared.quiet.lock() = true;
    }

    /// Roads are open, and whoever stood still goes on.
    pub fn heal(&self) {
        self.shared.roads.open_all();
        self.shared.freezes.lock().clear();
        for seat in self.seats.lock().values() {
            if let Some(actor) = &seat.actor {
                self.shared.sim.order(actor.process, Order::GoOn);
            }
        }
    }

    /// Tells the oracles how things stand.
    pub fn settle(&self) {
        let actors: Vec<_> = self.seats.lock().values().filter_map(|seat| seat.actor.clone()).collect();
        for actor in actors {
            actor.settle();
        }
    }

    /// All processes die.
    pub fn leave(&self) {
        for seat in self.seats.lock().values_mut() {
            if let Some(actor) = seat.actor.take() {
                self.shared.sim.order(actor.process, Order::Kill);
            }
        }
    }

    /// What they did, for the summary.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.shared.counts.lock().clone();
        let roads = self.shared.roads.counts();
        counts.insert("streams opened", roads.opened);
        counts.insert("streams refused", roads.refused);
        counts.insert("streams broken", roads.broken);
        counts.insert("frames", roads.frames);
        counts.insert("writers that had to wait", roads.full);
        counts
    }

    /// How long after the last of them fell quiet a hold may last.
    pub const HOLD_MAX: Micros = 3 * crate::time::SECOND;
}
