//! A queue, first in, first out: `enqueue` a value, `dequeue` the oldest.
//!
//! A `dequeue` that returns null, or fails without an error, says that the queue was empty at some moment of the attempt.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    Function, Operation, Outcome, Value, Verdict,
    check::Part,
    model::{Role, Spec, admit_functions},
    search::Budget,
    shrink::name,
    special::queues,
};

/// See the module.
pub struct FifoQueue;

/// A dequeue that found nothing.
fn found_empty(operation: &Operation) -> bool {
    operation.function == Function::Dequeue && operation.outcome != Outcome::Unknown && operation.result.is_null()
}

impl Spec for FifoQueue {
    /// Oldest first.
    type State = Arc<VecDeque<Value>>;

    fn init(&self) -> Self::State {
        Arc::default()
    }

    fn step(&self, queue: &Self::State, operation: &Operation, next: &mut Vec<Self::State>) {
        match operation.function {
            Function::Enqueue => {
                let mut queue = VecDeque::clone(queue);
                queue.push_back(operation.argument.clone());
                next.push(Arc::new(queue));
            }
            Function::Dequeue if found_empty(operation) => {
                next.extend(queue.is_empty().then(|| queue.clone()));
            }
            Function::Dequeue if operation.outcome == Outcome::Unknown || queue.front() == Some(&operation.result) => {
                let mut queue = VecDeque::clone(queue);
                if queue.pop_front().is_some() {
                    next.push(Arc::new(queue));
                }
            }
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        match operation.outcome {
            Outcome::Ok => Role::Must,
            Outcome::Fail if found_empty(operation) => Role::Must,
            Outcome::Fail => Role::Nothing,
            Outcome::Unknown => Role::May,
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        found_empty(operation)
    }

    fn special(&self, part: &Part<'_>, _: &Budget) -> Option<Verdict> {
        let operations = part.operations().filter(|(_, operation)| self.role(operation) != Role::Nothing);
        queues::verdict(part, operations, found_empty)
    }

    /// By value: what a queue does with some values is what one does that never had the others.
    fn pieces(&self, operations: &[&Operation]) -> Vec<Option<i64>> {
        let mut numbers: HashMap<Value, i64> = HashMap::new();
        let mut number = |value: &Value| {
            let next = numbers.len() as i64;
            *numbers.entry(value.clone()).or_insert(next)
        };
        let piece = |operation: &&Operation| match operation.function {
            Function::Enqueue => Some(number(&operation.argument)),
            _ => (operation.outcome == Outcome::Ok && !found_empty(operation)).then(|| number(&operation.result)),
        };
        operations.iter().map(piece).collect()
    }

    fn without_others(&self, _: &BTreeSet<i64>) -> Option<Self> {
        Some(Self)
    }

    fn cause(&self, part: &Part<'_>, shown: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let named = name(part, culprit);
        let others: Vec<_> =
            shown.iter().filter(|(_, other)| *other != culprit).map(|(_, other)| name(part, other)).collect();
        Some(match (culprit.function, others.is_empty()) {
            (Function::Enqueue, _) => format!("{named} has no place: its value was taken before"),
            (_, true) => format!("{named}: nobody put that"),
            (_, false) if found_empty(culprit) => {
                format!("{named} found nothing, but the queue cannot have been empty: {}", others.join(", "))
            }
            _ => {
                format!("{named} has no place: its value was not the oldest at any moment of it: {}", others.join(", "))
            }
        })
    }

    fn state_bytes(&self, state: &Self::State) -> usize {
        size_of::<VecDeque<Value>>() + state.len() * size_of::<Value>()
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Enqueue, Function::Dequeue])?;
        if operation.function == Function::Enqueue && operation.argument.is_null() {
            return Err("enqueue takes a value, not nil".into());
        }
        Ok(())
    }
}
