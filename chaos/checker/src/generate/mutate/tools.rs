//! What all mutations use: operations by chance, operations put in between, families of functions.

use fastrand::Rng;

use crate::{
    Function, History, Operation, Outcome, Value,
    history::{NEVER, NO_TIME},
};

/// Indexes of operations that are ok and of these functions, in an order of chance.
pub(super) fn chosen(history: &History, rng: &mut Rng, functions: &[Function]) -> Vec<u32> {
    let mut found: Vec<u32> = oks(history, functions).map(|(at, _)| at).collect();
    rng.shuffle(&mut found);
    found
}

pub(super) fn oks<'a>(history: &'a History, functions: &'a [Function]) -> impl Iterator<Item = (u32, &'a Operation)> {
    (0..)
        .zip(&history.operations)
        .filter(move |(_, operation)| operation.outcome == Outcome::Ok && functions.contains(&operation.function))
}

/// Puts operations before the event at `before`; their positions are relative. Returns the index of the first.
pub(super) fn insert(history: &mut History, before: u32, inserted: Vec<Operation>) -> u32 {
    let events = 2 * inserted.len() as u32;
    let shift = |position: &mut u32| {
        if *position != NEVER && *position >= before {
            *position += events;
        }
    };
    for operation in &mut history.operations {
        shift(&mut operation.called);
        shift(&mut operation.returned);
    }
    for fault in &mut history.faults {
        shift(&mut fault.from);
        shift(&mut fault.until);
    }
    history.events += events;
    let at = history.operations.partition_point(|operation| operation.called < before);
    let now = history.operations.get(at).map_or(NO_TIME, |operation| operation.called_ns);
    let inserted = inserted.into_iter().map(|operation| Operation {
        called: operation.called + before,
        returned: operation.returned + before,
        called_ns: now,
        returned_ns: now,
        ..operation
    });
    history.operations.splice(at..at, inserted);
    at as u32
}

/// An operation that is ok, by a new process.
pub(super) fn fresh(
    history: &mut History,
    key: u32,
    function: Function,
    argument: Value,
    result: Value,
    called: u32,
) -> Operation {
    let number = history.processes.len() as i64;
    let taken = |name: &Value| history.processes.contains(name);
    let name = if taken(&Value::Int(number)) { Value::from(format!("extra {number}").as_str()) } else { number.into() };
    history.processes.push(name);
    Operation {
        process: number as u32,
        key,
        function,
        outcome: Outcome::Ok,
        called,
        returned: called + 1,
        argument,
        result,
        called_ns: NO_TIME,
        returned_ns: NO_TIME,
    }
}

pub(super) const READS: &[Function] = &[Function::Read, Function::Get];
pub(super) const WRITES: &[Function] = &[Function::Write, Function::Put];
pub(super) const GRANTS: &[Function] =
    &[Function::Acquire, Function::TryAcquire, Function::AcquireShared, Function::TryAcquireShared, Function::Campaign];
pub(super) const ENDS: &[Function] = &[Function::Release, Function::Resign];

/// How far back predecessors are looked for.
pub(super) const BACK: usize = 2_000;
