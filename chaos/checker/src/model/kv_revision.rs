//! A key-value store with revisions; every key is an object of its own.
//!
//! `put` has the value as its argument and returns `[value, revision]`; `get` returns `[value, revision]`, or null where
//! there is none; `delete` returns null or the revision at which it removed the value. Revisions are whole numbers
//! that rise with every change of the key; they need not be without gaps, as one counter may serve many keys.
//! A revision may be null where it is not known.

use crate::{
    Function, Operation, Outcome, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::Budget,
    special::revisions::{self, Access},
};

/// See the module.
pub struct KvRevision;

/// Value and revision of a result; `None` if it has another form. A null revision is not known.
fn versioned(result: &Value) -> Option<(&Value, Option<i64>)> {
    match result {
        Value::List(parts) => match &parts[..] {
            [value, Value::Int(revision)] => Some((value, Some(*revision))),
            [value, Value::Null] => Some((value, None)),
            _ => None,
        },
        _ => None,
    }
}

/// The revision that a change returned, where known.
fn changed_at(operation: &Operation) -> Option<i64> {
    match (operation.outcome, &operation.result) {
        (Outcome::Ok, Value::Int(revision)) => Some(*revision),
        (Outcome::Ok, result) => versioned(result).and_then(|(_, revision)| revision),
        _ => None,
    }
}

impl Spec for KvRevision {
    /// The value; its revision if known; and the least that its revision can be.
    type State = (Value, Option<i64>, i64);

    fn init(&self) -> Self::State {
        (Value::Null, None, i64::MIN)
    }

    fn step(&self, (value, revision, least): &Self::State, operation: &Operation, next: &mut Vec<Self::State>) {
        let same = || (value.clone(), *revision, *least);
        match operation.function {
            Function::Get => match versioned(&operation.result) {
                None if value.is_null() && operation.result.is_null() => next.push(same()),
                Some((seen, at)) if seen == value && !value.is_null() => match (at, revision) {
                    (None, _) => next.push(same()),
                    (Some(at), Some(revision)) if at == *revision => next.push(same()),
                    // The change did not tell its revision; the first to read it does.
                    (Some(at), None) if at >= *least => next.push((value.clone(), Some(at), at)),
                    _ => {}
                },
                _ => {}
            },
            Function::Delete if value.is_null() => {
                next.extend(changed_at(operation).is_none().then(same));
            }
            Function::Put | Function::Delete => {
                let value = if operation.function == Function::Put { &operation.argument } else { &Value::Null };
                match changed_at(operation) {
                    Some(at) if at > *least => next.push((value.clone(), Some(at), at)),
                    Some(_) => {}
                    None => next.push((value.clone(), None, least.saturating_add(1))),
                }
            }
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        match (operation.outcome, operation.function) {
            (Outcome::Ok, _) => Role::Must,
            (Outcome::Fail, _) | (Outcome::Unknown, Function::Get) => Role::Nothing,
            (Outcome::Unknown, _) => Role::May,
        }
    }

    fn show(&self, (value, revision, least): &Self::State) -> String {
        match revision {
            Some(revision) if value.is_null() => format!("nothing since revision {revision}"),
            Some(revision) => format!("[{value} {revision}]"),
            None if value.is_null() => "nothing".into(),
            None => format!("{value} at a revision from {least} on"),
        }
    }

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        let accesses = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        // To read a value without its revision says little.
        let vague = |operation: &Operation| {
            operation.function == Function::Get && versioned(&operation.result).is_some_and(|(_, at)| at.is_none())
        };
        if accesses.clone().any(|(_, operation)| vague(operation)) {
            return None;
        }
        let accesses = accesses.map(|(at, operation)| {
            let access = match (operation.function, operation.outcome, changed_at(operation)) {
                (Function::Get, ..) => match versioned(&operation.result) {
                    Some((value, Some(revision))) => Access::Read(value, revision),
                    _ => Access::Nothing { removed: false },
                },
                // It does not say where; and if there was something, not at which revision.
                (Function::Delete, Outcome::Ok, None) => Access::Nothing { removed: true },
                (Function::Delete, _, revision) => Access::Delete(revision),
                (_, _, revision) => Access::Put(&operation.argument, revision),
            };
            (at, operation, access)
        });
        revisions::verdict(part, accesses)
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Get, Function::Put, Function::Delete])?;
        let wrong = |what: &str| Err(format!("{what}, not {}", operation.result));
        match (operation.outcome, operation.function) {
            (Outcome::Ok, Function::Get) if !operation.result.is_null() && versioned(&operation.result).is_none() => {
                wrong("get returns [value, revision] or nil")
            }
            (Outcome::Ok, Function::Put) if changed_at(operation).is_none() && !operation.result.is_null() => {
                wrong("put returns [value, revision]")
            }
            _ => Ok(()),
        }
    }
}
