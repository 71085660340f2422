//! Does to servers and clients what the plan says, undoes it, and looks whether it is undone.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    board::Shared,
    clock::now_ns,
    fleet::{Client, Servers},
    place::{Host, Place},
    plan::{Class, Fault, Step},
};

/// So long it looks for a leader or a holder.
const FIND_WITHIN: Duration = Duration::from_secs(3);
/// A holder is met so soon after it began, or not at all: it is to be in the middle of something.
const FRESH_NS: i64 = 15_000_000;
/// After healing all servers have to answer and take writes within this time.
pub const HEALED_WITHIN: Duration = Duration::from_secs(15);

/// A fault that was.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Its kind.
    pub class: Class,
    /// In words.
    pub what: String,
    /// Whom it met; or why nobody.
    pub target: String,
    /// Nobody was met.
    pub missed: bool,
    /// The client that stood still, by its place.
    pub paused_client: Option<usize>,
    /// The server that stood still or was down, by its place.
    pub server: Option<usize>,
    /// Begun.
    pub from_ns: i64,
    /// Undone.
    pub until_ns: i64,
    /// From its beginning to the first acknowledged write that was sent after it.
    pub first_write_ns: Option<i64>,
    /// From undoing it until all servers answered, one led and a write was taken; none: not within
    /// [`HEALED_WITHIN`], or something could not be undone.
    pub healed_ns: Option<i64>,
    /// What could not be undone.
    pub trouble: Option<String>,
}

/// What a nemesis can reach.
pub struct Nemesis<'run, 'servers> {
    /// The network.
    pub place: &'run dyn Place,
    /// The servers.
    pub servers: &'run mut Servers<'servers>,
    /// The clients, without the observer.
    pub clients: &'run [Client],
    /// Where the observer is.
    pub observer: Host,
    /// What is known.
    pub board: &'run Shared,
}

enum Met {
    Client(usize),
    Server(usize),
    Cut(Vec<Host>, String),
}

impl Nemesis<'_, '_> {
    /// Does one step, its length (or until `stop`) included.
    pub fn step(&mut self, step: &Step, stop: &dyn Fn() -> bool, beat: &mut dyn FnMut(&str)) -> Done {
        let mut done = Done {
            class: step.fault.class(),
            what: step.fault.to_string(),
            target: String::new(),
            missed: false,
            paused_client: None,
            server: None,
            from_ns: now_ns(),
            until_ns: 0,
            first_write_ns: None,
            healed_ns: None,
            trouble: None,
        };
        let met = match self.begin(step.fault, &mut done.from_ns) {
            Ok(met) => met,
            Err(error) => {
                done.until_ns = now_ns();
                (done.missed, done.target) = (true, format!("{error:#}"));
                return done;
            }
        };
        match &met {
            Met::Client(at) => {
                (done.paused_client, done.target) = (Some(*at), self.clients[*at].name.clone());
            }
            Met::Server(at) => (done.server, done.target) = (Some(*at), format!("server {}", at + 1)),
            Met::Cut(_, who) => done.target.clone_from(who),
        }
        let until = Instant::now() + step.length;
        while Instant::now() < until && !stop() {
            beat(&format!("{} ({})", done.what, done.target));
            thread::sleep(Duration::from_millis(20));
        }
        done.until_ns = now_ns();
        done.trouble = self.end(step.fault, &met).err().map(|error| format!("{error:#}"));
        if done.trouble.is_none() {
            done.healed_ns = self.healed(done.until_ns, beat);
        }
        done.first_write_ns = self.board.lock().written_since(done.from_ns).map(|at| at - done.from_ns);
        done
    }

