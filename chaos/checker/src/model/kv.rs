//! A key-value store without revisions; every key is an object of its own.
//!
//! `put` has the value as its argument; `get` returns it, or null where there is none; `append` adds a text or a list to
//! the end of what is there (an absent value is an empty one); `delete` removes it, and is ok where there is nothing.

use std::sync::Arc;

use crate::{
    Function, Operation, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::{self, Budget},
    shrink::name,
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

    fn special(&self, part: &Part<'_>, budget: &Budget) -> Option<Verdict> {
        let accesses = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        // What an append makes depends on what was there; deletions all leave the same.
        let plain = |operation: &Operation| matches!(operation.function, Function::Get | Function::Put);
        let zones = if accesses.clone().all(|(_, operation)| plain(operation)) {
            let accesses = accesses.clone().map(|(at, operation)| match operation.function {
                Function::Put => (at, operation, Access::Write(&operation.argument)),
                _ => (at, operation, Access::Read(&operation.result)),
            });
            zones::verdict(part, &Value::Null, accesses)
        } else {
            None
        };
        zones.or_else(|| Some(search::search(&Known::of(accesses.map(|(_, operation)| operation)), part, budget)))
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

/// A store of which it is known what was seen of it. A value that nobody got and of which nothing can be made that
/// somebody got is like any other such value.
struct Known {
    /// What was got, ascending.
    got: Vec<Value>,
}

/// What is there.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum State {
    /// This, and it or more was got by somebody.
    Seen(Value),
    /// Nothing that anybody got: a text, a list, or what cannot be appended to.
    Text,
    List,
    Other,
}

impl Known {
    fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Self {
        let got = operations.filter(|operation| operation.function == Function::Get);
        let mut got: Vec<Value> = got.map(|operation| operation.result.clone()).collect();
        got.sort_unstable();
        got.dedup();
        Self { got }
    }

    fn state(&self, value: Value) -> State {
        // Whatever begins with it comes next in order.
        let next = self.got.get(self.got.partition_point(|got| *got < value));
        let seen = match (&value, next) {
            (Value::Null, _) => true,
            (Value::Text(value), Some(Value::Text(got))) => got.starts_with(&**value),
            (Value::List(value), Some(Value::List(got))) => got.starts_with(value),
            (value, got) => got == Some(value),
        };
        match value {
            value if seen => State::Seen(value),
            Value::Text(_) => State::Text,
            Value::List(_) => State::List,
            _ => State::Other,
        }
    }
}

impl Spec for Known {
    type State = State;

    fn init(&self) -> State {
        State::Seen(Value::Null)
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        match (operation.function, state) {
            (Function::Get, State::Seen(value)) if operation.result == *value => next.push(state.clone()),
            (Function::Put, _) => next.push(self.state(operation.argument.clone())),
            (Function::Append, State::Seen(value)) => {
                next.extend(appended(value, &operation.argument).map(|value| self.state(value)));
            }
            (Function::Append, State::Text) if matches!(operation.argument, Value::Text(_)) => next.push(State::Text),
            (Function::Append, State::List) if matches!(operation.argument, Value::List(_)) => next.push(State::List),
            (Function::Delete, _) => next.push(State::Seen(Value::Null)),
            _ => {}
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        Kv.reads(operation)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn narrowed(&self, demanding: &mut dyn Iterator<Item = &Operation>) -> Option<Self> {
        Some(Self::of(demanding))
    }

    fn show(&self, state: &State) -> String {
        match state {
            State::Seen(value) => value.to_string(),
            _ => "a value that does not lead there".into(),
        }
    }

    fn cause(&self, part: &Part<'_>, shown: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let named = name(part, culprit);
        let others: Vec<_> =
            shown.iter().filter(|(_, other)| *other != culprit).map(|(_, other)| name(part, other)).collect();
        Some(match (culprit.function, others.is_empty()) {
            (Function::Get, true) => {
                format!("{named}: no puts, appends and deletions called before its return make that")
            }
            (Function::Get, false) => {
                format!(
                    "{named} has no place: that was not there at any moment of it, as shown by {}",
                    others.join(", ")
                )
            }
            _ => format!("{named} has no place: what is there at any moment of it cannot be appended to"),
        })
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        Kv.admit(operation)
    }
}
