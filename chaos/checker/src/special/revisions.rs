//! Objects whose changes are numbered: the numbers are the only order there can be, and it is enough to see whether
//! it fits. O(n log n).
//!
//! In the order of revisions, and within one the change before the reads, every operation needs a moment after those of
//! all before it. There are such moments exactly if none returned before one that has to precede it was called.

use std::collections::{BTreeMap, HashMap};

use crate::{Operation, Refutation, Value, Verdict, check::Part, shrink::name};

/// An operation on a numbered object.
pub(crate) enum Access<'a> {
    /// Put this value there (null: removed it); its revision, where known.
    Change(&'a Value, Option<i64>),
    /// Found this value at this revision; none: nothing was ever there.
    Read(&'a Value, Option<i64>),
}

/// One revision.
#[derive(Default)]
struct Version<'a> {
    change: Option<u32>,
    value: Option<(&'a Value, u32)>,
    reads: Vec<u32>,
}

/// The verdict; `None` if a certain change has no number. The accesses are those of certain and unknown outcome, in the order
/// of their calls; all reads are certain.
pub(crate) fn verdict<'a>(
    part: &Part<'a>,
    accesses: impl Iterator<Item = (u32, &'a Operation, Access<'a>)>,
) -> Option<Verdict> {
    let bad = |operations: Vec<u32>, culprit, cause| {
        let mut operations = operations;
        operations.sort_unstable();
        operations.dedup();
        Some(Verdict::NotLinearizable(Box::new(Refutation { key: part.key, operations, culprit, cause })))
    };
    let named = |at: u32| name(part, &part.history.operations[at as usize]);
    let mut versions: BTreeMap<Option<i64>, Version<'a>> = BTreeMap::new();
    // Changes without a number, by value; the earliest call first.
    let mut unnumbered: HashMap<&Value, std::collections::VecDeque<u32>> = HashMap::new();
    for (at, operation, access) in accesses {
        let (Access::Change(value, revision) | Access::Read(value, revision)) = access;
        if let (Access::Change(..), None) = (&access, revision) {
            if operation.returned != crate::history::NEVER {
                return None;
            }
            unnumbered.entry(value).or_default().push_back(at);
            continue;
        }
        let version = versions.entry(revision).or_default();
        if let (Access::Change(..), Some(other)) = (&access, version.change) {
            return bad(vec![other, at], at, format!("{} has the revision of {}", named(at), named(other)));
        }
        match version.value {
            Some((known, other)) if known != value => {
                return bad(vec![other, at], at, format!("{} contradicts {}", named(at), named(other)));
            }
            _ => version.value = Some((value, at)),
        }
        match access {
            Access::Change(..) => version.change = Some(at),
            Access::Read(..) => version.reads.push(at),
        }
    }
    // The order of all: revisions ascending, the change first. The latest call so far, and whose.
    let mut latest: Option<(u32, u32)> = None;
    // Changes without a number, and a read of each.
    let mut seen_by: HashMap<u32, u32> = HashMap::new();
    for (revision, version) in &versions {
        let change = match (version.change, revision, version.value) {
            // It must be one of the changes without a number. They never return, so the one called first suits best.
            (None, Some(_), Some((value, at))) => match unnumbered.get_mut(value).and_then(|of| of.pop_front()) {
                Some(change) => {
                    seen_by.insert(change, at);
                    Some(change)
                }
                None => {
                    let mut all = vec![at];
                    all.extend(versions.values().filter_map(|version| version.change));
                    all.truncate(8);
                    return bad(all, at, format!("{}: nobody put that", named(at)));
                }
            },
            (change, ..) => change,
        };
        let operation = |at: u32| &part.history.operations[at as usize];
        let mut within = latest;
        for (group, ats) in [change.as_slice(), &version.reads].into_iter().enumerate() {
            for at in ats {
                let now = operation(*at);
                if let Some((_, other)) = within.filter(|(called, _)| now.returned < *called) {
                    if change == Some(other) && group == 1 {
                        let cause = format!("{} returned before {} was called", named(*at), named(other));
                        return bad(vec![*at, other], *at, cause);
                    }
                    // Both are shown with the changes that they name.
                    let change_of = |of: u32| {
                        versions.values().find(|version| version.reads.contains(&of)).and_then(|version| version.change)
                    };
                    let mut operations = vec![*at, other];
                    operations.extend(change_of(*at).or(change));
                    operations.extend(change_of(other));
                    // And those without a number with what saw them.
                    let shown = operations.clone();
                    operations.extend(shown.iter().filter_map(|at| seen_by.get(at)));
                    operations.extend(version.reads.first().filter(|_| version.change.is_none()));
                    let cause = format!(
                        "{} has no place: {} has a later revision and had returned before that call",
                        named(other),
                        named(*at)
                    );
                    return bad(operations, other, cause);
                }
            }
            let calls = ats.iter().map(|at| (operation(*at).called, *at)).max();
            if group == 0 {
                within = within.max(calls);
            }
            latest = latest.max(calls);
        }
    }
    Some(Verdict::Linearizable)
}
