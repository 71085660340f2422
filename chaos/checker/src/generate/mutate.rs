//! One thing made wrong in a history, so that no order is left.
//!
//! Each kind looks for a place where the wrong is certain: where real time alone, with values that were written once,
//! excludes every order. Where a history has no such place the kind does nothing and says so.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;

use crate::{
    Function, History, Model, Operation, Outcome, Value,
    history::{NEVER, NO_TIME},
};

/// A kind of mutation.
pub struct Kind {
    /// As on the command line.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    suits: fn(&Model) -> bool,
    apply: fn(&mut History, &Model, &mut Rng) -> Option<u32>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "stale-read",
        what: "a read returns a value that had been overwritten",
        suits: is_store,
        apply: stale_read,
    },
    Kind {
        name: "lost-write",
        what: "a write that was ok is not seen by the only read of it",
        suits: is_plain_store,
        apply: lost_write,
    },
    Kind { name: "phantom-read", what: "a value is returned that nobody wrote", suits: has_reads, apply: phantom_read },
    Kind { name: "wrong-count", what: "a sum is read that no additions make", suits: is_counter, apply: wrong_count },
    Kind {
        name: "out-of-order-dequeue",
        what: "two dequeues have their values exchanged",
        suits: is_queue,
        apply: out_of_order_dequeue,
    },
    Kind { name: "duplicate-dequeue", what: "a value is dequeued twice", suits: is_queue, apply: duplicate_dequeue },
    Kind {
        name: "missing-append",
        what: "a read lacks a value that had been appended",
        suits: is_lists,
        apply: missing_append,
    },
    Kind {
        name: "reordered-append",
        what: "two reads see two values in different orders",
        suits: is_lists,
        apply: reordered_append,
    },
    Kind {
        name: "double-grant",
        what: "a lock (or a permit too many) is granted while it is held",
        suits: is_lock,
        apply: double_grant,
    },
    Kind {
        name: "two-leaders",
        what: "somebody else comes to lead while another leads",
        suits: is_election,
        apply: double_grant,
    },
    Kind {
        name: "stale-observe",
        what: "a leader is seen whose successor had been elected",
        suits: is_election,
        apply: stale_observe,
    },
    Kind { name: "reused-token", what: "two grants have the same token", suits: is_fenced, apply: reused_token },
    Kind {
        name: "falling-token",
        what: "a grant has a token below one that was granted before",
        suits: is_fenced,
        apply: falling_token,
    },
    Kind {
        name: "foreign-release",
        what: "somebody releases who held nothing",
        suits: is_owned,
        apply: foreign_release,
    },
    Kind {
        name: "grant-after-expiry",
        what: "a token is granted that had expired",
        suits: is_fenced,
        apply: grant_after_expiry,
    },
    Kind {
        name: "renew-after-end",
        what: "a session is renewed after its end",
        suits: is_session,
        apply: renew_after_end,
    },
    Kind {
        name: "non-sequential-child",
        what: "a child gets the number of an earlier one",
        suits: is_directory,
        apply: non_sequential_child,
    },
    Kind {
        name: "ghost-child",
        what: "a child is listed that had been deleted",
        suits: is_directory,
        apply: ghost_child,
    },
];

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether histories of this model can be spoiled so.
    #[must_use]
    pub fn suits(&self, model: &Model) -> bool {
        (self.suits)(model)
    }

    /// Spoils the history. Returns the operation that was touched, an index into [`History::operations`]; none if there
    /// is no place for it.
    pub fn apply(&self, history: &mut History, model: &Model, seed: u64) -> Option<u32> {
        (self.apply)(history, model, &mut Rng::with_seed(seed))
    }
}

fn is_store(model: &Model) -> bool {
    matches!(model, Model::Register { .. } | Model::CasRegister { .. } | Model::Kv | Model::KvRevision)
}

/// Without appends and comparisons, which make one value depend on another.
fn is_plain_store(model: &Model) -> bool {
    matches!(model, Model::Register { .. } | Model::KvRevision)
}

fn has_reads(model: &Model) -> bool {
    is_store(model) || matches!(model, Model::FifoQueue | Model::ListAppend)
}

