//! Objects whose changes are numbered: the numbers are the only order there can be, and it is enough to see whether
//! it fits. O(n log n).
//!
//! * Revisions in their order, each with its change before its reads, are a chain ([`chain`]): there are moments for all
//!   exactly if none returned before one that has to precede it was called.
//! * What found nothing fits between a deletion and the next put ([`absence`]).
//! * Changes of unknown outcome have no number. A read tells that of some; others are assumed where something shows that
//!   there must have been one ([`hidden`]). What they leave open, the search decides.

mod absence;
mod chain;
mod hidden;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use self::chain::Fit;
use crate::{Operation, Refutation, Value, Verdict, check::Part, history::NEVER, shrink::name};

/// An operation on a numbered object.
pub(crate) enum Access<'a> {
    /// Put this value there; its revision, where known.
    Put(&'a Value, Option<i64>),
    /// Removed what was there; the revision of that, where known.
    Delete(Option<i64>),
    /// Found this value at this revision.
    Read(&'a Value, i64),
    /// Found nothing; or it may be itself what removed something.
    Nothing {
        /// It may.
        removed: bool,
    },
}

static NOTHING: Value = Value::Null;

/// What was there from one change to the next.
#[derive(Clone, Debug)]
struct Version<'a> {
    /// Null: nothing.
    value: &'a Value,
    /// None: the beginning.
    change: Option<u32>,
    /// The change says that there was something to remove.
    removes: bool,
    /// Indexes into [`Versions::reads`].
    reads: std::ops::Range<u32>,
    /// How many changes without a known number there may have been before the next one with one.
    room: u64,
}

/// All, in their order. The first is the beginning, when there was nothing.
#[derive(Debug, Default)]
struct Versions<'a> {
    all: Vec<Version<'a>>,
    reads: Vec<u32>,
}

/// Changes of unknown outcome, in the order of their calls.
#[derive(Debug, Default)]
struct Hidden<'a> {
    /// Puts whose revision no read told.
    puts: VecDeque<(u32, &'a Value)>,
    /// How many puts there are in all, and when the first was called.
    puts_all: usize,
    first_put: u32,
    deletes: Vec<u32>,
}

/// Found nothing: the operation, and whether it may be itself what removed something.
#[derive(Clone, Copy, Debug)]
struct Nothing {
    at: u32,
    removed: bool,
}

/// Operations that have no order by themselves, the one of them without a place, and why.
struct Bad(Vec<u32>, u32, String);

/// A change or a read with its revision.
struct Fact<'a> {
    revision: i64,
    /// Changes first.
    read: bool,
    at: u32,
    value: &'a Value,
    removes: bool,
}

/// Why there is no verdict yet.
enum Stop {
    Bad(Bad),
    /// The search has to say.
    Open,
}

impl From<Bad> for Stop {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

/// The verdict; `None` if revisions do not decide. The accesses are those of certain and unknown outcome, in the order
/// of their calls; all that are no changes are certain.
pub(crate) fn verdict<'a>(
    part: &Part<'a>,
    accesses: impl Iterator<Item = (u32, &'a Operation, Access<'a>)>,
) -> Option<Verdict> {
    match judge(part, accesses) {
        Ok(()) => Some(Verdict::Linearizable),
        Err(Stop::Open) => None,
        Err(Stop::Bad(Bad(mut operations, culprit, cause))) => {
            operations.sort_unstable();
            operations.dedup();
            Some(Verdict::NotLinearizable(Box::new(Refutation { key: part.key, operations, culprit, cause })))
        }
    }
}

fn judge<'a>(part: &Part<'a>, accesses: impl Iterator<Item = (u32, &'a Operation, Access<'a>)>) -> Result<(), Stop> {
    let mut facts = Vec::new();
    let mut nothings = Vec::new();
    let mut hidden = Hidden { first_put: NEVER, ..Hidden::default() };
    for (at, operation, access) in accesses {
        let unknown = operation.returned == NEVER;
        let (revision, read, value, removes) = match access {
            Access::Put(value, Some(revision)) => (revision, false, value, false),
            Access::Delete(Some(revision)) => (revision, false, &NOTHING, true),
            Access::Read(value, revision) => (revision, true, value, false),
            Access::Put(value, None) if unknown && !value.is_null() => {
                hidden.first_put = hidden.first_put.min(operation.called);
                hidden.puts.push_back((at, value));
                continue;
            }
            Access::Put(_, None) | Access::Delete(None) if unknown => {
                hidden.deletes.push(at);
                continue;
            }
            Access::Put(_, None) | Access::Delete(None) => return Err(Stop::Open),
            Access::Nothing { removed } => {
                nothings.push(Nothing { at, removed });
                continue;
            }
        };
        if read && value.is_null() {
            let cause = format!("{}: nothing has no revision", name(part, operation));
            return Err(Bad(vec![at], at, cause).into());
        }
        facts.push(Fact { revision, read, at, value, removes });
    }
    hidden.puts_all = hidden.puts.len();
    facts.sort_unstable_by_key(|fact| (fact.revision, fact.read, fact.at));
    let versions = versions(part, &facts, &mut hidden)?;
    drop(facts);
    let fit = chain::fit(part, &versions)?;
    let assumed = hidden::puts(part, &versions, &fit, &mut hidden)?;
    let sure = assumed.is_none();
    let (versions, fit) = match assumed {
        Some(versions) => {
            let fit = chain::fit(part, &versions).map_err(|_| Stop::Open)?;
            (versions, fit)
        }
        None => (versions, fit),
    };
    let homeless = absence::homeless(part, &versions, &fit, &nothings);
    if homeless.is_empty() {
        return Ok(());
    }
    if sure
        && let Some(nothing) =
            homeless.iter().find(|nothing| !hidden::may_explain(part, &versions, &fit, &hidden, **nothing, &nothings))
    {
        return Err(absence::bad(part, &versions, &fit, nothing.at).into());
    }
    let versions = hidden::deletes(part, &versions, &fit, &hidden, &homeless).ok_or(Stop::Open)?;
    let own: std::collections::HashSet<u32> = versions.all.iter().filter_map(|version| version.change).collect();
    nothings.retain(|nothing| !own.contains(&nothing.at));
    let fit = chain::fit(part, &versions).map_err(|_| Stop::Open)?;
    if absence::homeless(part, &versions, &fit, &nothings).is_empty() { Ok(()) } else { Err(Stop::Open) }
}

