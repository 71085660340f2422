//! Queues, lists and numbered children: what has an order, out of order.

use std::collections::HashMap;

use fastrand::Rng;

use super::tools::{BACK, chosen, oks};
use crate::{Function, History, Model, Operation, Outcome, Value};

pub(super) fn out_of_order_dequeue(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let enqueued: HashMap<(u32, Value), (u32, u32)> = oks(history, &[Function::Enqueue])
        .map(|(_, operation)| ((operation.key, operation.argument.clone()), (operation.called, operation.returned)))
        .collect();
    for second in chosen(history, rng, &[Function::Dequeue]) {
        let later = &history.operations[second as usize];
        let Some((called, _)) = enqueued.get(&(later.key, later.result.clone())) else { continue };
        let from = (second as usize).saturating_sub(BACK);
        let first = (from..second as usize).rev().find(|at| {
            let earlier = &history.operations[*at];
            earlier.function == Function::Dequeue
                && earlier.outcome == Outcome::Ok
                && earlier.key == later.key
                && earlier.precedes(later)
                && enqueued.get(&(earlier.key, earlier.result.clone())).is_some_and(|(_, returned)| returned < called)
        });
        let Some(first) = first else { continue };
        let result = later.result.clone();
        let earlier = std::mem::replace(&mut history.operations[first].result, result);
        history.operations[second as usize].result = earlier;
        return Some(second);
    }
    None
}

pub(super) fn duplicate_dequeue(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let found = chosen(history, rng, &[Function::Dequeue]);
    let first = *found.first()?;
    let key = history.operations[first as usize].key;
    let second = found.into_iter().skip(1).find(|at| history.operations[*at as usize].key == key)?;
    history.operations[second as usize].result = history.operations[first as usize].result.clone();
    Some(second)
}

/// The reads of a transaction: place, key and list.
fn reads(operation: &Operation) -> Vec<(usize, Value, Vec<Value>)> {
    let Value::List(parts) = &operation.result else { return Vec::new() };
    let read = |(at, part): (usize, &Value)| match part {
        Value::List(fields) if fields.len() == 3 && fields[0] == Value::from("r") => match &fields[2] {
            Value::List(list) => Some((at, fields[1].clone(), list.to_vec())),
            _ => None,
        },
        _ => None,
    };
    parts.iter().enumerate().filter_map(read).collect()
}

fn set_read(operation: &mut Operation, place: usize, key: Value, list: Vec<Value>) {
    let Value::List(parts) = &operation.result else { return };
    let mut parts = parts.to_vec();
    parts[place] = Value::List([Value::from("r"), key, Value::List(list.into())].into());
    operation.result = Value::List(parts.into());
}

pub(super) fn missing_append(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let mut appended: HashMap<(Value, Value), u32> = HashMap::new();
    for (_, operation) in oks(history, &[Function::Txn]) {
        let Value::List(parts) = &operation.argument else { continue };
        for part in parts.iter() {
            if let Value::List(fields) = part
                && fields[0] == Value::from("append")
            {
                appended.insert((fields[1].clone(), fields[2].clone()), operation.returned);
            }
        }
    }
    for at in chosen(history, rng, &[Function::Txn]) {
        let called = history.operations[at as usize].called;
        for (place, key, mut list) in reads(&history.operations[at as usize]) {
            let before = |value: &Value| appended.get(&(key.clone(), value.clone())).is_some_and(|end| *end < called);
            let Some(missing) = list.iter().rposition(before) else { continue };
            list.remove(missing);
            set_read(&mut history.operations[at as usize], place, key, list);
            return Some(at);
        }
    }
    None
}

pub(super) fn reordered_append(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    // By key: how many of its first values a transaction saw, and which.
    let mut seen: HashMap<Value, Vec<(usize, u32)>> = HashMap::new();
    for (at, operation) in oks(history, &[Function::Txn]) {
        for (_, key, list) in reads(operation) {
            seen.entry(key).or_default().push((list.len(), at));
        }
    }
    for at in chosen(history, rng, &[Function::Txn]) {
        for (place, key, mut list) in reads(&history.operations[at as usize]) {
            let others = &seen[&key];
            if list.len() < 2 || !others.iter().any(|(length, other)| *other != at && *length >= 2) {
                continue;
            }
            list.swap(0, 1);
            set_read(&mut history.operations[at as usize], place, key, list);
            return Some(at);
        }
    }
    None
}

pub(super) fn non_sequential_child(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for second in chosen(history, rng, &[Function::Create]) {
        let later = &history.operations[second as usize];
        let first = oks(history, &[Function::Create])
            .find(|(_, earlier)| earlier.key == later.key && earlier.precedes(later))
            .map(|(_, earlier)| earlier.result.clone());
        if let Some(number) = first {
            history.operations[second as usize].result = number;
            return Some(second);
        }
    }
    None
}

pub(super) fn ghost_child(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for at in chosen(history, rng, &[Function::List]) {
        let list = &history.operations[at as usize];
        let deleted = oks(history, &[Function::Delete])
            .find(|(_, delete)| delete.key == list.key && delete.precedes(list))
            .map(|(_, delete)| delete.argument.clone());
        let (Some(child), Value::List(children)) = (deleted, &list.result) else { continue };
        let ghosts = children.iter().cloned().chain([child]).collect();
        history.operations[at as usize].result = Value::List(ghosts);
        return Some(at);
    }
    None
}