fn is_counter(model: &Model) -> bool {
    *model == Model::Counter
}

fn is_queue(model: &Model) -> bool {
    *model == Model::FifoQueue
}

fn is_lists(model: &Model) -> bool {
    *model == Model::ListAppend
}

fn is_election(model: &Model) -> bool {
    *model == Model::Election
}

fn is_fenced(model: &Model) -> bool {
    matches!(model, Model::FencedMutex | Model::FencedSemaphore(_) | Model::Election)
}

fn is_owned(model: &Model) -> bool {
    (is_lock(model) && *model != Model::Mutex) || is_election(model)
}

fn is_lock(model: &Model) -> bool {
    matches!(
        model,
        Model::Mutex
            | Model::OwnerMutex
            | Model::ReentrantMutex
            | Model::FencedMutex
            | Model::Semaphore(_)
            | Model::FencedSemaphore(_)
            | Model::RwLock
    )
}

fn is_session(model: &Model) -> bool {
    *model == Model::Session
}

fn is_directory(model: &Model) -> bool {
    *model == Model::SequentialDirectory
}

/// Indexes of operations that are ok and of these functions, in an order of chance.
fn chosen(history: &History, rng: &mut Rng, functions: &[Function]) -> Vec<u32> {
    let mut found: Vec<u32> = oks(history, functions).map(|(at, _)| at).collect();
    rng.shuffle(&mut found);
    found
}

fn oks<'a>(history: &'a History, functions: &'a [Function]) -> impl Iterator<Item = (u32, &'a Operation)> {
    (0..)
        .zip(&history.operations)
        .filter(move |(_, operation)| operation.outcome == Outcome::Ok && functions.contains(&operation.function))
}

/// Puts operations before the event at `before`; their positions are relative. Returns the index of the first.
fn insert(history: &mut History, before: u32, inserted: Vec<Operation>) -> u32 {
    let events = 2 * inserted.len() as u32;
    let shift = |position: &mut u32| {
        if *position != NEVER && *position >= before {
            *position += events;
        }
    };
    for operation in &mut history.operations {
        shift(&mut operation.called);
        shift(&mut operation.returned);
    }
    for fault in &mut history.faults {
        shift(&mut fault.from);
        shift(&mut fault.until);
    }
    history.events += events;
    let at = history.operations.partition_point(|operation| operation.called < before);
    let now = history.operations.get(at).map_or(NO_TIME, |operation| operation.called_ns);
    let inserted = inserted.into_iter().map(|operation| Operation {
        called: operation.called + before,
        returned: operation.returned + before,
        called_ns: now,
        returned_ns: now,
        ..operation
    });
    history.operations.splice(at..at, inserted);
    at as u32
}

/// An operation that is ok, by a new process.
fn fresh(
    history: &mut History,
    key: u32,
    function: Function,
    argument: Value,
    result: Value,
    called: u32,
) -> Operation {
    let number = history.processes.len() as i64;
    let taken = |name: &Value| history.processes.contains(name);
    let name = if taken(&Value::Int(number)) { Value::from(format!("extra {number}").as_str()) } else { number.into() };
    history.processes.push(name);
    Operation {
        process: number as u32,
        key,
        function,
        outcome: Outcome::Ok,
        called,
        returned: called + 1,
        argument,
        result,
        called_ns: NO_TIME,
        returned_ns: NO_TIME,
    }
}

const READS: &[Function] = &[Function::Read, Function::Get];
const WRITES: &[Function] = &[Function::Write, Function::Put];
const GRANTS: &[Function] =
    &[Function::Acquire, Function::TryAcquire, Function::AcquireShared, Function::TryAcquireShared, Function::Campaign];
const ENDS: &[Function] = &[Function::Release, Function::Resign];

/// What a write makes a later read return.
fn read_as(write: &Operation, model: &Model) -> Value {
    if *model == Model::KvRevision { write.result.clone() } else { write.argument.clone() }
}

