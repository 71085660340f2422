//! When a lock was held, as far as calls and returns tell.

use std::collections::HashMap;

use crate::{Function, History, Operation, Outcome, Value};

/// A lock, permit or leadership held: from the return of the acquire to the call of what ended it at least, from the
/// call of the one to the return of the other at most.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hold {
    /// The operation that took it, an index into [`History::operations`].
    pub acquire: u32,
    /// The release or expiry that ended it, or may have.
    pub release: Option<u32>,
    /// The operation's token; null if it has none.
    pub token: Value,
    /// With others at a time: a reader's.
    pub shared: bool,
    /// It was not lost before it was released. Without a token it cannot be; with one, a session may have ended
    /// unnoticed, and only a release that was ok shows that it had not.
    pub sure: bool,
}

fn takes(operation: &Operation) -> bool {
    use Function::{Acquire, AcquireShared, Campaign, TryAcquire, TryAcquireShared};
    let function = matches!(operation.function, Acquire | TryAcquire | AcquireShared | TryAcquireShared | Campaign);
    function && operation.outcome == Outcome::Ok && operation.result != Value::Bool(false)
}

fn gives(operation: &Operation) -> bool {
    matches!(operation.function, Function::Release | Function::Resign | Function::Expire)
        && operation.outcome != Outcome::Fail
}

/// A number or `[epoch number]`.
fn token(value: &Value) -> Option<&Value> {
    matches!(value, Value::Int(_) | Value::List(_)).then_some(value)
}

/// What a release or an expiry is about: its result if that says it, else its argument.
fn subject(operation: &Operation) -> &Value {
    if operation.result == Value::Null { &operation.argument } else { &operation.result }
}

/// Holds that may be under way, by owner and by token.
#[derive(Default)]
struct Open {
    holds: Vec<Hold>,
    /// By process and key.
    owned: HashMap<(u32, u32), Vec<usize>>,
    /// By key and token.
    tokens: HashMap<(u32, Value), Vec<usize>>,
}

impl Open {
    fn take(&mut self, at: u32, operation: &Operation) {
        let number = self.holds.len();
        self.owned.entry((operation.process, operation.key)).or_default().push(number);
        let token = token(&operation.result).cloned().unwrap_or_default();
        if token != Value::Null {
            self.tokens.entry((operation.key, token.clone())).or_default().push(number);
        }
        let shared = matches!(operation.function, Function::AcquireShared | Function::TryAcquireShared);
        let sure = token == Value::Null;
        self.holds.push(Hold { acquire: at, release: None, token, shared, sure });
    }

    /// The last of this process that has not ended.
    fn last(&mut self, process: u32, key: u32) -> Option<usize> {
        let owned = self.owned.get_mut(&(process, key))?;
        while owned.pop_if(|hold| self.holds[*hold].release.is_some()).is_some() {}
        owned.last().copied()
    }

    /// Of this token; of this process if it was given out twice.
    fn named(&mut self, history: &History, operation: &Operation) -> Option<usize> {
        let named = self.tokens.get_mut(&(operation.key, token(subject(operation))?.clone()))?;
        named.retain(|&hold| self.holds[hold].release.is_none());
        let of = |hold: &usize| history.operations[self.holds[*hold].acquire as usize].process;
        let own = named.iter().rposition(|hold| of(hold) == operation.process);
        own.map(|own| named.remove(own)).or_else(|| named.pop())
    }

    fn end(&mut self, hold: usize, at: u32, operation: &Operation) {
        let hold = &mut self.holds[hold];
        hold.release = Some(at);
        hold.sure |= operation.outcome == Outcome::Ok;
    }
}

