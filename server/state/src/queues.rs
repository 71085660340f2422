//! Sequential nodes in the order of their numbers. Derived from the tree; asked by queue watches.
//!
//! A parent's numbers are unique over all prefixes, so a number names a child. Names do not order like numbers once
//! these have more digits, nor do siblings with different prefixes: hence an index of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use conclave_faults::planted;
use conclave_proto::{NodePath, SEQUENCE_DIGITS};

/// Every parent with sequential children.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Queues {
    by_parent: BTreeMap<NodePath, Queue>,
    /// Sequential children of all of them.
    entries: u64,
}

/// One parent's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Queue {
    all: BTreeMap<u64, NodePath>,
    by_prefix: BTreeMap<Box<str>, BTreeSet<u64>>,
}

/// A sequential child's name without its number.
fn prefix(path: &NodePath, sequence: u64) -> &str {
    let digits = (sequence.checked_ilog10().unwrap_or(0) as usize + 1).max(SEQUENCE_DIGITS);
    let name = path.name();
    &name[..name.len() - digits]
}

impl Queues {
    pub(crate) fn insert(&mut self, parent: &NodePath, path: &NodePath, sequence: u64) {
        let queue = match self.by_parent.get_mut(parent.as_str()) {
            Some(queue) => queue,
            None => self.by_parent.entry(parent.clone()).or_default(),
        };
        let prefix = prefix(path, sequence);
        match queue.by_prefix.get_mut(prefix) {
            Some(numbers) => numbers.insert(sequence),
            None => queue.by_prefix.entry(prefix.into()).or_default().insert(sequence),
        };
        let other = queue.all.insert(sequence, path.clone());
        assert!(other.is_none(), "sequence number {sequence} given twice: {path}");
        self.entries += 1;
    }

    pub(crate) fn remove(&mut self, parent: &NodePath, path: &NodePath, sequence: u64) {
        let queue = self.by_parent.get_mut(parent.as_str()).expect("a sequential node is in its parent's queue");
        queue.all.remove(&sequence).expect("a sequential node is in its parent's queue");
        let prefix = prefix(path, sequence);
        let numbers = queue.by_prefix.get_mut(prefix).expect("and among those of its prefix");
        numbers.remove(&sequence);
        if numbers.is_empty() {
            queue.by_prefix.remove(prefix);
        }
        self.entries -= 1;
        if queue.all.is_empty() {
            self.by_parent.remove(parent.as_str());
        }
    }

    /// Parents, and children of all of them.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        (self.by_parent.len() as u64, self.entries)
    }

    /// True if fewer than `permits` siblings with a number below `sequence` have a name that, without its number,
    /// begins with `blocking`.
    pub(crate) fn is_ready(&self, parent: &NodePath, sequence: u64, permits: u32, blocking: &str) -> bool {
        let permits = permits as usize + usize::from(planted!(PermitTooMany));
        let Some(queue) = self.by_parent.get(parent.as_str()) else { return permits > 0 };
        if blocking.is_empty() {
            return queue.all.range(..sequence).take(permits).count() < permits;
        }
        if planted!(ReadersPassWriters) {
            return true;
        }
        let mut before = 0;
        let from = (Bound::Included(blocking), Bound::Unbounded);
        for (_, numbers) in queue.by_prefix.range::<str, _>(from).take_while(|(prefix, _)| prefix.starts_with(blocking))
        {
            before += numbers.range(..sequence).take(permits - before).count();
            if before >= permits {
                return false;
            }
        }
        before < permits
    }

    /// Queues at or below `prefix`, after `after`, in path order; each with its children in the order of their numbers.
    pub(crate) fn range<'a>(
        &'a self,
        prefix: &'a NodePath,
        after: Option<&'a NodePath>,
    ) -> impl Iterator<Item = (&'a NodePath, impl Iterator<Item = &'a NodePath>)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.by_parent
            .range::<NodePath, _>((start, Bound::Unbounded))
            .take_while(|(path, _)| path.as_str().starts_with(prefix.as_str()))
            .filter(move |(path, _)| *path == prefix || path.is_below(prefix))
            .map(|(path, queue)| (path, queue.all.values()))
    }
}
