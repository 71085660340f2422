//! Registers to which no value is written twice: O(n log n).
//!
//! Gibbons and Korach, "Testing shared memories", SIAM J. Computing 26(4), 1997, section 4: a write and the reads of its
//! value are a *cluster*. Let f be its first return and s its last call. If f < s the register held the value from f to
//! s: a forward zone. If not, the whole cluster can happen at any one moment from s to f: a backward zone. There is an
//! order exactly if no read returns before its write is called, no two forward zones overlap, and no backward zone
//! lies within a forward one.
//!
//! A write of unknown outcome that nobody read is left out: had it happened, it could only have been in the way.
//! One that was read happened, and never returned.

use std::collections::HashMap;

use crate::{Operation, Refutation, Value, Verdict, check::Part, shrink::name};

/// What an operation does to the register.
pub(crate) enum Access<'a> {
    /// Puts this value there.
    Write(&'a Value),
    /// Found this value there.
    Read(&'a Value),
}

/// Before all events.
const BEFORE: i64 = -1;
const NEVER: i64 = i64::MAX;

/// A write and its reads.
#[derive(Clone)]
struct Cluster {
    /// None: the initial value's, or not found.
    write: Option<u32>,
    written: bool,
    certain: bool,
    /// The first return, and whose.
    first_return: (i64, Option<u32>),
    /// The last call, and whose.
    last_call: (i64, Option<u32>),
    /// The read that returned first.
    first_read: (i64, Option<u32>),
}

impl Cluster {
    fn empty() -> Self {
        Self {
            write: None,
            written: false,
            certain: false,
            first_return: (NEVER, None),
            last_call: (BEFORE, None),
            first_read: (NEVER, None),
        }
    }

    fn add(&mut self, at: Option<u32>, called: i64, returned: i64) {
        self.first_return = self.first_return.min((returned, at));
        self.last_call = self.last_call.max((called, at));
    }
}

/// The verdict on a register; `None` if a value was written twice. The accesses are those of certain and unknown outcome
/// (`returned` is [`crate::history::NEVER`]), in the order of their calls.
pub(crate) fn verdict<'a>(
    part: &Part<'a>,
    init: &'a Value,
    accesses: impl Iterator<Item = (u32, &'a Operation, Access<'a>)>,
) -> Option<Verdict> {
    let mut by_value: HashMap<&Value, usize> = HashMap::from([(init, 0)]);
    let mut clusters = vec![Cluster { written: true, certain: true, ..Cluster::empty() }];
    clusters[0].add(None, BEFORE, BEFORE);
    for (at, operation, access) in accesses {
        let (Access::Write(value) | Access::Read(value)) = access;
        let cluster = *by_value.entry(value).or_insert_with(|| {
            clusters.push(Cluster::empty());
            clusters.len() - 1
        });
        let cluster = &mut clusters[cluster];
        let unknown = operation.returned == crate::history::NEVER;
        let (called, returned) = (operation.called.into(), if unknown { NEVER } else { operation.returned.into() });
        if let Access::Write(_) = access {
            if cluster.written {
                return None;
            }
            (cluster.write, cluster.written, cluster.certain) = (Some(at), true, !unknown);
        } else {
            cluster.first_read = cluster.first_read.min((returned, Some(at)));
        }
        cluster.add(Some(at), called, returned);
    }
    Some(match judge(part, &clusters) {
        None => Verdict::Linearizable,
        Some(refutation) => Verdict::NotLinearizable(Box::new(refutation)),
    })
}

fn judge(part: &Part<'_>, clusters: &[Cluster]) -> Option<Refutation> {
    let operation = |at: u32| &part.history.operations[at as usize];
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for cluster in clusters {
        if let (returned, Some(read)) = cluster.first_read {
            let called = match cluster.write {
                Some(write) => operation(write).called.into(),
                None => BEFORE,
            };
            let read_name = || name(part, operation(read));
            if !cluster.written {
                return Some(refutation(part, &[Some(read)], read, format!("{}: nobody wrote that", read_name())));
            }
            if called > returned {
                let write = cluster.write.map_or(String::new(), |write| name(part, operation(write)));
                let cause = format!("{} returned before {write} was called", read_name());
                return Some(refutation(part, &[cluster.write, Some(read)], read, cause));
            }
        } else if !cluster.certain {
            continue;
        }
        if cluster.first_return < cluster.last_call && cluster.first_return.0 < cluster.last_call.0 {
            forward.push(cluster);
        } else {
            backward.push(cluster);
        }
    }
    forward.sort_by_key(|cluster| cluster.first_return.0);
    let overlap = forward.windows(2).find(|pair| pair[1].first_return.0 < pair[0].last_call.0);
    if let Some([one, other]) = overlap {
        return Some(both_at_once(part, one, other));
    }
    backward.sort_by_key(|cluster| cluster.last_call.0);
    backward.iter().find_map(|inner| {
        let (from, until) = (inner.last_call.0, inner.first_return.0);
        // The initial value without reads was overwritten at once.
        let at = forward.partition_point(|outer| outer.first_return.0 < from).checked_sub(1)?;
        (until < forward[at].last_call.0 && until != BEFORE).then(|| overwritten(part, forward[at], inner))
    })
}

fn refutation(part: &Part<'_>, operations: &[Option<u32>], culprit: u32, cause: String) -> Refutation {
    let mut operations: Vec<u32> = operations.iter().flatten().copied().collect();
    operations.sort_unstable();
    operations.dedup();
    Refutation { key: part.key, operations, culprit, cause }
}

/// How a cluster's value is known to be there at its first return.
fn seen(part: &Part<'_>, at: Option<u32>) -> String {
    match at {
        Some(at) => format!("{} had returned", name(part, &part.history.operations[at as usize])),
        None => "the beginning".into(),
    }
}

/// The register held one value throughout, and yet all of another cluster happened meanwhile.
fn overwritten(part: &Part<'_>, outer: &Cluster, inner: &Cluster) -> Refutation {
    let operation = |at: u32| &part.history.operations[at as usize];
    let last = outer.last_call.1.expect("a forward zone ends with a read");
    let by = inner.write.or(inner.last_call.1).expect("only the initial cluster has neither");
    let cause = format!(
        "{} has no place: its value was overwritten by {}, which came after {} and before that call",
        name(part, operation(last)),
        name(part, operation(by)),
        seen(part, outer.first_return.1)
    );
    let operations =
        [outer.write, outer.first_return.1, outer.last_call.1, inner.write, inner.first_return.1, inner.last_call.1];
    refutation(part, &operations, last, cause)
}

/// The register held both values at one moment.
fn both_at_once(part: &Part<'_>, one: &Cluster, other: &Cluster) -> Refutation {
    let operation = |at: u32| &part.history.operations[at as usize];
    let last = |cluster: &Cluster| cluster.last_call.1.expect("a forward zone ends with a read");
    let (earlier, later) = if last(one) < last(other) { (one, other) } else { (other, one) };
    let cause = format!(
        "{} has no place: its value was there since {}, and so was that of {} since {}",
        name(part, operation(last(later))),
        seen(part, later.first_return.1),
        name(part, operation(last(earlier))),
        seen(part, earlier.first_return.1)
    );
    let operations =
        [one.write, one.first_return.1, one.last_call.1, other.write, other.first_return.1, other.last_call.1];
    refutation(part, &operations, last(later), cause)
}
