//! What becomes due with time beside sessions: empty containers, unchanged TTL nodes, old history, changed limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_proto::{NodePath, Revision, Term};
use conclave_state::{Applied, Command, Kind, Machine, Node};

use super::{Options, PROPOSE_AGAIN_MS};

/// Most nodes removed by one command.
const REAP_NODES_MAX: usize = 512;
/// History is forgotten in this many steps per `history_age_ms`: so much longer it may live.
const AGE_STEPS: u64 = 64;
/// No more often than this.
const AGE_STEP_MS_MIN: u64 = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Chores {
    options: Options,
    term: Term,
    /// Mortal nodes, and when each is due.
    due: BTreeMap<NodePath, u64>,
    /// The same by time.
    timers: BTreeSet<(u64, NodePath)>,
    /// The newest revision at certain times, oldest first.
    ages: VecDeque<(u64, Revision)>,
    configured: Option<u64>,
}

impl Chores {
    pub(super) fn new(options: Options, term: Term, now: u64, machine: &Machine) -> Self {
        let mut chores = Self {
            options,
            term,
            due: BTreeMap::new(),
            timers: BTreeSet::new(),
            ages: VecDeque::from([(now, machine.revision())]),
            configured: None,
        };
        for (path, node) in machine.mortal() {
            chores.watch(path, now.saturating_add(chores.grace_ms(node)));
        }
        chores
    }

    fn grace_ms(&self, node: &Node) -> u64 {
        match node.kind {
            Kind::Ttl { ttl_ms } => ttl_ms,
            Kind::Persistent | Kind::Ephemeral | Kind::Container => self.options.container_grace_ms,
        }
    }

    fn watch(&mut self, path: &NodePath, due: u64) {
        if let Some(before) = self.due.insert(path.clone(), due) {
            self.timers.remove(&(before, path.clone()));
        }
        self.timers.insert((due, path.clone()));
    }

    fn forget(&mut self, path: &NodePath) {
        if let Some(due) = self.due.remove(path) {
            self.timers.remove(&(due, path.clone()));
        }
    }

    pub(super) fn on_applied(&mut self, now: u64, applied: &Applied) {
        for change in applied.changes.iter().flat_map(|changes| &changes.changes) {
            match &change.after {
                Some(after) if after.is_mortal() => self.watch(&change.path, now.saturating_add(self.grace_ms(after))),
                _ if change.before.as_ref().is_some_and(|before| before.is_mortal()) => self.forget(&change.path),
                _ => {}
            }
        }
    }

    pub(super) fn tick(&mut self, now: u64, machine: &Machine, commands: &mut Vec<Command>) {
        self.reap(now, machine, commands);
        self.compact(now, machine, commands);
        if *machine.limits() != self.options.limits && self.configured.is_none_or(|last| now >= last + PROPOSE_AGAIN_MS)
        {
            self.configured = Some(now);
            commands.push(Command::Configure { term: self.term, limits: self.options.limits.clone() });
        }
    }

    fn reap(&mut self, now: u64, machine: &Machine, commands: &mut Vec<Command>) {
        let mut nodes = Vec::new();
        while let Some((due, path)) = self.timers.first().cloned()
            && due <= now
        {
            match machine.get(&path) {
                Some(node) if node.is_mortal() => {
                    nodes.push((path.clone(), node.modify_revision, node.children_revision));
                    self.watch(&path, now + PROPOSE_AGAIN_MS);
                }
                _ => self.forget(&path),
            }
        }
        for nodes in nodes.chunks(REAP_NODES_MAX) {
            commands.push(Command::Reap { term: self.term, nodes: nodes.to_vec() });
        }
    }

    fn compact(&mut self, now: u64, machine: &Machine, commands: &mut Vec<Command>) {
        let age_ms = self.options.history_age_ms;
        if age_ms == 0 {
            return;
        }
        let (last, seen) = self.ages.back().copied().unwrap_or((now, Revision(0)));
        if now >= last + (age_ms / AGE_STEPS).max(AGE_STEP_MS_MIN) && machine.revision() != seen {
            self.ages.push_back((now, machine.revision()));
        }
        let mut through = None;
        while let Some(&(at, revision)) = self.ages.front()
            && now >= at.saturating_add(age_ms)
        {
            through = Some(revision);
            self.ages.pop_front();
        }
        if let Some(through) = through
            && through >= machine.oldest_revision()
        {
            commands.push(Command::Compact { term: self.term, through });
        }
    }
}