/// Values that were written exactly once, whatever the outcome.
fn once(history: &History) -> HashSet<(u32, Value)> {
    let mut count: HashMap<(u32, Value), u32> = HashMap::new();
    for operation in &history.operations {
        let written = match (operation.function, &operation.argument) {
            (Function::Cas, Value::List(change)) => change.last(),
            (function, value) if WRITES.contains(&function) || function == Function::Append => Some(value),
            _ => None,
        };
        if let Some(value) = written {
            *count.entry((operation.key, value.clone())).or_default() += 1;
        }
    }
    count.into_iter().filter(|(_, count)| *count == 1).map(|(value, _)| value).collect()
}

/// How far back predecessors are looked for.
const BACK: usize = 2_000;

/// The latest write of the key, with a value of its own, that returned before this position.
fn write_before(history: &History, once: &HashSet<(u32, Value)>, key: u32, position: u32) -> Option<u32> {
    let begun = history.operations.partition_point(|operation| operation.called < position);
    let from = begun.saturating_sub(BACK);
    (from..begun)
        .rev()
        .find(|at| {
            let operation = &history.operations[*at];
            operation.key == key
                && operation.outcome == Outcome::Ok
                && WRITES.contains(&operation.function)
                && operation.returned < position
                && once.contains(&(key, operation.argument.clone()))
        })
        .map(|at| at as u32)
}

fn stale_read(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let once = once(history);
    for at in chosen(history, rng, READS) {
        let read = &history.operations[at as usize];
        let Some(newer) = write_before(history, &once, read.key, read.called) else { continue };
        let called = history.operations[newer as usize].called;
        let Some(older) = write_before(history, &once, read.key, called) else { continue };
        let stale = read_as(&history.operations[older as usize], model);
        history.operations[at as usize].result = stale;
        return Some(at);
    }
    None
}

fn lost_write(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let once = once(history);
    for at in chosen(history, rng, READS) {
        let read = &history.operations[at as usize];
        let Some(lost) = write_before(history, &once, read.key, read.called) else { continue };
        let write = &history.operations[lost as usize];
        let value = read_as(write, model);
        let reads = |operation: &&Operation| {
            operation.key == read.key && READS.contains(&operation.function) && operation.result == value
        };
        // One read of it, so that the history stands and falls with that one.
        if read.result != value || history.operations.iter().filter(reads).count() > 1 {
            continue;
        }
        let Some(older) = write_before(history, &once, write.key, write.called) else { continue };
        let stale = read_as(&history.operations[older as usize], model);
        history.operations[at as usize].result = stale;
        return Some(at);
    }
    None
}

/// A number that no generator writes.
const NOBODYS: i64 = 1 << 40;

fn phantom_read(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let functions = &[Function::Read, Function::Get, Function::Dequeue, Function::Txn];
    for at in chosen(history, rng, functions) {
        let result = &mut history.operations[at as usize].result;
        match (model, &*result) {
            (Model::ListAppend, Value::List(parts)) => {
                let mut parts = parts.to_vec();
                let read = parts.iter_mut().find_map(|part| match part {
                    Value::List(fields) if fields[0] == Value::from("r") => Some(fields),
                    _ => None,
                });
                let Some(fields) = read else { continue };
                let mut values = fields.to_vec();
                let Some(Value::List(list)) = values.get(2) else { continue };
                values[2] = Value::List(list.iter().cloned().chain([Value::Int(NOBODYS)]).collect());
                *fields = values.into();
                *result = Value::List(parts.into());
            }
            (Model::KvRevision, Value::List(pair)) => *result = Value::List([NOBODYS.into(), pair[1].clone()].into()),
            (Model::KvRevision, _) => *result = Value::List([NOBODYS.into(), NOBODYS.into()].into()),
            _ => *result = NOBODYS.into(),
        }
        return Some(at);
    }
    None
}

fn wrong_count(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let at = chosen(history, rng, &[Function::Read]).pop()?;
    let key = history.operations[at as usize].key;
    let most: i64 = history
        .operations
        .iter()
        .filter(|operation| operation.key == key && operation.function == Function::Add)
        .map(|operation| if let Value::Int(more) = operation.argument { more.max(0) } else { 0 })
        .sum();
    history.operations[at as usize].result = Value::Int(most + 1);
    Some(at)
}