    /// `from_ns`: the moment before it is done; a server that is killed takes a while to be gone.
    fn begin(&mut self, fault: Fault, from_ns: &mut i64) -> anyhow::Result<Met> {
        let servers = self.servers.count();
        let at = if fault == Fault::PauseHolder || matches!(fault, Fault::Halves(_)) { 0 } else { self.server(fault)? };
        *from_ns = now_ns();
        Ok(match fault {
            Fault::PauseHolder => Met::Client(self.pause_holder(from_ns)?),
            Fault::PauseLeader | Fault::PauseServer(_) => {
                self.servers.get(at).stand(true)?;
                Met::Server(at)
            }
            Fault::KillLeader | Fault::KillServer(_) => {
                self.servers.get(at).kill();
                Met::Server(at)
            }
            Fault::CutLeader => {
                let others: Vec<_> = (0..servers).filter(|other| *other != at).map(Host).collect();
                self.place.cut(Host(at), &others)?;
                Met::Cut(vec![Host(at)], format!("server {}", at + 1))
            }
            Fault::CutServer(_) => {
                let mut others: Vec<_> = (0..servers).filter(|other| *other != at).map(Host).collect();
                others.extend(self.clients.iter().map(|client| client.process.host));
                others.push(self.observer);
                self.place.cut(Host(at), &others)?;
                Met::Cut(vec![Host(at)], format!("server {}", at + 1))
            }
            Fault::Halves(deal) => {
                // A minority of the servers, and half of the clients.
                let mut random = fastrand::Rng::with_seed(deal);
                let mut order: Vec<usize> = (0..servers).collect();
                random.shuffle(&mut order);
                let (few, many) = order.split_at((servers - 1) / 2);
                let mut clients: Vec<usize> = (0..self.clients.len()).collect();
                random.shuffle(&mut clients);
                let (with_few, with_many) = clients.split_at(clients.len() / 2);
                let hosts = |servers: &[usize], clients: &[usize]| -> Vec<Host> {
                    let clients = clients.iter().map(|at| self.clients[*at].process.host);
                    servers.iter().copied().map(Host).chain(clients).collect()
                };
                let (mut one, mut other) = (hosts(few, with_few), hosts(many, with_many));
                other.push(self.observer);
                if one.is_empty() {
                    std::mem::swap(&mut one, &mut other);
                }
                let mut cut = Vec::new();
                for host in &one {
                    // What is begun has to be ended, also if the rest fails.
                    if let Err(error) = self.place.cut(*host, &other) {
                        for host in cut {
                            self.place.join(host)?;
                        }
                        return Err(error);
                    }
                    cut.push(*host);
                }
                let names =
                    |servers: &[usize]| servers.iter().map(|at| (at + 1).to_string()).collect::<Vec<_>>().join(", ");
                let who = format!(
                    "server {} with {} clients | server {} with {}",
                    names(few),
                    with_few.len(),
                    names(many),
                    with_many.len()
                );
                Met::Cut(cut, who)
            }
        })
    }

    fn end(&mut self, fault: Fault, met: &Met) -> anyhow::Result<()> {
        match met {
            Met::Client(at) => self.clients[*at].process.stand(false),
            Met::Server(at) if fault.class() == Class::Kill => self.servers.start_one(*at),
            Met::Server(at) => self.servers.get(*at).stand(false),
            Met::Cut(hosts, _) => hosts.iter().try_for_each(|host| self.place.join(*host)),
        }
    }

    fn server(&self, fault: Fault) -> anyhow::Result<usize> {
        match fault {
            Fault::PauseServer(at) | Fault::KillServer(at) | Fault::CutServer(at) => Ok(at % self.servers.count()),
            _ => {
                let until = Instant::now() + FIND_WITHIN;
                loop {
                    if let Some(at) = self.board.lock().leader() {
                        return Ok(at);
                    }
                    anyhow::ensure!(Instant::now() < until, "nobody led");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Stops a client that is in the middle of a hold: one that still was after it was stopped.
    fn pause_holder(&self, from_ns: &mut i64) -> anyhow::Result<usize> {
        let until = Instant::now() + FIND_WITHIN;
        while Instant::now() < until {
            let now = now_ns();
            let fresh = |(who, since): (&usize, &i64)| (now - since < FRESH_NS).then_some((*who, *since));
            let found = self.board.lock().inside.iter().find_map(fresh);
            if let Some((who, since)) = found {
                *from_ns = now_ns();
                self.clients[who].process.stand(true)?;
                // What it told before it was stopped may still be on its way.
                thread::sleep(Duration::from_millis(20));
                if self.board.lock().inside.get(&who) == Some(&since) {
                    return Ok(who);
                }
                self.clients[who].process.stand(false)?;
            }
            thread::sleep(Duration::from_micros(500));
        }
        anyhow::bail!("nobody held")
    }

    /// How long after `from_ns` all was well again.
    fn healed(&self, from_ns: i64, beat: &mut dyn FnMut(&str)) -> Option<i64> {
        let until = Instant::now() + HEALED_WITHIN;
        loop {
            beat("healing");
            let board = self.board.lock();
            let (seen_ns, servers) = &board.servers;
            let leads = board.leader().is_some() || servers.len() == 1;
            let answer = servers.len() == self.servers.count() && servers.iter().all(|server| server.answers);
            if let Some(written) = board.written_since(from_ns)
                && *seen_ns > from_ns
                && answer
                && leads
            {
                return Some(written.max(*seen_ns) - from_ns);
            }
            drop(board);
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
