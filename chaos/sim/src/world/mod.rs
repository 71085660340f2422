//! A cluster, its network and disks, its clients, and what befalls them. One thread, one seed.
//!
//! A run has two halves: first everything in the plan breaks, within what a correct cluster survives; then all is healed
//! for good, and the cluster has to come back.

mod faults;
mod healing;
mod links;
mod servers;

use std::{collections::BTreeMap, sync::Arc};

use conclave_proto::Revision;
use conclave_server::raft::Member;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    bare::{Client, Directory, Surroundings},
    client::Clients,
    event::Event,
    exec::{Executor, Next, Sim},
    net::Network,
    oracle::{Bounds, Oracles, Seen, Violation},
    plan::{Act, Plan, What, generator},
    profile::Profile,
    summary::Summary,
    time::Micros,
    trace::Trace,
};
use servers::Server;

/// See the module.
pub struct World {
    sim: Sim,
    executor: Executor,
    profile: Profile,
    plan: Plan,
    servers: BTreeMap<u64, Server>,
    /// Of the cluster's beginning.
    first: Vec<Member>,
    network: Network,
    oracles: Arc<Mutex<Oracles>>,
    directory: Directory,
    around: Surroundings,
    clients: Vec<mpsc::UnboundedSender<(u64, Act)>>,
    /// Those of the library.
    library: Clients,
    /// Draws what faults leave open: how long until a port is tried again, how much a dying disk keeps.
    rng: fastrand::Rng,
    disk_rng: fastrand::Rng,
    /// Faults that hold, by their place in the plan: how to end them.
    holding: BTreeMap<usize, Vec<faults::Relief>>,
    /// The next vote ends its giver: what survives, for how long it is down, how long its candidate is not heard, and
    /// which fault that is.
    vote_trap: Option<(u8, Micros, Micros, usize)>,
    /// Servers whose disk was damaged for good.
    rotted: u64,
    replacing: Arc<Mutex<bool>>,
    next_server: u64,
    healed: Option<Micros>,
    led: Option<Micros>,
    summary: Summary,
}

impl World {
    /// The cluster of a plan, not yet started.
    #[must_use]
    pub fn new(profile: &Profile, plan: Plan, trace: Trace) -> Self {
        let sim = Sim::new(trace);
        let oracles = Arc::new(Mutex::new(Oracles::new(Bounds { drift_ppm: profile.drift_ppm })));
        let directory = Directory::default();
        let around = Surroundings {
            sim: sim.clone(),
            directory: Arc::clone(&directory),
            oracles: Arc::clone(&oracles),
            counts: Arc::default(),
            told: Arc::new(Mutex::new(Revision(0))),
        };
        let seed = plan.seed;
        let known: Vec<u64> = (1..=plan.servers).collect();
        Self {
            library: Clients::new(&sim, seed, profile.sessions, known, &oracles),
            executor: Executor::new(sim.clone()),
            sim,
            profile: profile.clone(),
            first: (1..=plan.servers).map(servers::member).collect(),
            next_server: plan.servers + 1,
            plan,
            servers: BTreeMap::new(),
            network: Network::new(generator(seed, "network")),
            oracles,
            directory,
            around,
            clients: Vec::new(),
            rng: generator(seed, "world"),
            disk_rng: generator(seed, "disk"),
            holding: BTreeMap::new(),
            vote_trap: None,
            rotted: 0,
            replacing: Arc::default(),
            healed: None,
            led: None,
            summary: Summary::default(),
        }
    }

    /// Runs the plan, heals, and judges. What was seen on the way, and the first violation.
    #[must_use]
    pub fn run(mut self) -> (Summary, Option<Violation>) {
        for id in 1..=self.plan.servers {
            self.found(id);
            self.start(id);
        }
        for id in 0..self.profile.clients {
            let rng = generator(self.plan.seed ^ (id + 1) << 32, "client");
            self.clients.push(Client::spawn(id, self.plan.servers, self.around.clone(), rng));
        }
        for (number, step) in self.plan.steps.iter().enumerate() {
            self.sim.schedule(step.at, Event::Step(number));
        }
        self.until(self.profile.chaos, |_| false);
        if !self.is_broken() {
            self.heal();
            self.recover();
        }
        self.sum_up()
    }

    fn is_broken(&self) -> bool {
        !self.oracles.lock().violations().is_empty()
    }

    fn broken(&mut self, what: &'static str, why: impl Into<String>) {
        self.oracles.lock().broken(what, self.sim.now(), why);
    }

