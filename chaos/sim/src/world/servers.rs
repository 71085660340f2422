//! Servers: how they start, take turns, and die.

use std::{sync::Arc, time::Duration};

use conclave_proto::{ServerId, peer::peer_item::Item};
use conclave_server::raft::{Member, Options};
use conclave_state::Limits;
use parking_lot::Mutex;
use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::World;
use crate::{
    disk::Platter,
    event::Event,
    exec::Process,
    node::{Effect, Ended, Node, Start},
    oracle::Seen,
    plan::generator,
    time::{LocalClock, MS, Micros, SECOND},
};

/// How a server goes down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Down {
    /// Its process: peers are told by the kernel, and what was written stays.
    Killed,
    /// Its host: nobody is told, and of what was not synced that share (of 256) stays.
    Power(u8),
    /// Its process, by a failing disk, which keeps that share.
    Disk(u8),
}

/// One server, running or not.
pub(super) struct Server {
    pub(super) node: Option<Node>,
    pub(super) start: u64,
    pub(super) clock: LocalClock,
    pub(super) platter: Arc<Mutex<Platter>>,
    pub(super) host_up: bool,
    pub(super) paused: u32,
    /// It never comes back: its disk is damaged.
    pub(super) rotted: bool,
    /// It is no member any more.
    pub(super) retired: bool,
    /// Who it is told that the members are.
    pub(super) members: Vec<Member>,
    /// How it dies at the effect that a fault names, and for how long.
    pub(super) cut: Option<(Down, Micros)>,
    /// How long it stays down after a disk error.
    pub(super) down_for: Micros,
    /// The last term it was seen to lead in.
    led: u64,
}

pub(super) fn member(id: u64) -> Member {
    Member { id: ServerId(id), peer_address: format!("s{id}:1"), client_address: format!("s{id}:2"), learner: false }
}

/// A vote that was given, not one that somebody might get.
fn is_vote(item: &Item) -> bool {
    let Item::Raft(bytes) = item else { return false };
    let message = Message::decode(&bytes[..]).expect("it was encoded here");
    message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject
}

impl World {
    /// A server with an empty disk.
    pub(super) fn found(&mut self, id: u64) {
        let boot = self.rng.u64(..1_000 * SECOND);
        let server = Server {
            node: None,
            start: 0,
            clock: LocalClock::new(self.sim.now(), boot),
            platter: Arc::default(),
            host_up: true,
            paused: 0,
            rotted: false,
            retired: false,
            members: self.first.clone(),
            cut: None,
            down_for: SECOND,
            led: 0,
        };
        self.servers.insert(id, server);
    }

    pub(super) fn node(&mut self, id: u64) -> Option<&mut Node> {
        self.servers.get_mut(&id)?.node.as_mut()
    }

    fn options(&self, id: u64, members: Vec<Member>) -> Options {
        let mut options = Options::new(ServerId(id), "sim", "", members);
        (options.log_entries_max, options.log_entries_keep) = self.profile.log_entries;
        options.append_bytes_max = 4 << 10;
        options.log_cache_bytes_max = 2 << 10;
        options.container_grace = Duration::from_secs(4);
        options.history_age = Duration::from_secs(20);
        options.limits = Limits { history_revisions_max: 200, answers_max: 64, ..Limits::default() };
        options
    }

