//! A counter that begins at 0: `add` a whole number, `read` the sum.

use crate::{
    Function, Operation, Value,
    model::{Spec, admit_functions},
};

/// See the module.
pub struct Counter;

impl Spec for Counter {
    type State = i64;

    fn init(&self) -> i64 {
        0
    }

    fn step(&self, sum: &i64, operation: &Operation, next: &mut Vec<i64>) {
        match (operation.function, &operation.argument) {
            (Function::Read, _) if operation.result == Value::Int(*sum) => next.push(*sum),
            (Function::Add, Value::Int(by)) => next.push(sum.wrapping_add(*by)),
            _ => {}
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::Read || operation.argument == Value::Int(0)
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Add, Function::Read])?;
        if operation.function == Function::Add && !matches!(operation.argument, Value::Int(_)) {
            return Err(format!("add takes a whole number, not {}", operation.argument));
        }
        Ok(())
    }
}
