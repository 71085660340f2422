//! Changes by revision, and nodes as they were.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use conclave_proto::{NodePath, Revision};

use crate::{
    Change, Node, ReadError, RevisionChanges,
    machine::Writes,
    records::{Before, HistoryRecord, Key, digest, encode},
    tree::Tree,
};

/// Counted for each change beside its path and data, so that changes without data are bounded too.
const CHANGE_OVERHEAD_BYTES: u64 = 128;

/// One revision, and its record's share of the hash; 0 while it has not been written.
#[derive(Clone, Debug)]
struct Kept {
    changes: Arc<RevisionChanges>,
    bytes: u64,
    digest: u128,
}

/// The revisions after `compacted`, without gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    kept: VecDeque<Kept>,
    compacted: Revision,
    bytes: u64,
    /// What each node was before each revision that replaced it, oldest first. Of no node more than `kept` holds.
    past: BTreeMap<NodePath, VecDeque<(Revision, Option<Arc<Node>>)>>,
    /// The records there are: revisions after the first and up to the second.
    stored: (Revision, Revision),
    sum: u128,
}

fn weight(changes: &RevisionChanges) -> u64 {
    let data = |node: &Option<Arc<Node>>| node.as_ref().map_or(0, |node| node.data.len() as u64);
    changes
        .changes
        .iter()
        .map(|change| {
            CHANGE_OVERHEAD_BYTES + change.path.as_str().len() as u64 + data(&change.before) + data(&change.after)
        })
        .sum()
}

fn record(changes: &RevisionChanges) -> HistoryRecord {
    let before = |change: &Change| match (&change.before, &change.after) {
        (None, _) => Before::Absent,
        (Some(before), Some(after))
            if before.modify_revision == after.modify_revision && before.create_revision == after.create_revision =>
        {
            Before::SameData(Node { data: bytes::Bytes::new(), ..before.as_ref().clone() })
        }
        (Some(before), _) => Before::Node(before.as_ref().clone()),
    };
    HistoryRecord {
        at_ms: changes.at_ms,
        before: changes.changes.iter().map(|change| (change.path.clone(), before(change))).collect(),
    }
}

impl History {
    /// Nothing kept, everything up to here compacted: for restoring.
    pub(crate) fn compacted_to(revision: Revision) -> Self {
        Self { compacted: revision, stored: (revision, revision), ..Self::default() }
    }

    /// The newest revision.
    pub(crate) fn newest(&self) -> Revision {
        Revision(self.compacted.0 + self.kept.len() as u64)
    }

