//! Lists by key, and transactions over several of them.
//!
//! `txn` has a list of micro-operations: `["append", key, value]`, and `["r", key, list]` whose list is null in the
//! argument and known in the result. All take effect at one moment: strict serializability.

use std::collections::BTreeMap;

use crate::{
    Function, Operation, Outcome, Value, Verdict,
    check::Part,
    model::{Spec, admit_functions},
    search::Budget,
    special::transactions,
};

/// See the module.
pub struct ListAppend;

/// A part of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Micro<'a> {
    /// Key and value.
    Append(&'a Value, &'a Value),
    /// Key and what was read; `None` where not known.
    Read(&'a Value, Option<&'a [Value]>),
}

/// The parts of a transaction's value, or what would be right.
pub(crate) fn micros(value: &Value) -> Result<Vec<Micro<'_>>, String> {
    let Value::List(parts) = value else { return Err(format!("a txn is a list of operations, not {value}")) };
    parts
        .iter()
        .map(|part| {
            let fields = match part {
                Value::List(fields) => &fields[..],
                _ => &[],
            };
            match fields {
                [Value::Text(f), key, value] if **f == *"append" => Ok(Micro::Append(key, value)),
                [Value::Text(f), key, Value::Null] if **f == *"r" => Ok(Micro::Read(key, None)),
                [Value::Text(f), key, Value::List(list)] if **f == *"r" => Ok(Micro::Read(key, Some(list))),
                _ => Err(format!("a part of a txn is [append key value] or [r key list], not {part}")),
            }
        })
        .collect()
}

/// What is known of a transaction: its result, or else its argument.
pub(crate) fn known(operation: &Operation) -> &Value {
    match operation.outcome {
        Outcome::Ok if !operation.result.is_null() => &operation.result,
        _ => &operation.argument,
    }
}

impl Spec for ListAppend {
    type State = BTreeMap<Value, Vec<Value>>;

    fn init(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(&self, state: &Self::State, operation: &Operation, next: &mut Vec<Self::State>) {
        let Ok(micros) = micros(known(operation)) else { return };
        let mut state = state.clone();
        for micro in micros {
            match micro {
                Micro::Append(key, value) => state.entry(key.clone()).or_default().push(value.clone()),
                // What one of unknown outcome read nobody knows.
                Micro::Read(key, Some(list))
                    if operation.outcome == Outcome::Ok && state.get(key).map_or(&[][..], |list| list) != list =>
                {
                    return;
                }
                Micro::Read(..) => {}
            }
        }
        next.push(state);
    }

    fn reads(&self, operation: &Operation) -> bool {
        micros(known(operation)).is_ok_and(|micros| micros.iter().all(|micro| matches!(micro, Micro::Read(..))))
    }

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        transactions::verdict(part)
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Txn])?;
        micros(known(operation)).map(drop)
    }
}
