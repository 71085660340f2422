//! From a history that has no order to the few operations that show it.
//!
//! To drop a write would not do: what reads it would have no place either, and nothing be shown. So operations are not
//! dropped but *freed*: a freed one may take effect at any time, or never. A history that has no order
//! with some operations freed has none without that either. What is left when no further one can be freed is shown:
//! every one of them is needed.

use std::time::{Duration, Instant};

use crate::{
    Limits, Operation, Refutation,
    check::Part,
    model::Spec,
    search::{Budget, Dead, End, Entry, walk},
};

/// Most wall time spent on making one counterexample small.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Most wall time for one attempt.
const ATTEMPT_MAX: Duration = Duration::from_millis(1000);
/// Most bytes for one attempt.
const ATTEMPT_BYTES: u64 = 64 << 20;

/// A refutation of few operations.
pub(crate) fn refute<S: Spec>(
    spec: &S,
    part: &Part<'_>,
    entries: &[Entry<'_>],
    dead: &Dead,
    budget: &Budget,
) -> Refutation {
    // What was called after the return that has no place plays no part.
    let end = entries[dead.entry].returned;
    let culprit = entries[dead.entry].index;
    let entries: Vec<_> = entries.iter().filter(|entry| entry.called < end).copied().collect();
    let until = Instant::now() + TIME_MAX.min(budget.left() / 4);
    let (entries, dead) = shrink(spec, entries, dead.clone(), culprit, until);
    let operations: Vec<u32> = entries.iter().filter(|entry| !entry.is_free()).map(|entry| entry.index).collect();
    let shown: Vec<(u32, &Operation)> =
        operations.iter().map(|at| (*at, &part.history.operations[*at as usize])).collect();
    let operation = &part.history.operations[culprit as usize];
    let cause = spec.cause(part, &shown, operation).unwrap_or_else(|| usual_cause(part, operation, &dead));
    Refutation { key: part.key, operations, culprit, cause }
}

/// Frees as many entries as possible, first in great pieces, then one by one.
fn shrink<'a, S: Spec>(
    spec: &S,
    mut entries: Vec<Entry<'a>>,
    mut dead: Dead,
    culprit: u32,
    until: Instant,
) -> (Vec<Entry<'a>>, Dead) {
    // All but the culprit at first: what it saw may be impossible by itself.
    let mut piece = entries.len();
    loop {
        let mut changed = false;
        let mut from = 0;
        while from < entries.len() {
            if Instant::now() > until {
                return (entries, dead);
            }
            let to = (from + piece).min(entries.len());
            if entries[from..to].iter().all(|entry| entry.index == culprit || entry.is_free()) {
                from = to;
                continue;
            }
            let mut fewer = entries.clone();
            let mut any = false;
            for entry in fewer[from..to].iter_mut().filter(|entry| entry.index != culprit && !entry.is_free()) {
                entry.free();
                any = true;
            }
            // A freed read demands nothing and changes nothing.
            fewer.retain(|entry| !entry.is_free() || !spec.reads(entry.operation));
            if any {
                fewer.sort_by_key(|entry| entry.called);
                let limits = Limits { time: ATTEMPT_MAX, bytes: ATTEMPT_BYTES, threads: 1 };
                if let End::Dead(now) = walk(spec, &fewer, &Budget::new(&limits)) {
                    (entries, dead, changed) = (fewer, now, true);
                    // Freed ones have moved to the front.
                    continue;
                }
            }
            from = to;
        }
        if piece == 1 && !changed {
            return (entries, dead);
        }
        piece = piece.div_ceil(2);
    }
}

/// An operation as sentences name it.
pub(crate) fn name(part: &Part<'_>, operation: &Operation) -> String {
    let process = &part.history.processes[operation.process as usize];
    let value = if operation.result.is_null() { &operation.argument } else { &operation.result };
    let value = if value.is_null() { String::new() } else { format!(" {value}") };
    format!("{}{value} by process {process} (event {})", operation.function.name(), operation.called + 1)
}

fn usual_cause(part: &Part<'_>, operation: &Operation, dead: &Dead) -> String {
    let states = dead.states.join(" or ");
    format!("{} has no place: in every order of the others that fits, it finds {states}", name(part, operation))
}
