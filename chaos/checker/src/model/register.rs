//! A register: `read` returns the last value written. The register of `cas-register` can also be compared and set.
//!
//! `write` has the value as its argument, `read` as its result; an unset register reads null.
//! `cas` has the argument `[old, new]`: ok means that the value was `old` and is now `new`. A failed `cas` says that the
//! value differed from `old` at some moment of the attempt, unless it carries an error: then it was refused for another
//! reason and says nothing.

use crate::{
    Function, Operation, Outcome, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::Budget,
    shrink::name,
    special::zones::{self, Access},
};

/// See the module.
pub struct Register {
    /// Null: unset.
    pub init: Value,
    /// It can be compared and set.
    pub cas: bool,
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

/// The value that it leaves, if it changes anything.
fn written(operation: &Operation) -> Option<&Value> {
    match operation.function {
        Function::Write => Some(&operation.argument),
        Function::Cas => pair(operation).map(|(_, new)| new),
        _ => None,
    }
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

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        let accesses = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        // Comparing makes one value depend on another.
        if accesses.clone().any(|(_, operation)| operation.function == Function::Cas) {
            return None;
        }
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

    fn cause(&self, part: &Part<'_>, _: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let wanted = match (culprit.function, culprit.outcome) {
            (Function::Read, _) => &culprit.result,
            (Function::Cas, Outcome::Ok) => pair(culprit)?.0,
            _ => return None,
        };
        let wrote = |(_, operation): (u32, &Operation)| {
            !matches!(self.role(operation), Role::Nothing) && written(operation) == Some(wanted)
        };
        let nobody = *wanted != self.init && !part.operations().any(wrote);
        nobody.then(|| format!("{}: nobody ever wrote {wanted}", name(part, culprit)))
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        if !self.cas {
            return admit_functions(operation, &[Function::Read, Function::Write]);
        }
        admit_functions(operation, &[Function::Read, Function::Write, Function::Cas])?;
        if operation.function == Function::Cas && pair(operation).is_none() {
            return Err(format!("the value of cas is [old, new], not {}", operation.argument));
        }
        Ok(())
    }
}
