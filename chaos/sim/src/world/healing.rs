//! The second half of a run: everything is healed for good, and the cluster has to come back.

use std::collections::BTreeMap;

use conclave_proto::NodePath;
use tokio::sync::oneshot;

use super::World;
use crate::{
    bare::lock_path,
    exec::Process,
    finale,
    oracle::{End, Seen},
    plan::Act,
    profile::{LEAD_WITHIN, SILENCE_SLACK, TTL_MS_MAX},
    time::{MS, Micros, SECOND},
};

/// Clients of the library get what they wait for within this.
const SETTLE: Micros = 13 * SECOND;

impl World {
    /// All faults end, all servers come back but those whose disk is damaged.
    pub(super) fn heal(&mut self) {
        let now = self.sim.now();
        // A sync that has begun on a stuck disk returns when it does.
        let busy = self.servers.values().filter_map(|server| server.node.as_ref()).map(|node| node.busy_until).max();
        self.healed = Some(busy.unwrap_or(now).max(now));
        self.sim.note("healed", [0; 3], String::new);
        let numbers: Vec<usize> = self.holding.keys().copied().collect();
        for number in numbers {
            self.relieve(number);
        }
        for id in self.present() {
            let server = self.servers.get_mut(&id).expect("present");
            server.clock.set_wall(0);
            server.cut = None;
            server.down_for = 300 * MS;
            if let Some(node) = &server.node {
                node.handle().life.spare();
            }
            let rotted = server.rotted;
            server.platter.lock().faults = crate::disk::Faults::default();
            if !rotted {
                self.start(id);
            }
        }
        self.library.heal();
        // Whoever still had a session falls silent; what it held has to come free.
        for client in &self.clients {
            let _ = client.send((1, Act::Vanish));
        }
    }

    /// Waits for the cluster, asks for every lock, and judges.
    pub(super) fn recover(&mut self) {
        let healed = self.healed.expect("healed");
        self.until(healed + 3 * LEAD_WITHIN, |world| world.led.is_some());
        let took = self.led.unwrap_or(self.sim.now()).saturating_sub(healed);
        self.summary.led_after_max = self.summary.led_after_max.max(took);
        self.summary.led_late += u64::from(took > 2 * SECOND);
        // Those who use the library let go, and all who wait get their turn.
        if self.led.is_some() && self.profile.sessions > 0 {
            let whole = self.sim.now();
            self.library.quiet();
            self.until(whole + SETTLE, |_| false);
            self.library.settle();
            self.see(&Seen::Settled { whole });
            self.library.leave();
        }
        // Sessions end by themselves; requests under way find their answers or give up.
        let patience = (TTL_MS_MAX * MS).max(6 * SECOND) + 2 * SILENCE_SLACK;
        let end = self.sim.now() + patience;
        self.until(end, |world| world.is_quiet());
        let locks: Vec<NodePath> = (0..4).map(lock_path).collect();
        let (sender, mut receiver) = oneshot::channel();
        let around = self.around.clone();
        self.sim.spawn(Process::World, async move {
            let _ = sender.send(finale::obtain(around, locks).await);
        });
        let mut obtained = None;
        let end = self.sim.now() + 20 * SECOND;
        self.until(end, |_| {
            obtained = obtained.take().or_else(|| receiver.try_recv().ok());
            obtained.is_some()
        });
        let end = self.sim.now() + 10 * SECOND;
        self.until(end, |world| world.agree());
        if !self.is_broken() {
            self.judge(&obtained.unwrap_or_else(|| vec![("a lock".to_owned(), false)]));
        }
    }

    /// Servers that should be of one mind: the members that can be back.
    fn healthy(&self) -> Vec<u64> {
        let leader = self.leader().and_then(|id| self.servers[&id].node.as_ref());
        let Some(leader) = leader else { return self.present() };
        let members = leader.handle().status.borrow().members.clone();
        let back = |id: &u64| self.servers.get(id).is_some_and(|server| !server.rotted && !server.retired);
        members.iter().map(|member| member.id.0).filter(back).collect()
    }

    /// The leader knows of no session any more.
    fn is_quiet(&self) -> bool {
        let leader = self.leader().and_then(|id| self.servers[&id].node.as_ref());
        leader.is_some_and(|leader| leader.handle().machine.read().counts().sessions == 0) && !*self.replacing.lock()
    }

    fn agree(&self) -> bool {
        let newest = self.oracles.lock().newest();
        self.healthy().iter().all(|id| {
            let node = self.servers[id].node.as_ref();
            node.is_some_and(|node| node.handle().machine.read().applied().0 == newest)
        })
    }

    fn judge(&mut self, obtained: &[(String, bool)]) {
        let healthy = self.healthy();
        let states: BTreeMap<u64, _> = healthy
            .iter()
            .filter_map(|id| self.servers[id].node.as_ref().map(|node| (*id, node.handle().machine.clone())))
            .collect();
        for id in healthy.iter().filter(|id| !states.contains_key(id)) {
            let damaged = self.servers[id].platter.lock().is_damaged();
            if !damaged {
                self.oracles.lock().broken("I15", self.sim.now(), format!("server {id} did not come back"));
            }
        }
        let guards: BTreeMap<u64, _> = states.iter().map(|(id, machine)| (*id, machine.read())).collect();
        let machines = guards.iter().map(|(id, machine)| (*id, &**machine)).collect();
        let mut oracles = self.oracles.lock();
        let end = End {
            healed: self.healed.expect("healed"),
            led: self.led,
            lead_within: LEAD_WITHIN,
            canon: oracles.newest(),
            machines: &machines,
            obtained,
            drift_ppm: self.profile.drift_ppm,
            silence_slack: SILENCE_SLACK,
        };
        oracles.finish(self.sim.now(), &end);
        drop(oracles);
        for (id, machine) in &guards {
            if let Err(why) = machine.check() {
                self.oracles.lock().broken("state", self.sim.now(), format!("server {id}: {why}"));
            }
        }
    }
}