fn out_of_order_dequeue(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let enqueued: HashMap<(u32, Value), (u32, u32)> = oks(history, &[Function::Enqueue])
        .map(|(_, operation)| ((operation.key, operation.argument.clone()), (operation.called, operation.returned)))
        .collect();
    for second in chosen(history, rng, &[Function::Dequeue]) {
        let later = &history.operations[second as usize];
        let Some((called, _)) = enqueued.get(&(later.key, later.result.clone())) else { continue };
        let from = (second as usize).saturating_sub(BACK);
        let first = (from..second as usize).rev().find(|at| {
            let earlier = &history.operations[*at];
            earlier.function == Function::Dequeue
                && earlier.outcome == Outcome::Ok
                && earlier.key == later.key
                && earlier.precedes(later)
                && enqueued.get(&(earlier.key, earlier.result.clone())).is_some_and(|(_, returned)| returned < called)
        });
        let Some(first) = first else { continue };
        let result = later.result.clone();
        let earlier = std::mem::replace(&mut history.operations[first].result, result);
        history.operations[second as usize].result = earlier;
        return Some(second);
    }
    None
}

fn duplicate_dequeue(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let found = chosen(history, rng, &[Function::Dequeue]);
    let first = *found.first()?;
    let key = history.operations[first as usize].key;
    let second = found.into_iter().skip(1).find(|at| history.operations[*at as usize].key == key)?;
    history.operations[second as usize].result = history.operations[first as usize].result.clone();
    Some(second)
}

/// The reads of a transaction: place, key and list.
fn reads(operation: &Operation) -> Vec<(usize, Value, Vec<Value>)> {
    let Value::List(parts) = &operation.result else { return Vec::new() };
    let read = |(at, part): (usize, &Value)| match part {
        Value::List(fields) if fields.len() == 3 && fields[0] == Value::from("r") => match &fields[2] {
            Value::List(list) => Some((at, fields[1].clone(), list.to_vec())),
            _ => None,
        },
        _ => None,
    };
    parts.iter().enumerate().filter_map(read).collect()
}

fn set_read(operation: &mut Operation, place: usize, key: Value, list: Vec<Value>) {
    let Value::List(parts) = &operation.result else { return };
    let mut parts = parts.to_vec();
    parts[place] = Value::List([Value::from("r"), key, Value::List(list.into())].into());
    operation.result = Value::List(parts.into());
}

fn missing_append(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let mut appended: HashMap<(Value, Value), u32> = HashMap::new();
    for (_, operation) in oks(history, &[Function::Txn]) {
        let Value::List(parts) = &operation.argument else { continue };
        for part in parts.iter() {
            if let Value::List(fields) = part
                && fields[0] == Value::from("append")
            {
                appended.insert((fields[1].clone(), fields[2].clone()), operation.returned);
            }
        }
    }
    for at in chosen(history, rng, &[Function::Txn]) {
        let called = history.operations[at as usize].called;
        for (place, key, mut list) in reads(&history.operations[at as usize]) {
            let before = |value: &Value| appended.get(&(key.clone(), value.clone())).is_some_and(|end| *end < called);
            let Some(missing) = list.iter().rposition(before) else { continue };
            list.remove(missing);
            set_read(&mut history.operations[at as usize], place, key, list);
            return Some(at);
        }
    }
    None
}

fn reordered_append(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    // By key: how many of its first values a transaction saw, and which.
    let mut seen: HashMap<Value, Vec<(usize, u32)>> = HashMap::new();
    for (at, operation) in oks(history, &[Function::Txn]) {
        for (_, key, list) in reads(operation) {
            seen.entry(key).or_default().push((list.len(), at));
        }
    }
    for at in chosen(history, rng, &[Function::Txn]) {
        for (place, key, mut list) in reads(&history.operations[at as usize]) {
            let others = &seen[&key];
            if list.len() < 2 || !others.iter().any(|(length, other)| *other != at && *length >= 2) {
                continue;
            }
            list.swap(0, 1);
            set_read(&mut history.operations[at as usize], place, key, list);
            return Some(at);
        }
    }
    None
}

