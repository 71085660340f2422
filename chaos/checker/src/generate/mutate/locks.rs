//! Grants while others hold, and tokens that do not rise.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;

use super::tools::{BACK, ENDS, GRANTS, chosen, fresh, insert};
use crate::{Function, History, Model, Operation, Outcome, Value};

/// Grants with the release by the same process that followed.
fn holds(history: &History) -> Vec<(u32, u32)> {
    let mut open: HashMap<(u32, u32), u32> = HashMap::new();
    let mut found = Vec::new();
    for (at, operation) in (0..).zip(&history.operations) {
        let of = (operation.process, operation.key);
        if GRANTS.contains(&operation.function) && operation.outcome == Outcome::Ok {
            open.entry(of).or_insert(at);
        } else if ENDS.contains(&operation.function)
            && let Some(grant) = open.remove(&of)
            && operation.outcome == Outcome::Ok
        {
            found.push((grant, at));
        }
    }
    found
}

/// A token of the key that is free, above this one and below the next if possible.
fn free_token(history: &History, key: u32, above: i64) -> i64 {
    let mut used: Vec<i64> = tokens(history, key).into_iter().collect();
    used.sort_unstable();
    let next = used.partition_point(|token| *token <= above);
    match used.get(next) {
        Some(next) if next - above > 1 => above + 1,
        _ => used.last().copied().unwrap_or(0).max(above) + 1,
    }
}

fn tokens(history: &History, key: u32) -> HashSet<i64> {
    let of = |operation: &Operation| match operation.result {
        Value::Int(token) if operation.key == key && GRANTS.contains(&operation.function) => Some(token),
        _ => None,
    };
    history.operations.iter().filter_map(of).collect()
}

pub(super) fn double_grant(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let permits = match model {
        Model::Semaphore(permits) | Model::FencedSemaphore(permits) => *permits as usize,
        _ => 1,
    };
    let mut holds = holds(history);
    // Innermost releases of a reentrant lock leave it held; the first grant to the first release is certain anyway.
    holds.sort_unstable_by_key(|(grant, _)| history.operations[*grant as usize].returned);
    let span = |(grant, end): &(u32, u32)| {
        (history.operations[*grant as usize].returned, history.operations[*end as usize].called)
    };
    let mut places: Vec<usize> = (0..holds.len()).collect();
    rng.shuffle(&mut places);
    for place in places {
        let (grant, end) = holds[place];
        let key = history.operations[grant as usize].key;
        // Anybody's release of unknown outcome could make room in a lock that anybody may release.
        let unknown = |operation: &Operation| operation.key == key && operation.outcome == Outcome::Unknown;
        if *model == Model::Mutex && history.operations.iter().any(unknown) {
            continue;
        }
        let from = span(&(grant, end)).0;
        // Everything that certainly holds just after this grant returned.
        let around: Vec<&(u32, u32)> = holds
            .iter()
            .filter(|hold| history.operations[hold.0 as usize].key == key)
            .filter(|hold| span(hold).0 <= from && span(hold).1 > from)
            .collect();
        if around.len() < permits {
            continue;
        }
        let token = |grant: u32| match history.operations[grant as usize].result {
            Value::Int(token) => Some(token),
            _ => None,
        };
        let above = around.iter().filter_map(|hold| token(hold.0)).max();
        let value = above.map_or(Value::Null, |above| Value::Int(free_token(history, key, above)));
        let (acquire, release) = match model {
            Model::Election => (Function::Campaign, Function::Resign),
            _ => (Function::Acquire, Function::Release),
        };
        let first = fresh(history, key, acquire, Value::Null, value.clone(), 0);
        let second = Operation {
            function: release,
            argument: value,
            result: Value::Null,
            called: 2,
            returned: 3,
            ..first.clone()
        };
        return Some(insert(history, from + 1, vec![first, second]));
    }
    None
}

pub(super) fn stale_observe(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for at in chosen(history, rng, &[Function::Observe]) {
        let observe = &history.operations[at as usize];
        let from = (at as usize).saturating_sub(BACK);
        let mut before: Vec<&Operation> = history.operations[from..at as usize]
            .iter()
            .filter(|operation| {
                operation.key == observe.key
                    && operation.function == Function::Campaign
                    && operation.outcome == Outcome::Ok
                    && operation.precedes(observe)
            })
            .collect();
        before.sort_by_key(|operation| operation.result.clone());
        let [.., old, _] = before[..] else { continue };
        let seen = Value::List([history.processes[old.process as usize].clone(), old.result.clone()].into());
        history.operations[at as usize].result = seen;
        return Some(at);
    }
    None
}

/// Gives a grant another token, wherever that is mentioned.
fn retoken(history: &mut History, grant: u32, token: &Value) {
    let granted = &mut history.operations[grant as usize];
    let (key, old) = (granted.key, std::mem::replace(&mut granted.result, token.clone()));
    for operation in history.operations.iter_mut().filter(|operation| operation.key == key) {
        if operation.argument == old {
            operation.argument = token.clone();
        }
        if let Value::List(seen) = &operation.result
            && seen.len() == 2
            && seen[1] == old
        {
            operation.result = Value::List([seen[0].clone(), token.clone()].into());
        }
    }
}

/// Two grants of one key, the first over before the second was called.
fn two_grants(history: &History, rng: &mut Rng) -> Option<(u32, u32)> {
    for second in chosen(history, rng, GRANTS) {
        let later = &history.operations[second as usize];
        let from = (second as usize).saturating_sub(BACK);
        let first = (from..second as usize).rev().find(|at| {
            let earlier = &history.operations[*at];
            earlier.outcome == Outcome::Ok
                && GRANTS.contains(&earlier.function)
                && earlier.key == later.key
                && earlier.precedes(later)
        });
        if let Some(first) = first {
            return Some((first as u32, second));
        }
    }
    None
}

pub(super) fn reused_token(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let (first, second) = two_grants(history, rng)?;
    let token = history.operations[first as usize].result.clone();
    retoken(history, second, &token);
    Some(second)
}

pub(super) fn falling_token(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let (first, second) = two_grants(history, rng)?;
    let earlier = &history.operations[first as usize];
    let Value::Int(token) = earlier.result else { return None };
    let used = tokens(history, earlier.key);
    let lower = (0..).map(|less| token - 1 - less).find(|lower| !used.contains(lower))?;
    retoken(history, second, &Value::Int(lower));
    Some(second)
}