    /// Lets time pass until then, until something is so, or until something is broken. Whether it is so.
    fn until(&mut self, end: Micros, mut so: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if let Err(why) = self.executor.run_ready() {
                self.broken("rest", why);
            }
            if self.is_broken() {
                return false;
            }
            match self.executor.next(end) {
                Next::Over => return so(self),
                Next::Woke => {}
                Next::Event(event) => {
                    self.happens(event);
                    if so(self) {
                        return true;
                    }
                }
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Turn { server, start } => self.turn(server, start),
            Event::Frame { from, to, connection, items } => self.arrives(from, to, connection, items),
            Event::Connect { from, to, connection } => self.connect(from, to, connection),
            Event::Silence { from, to, connection } => self.silence(from, to, connection),
            Event::Probe { from, start, to, again } => self.probe(from, start, to, again),
            Event::Fetch { server, start, message, parts, attempts } => {
                self.fetch(server, start, message, parts, attempts);
            }
            Event::Ask { server, ask } => {
                if let Some(node) = self.node(server) {
                    node.handle().ask(*ask);
                }
            }
            Event::Step(number) => self.step(number),
            Event::VoterDies { server, kept, down } => self.voter_dies(server, kept, down),
            Event::Ends(number) => self.relieve(number),
            Event::Start(server) => self.start(server),
            Event::Retire(server) => self.retire(server),
            Event::Join(server) => self.start(server),
        }
    }

    fn step(&mut self, number: usize) {
        match self.plan.steps[number].what.clone() {
            What::Act { client, server, act } => {
                let _ = self.clients[usize::try_from(client).expect("few")].send((server, act));
            }
            What::Job { client, job } => {
                self.sim.note("job", [client, number as u64, 0], || self.plan.steps[number].to_string());
                self.library.begin(client, job);
            }
            What::Trouble { client, trouble } => {
                self.sim.note("trouble", [client, number as u64, 0], || self.plan.steps[number].to_string());
                self.library.meet(client, trouble);
            }
            What::Fault(fault) => {
                if self.healed.is_none() {
                    let class = fault.class();
                    if self.befall(number, fault) {
                        self.sim.note("fault", [number as u64, 0, 0], || self.plan.steps[number].to_string());
                        *self.summary.faults.entry(class).or_default() += 1;
                    }
                }
            }
        }
    }

    fn see(&mut self, seen: &Seen<'_>) {
        self.oracles.lock().see(self.sim.now(), seen);
    }

    fn sum_up(mut self) -> (Summary, Option<Violation>) {
        let violation = self.oracles.lock().violations().first().cloned();
        let summary = &mut self.summary;
        summary.runs = 1;
        summary.simulated_us = self.sim.now();
        (summary.trace, summary.events) = self.sim.traced();
        summary.polls = self.executor.polls();
        let counts = *self.around.counts.lock();
        let count = |name: &'static str, number: u64, summary: &mut Summary| {
            *summary.counts.entry(name).or_default() += number;
        };
        count("sessions opened", counts.sessions, summary);
        count("requests answered", counts.answered, summary);
        count("unknown outcomes", counts.unknown, summary);
        count("definite failures", counts.definite, summary);
        count("renewals acknowledged", counts.renewed, summary);
        count("linearizable reads", counts.reads, summary);
        count("sessions found lost", counts.lost, summary);
        for server in self.servers.values() {
            let disk = server.platter.lock();
            let disk = &disk.counts;
            count("syncs", disk.syncs, summary);
            count("writes lost in crashes", disk.lost, summary);
            count("records torn", disk.torn, summary);
            count("snapshots taken", disk.snapshots, summary);
            count("snapshots installed", disk.installs, summary);
            count("disk operations failed", disk.failures, summary);
            count("syncs stalled", disk.stalls, summary);
        }
        for (name, number) in self.library.counts() {
            count(name, number, summary);
        }
        let net = self.network.counts;
        count("frames between servers", net.frames, summary);
        count("messages between servers", net.messages, summary);
        count("messages lost", net.lost, summary);
        count("messages doubled", net.doubled, summary);
        count("messages overtaken", net.overtaken, summary);
        count("connections broken", net.broken, summary);
        count("frames stalled", net.stalled, summary);
        {
            let oracles = self.oracles.lock();
            count("entries applied", oracles.newest(), summary);
            for (name, number) in oracles.exercised() {
                *summary.exercised.entry(name).or_default() += number;
                *summary.exercised_runs.entry(name).or_default() += u64::from(number > 0);
            }
            let queues = oracles.queues();
            count("left from the middle of a queue", queues.left_middle, summary);
            for (name, number) in ["1", "2", "3 to 4", "5 to 8", "9 or more"].into_iter().zip(queues.grants_by_length) {
                *summary.queues.entry(name).or_default() += number;
            }
        }
        self.executor.end();
        for server in self.servers.values_mut() {
            if let Some(node) = server.node.take() {
                node.end(false);
            }
        }
        (self.summary, violation)
    }
}