/// Grants with the release by the same process that followed.
fn holds(history: &History) -> Vec<(u32, u32)> {
    let mut open: HashMap<(u32, u32), u32> = HashMap::new();
    let mut found = Vec::new();
    for (at, operation) in (0..).zip(&history.operations) {
        let of = (operation.process, operation.key);
        if GRANTS.contains(&operation.function) && operation.outcome == Outcome::Ok {
            open.entry(of).or_insert(at);
        } else if ENDS.contains(&operation.function)
            && let Some(grant) = open.remove(&of)
            && operation.outcome == Outcome::Ok
        {
            found.push((grant, at));
        }
    }
    found
}

/// A token of the key that is free, above this one and below the next if possible.
fn free_token(history: &History, key: u32, above: i64) -> i64 {
    let mut used: Vec<i64> = tokens(history, key).into_iter().collect();
    used.sort_unstable();
    let next = used.partition_point(|token| *token <= above);
    match used.get(next) {
        Some(next) if next - above > 1 => above + 1,
        _ => used.last().copied().unwrap_or(0).max(above) + 1,
    }
}

fn tokens(history: &History, key: u32) -> HashSet<i64> {
    let of = |operation: &Operation| match operation.result {
        Value::Int(token) if operation.key == key && GRANTS.contains(&operation.function) => Some(token),
        _ => None,
    };
    history.operations.iter().filter_map(of).collect()
}

fn double_grant(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let permits = match model {
        Model::Semaphore(permits) | Model::FencedSemaphore(permits) => *permits as usize,
        _ => 1,
    };
    let mut holds = holds(history);
    // Innermost releases of a reentrant lock leave it held; the first grant to the first release is certain anyway.
    holds.sort_unstable_by_key(|(grant, _)| history.operations[*grant as usize].returned);
    let span = |(grant, end): &(u32, u32)| {
        (history.operations[*grant as usize].returned, history.operations[*end as usize].called)
    };
    let mut places: Vec<usize> = (0..holds.len()).collect();
    rng.shuffle(&mut places);
    for place in places {
        let (grant, end) = holds[place];
        let key = history.operations[grant as usize].key;
        // Anybody's release of unknown outcome could make room in a lock that anybody may release.
        let unknown = |operation: &Operation| operation.key == key && operation.outcome == Outcome::Unknown;
        if *model == Model::Mutex && history.operations.iter().any(unknown) {
            continue;
        }
        let from = span(&(grant, end)).0;
        // Everything that certainly holds just after this grant returned.
        let around: Vec<&(u32, u32)> = holds
            .iter()
            .filter(|hold| history.operations[hold.0 as usize].key == key)
            .filter(|hold| span(hold).0 <= from && span(hold).1 > from)
            .collect();
        if around.len() < permits {
            continue;
        }
        let token = |grant: u32| match history.operations[grant as usize].result {
            Value::Int(token) => Some(token),
            _ => None,
        };
        let above = around.iter().filter_map(|hold| token(hold.0)).max();
        let value = above.map_or(Value::Null, |above| Value::Int(free_token(history, key, above)));
        let (acquire, release) = match model {
            Model::Election => (Function::Campaign, Function::Resign),
            _ => (Function::Acquire, Function::Release),
        };
        let first = fresh(history, key, acquire, Value::Null, value.clone(), 0);
        let second = Operation {
            function: release,
            argument: value,
            result: Value::Null,
            called: 2,
            returned: 3,
            ..first.clone()
        };
        return Some(insert(history, from + 1, vec![first, second]));
    }
    None
}

fn stale_observe(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for at in chosen(history, rng, &[Function::Observe]) {
        let observe = &history.operations[at as usize];
        let from = (at as usize).saturating_sub(BACK);
        let mut before: Vec<&Operation> = history.operations[from..at as usize]
            .iter()
            .filter(|operation| {
                operation.key == observe.key
                    && operation.function == Function::Campaign
                    && operation.outcome == Outcome::Ok
                    && operation.precedes(observe)
            })
            .collect();
        before.sort_by_key(|operation| operation.result.clone());
        let [.., old, _] = before[..] else { continue };
        let seen = Value::List([history.processes[old.process as usize].clone(), old.result.clone()].into());
        history.operations[at as usize].result = seen;
        return Some(at);
    }
    None
}