/// Revisions in their order. Those of which only reads tell get a put of unknown outcome of the same value. None of
/// these ever returns, so the one called first suits best.
fn versions<'a>(part: &Part<'a>, facts: &[Fact<'a>], hidden: &mut Hidden<'a>) -> Result<Versions<'a>, Bad> {
    let named = |at: u32| name(part, &part.history.operations[at as usize]);
    let mut by_value: HashMap<&Value, VecDeque<u32>> = HashMap::new();
    for (at, value) in &hidden.puts {
        by_value.entry(*value).or_default().push_back(*at);
    }
    let mut used = std::collections::HashSet::new();
    let beginning = Version { value: &NOTHING, change: None, removes: false, reads: 0..0, room: u64::MAX };
    let mut versions = Versions { all: vec![beginning], reads: Vec::new() };
    let mut before: Option<i64> = None;
    for group in facts.chunk_by(|one, other| one.revision == other.revision) {
        let first = &group[0];
        if let [one, other, ..] = group
            && !other.read
        {
            let (one, other) = (one.at.min(other.at), one.at.max(other.at));
            let cause = format!("{} has the revision of {}", named(other), named(one));
            return Err(Bad(vec![one, other], other, cause));
        }
        if let Some(other) = group.iter().find(|fact| fact.value != first.value) {
            let cause = format!("{} contradicts {}", named(other.at), named(first.at));
            return Err(Bad(vec![first.at, other.at], other.at, cause));
        }
        let change = if first.read {
            let Some(put) = by_value.get_mut(first.value).and_then(VecDeque::pop_front) else {
                return Err(nobody(part, &versions, hidden, facts, first));
            };
            used.insert(put);
            put
        } else {
            first.at
        };
        if let (Some(before), Some(last)) = (before, versions.all.last_mut()) {
            last.room = first.revision.abs_diff(before) - 1;
        }
        before = Some(first.revision);
        let from = versions.reads.len() as u32;
        versions.reads.extend(group.iter().filter(|fact| fact.read).map(|fact| fact.at));
        let reads = from..versions.reads.len() as u32;
        let (value, removes) = (first.value, first.removes);
        versions.all.push(Version { value, change: Some(change), removes, reads, room: u64::MAX });
    }
    hidden.puts.retain(|(at, _)| !used.contains(at));
    Ok(versions)
}

/// A value was read at a revision that is nobody's.
fn nobody(part: &Part<'_>, versions: &Versions<'_>, hidden: &Hidden<'_>, facts: &[Fact<'_>], read: &Fact<'_>) -> Bad {
    let named = |at: u32| name(part, &part.history.operations[at as usize]);
    let elsewhere = facts.iter().find(|fact| !fact.read && fact.value == read.value);
    let puts: Vec<u32> = hidden.puts.iter().filter(|(_, value)| *value == read.value).map(|(at, _)| *at).collect();
    if puts.is_empty() {
        let cause = match elsewhere {
            Some(put) => format!("{}: that value had another revision: {}", named(read.at), named(put.at)),
            None => format!("{}: nobody put that", named(read.at)),
        };
        return Bad([read.at].into_iter().chain(elsewhere.map(|put| put.at)).collect(), read.at, cause);
    }
    // All puts of unknown outcome are needed for smaller revisions.
    let of = |version: &Version<'_>| version.change.is_some_and(|change| puts.contains(&change));
    let told = versions.all.iter().filter(|version| of(version));
    let mut operations = puts.clone();
    operations.extend(told.map(|version| versions.reads[version.reads.start as usize]));
    operations.push(read.at);
    let cause = format!("{}: nobody put that once more, after {}", named(read.at), named(puts[puts.len() - 1]));
    Bad(operations, read.at, cause)
}

impl Versions<'_> {
    fn reads(&self, version: &Version<'_>) -> &[u32] {
        &self.reads[version.reads.start as usize..version.reads.end as usize]
    }

    /// The version that an operation belongs to.
    fn of(&self, at: u32) -> Option<usize> {
        self.all.iter().position(|version| version.change == Some(at) || self.reads(version).contains(&at))
    }

    /// An operation with what it takes to understand it: the change that it read, and a put before what it removed.
    fn with_change(&self, part: &Part<'_>, at: u32, into: &mut Vec<u32>) {
        into.push(at);
        let Some(of) = self.of(at) else { return };
        self.told(part, of, into);
        if self.all[of].removes
            && let Some(put) = self.all[..of].iter().rposition(|version| !version.value.is_null())
        {
            self.told(part, put, into);
        }
    }

    /// The change of a version; if it did not tell its revision, with a read that does.
    fn told(&self, part: &Part<'_>, of: usize, into: &mut Vec<u32>) {
        let version = &self.all[of];
        let Some(change) = version.change else { return };
        into.push(change);
        if operation(part, change).returned == NEVER {
            into.extend(self.reads(version).first());
        }
    }
}

fn operation<'a>(part: &Part<'a>, at: u32) -> &'a Operation {
    &part.history.operations[at as usize]
}
