//! A register that can also be compared and set.
//!
//! As [`super::register`], and `cas` with the argument `[old, new]`: ok means that the value was `old` and is now `new`.
//! A failed `cas` says that the value differed from `old` at some moment of the attempt, unless it carries an error:
//! then it was refused for another reason and says nothing.

use crate::{
    Function, Operation, Outcome, Value,
    model::{Role, Spec, admit_functions},
};

/// See the module.
pub struct CasRegister {
    /// Null: unset.
    pub init: Value,
}

/// Old and new value of a `cas`.
fn pair(operation: &Operation) -> Option<(&Value, &Value)> {
    match &operation.argument {
        Value::List(values) => match &values[..] {
            [old, new] => Some((old, new)),
            _ => None,
        },
        _ => None,
    }
}

impl Spec for CasRegister {
    type State = Value;

    fn init(&self) -> Value {
        self.init.clone()
    }

    fn step(&self, state: &Value, operation: &Operation, next: &mut Vec<Value>) {
        match operation.function {
            Function::Read if operation.result == *state => next.push(state.clone()),
            Function::Write => next.push(operation.argument.clone()),
            Function::Cas => {
                let Some((old, new)) = pair(operation) else { return };
                match (operation.outcome, old == state) {
                    (Outcome::Fail, false) => next.push(state.clone()),
                    (Outcome::Ok | Outcome::Unknown, true) => next.push(new.clone()),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        match (operation.function, operation.outcome) {
            (_, Outcome::Ok) => Role::Must,
            (Function::Cas, Outcome::Fail) if operation.result.is_null() => Role::Must,
            (_, Outcome::Fail) | (Function::Read, Outcome::Unknown) => Role::Nothing,
            (_, Outcome::Unknown) => Role::May,
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        match operation.function {
            Function::Cas => operation.outcome == Outcome::Fail,
            function => function == Function::Read,
        }
    }

    fn repeats(&self) -> bool {
        true
    }

    fn show(&self, state: &Value) -> String {
        state.to_string()
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Read, Function::Write, Function::Cas])?;
        if operation.function == Function::Cas && pair(operation).is_none() {
            return Err(format!("the value of cas is [old, new], not {}", operation.argument));
        }
        Ok(())
    }
}
