//! Linearizability by trying every order. For histories of some ten operations, to judge the other algorithms by.

use crate::{
    History, Operation,
    model::{Role, Spec},
};

/// Whether there is an order that explains all operations of the history, taken as one object.
#[must_use]
pub fn linearizable<S: Spec>(spec: &S, history: &History) -> bool {
    let mut open: Vec<_> = history.operations.iter().map(|operation| (operation, spec.role(operation))).collect();
    open.retain(|(_, role)| *role != Role::Nothing);
    place(spec, &spec.init(), &open)
}

/// Whether the operations left can follow one another from `state` on.
fn place<S: Spec>(spec: &S, state: &S::State, open: &[(&Operation, Role)]) -> bool {
    if open.iter().all(|(_, role)| *role == Role::May) {
        return true;
    }
    (0..open.len()).any(|at| {
        let (operation, _) = open[at];
        // Nothing that must come before it may still be open.
        let first = open.iter().all(|(other, role)| *role == Role::May || !other.precedes(operation));
        let mut next = Vec::new();
        if first {
            spec.step(state, operation, &mut next);
        }
        let mut rest = open.to_vec();
        rest.remove(at);
        next.iter().any(|state| place(spec, state, &rest))
    })
}