/// Gives a grant another token, wherever that is mentioned.
fn retoken(history: &mut History, grant: u32, token: &Value) {
    let granted = &mut history.operations[grant as usize];
    let (key, old) = (granted.key, std::mem::replace(&mut granted.result, token.clone()));
    for operation in history.operations.iter_mut().filter(|operation| operation.key == key) {
        if operation.argument == old {
            operation.argument = token.clone();
        }
        if let Value::List(seen) = &operation.result
            && seen.len() == 2
            && seen[1] == old
        {
            operation.result = Value::List([seen[0].clone(), token.clone()].into());
        }
    }
}

/// Two grants of one key, the first over before the second was called.
fn two_grants(history: &History, rng: &mut Rng) -> Option<(u32, u32)> {
    for second in chosen(history, rng, GRANTS) {
        let later = &history.operations[second as usize];
        let from = (second as usize).saturating_sub(BACK);
        let first = (from..second as usize).rev().find(|at| {
            let earlier = &history.operations[*at];
            earlier.outcome == Outcome::Ok
                && GRANTS.contains(&earlier.function)
                && earlier.key == later.key
                && earlier.precedes(later)
        });
        if let Some(first) = first {
            return Some((first as u32, second));
        }
    }
    None
}

fn reused_token(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let (first, second) = two_grants(history, rng)?;
    let token = history.operations[first as usize].result.clone();
    retoken(history, second, &token);
    Some(second)
}

fn falling_token(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let (first, second) = two_grants(history, rng)?;
    let earlier = &history.operations[first as usize];
    let Value::Int(token) = earlier.result else { return None };
    let used = tokens(history, earlier.key);
    let lower = (0..).map(|less| token - 1 - less).find(|lower| !used.contains(lower))?;
    retoken(history, second, &Value::Int(lower));
    Some(second)
}

fn foreign_release(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let grant = *chosen(history, rng, GRANTS).first()?;
    let operation = &history.operations[grant as usize];
    let (key, before) = (operation.key, operation.returned + 1);
    let function = if *model == Model::Election { Function::Resign } else { Function::Release };
    let release = fresh(history, key, function, Value::Null, Value::Null, 0);
    Some(insert(history, before, vec![release]))
}

fn grant_after_expiry(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let grant = *chosen(history, rng, GRANTS).first()?;
    let operation = &history.operations[grant as usize];
    let (key, before, token) = (operation.key, operation.called, operation.result.clone());
    let expiry = fresh(history, key, Function::Expire, token, Value::Null, 0);
    Some(insert(history, before, vec![expiry]))
}

fn renew_after_end(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let end = *chosen(history, rng, &[Function::Close, Function::Expire]).first()?;
    let operation = &history.operations[end as usize];
    let (key, before) = (operation.key, operation.returned + 1);
    let renewal = fresh(history, key, Function::Renew, Value::Null, Value::Null, 0);
    Some(insert(history, before, vec![renewal]))
}

fn non_sequential_child(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for second in chosen(history, rng, &[Function::Create]) {
        let later = &history.operations[second as usize];
        let first = oks(history, &[Function::Create])
            .find(|(_, earlier)| earlier.key == later.key && earlier.precedes(later))
            .map(|(_, earlier)| earlier.result.clone());
        if let Some(number) = first {
            history.operations[second as usize].result = number;
            return Some(second);
        }
    }
    None
}

fn ghost_child(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    for at in chosen(history, rng, &[Function::List]) {
        let list = &history.operations[at as usize];
        let deleted = oks(history, &[Function::Delete])
            .find(|(_, delete)| delete.key == list.key && delete.precedes(list))
            .map(|(_, delete)| delete.argument.clone());
        let (Some(child), Value::List(children)) = (deleted, &list.result) else { continue };
        let ghosts = children.iter().cloned().chain([child]).collect();
        history.operations[at as usize].result = Value::List(ghosts);
        return Some(at);
    }
    None
}
