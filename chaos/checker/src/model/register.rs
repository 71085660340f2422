//! A register: `read` returns the last value written.
//!
//! `write` has the value as its argument, `read` as its result; an unset register reads null.

use crate::{
    Function, Operation, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::Budget,
    special::zones::{self, Access},
};

/// See the module.
pub struct Register {
    /// Null: unset.
    pub init: Value,
}

impl Spec for Register {
    type State = Value;

    fn init(&self) -> Value {
        self.init.clone()
    }

    fn step(&self, state: &Value, operation: &Operation, next: &mut Vec<Value>) {
        match operation.function {
            Function::Read if operation.result == *state => next.push(state.clone()),
            Function::Write => next.push(operation.argument.clone()),
            _ => {}
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::Read
    }

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        let accesses = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        let accesses = accesses.map(|(at, operation)| match operation.function {
            Function::Write => (at, operation, Access::Write(&operation.argument)),
            _ => (at, operation, Access::Read(&operation.result)),
        });
        zones::verdict(part, &self.init, accesses)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn show(&self, state: &Value) -> String {
        state.to_string()
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Read, Function::Write])
    }
}
