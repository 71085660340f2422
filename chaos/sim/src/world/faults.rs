//! What befalls the cluster, and how each fault ends.

use std::{collections::BTreeSet, sync::Arc};

use conclave_proto::ServerId;
use conclave_server::raft::MemberChange;
use tokio::sync::oneshot;

use super::{
    World,
    servers::{Down, member},
};
use crate::{
    bare::within,
    event::Event,
    exec::Process,
    node::Ask,
    oracle::Seen,
    plan::{DiskError, Fault, Shape},
    time::{MS, Micros, SECOND},
};

/// How to end a fault.
pub(super) enum Relief {
    Unblock(u64, u64),
    Weather(u64, u64),
    GoOn(u64),
    Drift(u64),
    SlowDisk(u64),
    FullDisk(u64),
}

impl World {
    /// Servers that are members, or are to become some, by id.
    pub(super) fn present(&self) -> Vec<u64> {
        self.servers.iter().filter(|(_, server)| !server.retired).map(|(id, _)| *id).collect()
    }

    /// The server that a plan's number means now.
    fn meant(&self, number: u64) -> u64 {
        let present = self.present();
        present[usize::try_from(number - 1).expect("small") % present.len()]
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leads = self.servers.iter().filter_map(|(id, server)| {
            let node = server.node.as_ref().filter(|node| node.leads())?;
            Some((node.handle().status.borrow().term, *id))
        });
        leads.max().map(|(_, id)| id)
    }

    /// False if it does not apply: then nothing was done.
    pub(super) fn befall(&mut self, number: usize, fault: Fault) -> bool {
        let now = self.sim.now();
        match fault {
            Fault::Kill { server, down } => self.crash_if_up(server, Down::Killed, down),
            Fault::Power { server, kept, down } => self.crash_if_up(server, Down::Power(kept), down),
            Fault::PowerAll { kept, down } => {
                for id in self.present() {
                    let kept = kept ^ self.disk_rng.u8(..);
                    let down = down + self.rng.u64(..500 * MS);
                    if self.node(id).is_some() {
                        self.crash(id, Down::Power(kept), down);
                    }
                }
                true
            }
            Fault::Cut { server, after, kept, down } => {
                let id = self.meant(server);
                let server = self.servers.get_mut(&id).expect("present");
                let Some(node) = &server.node else { return false };
                node.handle().life.die_in(after);
                server.cut = Some((kept.map_or(Down::Killed, Down::Power), down));
                true
            }
            Fault::CutAtVote { kept, down, lasts } => {
                self.vote_trap = Some((kept, down, lasts, number));
                true
            }
            Fault::Pause { server, stands } => {
                let id = self.meant(server);
                if self.node(id).is_none() {
                    return false;
                }
                let server = self.servers.get_mut(&id).expect("present");
                server.paused += 1;
                self.executor.stop(Process::Server(id, server.start));
                for (from, to) in self.network.pairs() {
                    if to == id || from == id {
                        self.watch_silence(from, to);
                    }
                }
                self.hold(number, now + stands, vec![Relief::GoOn(id)])
            }
            Fault::Jump { server, by } => {
                let id = self.meant(server);
                self.servers[&id].clock.jump(now, by);
                self.see(&Seen::Jumped { by });
                self.clock_changed(id)
            }
            Fault::Wall { server, offset_ms } => {
                let id = self.meant(server);
                self.servers[&id].clock.set_wall(offset_ms);
                true
            }
            Fault::Drift { server, ppm, lasts } => {
                let id = self.meant(server);
                self.servers[&id].clock.drift(now, ppm);
                self.clock_changed(id);
                self.see(&Seen::Drifts { ppm });
                self.hold(number, now + lasts, vec![Relief::Drift(id)])
            }
            Fault::Partition { shape, lasts } => {
                let cut = self.links_of(&shape);
                for &(from, to) in &cut {
                    self.block(from, to);
                }
                let relief = cut.iter().map(|&(from, to)| Relief::Unblock(from, to)).collect();
                !cut.is_empty() && self.hold(number, now + lasts, relief)
            }
            Fault::Weather { from, weather, lasts } => {
                let from = from.map(|server| self.meant(server));
                let pairs: Vec<_> =
                    self.pairs().into_iter().filter(|(of, _)| from.is_none_or(|from| from == *of)).collect();
                for &(of, to) in &pairs {
                    self.network.set_weather(of, to, number, Some(weather));
                }
                let relief = pairs.into_iter().map(|(of, to)| Relief::Weather(of, to)).collect();
                self.hold(number, now + lasts, relief)
            }
            Fault::Reset { from, to } => {
                let (from, to) = (self.meant(from), self.meant(to));
                self.break_link(from, to, true);
                true
            }
            Fault::SlowDisk { server, times, lasts } => {
                let id = self.meant(server);
                self.servers[&id].platter.lock().faults.slowness = times;
                self.hold(number, now + lasts, vec![Relief::SlowDisk(id)])
            }
            Fault::StuckDisk { server, lasts } => {
                let id = self.meant(server);
                self.servers[&id].platter.lock().faults.stuck_until = now + lasts;
                true
            }
            Fault::DiskError { server, what, down } => {
                let id = self.meant(server);
                let server = self.servers.get_mut(&id).expect("present");
                server.down_for = down;
                let faults = &mut server.platter.lock().faults;
                match what {
                    DiskError::Sync => faults.sync_fails = true,
                    DiskError::Write => faults.write_fails = true,
                    DiskError::Read => faults.read_fails = true,
                }
                true
            }
            Fault::FullDisk { server, lasts } => {
                let id = self.meant(server);
                self.servers[&id].platter.lock().faults.full = true;
                self.hold(number, now + lasts, vec![Relief::FullDisk(id)])
            }
            Fault::Rot { server, what, down } => {
                // One disk in a cluster that can do without it.
                if self.rotted > 0 || self.present().len() < 3 || *self.replacing.lock() || !self.all_know_members() {
                    return false;
                }
                let id = self.meant(server);
                if self.node(id).is_some() {
                    self.crash(id, Down::Killed, down);
                }
                let done = self.servers[&id].platter.lock().rot(what);
                self.rotted += u64::from(done);
                done
            }
            Fault::Transfer { to } => {
                let Some(leader) = self.leader() else { return false };
                let to = to.map_or(0, |server| self.meant(server));
                let (reply, _) = oneshot::channel();
                self.sim.schedule(
                    now,
                    Event::Ask { server: leader, ask: Box::new(Ask::Transfer { to: ServerId(to), reply }) },
                );
                true
            }
            Fault::Stop { server, down } => {
                let id = self.meant(server);
                let server = self.servers.get_mut(&id).expect("present");
                let Some(node) = &server.node else { return false };
                server.down_for = down;
                let deadline_ms = node.handle().now_ms() + 2_000;
                node.handle().ask(Ask::Stop { deadline_ms });
                true
            }
            Fault::Replace { server } => {
                let leaves = self.meant(server);
                self.replace(leaves)
            }
        }
    }