    pub(crate) fn oldest(&self) -> Revision {
        self.compacted.next()
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn len(&self) -> u64 {
        self.kept.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the revision after the newest.
    pub(crate) fn push(&mut self, changes: Arc<RevisionChanges>) {
        self.push_with(changes, 0);
    }

    /// From the records of every revision after `compacted`: after-images are the next before-images, or what lives.
    pub(crate) fn from_records(
        compacted: Revision,
        records: BTreeMap<Revision, (HistoryRecord, u128)>,
        tree: &Tree,
    ) -> Result<Self, String> {
        let mut next: BTreeMap<NodePath, Option<Arc<Node>>> = BTreeMap::new();
        let mut newest_first = Vec::with_capacity(records.len());
        for (revision, (HistoryRecord { at_ms, before }, digest)) in records.into_iter().rev() {
            let mut changes = Vec::with_capacity(before.len());
            for (path, before) in before {
                let after = next.remove(&path).unwrap_or_else(|| tree.get(&path).cloned());
                let before = match (before, &after) {
                    (Before::Absent, _) => None,
                    (Before::Node(node), _) => Some(Arc::new(node)),
                    (Before::SameData(node), Some(after)) => Some(Arc::new(Node { data: after.data.clone(), ..node })),
                    (Before::SameData(_), None) => {
                        return Err(format!("revision {revision} left {path} its data, but it is gone"));
                    }
                };
                next.insert(path.clone(), before.clone());
                changes.push(Change { path, before, after });
            }
            newest_first.push((Arc::new(RevisionChanges { revision, at_ms, changes }), digest));
        }
        let mut history = Self::compacted_to(compacted);
        for (changes, digest) in newest_first.into_iter().rev() {
            if changes.revision != history.newest().next() {
                return Err(format!("history has a gap before revision {}", changes.revision));
            }
            history.push_with(changes, digest);
            history.sum = history.sum.wrapping_add(digest);
        }
        history.stored.1 = history.newest();
        Ok(history)
    }

    fn push_with(&mut self, changes: Arc<RevisionChanges>, digest: u128) {
        assert_eq!(changes.revision, self.newest().next(), "history has no gaps");
        for change in &changes.changes {
            let entry = (changes.revision, change.before.clone());
            match self.past.get_mut(&change.path) {
                Some(past) => past.push_back(entry),
                None => drop(self.past.insert(change.path.clone(), VecDeque::from([entry]))),
            }
        }
        let bytes = weight(&changes);
        self.bytes += bytes;
        self.kept.push_back(Kept { changes, bytes, digest });
    }

    /// Forgets revisions up to and including `through`, which has been.
    pub(crate) fn compact(&mut self, through: Revision) {
        assert!(through <= self.newest(), "the future cannot be compacted");
        while self.compacted < through {
            self.compact_oldest();
        }
    }

    /// Forgets the oldest revisions until these bounds hold, but never the newest one.
    pub(crate) fn compact_to_bounds(&mut self, revisions_max: u64, bytes_max: u64) {
        while self.kept.len() > 1 && (self.len() > revisions_max || self.bytes > bytes_max) {
            self.compact_oldest();
        }
    }

    fn compact_oldest(&mut self) {
        let kept = self.kept.pop_front().expect("the caller has looked");
        self.compacted = self.compacted.next();
        assert_eq!(kept.changes.revision, self.compacted, "history has no gaps");
        self.bytes -= kept.bytes;
        self.sum = self.sum.wrapping_sub(kept.digest);
        for change in &kept.changes.changes {
            let past = self.past.get_mut(&change.path).expect("every change has its before-image");
            let (revision, _) = past.pop_front().expect("every change has its before-image");
            assert_eq!(revision, self.compacted, "before-images leave in the order they came");
            if past.is_empty() {
                self.past.remove(&change.path);
            }
        }
    }

    /// Whether a state of the past is known. Now always is.
    pub(crate) fn admit(&self, at: Revision) -> Result<(), ReadError> {
        if at > self.newest() {
            Err(ReadError::Future { asked: at, newest: self.newest() })
        } else if at < self.oldest() && at != self.newest() {
            Err(ReadError::Compacted { asked: at, oldest: self.oldest() })
        } else {
            Ok(())
        }
    }

    /// What the node was right after `at`, if a later revision replaced it; otherwise it is as it is now.
    pub(crate) fn before(&self, path: &NodePath, at: Revision) -> Option<&Option<Arc<Node>>> {
        let past = self.past.get(path)?;
        let next = past.partition_point(|(revision, _)| *revision <= at);
        past.get(next).map(|(_, node)| node)
    }

    /// Paths with a past, from `start` on, in order.
    pub(crate) fn paths<'a>(&'a self, start: std::ops::Bound<&'a str>) -> impl Iterator<Item = &'a NodePath> {
        self.past.range::<str, _>((start, std::ops::Bound::Unbounded)).map(|(path, _)| path)
    }

    /// Revisions from `from` on, oldest first.
    pub(crate) fn from(&self, from: Revision) -> Result<impl Iterator<Item = &Arc<RevisionChanges>>, ReadError> {
        if from < self.oldest() {
            return Err(ReadError::Compacted { asked: from, oldest: self.oldest() });
        }
        let skip = usize::try_from(from.0 - self.oldest().0).unwrap_or(usize::MAX).min(self.kept.len());
        Ok(self.kept.range(skip..).map(|kept| &kept.changes))
    }

    // ------------------------------------------------------------------------------------------ storing

    fn unsaved(&self) -> usize {
        usize::try_from(self.newest().0 - self.stored.1.0.max(self.compacted.0)).expect("it is in memory")
    }

    /// The sum as it would be if everything were saved now.
    pub(crate) fn sum(&self) -> u128 {
        self.kept.range(self.kept.len() - self.unsaved()..).fold(self.sum, |sum, kept| {
            let value = encode(&record(&kept.changes), Vec::with_capacity(256));
            sum.wrapping_add(digest(&Key::History(kept.changes.revision).encode(), &value))
        })
    }

    /// Appends what changed since the last time.
    pub(crate) fn save(&mut self, writes: &mut Writes) {
        for revision in self.stored.0.0 + 1..=self.stored.1.0.min(self.compacted.0) {
            writes.push((Key::History(Revision(revision)).encode(), None));
        }
        let unsaved = self.unsaved();
        let start = self.kept.len() - unsaved;
        for kept in self.kept.range_mut(start..) {
            let key = Key::History(kept.changes.revision).encode();
            let value = encode(&record(&kept.changes), Vec::with_capacity(256));
            kept.digest = digest(&key, &value);
            self.sum = self.sum.wrapping_add(kept.digest);
            writes.push((key, Some(value)));
        }
        self.stored = (self.compacted, self.newest());
    }

    /// Every invariant of history, given what lives.
    pub(crate) fn check<'a>(&self, now: impl Fn(&NodePath) -> Option<&'a Arc<Node>>) -> Result<(), String> {
        let mut again = Self::compacted_to(self.compacted);
        let mut last: BTreeMap<&NodePath, &Option<Arc<Node>>> = BTreeMap::new();
        for kept in &self.kept {
            let revision = kept.changes.revision;
            if revision != again.newest().next() {
                return Err(format!("history has a gap before revision {revision}"));
            }
            if kept.changes.changes.is_empty() {
                return Err(format!("revision {revision} changed nothing"));
            }
            if !kept.changes.changes.is_sorted_by(|a, b| a.path < b.path) {
                return Err(format!("changes of revision {revision} are not in path order"));
            }
            for change in &kept.changes.changes {
                if let Some(after) = last.insert(&change.path, &change.after)
                    && *after != change.before
                {
                    return Err(format!("revision {revision} replaced what {} was not", change.path));
                }
            }
            again.push(kept.changes.clone());
        }
        for (path, after) in last {
            if after.as_ref() != now(path) {
                return Err(format!("{path} is not what its last change made it"));
            }
        }
        if again.bytes != self.bytes || again.past != self.past {
            return Err("the past is not that of the changes".to_owned());
        }
        Ok(())
    }
}
