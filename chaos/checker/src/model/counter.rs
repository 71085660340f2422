//! A counter that begins at 0: `add` a whole number, `read` the sum.

use crate::{
    Function, Operation, Value,
    check::Part,
    model::{Spec, admit_functions},
    shrink::name,
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

    fn cause(&self, part: &Part<'_>, shown: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let read = name(part, culprit);
        let adds = shown.iter().filter(|(_, operation)| operation.function == Function::Add).count();
        (culprit.function == Function::Read).then(|| match adds {
            0 => format!("{read} has no place: no choice of the additions called before its return makes that sum"),
            _ => format!(
                "{read} has no place: no sum with the {adds} additions that are shown in their order makes that"
            ),
        })
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Add, Function::Read])?;
        if operation.function == Function::Add && !matches!(operation.argument, Value::Int(_)) {
            return Err(format!("add takes a whole number, not {}", operation.argument));
        }
        Ok(())
    }
}
