//! From a history that has no order to the few operations that show it.
//!
//! To drop a write would not do: what reads it would have no place either, and nothing be shown. So operations are not
//! dropped but *freed*: a freed one may take effect at any time, or never. A history that has no order
//! with some operations freed has none without that either. What is left when no further one can be freed is shown:
//! every one of them is needed.
//!
//! Before that, whole pieces of the object are left out where they are independent of the rest.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

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
    let found = Found { entries, dead: dead.clone() };
    let fewer = leave_out(spec, found, culprit, until);
    let found = match &fewer.0 {
        Some(spec) => shrink(spec, fewer.1, culprit, until),
        None => shrink(spec, fewer.1, culprit, until),
    };
    let Found { entries, dead } = found;
    let operations: Vec<u32> = entries.iter().filter(|entry| !entry.is_free()).map(|entry| entry.index).collect();
    let shown: Vec<(u32, &Operation)> =
        operations.iter().map(|at| (*at, &part.history.operations[*at as usize])).collect();
    let operation = &part.history.operations[culprit as usize];
    let spec = fewer.0.as_ref().unwrap_or(spec);
    let cause = spec.cause(part, &shown, operation, &dead.states);
    let cause = cause.unwrap_or_else(|| usual_cause(part, operation, &dead));
    Refutation { key: part.key, operations, culprit, cause }
}

/// Entries that have no order, in the order of their calls, and where they end.
#[derive(Clone)]
struct Found<'a> {
    entries: Vec<Entry<'a>>,
    dead: Dead,
}

/// Whether the entries still have no order, with where they end then.
fn attempt<'a, S: Spec>(spec: &S, entries: Vec<Entry<'a>>) -> Option<Found<'a>> {
    let limits = Limits { time: ATTEMPT_MAX, bytes: ATTEMPT_BYTES, threads: 1 };
    match walk(spec, &entries, &Budget::new(&limits)) {
        End::Dead(dead) => Some(Found { entries, dead }),
        End::Fits | End::Limit(_) => None,
    }
}

/// Leaves out as many pieces of the object as possible ([`Spec::pieces`]), first in great parts, then one by one.
fn leave_out<'a, S: Spec>(spec: &S, found: Found<'a>, culprit: u32, until: Instant) -> (Option<S>, Found<'a>) {
    // What only demands is in the way of leaving things out.
    let quiet: Vec<_> =
        found.entries.iter().filter(|entry| entry.index == culprit || !spec.reads(entry.operation)).copied().collect();
    let mut found = if quiet.len() < found.entries.len() { attempt(spec, quiet).unwrap_or(found) } else { found };
    let operations: Vec<&Operation> = found.entries.iter().map(|entry| entry.operation).collect();
    let pieces = spec.pieces(&operations);
    if pieces.is_empty() {
        return (None, found);
    }
    let of: HashMap<u32, i64> =
        found.entries.iter().zip(pieces).filter_map(|(entry, piece)| piece.map(|piece| (entry.index, piece))).collect();
    let mut kept: BTreeSet<i64> = of.values().copied().collect();
    let mut narrowed = None;
    let mut part = kept.len().div_ceil(2);
    while part > 0 {
        let mut changed = false;
        let all: Vec<i64> = kept.iter().copied().collect();
        for out in all.chunks(part) {
            if Instant::now() > until || out.iter().any(|piece| of.get(&culprit) == Some(piece)) {
                continue;
            }
            let fewer: BTreeSet<i64> = kept.iter().copied().filter(|piece| !out.contains(piece)).collect();
            let Some(spec) = spec.without_others(&fewer) else { return (narrowed, found) };
            let stays = |entry: &&Entry<'_>| of.get(&entry.index).is_none_or(|piece| fewer.contains(piece));
            if let Some(now) = attempt(&spec, found.entries.iter().filter(stays).copied().collect()) {
                (found, narrowed, kept, changed) = (now, Some(spec), fewer, true);
            }
        }
        part = if part == 1 && !changed { 0 } else { part.div_ceil(2).max(1) };
        if Instant::now() > until {
            break;
        }
    }
    (narrowed, found)
}

/// Frees as many entries as possible, first in great pieces, then one by one.
fn shrink<'a, S: Spec>(spec: &S, mut found: Found<'a>, culprit: u32, until: Instant) -> Found<'a> {
    // All but the culprit at first: what it saw may be impossible by itself.
    let mut piece = found.entries.len();
    loop {
        let mut changed = false;
        let mut from = 0;
        while from < found.entries.len() {
            if Instant::now() > until {
                return found;
            }
            let to = (from + piece).min(found.entries.len());
            if found.entries[from..to].iter().all(|entry| entry.index == culprit || entry.is_free()) {
                from = to;
                continue;
            }
            let mut fewer = found.entries.clone();
            let mut any = false;
            for entry in fewer[from..to].iter_mut().filter(|entry| entry.index != culprit && !entry.is_free()) {
                entry.free();
                any = true;
            }
            // A freed read demands nothing and changes nothing.
            fewer.retain(|entry| !entry.is_free() || !spec.reads(entry.operation));
            if any {
                fewer.sort_by_key(|entry| entry.called);
                let narrowed =
                    spec.narrowed(&mut fewer.iter().filter(|entry| !entry.is_free()).map(|entry| entry.operation));
                if let Some(now) = attempt(narrowed.as_ref().unwrap_or(spec), fewer) {
                    (found, changed) = (now, true);
                    // Freed ones have moved to the front.
                    continue;
                }
            }
            from = to;
        }
        if piece == 1 && !changed {
            return found;
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
    let mut states = dead.states.clone();
    states.dedup();
    let states = states.join(" or ");
    format!("{} has no place: in every order of the others that fits, it finds {states}", name(part, operation))
}