    /// Everybody is there and has applied the last change of members. Until then a server may count by the former
    /// membership, as raft-rs counts by what it knows to be committed: with one that left and one damaged disk there
    /// may be no majority of that.
    fn all_know_members(&self) -> bool {
        let present: BTreeSet<u64> = self.present().into_iter().collect();
        present.iter().all(|id| {
            self.servers[id].node.as_ref().is_some_and(|node| {
                let status = node.handle().status.borrow();
                status.members.iter().map(|member| member.id.0).collect::<BTreeSet<_>>() == present
            })
        })
    }

    /// A server has given its vote to a candidate, and now loses its power.
    pub(super) fn voted(&mut self, voter: u64, candidate: u64) {
        let Some((kept, down, lasts, number)) = self.vote_trap.take().filter(|_| self.healed.is_none()) else { return };
        *self.summary.counts.entry("voters cut off at their vote").or_default() += 1;
        let unheard: Vec<_> = self.pairs().into_iter().filter(|(from, _)| *from == candidate).collect();
        for &(from, to) in &unheard {
            self.block(from, to);
        }
        let relief = unheard.into_iter().map(|(from, to)| Relief::Unblock(from, to)).collect();
        self.hold(number, self.sim.now() + lasts, relief);
        // The vote arrives before.
        self.sim.schedule(self.sim.now() + 3 * MS, Event::VoterDies { server: voter, kept, down });
    }

    pub(super) fn voter_dies(&mut self, voter: u64, kept: u8, down: Micros) {
        if self.node(voter).is_some() {
            self.crash(voter, Down::Power(kept), down);
        }
        // Whoever else is down comes back, and may ask for the same vote.
        for id in self.present().into_iter().filter(|id| *id != voter) {
            self.sim.schedule(self.sim.now() + down, Event::Start(id));
        }
    }

    fn crash_if_up(&mut self, server: u64, how: Down, down: Micros) -> bool {
        let id = self.meant(server);
        let up = self.node(id).is_some();
        if up {
            self.crash(id, how, down);
        }
        up
    }

    fn hold(&mut self, number: usize, until: Micros, relief: Vec<Relief>) -> bool {
        self.holding.insert(number, relief);
        self.sim.schedule(until, Event::Ends(number));
        true
    }

    /// Timers of a clock that was touched are set anew.
    fn clock_changed(&mut self, id: u64) -> bool {
        if let Some(node) = self.node(id) {
            node.turn_at = Micros::MAX;
        }
        self.plan_turn(id);
        true
    }

    /// A fault ends.
    pub(super) fn relieve(&mut self, number: usize) {
        let now = self.sim.now();
        for relief in self.holding.remove(&number).into_iter().flatten() {
            match relief {
                Relief::Unblock(from, to) => self.unblock(from, to),
                Relief::Weather(from, to) => self.network.set_weather(from, to, number, None),
                Relief::GoOn(id) => {
                    let server = self.servers.get_mut(&id).expect("it stood still");
                    server.paused -= 1;
                    if server.paused == 0 {
                        self.executor.go_on(Process::Server(id, server.start));
                        self.sim.schedule(now, Event::Turn { server: id, start: server.start });
                        self.clock_changed(id);
                    }
                }
                Relief::Drift(id) => {
                    self.servers[&id].clock.drift(now, 0);
                    self.clock_changed(id);
                }
                Relief::SlowDisk(id) => self.servers[&id].platter.lock().faults.slowness = 1,
                Relief::FullDisk(id) => self.servers[&id].platter.lock().faults.full = false,
            }
        }
    }

