//! Servers that answer, clients that are ready, and somebody who watches: what every run begins with.

use std::{
    fs,
    io::BufWriter,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    binary::binary,
    board::{Inside, Shared},
    client::{Access, NAMESPACE, Role, Spec, Told, Workload},
    clocks::{Clock, Kind},
    disks::Room,
    fleet::{Client, Gear, Servers},
    nemesis::Reach,
    place::{Host, Place},
    resource::{Address, Resource},
    target::Target,
    workload::Touched,
};

/// Until all servers answer and all clients are ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Clients that were told to stop have ended by then.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);

/// The audit at the end has ended by then.
const AUDIT_WITHIN: Duration = Duration::from_secs(60);

/// What is to be there.
pub struct Setup<'a> {
    /// Whose servers and lock.
    pub target: &'a dyn Target,
    /// Servers.
    pub nodes: usize,
    /// Clients that work.
    pub clients: usize,
    /// Locks they choose from.
    pub keys: usize,
    /// What they do.
    pub workload: Workload,
    /// The lease.
    pub lease: Duration,
    /// Longest wait for a lock.
    pub wait: Duration,
    /// Shortest and longest time under it.
    pub hold: (Duration, Duration),
    /// How often the observer writes.
    pub probe_every: Duration,
    /// Of the clients' choices.
    pub seed: u64,
    /// The resource, where there is one.
    pub resource: Option<Address>,
    /// What faults need.
    pub gear: Gear,
    /// Where logs go.
    pub report: &'a Path,
    /// The program whose hidden command `client` is a client, where the target's clients are not another's.
    pub program: &'a Path,
}

/// All of it. Dropped, its processes are gone.
pub struct Stage<'a> {
    /// Where it is.
    pub place: &'a dyn Place,
    /// The servers.
    pub servers: Servers<'a>,
    /// The clients that work.
    pub clients: Vec<Client>,
    /// Their names.
    pub names: Vec<String>,
    /// Who watches.
    pub observer: Client,
    /// What was told.
    pub board: Shared,
}

impl<'a> Stage<'a> {
    /// Starts everything and waits until it is ready. `room` is for the servers' data.
    ///
    /// # Errors
    /// If something cannot be started or is not ready within a minute, or at `stop`.
    pub fn set(setup: &Setup<'a>, place: &'a dyn Place, room: &Room, stop: &AtomicBool) -> anyhow::Result<Self> {
        let program = match setup.target.clients() {
            Some(name) => binary(name)?,
            None => setup.program.to_owned(),
        };
        let servers = Servers::start(setup.target, place, setup.nodes, room, setup.report, setup.gear)?;
        let touched = setup.workload.touched();
        if let Some(resource) = &setup.resource {
            // Its tables are there before anybody needs them.
            Resource::open(resource, touched == Touched::Fenced)?;
        }
        let inside = match touched {
            Touched::Nothing if setup.workload.grants() => Inside::Hold,
            Touched::Nothing => Inside::Call,
            Touched::Fenced | Touched::Unfenced => Inside::Section,
        };
        let mut random = fastrand::Rng::with_seed(setup.seed);
        let names: Vec<String> = (1..=setup.clients).map(|at| format!("client {at}")).collect();
        let everybody: Vec<_> = names.iter().cloned().chain(["observer".to_owned()]).collect();
        let (tell, told) = mpsc::channel();
        let events = fs::File::create(setup.report.join("events.jsonl")).context("no file for events")?;
        let board = Shared::fill(told, inside, everybody.clone(), BufWriter::new(events));
        let mut clients = Vec::new();
        for (at, name) in everybody.iter().enumerate() {
            let observer = at == setup.clients;
            let mut endpoints = servers.endpoints()?;
            if !observer && !endpoints.is_empty() {
                let first = at % endpoints.len();
                endpoints.rotate_left(first);
            }
            let role = if observer { Role::Observe } else { Role::Work };
            let spec = spec(setup, name, at, role, endpoints, random.u64(..))?;
            let log = setup.report.join(format!("{}.log", name.replace(' ', "-")));
            let host = Host(setup.nodes + at);
            let clock = room.path().join(format!("client-{}.clock", at + 1));
            // Whoever watches has the right time.
            let clock = (setup.gear.clocks == Some(Kind::Wall) && !observer)
                .then(|| Clock::new(&clock, Kind::Wall))
                .transpose()?;
            clients.push(Client::start(&program, place, host, spec, at, tell.clone(), log, clock)?);
        }
        drop(tell);
        let observer = clients.pop().context("there is an observer")?;
        let mut stage = Self { place, servers, clients, names, observer, board };
        stage.wait_ready(stop)?;
        Ok(stage)
    }

