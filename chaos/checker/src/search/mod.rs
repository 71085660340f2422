//! The search for an order.

mod budget;

use std::collections::HashSet;

pub use budget::Budget;

use crate::{
    Operation, Verdict,
    check::Part,
    model::{Role, Spec},
    verdict::Refutation,
};

/// Judges one object by search.
pub fn search<S: Spec>(spec: &S, part: &Part<'_>, budget: &Budget) -> Verdict {
    let mut open: Vec<_> = part.operations().map(|(at, operation)| (at, operation, spec.role(operation))).collect();
    open.retain(|(_, _, role)| *role != Role::Nothing);
    let mut seen = HashSet::new();
    let mut stack = vec![(spec.init(), vec![false; open.len()])];
    while let Some((state, done)) = stack.pop() {
        if budget.exhausted().is_some() {
            return Verdict::Unknown("time".into());
        }
        let left = || open.iter().zip(&done).filter(|(_, done)| !**done).map(|(open, _)| open);
        if left().all(|(_, _, role)| *role == Role::May) {
            return Verdict::Linearizable;
        }
        let first =
            |operation: &Operation| left().all(|(_, other, role)| *role == Role::May || !other.precedes(operation));
        let mut next = Vec::new();
        for (at, (_, operation, _)) in open.iter().enumerate().filter(|(at, _)| !done[*at]) {
            if !first(operation) {
                continue;
            }
            spec.step(&state, operation, &mut next);
            for state in next.drain(..) {
                let mut done = done.clone();
                done[at] = true;
                if seen.insert((state.clone(), done.clone())) {
                    stack.push((state, done));
                }
            }
        }
    }
    let operations: Vec<u32> = open.iter().map(|(at, _, _)| *at).collect();
    let culprit = *operations.last().expect("nothing to place is linearizable");
    Verdict::NotLinearizable(Box::new(Refutation { key: part.key, culprit, operations, cause: "no order fits".into() }))
}
