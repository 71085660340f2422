//! Connections between servers: how they come about, carry, and break.

use std::sync::Arc;

use conclave_proto::{ServerId, peer::peer_item::Item};
use raft::eraftpb::Message;

use super::World;
use crate::{
    event::Event,
    node::Ask,
    time::{MS, Micros, SECOND},
};

/// Between attempts to connect: first, and longest.
const BACKOFF: (Micros, Micros) = (50 * MS, 500 * MS);
/// An attempt that nobody answers.
const CONNECT_WITHIN: Micros = SECOND;
/// Until a silent connection is given up: it is probed after two seconds, and given two more.
const SILENCE: (Micros, Micros) = (2 * SECOND, 4 * SECOND);
/// A part of a snapshot that does not come is asked for again, so often.
const FETCH_ATTEMPTS: u32 = 10;

impl World {
    fn ask(&mut self, server: u64, ask: Ask) {
        if let Some(node) = self.node(server) {
            node.handle().ask(ask);
        }
    }

    pub(super) fn send(&mut self, now: Micros, from: u64, to: u64, items: Vec<Item>) {
        for arrival in self.network.send(now, from, to, items) {
            let connection = self.network.link(from, to).connection;
            self.sim.schedule(arrival.at, Event::Frame { from, to, connection, items: arrival.items });
        }
    }

    /// A server learns whom to be in touch with.
    pub(super) fn peers(&mut self, from: u64, members: &[u64]) {
        let now = self.sim.now();
        for (_, to) in self.network.pairs().into_iter().filter(|(of, _)| *of == from) {
            if !members.contains(&to) {
                let link = self.network.link(from, to);
                if link.introduced {
                    continue;
                }
                (link.wanted, link.up) = (false, false);
                link.connection += 1;
                link.waiting.clear();
                link.stalled.clear();
            }
        }
        for &to in members.iter().filter(|to| **to != from) {
            self.network.link(from, to).introduced = false;
            self.want(now, from, to);
        }
        if members.contains(&from) {
            // Whoever was greeted before this server knew where it is reached is told now.
            for (_, to) in self.network.pairs().into_iter().filter(|(of, _)| *of == from) {
                if self.network.link(from, to).up {
                    self.introduce(now, from, to);
                }
            }
        }
    }

    fn want(&mut self, now: Micros, from: u64, to: u64) {
        let link = self.network.link(from, to);
        if !link.wanted {
            link.wanted = true;
            link.connection += 1;
            link.backoff_us = BACKOFF.0;
            let connection = link.connection;
            let takes = self.network.delay(from, to);
            self.sim.schedule(now + takes, Event::Connect { from, to, connection });
        }
    }

    /// A server says where it is reached, once it knows: as a member.
    fn introduce(&mut self, now: Micros, from: u64, to: u64) {
        let listens = self.servers.get(&to).is_some_and(|server| server.node.is_some());
        let link = self.network.link(to, from);
        if listens && !link.wanted {
            link.introduced = true;
            *self.summary.counts.entry("introductions").or_default() += 1;
            self.want(now, to, from);
        }
    }

    pub(super) fn connect(&mut self, from: u64, to: u64, connection: u64) {
        let now = self.sim.now();
        let open = self.network.open(from, to) && self.network.open(to, from);
        let alive = self.servers.get(&from).is_some_and(|server| server.node.is_some());
        let link = self.network.link(from, to);
        if link.connection != connection || link.up || !link.wanted || !alive {
            return;
        }
        let receiver = self.servers.get(&to);
        let host_up = receiver.is_some_and(|server| server.host_up);
        let running = receiver.filter(|server| server.node.is_some() && !server.retired);
        let link = self.network.link(from, to);
        match running {
            Some(server) if open && server.paused == 0 => {
                link.up = true;
                link.connection += 1;
                link.receiver = server.start;
                link.last_arrival = now;
                link.backoff_us = BACKOFF.0;
                let items: Vec<Item> = link.waiting.drain(..).collect();
                self.sim.note("connected", [from, to, 0], || format!("{from} to {to}"));
                let knows_itself = self.node(from).is_some_and(|node| {
                    node.handle().status.borrow().members.iter().any(|member| member.id == ServerId(from))
                });
                if knows_itself {
                    self.introduce(now, from, to);
                }
                if !items.is_empty() {
                    self.send(now, from, to, items);
                }
            }
            _ => {
                link.connection += 1;
                let connection = link.connection;
                let lost = !link.waiting.is_empty();
                link.waiting.clear();
                let backoff = link.backoff_us;
                link.backoff_us = (backoff * 2).min(BACKOFF.1);
                let refused = open && host_up && running.is_none();
                let takes = if refused { 0 } else { CONNECT_WITHIN };
                if lost {
                    self.ask(from, Ask::Unreachable(ServerId(to)));
                }
                if refused {
                    self.ask(from, Ask::Gone(ServerId(to)));
                }
                self.sim.schedule(now + takes + backoff, Event::Connect { from, to, connection });
            }
        }
    }

