//! When a lock was held, as far as calls and returns tell.

use std::collections::{BTreeMap, HashMap};

use crate::{Function, History, Operation, Outcome, Value};

/// A lock, permit or leadership held: certainly from the return of the acquire to the call of the release, possibly
/// from the call of the one to the return of the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hold {
    /// The operation that took it, an index into [`History::operations`].
    pub acquire: u32,
    /// The operation that gave it back, if one did or may have.
    pub release: Option<u32>,
    /// The operation's token; null if it has none.
    pub token: Value,
    /// With others at a time: a reader's.
    pub shared: bool,
}

fn takes(function: Function) -> bool {
    use Function::{Acquire, AcquireShared, Campaign, TryAcquire, TryAcquireShared};
    matches!(function, Acquire | TryAcquire | AcquireShared | TryAcquireShared | Campaign)
}

fn gives(function: Function) -> bool {
    matches!(function, Function::Release | Function::Resign)
}

/// All holds of a history, in the order of the acquires' calls. A release with a token ends the hold of that token,
/// whoever calls it; one without ends the last hold of its process.
#[must_use]
pub fn find(history: &History) -> Vec<Hold> {
    let mut holds: Vec<Hold> = Vec::new();
    // Acquires count from their return, releases from their call.
    let mut moments: Vec<(u32, u32)> = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let at = u32::try_from(at).expect("positions fit 32 bits, so do operations");
        if takes(operation.function) && operation.outcome == Outcome::Ok {
            moments.push((operation.returned, at));
        } else if gives(operation.function) && operation.outcome != Outcome::Fail {
            moments.push((operation.called, at));
        }
    }
    moments.sort_unstable();
    let mut open: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    let mut by_token: HashMap<(u32, Value), Vec<usize>> = HashMap::new();
    for (_, at) in moments {
        let operation: &Operation = &history.operations[at as usize];
        let owner = (operation.process, operation.key);
        if takes(operation.function) {
            let token = operation.result.clone();
            open.entry(owner).or_default().push(holds.len());
            if token != Value::Null {
                by_token.entry((operation.key, token.clone())).or_default().push(holds.len());
            }
            let shared = matches!(operation.function, Function::AcquireShared | Function::TryAcquireShared);
            holds.push(Hold { acquire: at, release: None, token, shared });
            continue;
        }
        let still = |hold: &usize, holds: &[Hold]| holds[*hold].release.is_none();
        let named = by_token.get_mut(&(operation.key, operation.argument.clone())).and_then(|all| {
            all.retain(|hold| still(hold, &holds));
            // Its own one first: a token given out twice is somebody else's fault.
            let own = all.iter().rposition(|hold| history.operations[holds[*hold].acquire as usize].process == owner.0);
            own.map(|own| all.remove(own)).or_else(|| all.pop())
        });
        let ended = named.or_else(|| {
            let own = open.get_mut(&owner)?;
            own.retain(|hold| still(hold, &holds));
            // A token that is nobody's ends nothing.
            let token_unknown = operation.argument == Value::Null
                || own.last().is_some_and(|hold| !matches!(holds[*hold].token, Value::Int(_)));
            if token_unknown { own.pop() } else { None }
        });
        if let Some(hold) = ended {
            holds[hold].release = Some(at);
        }
    }
    let ordered: BTreeMap<u32, Hold> = holds.into_iter().map(|hold| (hold.acquire, hold)).collect();
    ordered.into_values().collect()
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
}
