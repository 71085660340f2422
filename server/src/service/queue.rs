//! Queue watches: who waits for whom to leave.
//!
//! A watch fires once its node has fewer than `permits` blocking siblings before it. Watches of one parent with the
//! same `(permits, blocking)` form a group, ordered by sequence number; within it readiness is monotone: if a node
//! stands at the front, so do all with smaller numbers. So a deletion looks only at the lowest of each group, a release
//! wakes those who are next and nobody else, and leaving from the middle costs O(log n) and wakes nobody.

use std::collections::{BTreeSet, HashMap};

use conclave_faults::planted;
use conclave_proto::{NodePath, Revision};
use conclave_state::{Change, Machine, QueuePlace};

use super::index::parent;

/// Most different `(permits, blocking)` among the watches of one parent. The recipes need two.
pub const QUEUE_GROUPS_MAX: usize = 16;

/// A queue watch that has not fired. `T` is what its owner wants back.
#[derive(Debug)]
struct Pending<T> {
    path: NodePath,
    sequence: u64,
    /// The incarnation it belongs to.
    created: Revision,
    permits: u32,
    blocking: Box<str>,
    tag: T,
}

#[derive(Debug)]
struct Group {
    permits: u32,
    blocking: Box<str>,
    /// (sequence, key), so that several may watch one node.
    waiting: BTreeSet<(u64, u64)>,
}

/// All queue watches of a server.
#[derive(Debug)]
pub struct Queues<T> {
    pending: HashMap<u64, Pending<T>>,
    parents: HashMap<NodePath, Vec<Group>>,
    last_key: u64,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { pending: HashMap::new(), parents: HashMap::new(), last_key: 0 }
    }
}

/// What became of a watch that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opened {
    /// It waits under this key.
    Waiting(u64),
    /// At the front already; nothing is kept.
    Ready,
    /// No such sequential node.
    Gone,
    /// The parent has [`QUEUE_GROUPS_MAX`] kinds of watches.
    TooManyKinds,
}

/// What became of a watch that waited. It is no longer kept.
#[derive(Debug, Eq, PartialEq)]
pub enum Fired<T> {
    /// It stands at the front.
    Ready(T),
    /// Its node is gone.
    Gone(T),
}

impl<T> Queues<T> {
    /// Watches that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Evaluates a place in a queue and waits for it if need be.
    pub fn open(&mut self, machine: &Machine, path: &NodePath, permits: u32, blocking: &str, tag: T) -> Opened {
        match machine.queue_place(path, permits, blocking) {
            QueuePlace::Ready => return Opened::Ready,
            QueuePlace::Gone => return Opened::Gone,
            QueuePlace::Waiting => {}
        }
        let node = machine.get(path).expect("a node that waits exists");
        let sequence = node.sequence.expect("a node that waits is sequential");
        let above = path.parent().expect("a sequential node has a parent");
        let groups = self.parents.entry(above).or_default();
        let key = self.last_key + 1;
        match groups.iter().position(|group| group.permits == permits && *group.blocking == *blocking) {
            Some(at) => {
                groups[at].waiting.insert((sequence, key));
            }
            None if groups.len() >= QUEUE_GROUPS_MAX => return Opened::TooManyKinds,
            None => groups.push(Group { permits, blocking: blocking.into(), waiting: [(sequence, key)].into() }),
        }
        self.last_key = key;
        let created = node.create_revision;
        let pending = Pending { path: path.clone(), sequence, created, permits, blocking: blocking.into(), tag };
        self.pending.insert(key, pending);
        Opened::Waiting(key)
    }

    /// The waiter leaves. Wakes nobody.
    pub fn cancel(&mut self, key: u64) -> Option<T> {
        let pending = self.pending.remove(&key)?;
        let above = parent(pending.path.as_str()).expect("a sequential node has a parent");
        let groups = self.parents.get_mut(above).expect("a waiting watch has a group");
        let at = groups
            .iter()
            .position(|group| group.permits == pending.permits && group.blocking == pending.blocking)
            .expect("a waiting watch has a group");
        let was = groups[at].waiting.remove(&(pending.sequence, key));
        assert!(was, "a waiting watch is in its group");
        if groups[at].waiting.is_empty() {
            groups.swap_remove(at);
            if groups.is_empty() {
                self.parents.remove(above);
            }
        }
        if self.pending.is_empty() {
            *self = Self { last_key: self.last_key, ..Self::default() }; // a crowd that left leaves no memory behind
        }
        Some(pending.tag)
    }

    /// Watches that one revision's changes settle, in the order in which they should be told.
    pub fn settle(&mut self, machine: &Machine, changes: &[Change]) -> Vec<Fired<T>> {
        let mut fired = Vec::new();
        if self.pending.is_empty() {
            return fired;
        }
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for change in changes {
            let Some(sequence) = removed_sequence(change) else { continue };
            let above = parent(change.path.as_str()).expect("a sequential node has a parent");
            let Some(groups) = self.parents.get(above) else { continue };
            touched.insert(above);
            let gone: Vec<u64> = groups
                .iter()
                .flat_map(|group| group.waiting.range((sequence, 0)..=(sequence, u64::MAX)))
                .map(|&(_, key)| key)
                .filter(|key| self.pending[key].path == change.path)
                .collect();
            fired.extend(gone.into_iter().filter_map(|key| self.cancel(key)).map(Fired::Gone));
        }
        for above in touched {
            self.advance(machine, above, &mut fired);
        }
        fired
    }

    /// Looks at all watches anew, after the state was replaced.
    pub fn settle_all(&mut self, machine: &Machine) -> Vec<Fired<T>> {
        let mut gone: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| {
                machine.get(&pending.path).is_none_or(|node| {
                    node.create_revision != pending.created || node.sequence != Some(pending.sequence)
                })
            })
            .map(|(&key, _)| key)
            .collect();
        gone.sort_unstable();
        let mut fired: Vec<_> = gone.into_iter().filter_map(|key| self.cancel(key)).map(Fired::Gone).collect();
        let mut parents: Vec<NodePath> = self.parents.keys().cloned().collect();
        parents.sort_unstable();
        for above in parents {
            self.advance(machine, above.as_str(), &mut fired);
        }
        fired
    }

    /// Fires the lowest of each group of a parent while they stand at the front.
    fn advance(&mut self, machine: &Machine, above: &str, fired: &mut Vec<Fired<T>>) {
        let mut at = 0;
        while let Some(group) = self.parents.get(above).and_then(|groups| groups.get(at)) {
            let &(_, key) = group.waiting.first().expect("a group is never empty");
            match machine.queue_place(&self.pending[&key].path, group.permits, &group.blocking) {
                QueuePlace::Waiting if planted!(LostWakeUp) => drop(self.cancel(key)),
                QueuePlace::Waiting if planted!(WakesEverybody) => fired.extend(self.cancel(key).map(Fired::Ready)),
                QueuePlace::Waiting if planted!(MiddleLeaverGrants) => {
                    fired.extend(self.cancel(key).map(Fired::Ready));
                    at += 1;
                }
                QueuePlace::Waiting => at += 1,
                // If this was the group's last, another group may have taken its place: look at `at` again.
                QueuePlace::Ready => fired.extend(self.cancel(key).map(Fired::Ready)),
                QueuePlace::Gone => fired.extend(self.cancel(key).map(Fired::Gone)),
            }
        }
    }
}

/// The number of the sequential node that this change removed, if it did.
fn removed_sequence(change: &Change) -> Option<u64> {
    let before = change.before.as_ref()?;
    match &change.after {
        Some(after) if after.create_revision == before.create_revision => None,
        _ => before.sequence,
    }
}