    /// The connection is no more. Its sender is told; its receiver, if it can be.
    pub(super) fn break_link(&mut self, from: u64, to: u64, receiver_told: bool) {
        let now = self.sim.now();
        let link = self.network.link(from, to);
        if !link.up {
            return;
        }
        link.up = false;
        link.connection += 1;
        let connection = link.connection;
        link.waiting.clear();
        link.stalled.clear();
        self.network.counts.broken += 1;
        self.sim.note("broken", [from, to, 0], || format!("{from} to {to}"));
        self.ask(from, Ask::Unreachable(ServerId(to)));
        if receiver_told {
            self.ask(to, Ask::StreamLost(ServerId(from)));
        }
        let alive = self.servers.get(&from).is_some_and(|server| server.node.is_some());
        if alive {
            let pause = self.rng.u64(MS..BACKOFF.0);
            self.sim.schedule(now + pause, Event::Connect { from, to, connection });
        }
    }

    /// A server went down: what becomes of its connections.
    pub(super) fn hang_up(&mut self, id: u64, silently: bool) {
        for (from, to) in self.network.pairs() {
            if from == id {
                // Its own end is gone with it.
                let told = !silently && self.network.open(from, to);
                let link = self.network.link(from, to);
                let was_up = link.up;
                (link.up, link.wanted, link.introduced) = (false, false, false);
                link.connection += 1;
                link.waiting.clear();
                link.stalled.clear();
                if told && was_up {
                    self.ask(to, Ask::StreamLost(ServerId(from)));
                }
            } else if to == id {
                if silently || !self.network.open(to, from) {
                    self.watch_silence(from, to);
                } else {
                    self.break_link(from, to, false);
                }
            }
        }
    }

    /// Whoever hears nothing gives up after a while.
    pub(super) fn watch_silence(&mut self, from: u64, to: u64) {
        let link = self.network.link(from, to);
        if link.up {
            let connection = link.connection;
            let at = self.sim.now() + self.rng.u64(SILENCE.0..SILENCE.1);
            self.sim.schedule(at, Event::Silence { from, to, connection });
        }
    }

    pub(super) fn silence(&mut self, from: u64, to: u64, connection: u64) {
        let link = self.network.link(from, to);
        if link.connection != connection || !link.up {
            return;
        }
        let open = self.network.open(from, to) && self.network.open(to, from);
        let answers =
            self.servers.get(&to).is_some_and(|server| server.host_up && server.paused == 0 && server.node.is_some());
        if !open || !answers {
            let told = self.rng.bool();
            self.break_link(from, to, told);
        }
    }

    pub(super) fn arrives(&mut self, from: u64, to: u64, connection: u64, items: Vec<Item>) {
        let link = self.network.link(from, to);
        if link.connection != connection || !link.up {
            return;
        }
        if link.blocked > 0 {
            link.stalled.push_back(items);
            self.network.counts.stalled += 1;
            return;
        }
        let receiver = link.receiver;
        let Some(server) = self.servers.get(&to) else { return };
        match &server.node {
            Some(node) if server.start == receiver => {
                self.network.counts.frames += 1;
                self.network.counts.messages += items.len() as u64;
                self.sim.note("frame", [from, to, items.len() as u64], || format!("{from} to {to}: {}", told(&items)));
                let handle = Arc::clone(node.handle());
                for item in items {
                    handle.ask(Ask::Item(item));
                }
            }
            // Nobody there knows this connection any more, and the kernel says so.
            Some(_) => self.break_link(from, to, false),
            None if server.host_up => self.break_link(from, to, false),
            None => {}
        }
    }