    /// Asks every replica what it has, from the observer's host; bounded, so there may be less than all.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn audit(&mut self, setup: &Setup<'a>) -> anyhow::Result<Vec<Told>> {
        let (tell, told) = mpsc::channel();
        let spec = spec(setup, "auditor", setup.clients + 1, Role::Audit, self.servers.endpoints()?, setup.seed)?;
        let host = self.observer.process.host;
        let log = setup.report.join("auditor.log");
        let mut auditor = Client::start(setup.program, self.place, host, spec, 0, tell, log, None)?;
        let until = Instant::now() + AUDIT_WITHIN;
        while Instant::now() < until && auditor.process.ended().is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        drop(auditor);
        Ok(told.iter().map(|(_, told)| told).collect())
    }

    /// For faults.
    pub fn reach(&mut self) -> Reach<'_, 'a> {
        Reach {
            place: self.place,
            servers: &mut self.servers,
            clients: &mut self.clients,
            observer: self.observer.process.host,
            board: &self.board,
        }
    }

    fn wait_ready(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let (until, all) = (Instant::now() + READY_WITHIN, self.clients.len() + 1);
        loop {
            self.servers.all_run()?;
            let now = self.board.lock();
            if self.servers.all_answer(&now.servers.1) && now.ready.len() == all && !now.writes.is_empty() {
                return Ok(());
            }
            ensure!(!stop.load(Ordering::Relaxed), "interrupted");
            ensure!(
                Instant::now() < until,
                "not ready within {READY_WITHIN:?}: {} of {all} clients, servers {:?}",
                now.ready.len(),
                now.servers.1
            );
            drop(now);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clients finish what they do; who does not is killed with the stage. The observer only stops to write.
    pub fn leave(&mut self) {
        for client in &mut self.clients {
            client.stop();
        }
        let until = Instant::now() + LEAVE_WITHIN;
        while Instant::now() < until && self.clients.iter_mut().any(|client| client.process.ended().is_none()) {
            thread::sleep(Duration::from_millis(10));
        }
        self.observer.stop();
    }
}

fn spec(
    setup: &Setup<'_>,
    name: &str,
    at: usize,
    role: Role,
    endpoints: Vec<String>,
    seed: u64,
) -> anyhow::Result<Spec> {
    let own = setup.target.own();
    Ok(Spec {
        name: name.to_owned(),
        number: u32::try_from(at + 1).context("few clients")?,
        role,
        recipe: setup.target.recipe(),
        workload: setup.workload,
        endpoints,
        access: own.map_or_else(Access::default, |own| own.access.clone()),
        namespace: own.map_or(NAMESPACE, |own| &own.namespace).into(),
        keys: keys(setup.keys),
        ttl: setup.lease,
        wait: setup.wait,
        hold: setup.hold,
        probe_every: setup.probe_every,
        seed,
        resource: setup.resource.clone(),
        // Who watches and who audits are honest.
        planted: setup.target.planted().filter(|_| role == Role::Work).map(ToOwned::to_owned),
    })
}

/// Names of the locks.
#[must_use]
pub fn keys(count: usize) -> Vec<String> {
    (1..=count).map(|key| format!("lock-{key}")).collect()
}