    fn pairs(&self) -> Vec<(u64, u64)> {
        let present = self.present();
        let all = present.iter().flat_map(|&a| present.iter().map(move |&b| (a, b)));
        all.filter(|(a, b)| a != b).collect()
    }

    fn links_of(&self, shape: &Shape) -> Vec<(u64, u64)> {
        let present = self.present();
        let pairs = self.pairs().into_iter();
        let place = |id: u64| present.iter().position(|other| *other == id).expect("present");
        let side = |bits: u64, id: u64| bits >> (place(id) % 64) & 1;
        let isolated = |id: u64, (a, b): (u64, u64)| a == id || b == id;
        match *shape {
            Shape::Isolated(server) => {
                let id = self.meant(server);
                pairs.filter(|pair| isolated(id, *pair)).collect()
            }
            Shape::Leader => match self.leader() {
                Some(id) => pairs.filter(|pair| isolated(id, *pair)).collect(),
                None => Vec::new(),
            },
            Shape::Mute(server) => {
                let id = self.meant(server);
                pairs.filter(|(from, _)| *from == id).collect()
            }
            Shape::Deaf(server) => {
                let id = self.meant(server);
                pairs.filter(|(_, to)| *to == id).collect()
            }
            Shape::DeafLeader => match self.leader() {
                Some(id) => pairs.filter(|(_, to)| *to == id).collect(),
                None => Vec::new(),
            },
            Shape::Halves(bits) => pairs.filter(|(a, b)| side(bits, *a) != side(bits, *b)).collect(),
            Shape::Bridge(server, bits) => {
                let id = self.meant(server);
                pairs.filter(|&(a, b)| a != id && b != id && side(bits, a) != side(bits, b)).collect()
            }
            Shape::Ring => {
                let size = present.len();
                let reach = size / 4 + usize::from(size >= 3) - usize::from(size > 7);
                let far = |a: u64, b: u64| {
                    let apart = place(a).abs_diff(place(b));
                    apart.min(size - apart) > reach.max(1)
                };
                if size == 3 {
                    // Everybody sees a majority: one pair of three is cut.
                    let (a, b) = (present[0], present[2]);
                    return vec![(a, b), (b, a)];
                }
                pairs.filter(|(a, b)| far(*a, *b)).collect()
            }
            Shape::OneWay(from, to) => {
                let (from, to) = (self.meant(from), self.meant(to));
                if from == to { Vec::new() } else { vec![(from, to)] }
            }
        }
    }

    /// A newcomer joins, is promoted, and another server leaves.
    fn replace(&mut self, leaves: u64) -> bool {
        if self.rotted > 0 || std::mem::replace(&mut *self.replacing.lock(), true) {
            return false;
        }
        let joins = self.next_server;
        self.next_server += 1;
        self.found(joins);
        let present = self.present();
        let members = present.into_iter().filter(|id| *id != joins).map(member).collect();
        self.servers.get_mut(&joins).expect("just founded").members = members;
        self.sim.schedule(self.sim.now(), Event::Join(joins));
        let (sim, directory) = (self.sim.clone(), Arc::clone(&self.directory));
        let (replacing, mut rng) = (Arc::clone(&self.replacing), self.rng.fork());
        let changes = [
            MemberChange::AddLearner(member(joins)),
            MemberChange::Promote(ServerId(joins)),
            MemberChange::Remove(ServerId(leaves)),
        ];
        self.sim.spawn(Process::World, async move {
            for (number, what) in changes.into_iter().enumerate() {
                // Until it is done: a change half made would only have to be made good by somebody else.
                loop {
                    sim.sleep(rng.u64(20 * MS..300 * MS)).await;
                    let nodes: Vec<_> = directory.lock().values().cloned().collect();
                    if nodes.is_empty() {
                        continue;
                    }
                    let node = nodes[rng.usize(..nodes.len())].clone();
                    let (reply, answer) = oneshot::channel();
                    node.ask(Ask::Change { what: what.clone(), reply });
                    let answer = within(&sim, 16 * SECOND, answer).await;
                    let made = match answer {
                        Some(Ok(Ok(_))) => true,
                        Some(Ok(Err(error))) => {
                            let why = error.to_string();
                            why.contains("is a member already")
                                || why.contains("is a voter already")
                                || (number == 2 && why.contains("is not a member"))
                        }
                        _ => false,
                    };
                    if made {
                        break;
                    }
                }
                sim.note("members", [number as u64, joins, leaves], || {
                    let done = ["added as a learner", "promoted", "in the place of another, which is removed"][number];
                    format!("server {joins} {done} ({leaves})")
                });
            }
            sim.schedule(sim.now() + 100 * MS, Event::Retire(leaves));
            *replacing.lock() = false;
        });
        true
    }
}