    pub(super) fn block(&mut self, from: u64, to: u64) {
        self.network.link(from, to).blocked += 1;
        self.watch_silence(from, to);
        self.watch_silence(to, from);
    }

    pub(super) fn unblock(&mut self, from: u64, to: u64) {
        let now = self.sim.now();
        let link = self.network.link(from, to);
        link.blocked -= 1;
        if link.blocked == 0 {
            let connection = link.connection;
            let stalled: Vec<_> = link.stalled.drain(..).collect();
            for items in stalled {
                self.sim.schedule(now, Event::Frame { from, to, connection, items });
            }
        }
    }

    pub(super) fn probe(&mut self, from: u64, start: u64, to: u64, again: u32) {
        let asks = self.servers.get(&from).is_some_and(|server| server.start == start && server.node.is_some());
        let open = self.network.open(from, to) && self.network.open(to, from);
        let refused = self.servers.get(&to).is_some_and(|server| server.host_up && server.node.is_none());
        if !asks {
            return;
        }
        if open && refused {
            self.ask(from, Ask::Gone(ServerId(to)));
        } else if again > 0 {
            let pause = if open { BACKOFF.0 } else { CONNECT_WITHIN + BACKOFF.0 };
            self.sim.schedule(self.sim.now() + pause, Event::Probe { from, start, to, again: again - 1 });
        }
    }

    /// A part of a snapshot is due.
    pub(super) fn fetch(&mut self, id: u64, start: u64, message: Box<Message>, parts: u32, attempts: u32) {
        let now = self.sim.now();
        let from = message.from;
        let wanted = self.servers.get(&id).is_some_and(|server| server.start == start && server.node.is_some());
        if !wanted {
            return;
        }
        let open = self.network.open(id, from) && self.network.open(from, id);
        let sender = self.servers.get(&from).filter(|server| server.paused == 0);
        let Some(sender) = sender.and_then(|server| server.node.as_ref().map(|_| server)).filter(|_| open) else {
            if attempts >= FETCH_ATTEMPTS {
                *self.summary.counts.entry("snapshot transfers given up").or_default() += 1;
                return self.ask(id, Ask::FetchFailed { message: *message });
            }
            *self.summary.counts.entry("snapshot transfers interrupted").or_default() += 1;
            let event = Event::Fetch { server: id, start, message, parts, attempts: attempts + 1 };
            self.sim.schedule(now + 300 * MS, event);
            return;
        };
        let name = String::from_utf8_lossy(&message.get_snapshot().data).into_owned();
        let Some(snapshot) = sender.platter.lock().snapshot(&name) else {
            *self.summary.counts.entry("snapshots gone before they were fetched").or_default() += 1;
            return self.ask(id, Ask::FetchFailed { message: *message });
        };
        self.ask(from, Ask::SnapshotServed { to: ServerId(id), ok: true });
        if parts > 0 {
            let takes = self.network.delay(from, id) + self.rng.u64(MS..40 * MS);
            let event = Event::Fetch { server: id, start, message, parts: parts - 1, attempts: 0 };
            self.sim.schedule(now + takes, event);
            return;
        }
        match snapshot.machine() {
            Ok(machine) => {
                *self.summary.counts.entry("snapshots sent").or_default() += 1;
                self.sim.note("fetched", [id, from, machine.applied().0], || format!("{name} from {from} to {id}"));
                let machine = Box::new(machine);
                self.ask(id, Ask::Fetched { message: *message, machine, incoming: snapshot });
            }
            Err(_) => {
                *self.summary.counts.entry("damaged snapshots refused").or_default() += 1;
                self.ask(id, Ask::FetchFailed { message: *message });
            }
        }
    }
}

/// Items, for those who read a trace.
fn told(items: &[Item]) -> String {
    use prost_raft::Message as _;
    let all: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Raft(bytes) => match Message::decode(&bytes[..]) {
                Ok(message) => format!(
                    "{:?}(term={} index={} log_term={} commit={} entries={}{})",
                    message.msg_type(),
                    message.term,
                    message.index,
                    message.log_term,
                    message.commit,
                    message.entries.len(),
                    if message.reject { " reject" } else { "" }
                ),
                Err(_) => "?".to_owned(),
            },
            Item::StateHash(hash) => format!("StateHash({})", hash.index),
            other => format!("{other:?}"),
        })
        .collect();
    all.join(", ")
}
