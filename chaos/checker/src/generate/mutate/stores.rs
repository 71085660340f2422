//! Reads and writes: what is read was not there then, or never.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;

use super::tools::{BACK, READS, WRITES, chosen};
use crate::{Function, History, Model, Operation, Outcome, Value};

/// What a write makes a later read return.
fn read_as(write: &Operation, model: &Model) -> Value {
    if *model == Model::KvRevision { write.result.clone() } else { write.argument.clone() }
}

/// Values that were written exactly once, whatever the outcome.
fn once(history: &History) -> HashSet<(u32, Value)> {
    let mut count: HashMap<(u32, Value), u32> = HashMap::new();
    for operation in &history.operations {
        let written = match (operation.function, &operation.argument) {
            (Function::Cas, Value::List(change)) => change.last(),
            (function, value) if WRITES.contains(&function) || function == Function::Append => Some(value),
            _ => None,
        };
        if let Some(value) = written {
            *count.entry((operation.key, value.clone())).or_default() += 1;
        }
    }
    count.into_iter().filter(|(_, count)| *count == 1).map(|(value, _)| value).collect()
}

/// The latest write of the key, with a value of its own, that returned before this position.
fn write_before(history: &History, once: &HashSet<(u32, Value)>, key: u32, position: u32) -> Option<u32> {
    let begun = history.operations.partition_point(|operation| operation.called < position);
    let from = begun.saturating_sub(BACK);
    (from..begun)
        .rev()
        .find(|at| {
            let operation = &history.operations[*at];
            operation.key == key
                && operation.outcome == Outcome::Ok
                && WRITES.contains(&operation.function)
                && operation.returned < position
                && once.contains(&(key, operation.argument.clone()))
        })
        .map(|at| at as u32)
}

pub(super) fn stale_read(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let once = once(history);
    for at in chosen(history, rng, READS) {
        let read = &history.operations[at as usize];
        let Some(newer) = write_before(history, &once, read.key, read.called) else { continue };
        let called = history.operations[newer as usize].called;
        let Some(older) = write_before(history, &once, read.key, called) else { continue };
        let stale = read_as(&history.operations[older as usize], model);
        history.operations[at as usize].result = stale;
        return Some(at);
    }
    None
}

pub(super) fn lost_write(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let once = once(history);
    for at in chosen(history, rng, READS) {
        let read = &history.operations[at as usize];
        let Some(lost) = write_before(history, &once, read.key, read.called) else { continue };
        let write = &history.operations[lost as usize];
        let value = read_as(write, model);
        let reads = |operation: &&Operation| {
            operation.key == read.key && READS.contains(&operation.function) && operation.result == value
        };
        // One read of it, so that the history stands and falls with that one.
        if read.result != value || history.operations.iter().filter(reads).count() > 1 {
            continue;
        }
        let Some(older) = write_before(history, &once, write.key, write.called) else { continue };
        let stale = read_as(&history.operations[older as usize], model);
        history.operations[at as usize].result = stale;
        return Some(at);
    }
    None
}

/// A number that no generator writes.
const NOBODYS: i64 = 1 << 40;

pub(super) fn phantom_read(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let functions = &[Function::Read, Function::Get, Function::Dequeue, Function::Txn];
    for at in chosen(history, rng, functions) {
        let result = &mut history.operations[at as usize].result;
        match (model, &*result) {
            (Model::ListAppend, Value::List(parts)) => {
                let mut parts = parts.to_vec();
                let read = parts.iter_mut().find_map(|part| match part {
                    Value::List(fields) if fields[0] == Value::from("r") => Some(fields),
                    _ => None,
                });
                let Some(fields) = read else { continue };
                let mut values = fields.to_vec();
                let Some(Value::List(list)) = values.get(2) else { continue };
                values[2] = Value::List(list.iter().cloned().chain([Value::Int(NOBODYS)]).collect());
                *fields = values.into();
                *result = Value::List(parts.into());
            }
            (Model::KvRevision, Value::List(pair)) => *result = Value::List([NOBODYS.into(), pair[1].clone()].into()),
            (Model::KvRevision, _) => *result = Value::List([NOBODYS.into(), NOBODYS.into()].into()),
            _ => *result = NOBODYS.into(),
        }
        return Some(at);
    }
    None
}

pub(super) fn wrong_count(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let at = chosen(history, rng, &[Function::Read]).pop()?;
    let key = history.operations[at as usize].key;
    let most: i64 = history
        .operations
        .iter()
        .filter(|operation| operation.key == key && operation.function == Function::Add)
        .map(|operation| if let Value::Int(more) = operation.argument { more.max(0) } else { 0 })
        .sum();
    history.operations[at as usize].result = Value::Int(most + 1);
    Some(at)
}
