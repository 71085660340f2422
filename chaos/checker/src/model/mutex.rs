//! A lock that anybody may release: `acquire`, `try_acquire`, `release`.

use crate::{
    Function, Operation, Outcome,
    model::{Role, Spec, admit_functions},
};

/// See the module.
pub struct Mutex;

impl Spec for Mutex {
    /// Held.
    type State = bool;

    fn init(&self) -> bool {
        false
    }

    fn step(&self, held: &bool, operation: &Operation, next: &mut Vec<bool>) {
        match (operation.function, operation.outcome, *held) {
            (Function::TryAcquire, Outcome::Fail, true) => next.push(true),
            (Function::Acquire | Function::TryAcquire, Outcome::Ok | Outcome::Unknown, false) => next.push(true),
            (Function::Release, Outcome::Ok | Outcome::Unknown, true) => next.push(false),
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        match (operation.function, operation.outcome) {
            (_, Outcome::Ok) => Role::Must,
            (Function::TryAcquire, Outcome::Fail) if operation.result.is_null() => Role::Must,
            (_, Outcome::Fail) => Role::Nothing,
            (_, Outcome::Unknown) => Role::May,
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::TryAcquire && operation.outcome == Outcome::Fail
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Acquire, Function::TryAcquire, Function::Release])
    }
}