    pub(super) fn start(&mut self, id: u64) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.node.is_some() || server.rotted || server.retired {
            return;
        }
        server.host_up = true;
        server.start += 1;
        server.led = 0;
        let (start, members) = (server.start, server.members.clone());
        let options = self.options(id, members);
        let server = self.servers.get_mut(&id).expect("just seen");
        let rng = generator(self.plan.seed ^ id << 40 ^ start << 48, "node");
        let started = Node::start(Start {
            options,
            start,
            platter: &server.platter,
            clock: &server.clock,
            sim: &self.sim,
            oracles: &self.oracles,
            rng,
        });
        self.sim.note("start", [id, start, 0], || format!("server {id}, start {start}"));
        match started {
            Ok(node) => {
                self.directory.lock().insert(id, Arc::clone(node.handle()));
                self.library.server_started(node.handle());
                server.node = Some(node);
                self.effects(id);
                self.plan_turn(id);
            }
            Err(ended) => self.ended(id, ended),
        }
    }

    pub(super) fn plan_turn(&mut self, id: u64) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let Some(node) = &mut server.node else { return };
        let at = server.clock.when(node.wakes_at()).max(node.busy_until).max(self.sim.now());
        if at < node.turn_at || node.turn_at < self.sim.now() {
            node.turn_at = at;
            self.sim.schedule(at, Event::Turn { server: id, start: server.start });
        }
    }

    pub(super) fn turn(&mut self, id: u64, start: u64) {
        let now = self.sim.now();
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.start != start || server.paused > 0 {
            return;
        }
        let Some(node) = &mut server.node else { return };
        if node.turn_at <= now {
            node.turn_at = Micros::MAX;
        }
        if now < node.busy_until {
            let at = node.busy_until;
            if node.turn_at > at {
                node.turn_at = at;
                self.sim.schedule(at, Event::Turn { server: id, start });
            }
            return;
        }
        if node.is_idle() && server.clock.at(now) < node.wakes_at() {
            return self.plan_turn(id);
        }
        let result = node.turn(now);
        self.summary.turns += 1;
        let leads = node.leads();
        self.sim.note("turn", [id, start, u64::from(leads)], || {
            format!("server {id}{}", if leads { ", leading" } else { "" })
        });
        self.effects(id);
        match result {
            Ok(()) => {
                if leads {
                    self.leads(id);
                }
                self.plan_turn(id);
            }
            Err(ended) => self.ended(id, ended),
        }
    }

    fn leads(&mut self, id: u64) {
        let server = self.servers.get_mut(&id).expect("it took a turn");
        let Some(node) = &server.node else { return };
        let term = node.handle().status.borrow().term.0;
        if server.led != term {
            server.led = term;
            *self.summary.counts.entry("elections").or_default() += 1;
            self.sim.note("leads", [id, term, 0], || format!("server {id} in term {term}"));
            self.see(&Seen::Leads { server: id, term });
        }
        if self.healed.is_some() && self.led.is_none() && self.is_followed(id) {
            self.led = Some(self.sim.now());
        }
    }

    fn is_followed(&self, id: u64) -> bool {
        let Some(leader) = self.servers[&id].node.as_ref() else { return false };
        let members = leader.handle().status.borrow().members.clone();
        let voters = members.iter().filter(|member| !member.learner);
        let follows = |member: &&Member| {
            let node = self.servers.get(&member.id.0).and_then(|server| server.node.as_ref());
            node.is_some_and(|node| node.handle().status.borrow().leader.0 == id)
        };
        let (all, following) = (voters.clone().count(), voters.filter(follows).count());
        following > all / 2
    }

    fn effects(&mut self, id: u64) {
        let now = self.sim.now();
        let Some(server) = self.servers.get_mut(&id) else { return };
        let Some(node) = &mut server.node else { return };
        let start = server.start;
        let mut votes_for = None;
        for effect in node.effects() {
            match effect {
                Effect::Frame { after_us, to, items } => {
                    if self.vote_trap.is_some() && items.iter().any(is_vote) {
                        votes_for = Some(to);
                    }
                    self.send(now + after_us, id, to, items);
                }
                Effect::Fetch(message) => {
                    let parts = self.rng.u32(1..5);
                    let event = Event::Fetch { server: id, start, message, parts, attempts: 0 };
                    self.sim.schedule(now + MS, event);
                }
                Effect::Probe(peer) => {
                    let takes = self.network.delay(id, peer) + self.network.delay(peer, id);
                    self.sim.schedule(now + takes, Event::Probe { from: id, start, to: peer, again: 2 });
                }
                Effect::Members(members) => self.peers(id, &members),
            }
        }
        if let Some(candidate) = votes_for {
            self.voted(id, candidate);
        }
    }

    fn ended(&mut self, id: u64, ended: Ended) {
        self.sim.note("ended", [id, 0, 0], || format!("server {id}: {ended:?}"));
        let server = self.servers.get_mut(&id).expect("it was there");
        match ended {
            Ended::Cut(point) => {
                *self.summary.cuts.entry(point).or_default() += 1;
                let (down, pause) = server.cut.take().unwrap_or((Down::Killed, SECOND));
                self.crash(id, down, pause);
            }
            Ended::Stopped => {
                *self.summary.counts.entry("stopped in good order").or_default() += 1;
                let pause = server.down_for;
                self.crash(id, Down::Killed, pause);
            }
            Ended::Excused(_) => {
                *self.summary.counts.entry("stopped by its disk").or_default() += 1;
                let damaged = server.platter.lock().is_damaged();
                let pause = server.down_for.max(300 * MS);
                let kept = self.disk_rng.u8(..);
                if damaged {
                    self.servers.get_mut(&id).expect("just seen").rotted = true;
                }
                self.crash(id, Down::Disk(kept), pause);
            }
            Ended::Broken(why) => self.broken("stopped", format!("server {id}: {why}")),
        }
    }

    /// A server goes down, and comes back after a while.
    pub(super) fn crash(&mut self, id: u64, how: Down, pause: Micros) {
        let now = self.sim.now();
        let server = self.servers.get_mut(&id).expect("a server");
        self.directory.lock().remove(&id);
        self.library.server_ended(id);
        if let Some(node) = server.node.take() {
            node.end(how == Down::Killed);
        }
        self.executor.kill(Process::Server(id, server.start));
        server.cut = None;
        {
            let mut disk = server.platter.lock();
            let unsynced = disk.unsynced();
            let kept = match how {
                Down::Killed => unsynced,
                Down::Power(share) | Down::Disk(share) => unsynced * usize::from(share) / 256,
            };
            let lost = disk.crash(kept);
            if lost > 0 && self.disk_rng.bool() {
                // The first of them was under way: half a record, which its checksum tells.
                disk.counts.torn += 1;
            }
        }
        self.sim.note("down", [id, 0, 0], || format!("server {id}: {how:?}"));
        if matches!(how, Down::Power(_)) {
            server.host_up = false;
        }
        self.hang_up(id, matches!(how, Down::Power(_)));
        self.sim.schedule(now + pause, Event::Start(id));
    }

    /// A server was removed from the cluster.
    pub(super) fn retire(&mut self, id: u64) {
        self.crash(id, Down::Killed, 0);
        self.servers.get_mut(&id).expect("just crashed").retired = true;
        *self.summary.counts.entry("members removed").or_default() += 1;
    }
}
