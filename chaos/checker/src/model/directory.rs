//! A directory whose children are ephemeral and sequential: `create`, `delete`, `list`, `expire`. The key names it.
//!
//! * `create` ok: the value is the child's number (or its name, which ends in the number). Numbers rise with every
//!   creation and are never used again; there may be gaps. The child belongs to the process.
//! * `delete` ok: the value is the number or name; the child was there and is gone. Fail: nothing.
//! * `list` ok: all children there are, in any order.
//! * `expire` ok: the session of the process ended, and all its children went at one moment. With a value, of the
//!   process named by it. Info: that may happen at any later moment.
//!
//! A creation whose outcome is unknown may have made any child that others saw and nobody was told to have made.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use crate::{
    Function, Operation, Outcome, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::{self, Budget},
    shrink::name,
};

/// See the module.
pub struct Directory;

/// A directory and the operations on it.
struct Known {
    /// Numbers that others saw and no creation returned.
    orphans: Vec<i64>,
    processes: Arc<BTreeMap<Value, u32>>,
    /// The children that are looked at; none: all.
    only: Option<BTreeSet<i64>>,
}

/// A directory between two operations.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct State {
    /// Number and owner, ascending.
    children: Arc<Vec<(i64, u32)>>,
    /// The greatest number given.
    last: Option<i64>,
}

/// The number of a child, of its number or name.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Text(name) => {
            let digits = name.len() - name.trim_end_matches(|digit: char| digit.is_ascii_digit()).len();
            name[name.len() - digits..].parse().ok()
        }
        _ => None,
    }
}

fn numbers(value: &Value) -> Option<BTreeSet<i64>> {
    match value {
        Value::Null => Some(BTreeSet::new()),
        Value::List(children) => children.iter().map(number).collect(),
        _ => None,
    }
}

/// The child that a deletion names.
fn deleted(operation: &Operation) -> Option<i64> {
    number(&operation.argument).or_else(|| number(&operation.result))
}

impl State {
    fn retain(&self, keep: impl Fn(&(i64, u32)) -> bool) -> Self {
        Self { children: Arc::new(self.children.iter().copied().filter(keep).collect()), last: self.last }
    }

    fn with(&self, number: i64, owner: u32) -> Option<Self> {
        if self.last.is_some_and(|last| number <= last) {
            return None;
        }
        let mut children = Vec::clone(&self.children);
        children.push((number, owner));
        Some(Self { children: Arc::new(children), last: Some(number) })
    }
}

impl Known {
    fn of(part: &Part<'_>) -> Self {
        let mut seen = BTreeSet::new();
        let mut made = BTreeSet::new();
        for (_, operation) in part.operations().filter(|(_, operation)| operation.outcome == Outcome::Ok) {
            match operation.function {
                Function::Create => made.extend(number(&operation.result)),
                Function::Delete => seen.extend(deleted(operation)),
                Function::List => seen.extend(numbers(&operation.result).unwrap_or_default()),
                _ => {}
            }
        }
        let processes = Arc::new(part.history.processes.iter().cloned().zip(0..).collect());
        Self { orphans: seen.difference(&made).copied().collect(), processes, only: None }
    }

    fn looked_at(&self, child: i64) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&child))
    }

    fn gone(&self, operation: &Operation) -> Option<u32> {
        let named = if operation.result.is_null() { &operation.argument } else { &operation.result };
        if named.is_null() { Some(operation.process) } else { self.processes.get(named).copied() }
    }
}

impl Spec for Known {
    type State = State;

