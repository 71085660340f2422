//! A key-value store without revisions; every key is an object of its own.
//!
//! `put` has the value as its argument; `get` returns it, or null where there is none; `append` adds a text or a list to
//! the end of what is there (an absent value is an empty one); `delete` removes it, and is ok where there is nothing.

use std::sync::Arc;

use crate::{
    Function, Operation, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::Budget,
    special::zones::{self, Access},
};

/// See the module.
pub struct Kv;

/// What `append` makes of a value.
fn appended(state: &Value, more: &Value) -> Option<Value> {
    match (state, more) {
        (Value::Null, _) => Some(more.clone()),
        (Value::Text(before), Value::Text(more)) => Some(Value::Text(Arc::from(format!("{before}{more}")))),
        (Value::List(before), Value::List(more)) => {
            Some(Value::List(before.iter().chain(more.iter()).cloned().collect()))
        }
        _ => None,
    }
}

impl Spec for Kv {
    type State = Value;

    fn init(&self) -> Value {
        Value::Null
    }

    fn step(&self, state: &Value, operation: &Operation, next: &mut Vec<Value>) {
        match operation.function {
            Function::Get if operation.result == *state => next.push(state.clone()),
            Function::Put => next.push(operation.argument.clone()),
            Function::Append => next.extend(appended(state, &operation.argument)),
            Function::Delete => next.push(Value::Null),
            _ => {}
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::Get
    }

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        // What an append makes depends on what was there; deletions all leave the same.
        let plain = |operation: &Operation| matches!(operation.function, Function::Get | Function::Put);
        let accesses = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        if !accesses.clone().all(|(_, operation)| plain(operation)) {
            return None;
        }
        let accesses = accesses.map(|(at, operation)| match operation.function {
            Function::Put => (at, operation, Access::Write(&operation.argument)),
            _ => (at, operation, Access::Read(&operation.result)),
        });
        zones::verdict(part, &Value::Null, accesses)
    }

    fn show(&self, state: &Value) -> String {
        state.to_string()
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Get, Function::Put, Function::Append, Function::Delete])?;
        if operation.function == Function::Append && !matches!(operation.argument, Value::Text(_) | Value::List(_)) {
            return Err(format!("append takes a text or a list, not {}", operation.argument));
        }
        Ok(())
    }
}