/// All holds of a history, in the order of the acquires' calls. A release or an expiry with a token ends the hold of
/// that token, whoever reports it; a release without ends the last hold of its process, an expiry all holds of the
/// process that it names. A release of some permits of several ends the hold.
#[must_use]
pub fn find(history: &History) -> Vec<Hold> {
    // Acquires count from their return, releases from their call.
    let mut moments: Vec<(u32, u32)> = Vec::new();
    for (at, operation) in (0_u32..).zip(&history.operations) {
        if takes(operation) {
            moments.push((operation.returned, at));
        } else if gives(operation) {
            moments.push((operation.called, at));
        }
    }
    moments.sort_unstable();
    let processes: HashMap<&Value, u32> = history.processes.iter().zip(0..).collect();
    let mut open = Open::default();
    for (_, at) in moments {
        let operation = &history.operations[at as usize];
        if takes(operation) {
            open.take(at, operation);
        } else if let Some(hold) = open.named(history, operation) {
            open.end(hold, at, operation);
        } else if operation.function == Function::Expire {
            let process = processes.get(subject(operation)).copied().unwrap_or(operation.process);
            for hold in open.owned.remove(&(process, operation.key)).unwrap_or_default() {
                if open.holds[hold].token == Value::Null && open.holds[hold].release.is_none() {
                    open.end(hold, at, operation);
                }
            }
        } else if let Some(hold) = open.last(operation.process, operation.key) {
            // A token that is nobody's ends nothing.
            if open.holds[hold].token == Value::Null || token(subject(operation)).is_none() {
                open.end(hold, at, operation);
            }
        }
    }
    open.holds.sort_unstable_by_key(|hold| hold.acquire);
    open.holds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::Story;

    fn pairs(story: Story) -> Vec<(u32, Option<u32>)> {
        find(&story.history()).iter().map(|hold| (hold.acquire, hold.release)).collect()
    }

    #[test]
    fn a_release_ends_the_hold_of_its_process() {
        let mut story = Story::default();
        let first = story.call(1, "l", Function::Acquire, Value::Null);
        let second = story.call(2, "l", Function::Acquire, Value::Null);
        story.ok(first, Value::Null);
        let free = story.call(1, "l", Function::Release, Value::Null);
        story.ok(free, Value::Null);
        story.ok(second, Value::Null);
        assert_eq!(pairs(story), [(0, Some(2)), (1, None)]);
    }

    #[test]
    fn a_token_names_the_hold_even_from_elsewhere() {
        let mut story = Story::default();
        for (process, token) in [(1, 7), (2, 8)] {
            let acquire = story.call(process, "l", Function::Acquire, Value::Null);
            story.ok(acquire, Value::Int(token));
        }
        let foreign = story.call(2, "l", Function::Release, Value::Int(7));
        story.ok(foreign, Value::Null);
        let nobodys = story.call(2, "l", Function::Release, Value::Int(99));
        story.ok(nobodys, Value::Null);
        assert_eq!(pairs(story), [(0, Some(2)), (1, None)]);
    }

    #[test]
    fn nested_holds_end_from_the_inside_and_failures_change_nothing() {
        let mut story = Story::default();
        for _ in 0..2 {
            let acquire = story.call(1, "l", Function::Acquire, Value::Null);
            story.ok(acquire, Value::Null);
        }
        let refused = story.call(1, "l", Function::Release, Value::Null);
        story.fail(refused);
        let tried = story.call(2, "l", Function::TryAcquire, Value::Null);
        story.fail(tried);
        for _ in 0..2 {
            story.call(1, "l", Function::Release, Value::Null);
        }
        assert_eq!(pairs(story), [(0, Some(5)), (1, Some(4))]);
    }

    #[test]
    fn an_expiry_ends_what_its_token_or_its_process_holds() {
        let mut story = Story::default();
        for process in [1, 2] {
            let acquire = story.call(process, "l", Function::Acquire, Value::Null);
            story.ok(acquire, Value::Null);
        }
        let refused = story.call(3, "l", Function::TryAcquire, Value::Null);
        story.ok(refused, Value::Bool(false));
        let expire = story.call(9, "l", Function::Expire, Value::Int(2));
        story.ok(expire, Value::Null);
        assert_eq!(pairs(story), [(0, None), (1, Some(3))]);

        let mut story = Story::default();
        for (process, token) in [(1, 7), (2, 8), (3, 9)] {
            let acquire = story.call(process, "l", Function::Acquire, Value::Null);
            story.ok(acquire, Value::Int(token));
        }
        let expire = story.call(9, "l", Function::Expire, Value::Int(7));
        story.ok(expire, Value::Null);
        story.call(2, "l", Function::Release, Value::Int(8));
        let history = story.history();
        let holds = find(&history);
        let seen: Vec<_> = holds.iter().map(|hold| (hold.release, hold.sure)).collect();
        assert_eq!(seen, [(Some(3), true), (Some(4), false), (None, false)]);
    }
}