    fn init(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        match operation.function {
            Function::Create if operation.outcome == Outcome::Ok => {
                next.extend(number(&operation.result).and_then(|number| state.with(number, operation.process)));
            }
            Function::Create => {
                next.extend(self.orphans.iter().filter_map(|number| state.with(*number, operation.process)));
            }
            Function::Delete => {
                let Some(number) = deleted(operation) else { return };
                if state.children.iter().any(|(child, _)| *child == number) {
                    next.push(state.retain(|(child, _)| *child != number));
                }
            }
            Function::List => {
                let same = numbers(&operation.result).is_some_and(|mut seen| {
                    seen.retain(|child| self.looked_at(*child));
                    seen.len() == state.children.len() && state.children.iter().all(|(child, _)| seen.contains(child))
                });
                next.extend(same.then(|| state.clone()));
            }
            Function::Expire => {
                let gone = self.gone(operation);
                next.push(state.retain(|(_, owner)| Some(*owner) != gone));
            }
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        Directory.role(operation)
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::List
    }

    fn by_process(&self) -> bool {
        true
    }

    fn pieces(&self, operations: &[&Operation]) -> Vec<Option<i64>> {
        let child = |operation: &&Operation| match (operation.function, operation.outcome) {
            (Function::Create, Outcome::Ok) => number(&operation.result),
            (Function::Delete, _) => deleted(operation),
            _ => None,
        };
        operations.iter().map(child).collect()
    }

    fn without_others(&self, kept: &BTreeSet<i64>) -> Option<Self> {
        let orphans = self.orphans.iter().copied().filter(|orphan| kept.contains(orphan)).collect();
        Some(Self { orphans, processes: self.processes.clone(), only: Some(kept.clone()) })
    }

    fn show(&self, state: &State) -> String {
        let children: Vec<_> = state.children.iter().map(|(child, _)| child.to_string()).collect();
        format!("[{}]", children.join(" "))
    }

    fn cause(
        &self,
        part: &Part<'_>,
        shown: &[(u32, &Operation)],
        culprit: &Operation,
        states: &[String],
    ) -> Option<String> {
        let named = name(part, culprit);
        let others = || shown.iter().map(|(_, operation)| *operation).filter(|operation| *operation != culprit);
        let made = |child: i64| {
            let made = |operation: &&Operation| {
                operation.function == Function::Create && number(&operation.result) == Some(child)
            };
            others().find(made)
        };
        let removed = |child: i64| {
            let removed =
                |operation: &&Operation| operation.function == Function::Delete && deleted(operation) == Some(child);
            others().find(removed).or_else(|| others().find(|operation| operation.function == Function::Expire))
        };
        let why = match culprit.function {
            Function::List => {
                let seen = numbers(&culprit.result)?;
                let ghost = seen.iter().find_map(|child| {
                    removed(*child).filter(|by| by.precedes(culprit)).map(|by| (child, name(part, by)))
                });
                let missed = others().filter(|operation| operation.function == Function::Create).find_map(|create| {
                    let child = number(&create.result)?;
                    (create.precedes(culprit) && !seen.contains(&child) && removed(child).is_none())
                        .then(|| (child, name(part, create)))
                });
                match (ghost, missed) {
                    (Some((child, by)), _) => format!("it has child {child}, which {by} had removed before"),
                    (_, Some((child, by))) => {
                        format!("it lacks child {child}, which {by} had made before and nothing removed")
                    }
                    _ => {
                        let unmade = seen.iter().find(|child| self.looked_at(**child) && made(**child).is_none());
                        match unmade {
                            Some(child) => format!("nothing makes child {child} be there at any moment of it"),
                            None => format!("of the children shown it could find {} only", states.join(" or ")),
                        }
                    }
                }
            }
            Function::Create => {
                let mine = number(&culprit.result)?;
                let before = others().find(|operation| {
                    operation.function == Function::Create
                        && number(&operation.result).is_some_and(|other| other >= mine)
                });
                match before {
                    Some(other) => format!("its number is not above that of {}, which came before", name(part, other)),
                    None => format!("number {mine} was seen before it can have been given"),
                }
            }
            Function::Delete => {
                let child = deleted(culprit)?;
                match (removed(child), made(child)) {
                    (Some(by), _) => format!("child {child} had been removed by {}", name(part, by)),
                    (None, Some(by)) => format!("child {child} was not there: {}", name(part, by)),
                    (None, None) => format!("nobody made child {child}"),
                }
            }
            _ => return None,
        };
        Some(format!("{named} has no place: {why}"))
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        Directory.admit(operation)
    }
}

impl Spec for Directory {
    type State = State;

    fn init(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        Known { orphans: Vec::new(), processes: Arc::default(), only: None }.step(state, operation, next);
    }

    fn role(&self, operation: &Operation) -> Role {
        match (operation.outcome, operation.function) {
            (Outcome::Ok, _) => Role::Must,
            (Outcome::Fail, _) | (Outcome::Unknown, Function::List) => Role::Nothing,
            (Outcome::Unknown, _) => Role::May,
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        operation.function == Function::List
    }

    fn by_process(&self) -> bool {
        true
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Create, Function::Delete, Function::List, Function::Expire])?;
        let wrong = |what: &str, value: &Value| Err(format!("{what}, not {value}"));
        match (operation.outcome, operation.function) {
            (Outcome::Ok, Function::Create) if number(&operation.result).is_none() => {
                wrong("create returns the number of the child, or its name", &operation.result)
            }
            (Outcome::Ok, Function::List) if numbers(&operation.result).is_none() => {
                wrong("list returns a list of numbers or names", &operation.result)
            }
            (Outcome::Ok | Outcome::Unknown, Function::Delete) if deleted(operation).is_none() => {
                wrong("delete takes the number of a child, or its name", &operation.argument)
            }
            _ => Ok(()),
        }
    }

    fn special(&self, part: &Part<'_>, budget: &Budget) -> Option<Verdict> {
        Some(search::search(&Known::of(part), part, budget))
    }
}
