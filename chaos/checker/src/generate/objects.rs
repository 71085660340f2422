//! Correct objects, written for generating: they share nothing with the models that judge.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use fastrand::Rng;

use crate::{Function, Model, Outcome, Value};

/// What becomes of a call when it takes effect.
pub(super) enum Effect {
    /// It is over.
    Done(Outcome, Value),
    /// It waits for others; [`Thing::woken`] tells when it is over.
    Waits,
}

/// What a client wants to do next.
pub(super) type Wish = (Function, Value);

/// An object: the truth.
pub(super) enum Thing {
    /// Registers, key-values, counters: a value and a revision.
    Cell { model: Model, value: Value, revision: i64, values: u32, next: i64 },
    /// Lists by key; keys are given up when their lists are long.
    Lists { lists: BTreeMap<i64, Vec<Value>>, first: i64, keys: i64, next: i64 },
    /// A queue.
    Queue { items: VecDeque<Value>, next: i64 },
    /// Locks, semaphores, elections.
    Lock(Lock),
    /// A directory: numbers and owners.
    Directory { children: BTreeMap<i64, i64>, next: i64 },
    /// A session: not yet, or open, or over.
    Session { open: Option<bool> },
}

/// A lock with its queue.
pub(super) struct Lock {
    permits: usize,
    reentrant: bool,
    shared: bool,
    fenced: bool,
    election: bool,
    holds: Vec<Hold>,
    waits: VecDeque<(i64, bool)>,
    woken: Vec<(i64, Value)>,
    token: i64,
}

struct Hold {
    process: i64,
    shared: bool,
    token: i64,
    depth: u32,
}

/// Longest list; then its key is replaced by a fresh one.
const LIST_MAX: usize = 24;
/// A queue this long is emptied rather than filled.
const QUEUE_MAX: usize = 24;

impl Thing {
    pub fn new(model: &Model, values: u32) -> Self {
        let lock = |permits: u32| Lock {
            permits: permits as usize,
            reentrant: *model == Model::ReentrantMutex,
            shared: *model == Model::RwLock,
            fenced: matches!(model, Model::FencedMutex | Model::FencedSemaphore(_) | Model::Election),
            election: *model == Model::Election,
            holds: Vec::new(),
            waits: VecDeque::new(),
            woken: Vec::new(),
            token: 0,
        };
        match model {
            Model::Register { init } | Model::CasRegister { init } => {
                Self::Cell { model: model.clone(), value: init.clone(), revision: 0, values, next: 0 }
            }
            Model::Kv | Model::KvRevision => {
                Self::Cell { model: model.clone(), value: Value::Null, revision: 0, values, next: 0 }
            }
            Model::Counter => Self::Cell { model: model.clone(), value: Value::Int(0), revision: 0, values, next: 0 },
            Model::ListAppend => Self::Lists { lists: BTreeMap::new(), first: 0, keys: 4, next: 0 },
            Model::FifoQueue => Self::Queue { items: VecDeque::new(), next: 0 },
            Model::Semaphore(permits) | Model::FencedSemaphore(permits) => Self::Lock(lock(*permits)),
            Model::Mutex
            | Model::OwnerMutex
            | Model::ReentrantMutex
            | Model::FencedMutex
            | Model::RwLock
            | Model::Election => Self::Lock(lock(1)),
            Model::SequentialDirectory => Self::Directory { children: BTreeMap::new(), next: 0 },
            Model::Session => Self::Session { open: None },
        }
    }

    /// Whether holds can be lost without a word in the history.
    pub fn fenced(&self) -> bool {
        matches!(self, Self::Lock(lock) if lock.fenced)
    }

    /// What a process may want, given what it was told it has (a token, a child; null for a hold without one).
    pub fn wish(&mut self, rng: &mut Rng, has: Option<&Value>) -> Wish {
        match self {
            Self::Cell { model, values, next, .. } => {
                let fresh = |rng: &mut Rng, next: &mut i64| {
                    *next += 1;
                    Value::Int(if *values == 0 { *next } else { rng.i64(0..i64::from(*values)) })
                };
                match model {
                    Model::Counter if rng.bool() => (Function::Add, Value::Int(rng.i64(1..=3))),
                    Model::Counter => (Function::Read, Value::Null),
                    Model::Kv | Model::KvRevision => match rng.u8(..8) {
                        0..=3 => (Function::Get, Value::Null),
                        4 => (Function::Delete, Value::Null),
                        5 if *model == Model::Kv => {
                            let Value::Int(value) = fresh(rng, next) else { unreachable!("fresh values are numbers") };
                            (Function::Append, Value::from(format!(" {value}").as_str()))
                        }
                        _ if *model == Model::Kv => (Function::Put, Value::from(fresh(rng, next).to_string().as_str())),
                        _ => (Function::Put, fresh(rng, next)),
                    },
                    Model::CasRegister { .. } if rng.u8(..3) == 0 => {
                        let old = Value::Int(if *values == 0 {
                            rng.i64((*next - 2).max(0)..=*next)
                        } else {
                            rng.i64(0..i64::from(*values))
                        });
                        (Function::Cas, Value::List([old, fresh(rng, next)].into()))
                    }
                    _ if rng.bool() => (Function::Read, Value::Null),
                    _ => (Function::Write, fresh(rng, next)),
                }
            }
            Self::Lists { first, keys, next, .. } => {
                let parts: Arc<[Value]> = (0..rng.usize(1..=4))
                    .map(|_| {
                        let key = Value::Int(*first + rng.i64(0..*keys));
                        let (name, value) = if rng.bool() {
                            *next += 1;
                            ("append", Value::Int(*next))
                        } else {
                            ("r", Value::Null)
                        };
                        Value::List([Value::from(name), key, value].into())
                    })
                    .collect();
                (Function::Txn, Value::List(parts))
            }
            Self::Queue { items, next } => {
                if items.len() < QUEUE_MAX && rng.u8(..16) < 9 {
                    *next += 1;
                    (Function::Enqueue, Value::Int(*next))
                } else {
                    (Function::Dequeue, Value::Null)
                }
            }
            Self::Lock(lock) => lock.wish(rng, has),
            Self::Directory { .. } => match has {
                Some(child) if rng.bool() => (Function::Delete, child.clone()),
                None if rng.bool() => (Function::Create, Value::Null),
                _ => (Function::List, Value::Null),
            },
            Self::Session { .. } => match has {
                None => (Function::Open, Value::Int(1_000)),
                Some(_) if rng.u8(..4) == 0 => (Function::Close, Value::Null),
                Some(_) => (Function::Renew, Value::Null),
            },
        }
    }

    /// The call of this process takes effect.
    pub fn apply(&mut self, process: i64, function: Function, argument: &Value) -> Effect {
        let ok = |value: Value| Effect::Done(Outcome::Ok, value);
        let refused = || Effect::Done(Outcome::Fail, Value::Null);
        match self {
            Self::Cell { model, value, revision, .. } => {
                let versioned = *model == Model::KvRevision;
                let pair = |value: &Value, revision: i64| Value::List([value.clone(), Value::Int(revision)].into());
                match (function, argument) {
                    (Function::Read | Function::Get, _) => {
                        ok(if versioned && !value.is_null() { pair(value, *revision) } else { value.clone() })
                    }
                    (Function::Cas, Value::List(change)) => {
                        if change[0] != *value {
                            return refused();
                        }
                        *value = change[1].clone();
                        ok(Value::Null)
                    }
                    (Function::Add, Value::Int(more)) => {
                        if let Value::Int(sum) = value {
                            *sum += more;
                        }
                        ok(Value::Null)
                    }
                    (Function::Append, Value::Text(more)) => {
                        *value = match value {
                            Value::Text(text) => Value::from(format!("{text}{more}").as_str()),
                            _ => argument.clone(),
                        };
                        ok(Value::Null)
                    }
                    (Function::Delete, _) => {
                        let was = std::mem::take(value);
                        if !was.is_null() {
                            *revision += 1;
                        }
                        ok(if versioned && !was.is_null() { Value::Int(*revision) } else { Value::Null })
                    }
                    _ => {
                        *value = argument.clone();
                        *revision += 1;
                        ok(if versioned { pair(value, *revision) } else { Value::Null })
                    }
                }
            }
            Self::Lists { lists, first, keys, .. } => {
                let Value::List(parts) = argument else { return refused() };
                let mut result = Vec::new();
                for part in parts.iter() {
                    let Value::List(fields) = part else { continue };
                    let (Value::Text(name), Value::Int(key)) = (&fields[0], &fields[1]) else { continue };
                    let list = lists.entry(*key).or_default();
                    if &**name == "append" {
                        list.push(fields[2].clone());
                        result.push(part.clone());
                        // Reads of a key that was given up are rare but right: its list is kept a while.
                        if list.len() >= LIST_MAX && *key == *first {
                            *first += 1;
                            let old = *first - 4 * *keys;
                            lists.retain(|key, _| *key >= old);
                        }
                    } else {
                        let list = Value::List(list.clone().into());
                        result.push(Value::List([fields[0].clone(), fields[1].clone(), list].into()));
                    }
                }
                ok(Value::List(result.into()))
            }
            Self::Queue { items, .. } => match function {
                Function::Enqueue => {
                    items.push_back(argument.clone());
                    ok(Value::Null)
                }
                _ => items.pop_front().map_or_else(refused, ok),
            },
            Self::Lock(lock) => lock.apply(process, function, argument),
            Self::Directory { children, next } => match function {
                Function::Create => {
                    *next += 1;
                    children.insert(*next, process);
                    ok(Value::Int(*next))
                }
                Function::Delete => match argument {
                    Value::Int(child) if children.remove(child).is_some() => ok(Value::Null),
                    _ => Effect::Done(Outcome::Fail, Value::from("no such child")),
                },
                _ => ok(Value::List(children.keys().map(|child| Value::Int(*child)).collect())),
            },
            Self::Session { open } => match (function, *open) {
                (Function::Open, None) => {
                    *open = Some(true);
                    ok(Value::Null)
                }
                (Function::Renew, Some(true)) => ok(Value::Null),
                (Function::Close | Function::Expire, Some(true)) => {
                    *open = Some(false);
                    ok(Value::Null)
                }
                _ => Effect::Done(Outcome::Fail, Value::from("no such session")),
            },
        }
    }

    /// The session of a process ends: what it holds and waits for goes. Returns the token of a hold that went.
    pub fn end(&mut self, process: i64) -> Option<i64> {
        match self {
            Self::Lock(lock) => {
                lock.waits.retain(|(waiter, _)| *waiter != process);
                let token = lock.holds.iter().find(|hold| hold.process == process).map(|hold| hold.token);
                lock.holds.retain(|hold| hold.process != process);
                lock.admit();
                token
            }
            Self::Directory { children, .. } => {
                children.retain(|_, owner| *owner != process);
                None
            }
            _ => None,
        }
    }

    /// A waiter runs out of patience. True if it was still waiting.
    pub fn give_up(&mut self, process: i64) -> bool {
        let Self::Lock(lock) = self else { return false };
        let before = lock.waits.len();
        lock.waits.retain(|(waiter, _)| *waiter != process);
        let gave_up = lock.waits.len() < before;
        lock.admit();
        gave_up
    }

    /// Processes whose waiting is over, with their results.
    pub fn woken(&mut self) -> Vec<(i64, Value)> {
        match self {
            Self::Lock(lock) => std::mem::take(&mut lock.woken),
            _ => Vec::new(),
        }
    }
}

impl Lock {
    fn wish(&self, rng: &mut Rng, has: Option<&Value>) -> Wish {
        if self.election {
            return match has {
                _ if rng.u8(..3) == 0 => (Function::Observe, Value::Null),
                Some(token) => (Function::Resign, token.clone()),
                None => (Function::Campaign, Value::Null),
            };
        }
        match has {
            Some(_) if self.reentrant && rng.u8(..4) == 0 => (Function::Acquire, Value::Null),
            Some(token) => (Function::Release, token.clone()),
            None if self.shared && rng.u8(..3) > 0 => {
                (if rng.u8(..4) == 0 { Function::TryAcquireShared } else { Function::AcquireShared }, Value::Null)
            }
            None if rng.u8(..4) == 0 => (Function::TryAcquire, Value::Null),
            None => (Function::Acquire, Value::Null),
        }
    }

    fn room(&self, shared: bool) -> bool {
        if self.shared {
            return self.holds.iter().all(|hold| hold.shared && shared);
        }
        self.holds.len() < self.permits
    }

    fn grant(&mut self, process: i64, shared: bool) -> Value {
        // Gaps, as a revision has that counts other things too.
        self.token += 1 + process.rem_euclid(3);
        self.holds.push(Hold { process, shared, token: self.token, depth: 1 });
        if self.fenced { Value::Int(self.token) } else { Value::Null }
    }

    fn admit(&mut self) {
        while let Some((process, shared)) = self.waits.front().copied()
            && self.room(shared)
        {
            self.waits.pop_front();
            let token = self.grant(process, shared);
            self.woken.push((process, token));
        }
    }

    fn apply(&mut self, process: i64, function: Function, argument: &Value) -> Effect {
        let shared = matches!(function, Function::AcquireShared | Function::TryAcquireShared);
        let mine = self.holds.iter().position(|hold| match argument {
            Value::Int(token) if self.fenced => hold.token == *token,
            _ => hold.process == process,
        });
        match function {
            Function::Observe => {
                let leader = self.holds.first();
                let leader = leader.map(|hold| Value::List([Value::Int(hold.process), Value::Int(hold.token)].into()));
                Effect::Done(Outcome::Ok, leader.unwrap_or_default())
            }
            Function::Release | Function::Resign => {
                let Some(mine) = mine else { return Effect::Done(Outcome::Fail, Value::from("no longer the holder")) };
                self.holds[mine].depth -= 1;
                if self.holds[mine].depth == 0 {
                    self.holds.remove(mine);
                    self.admit();
                }
                Effect::Done(Outcome::Ok, Value::Null)
            }
            _ if self.reentrant && mine.is_some() => {
                self.holds[mine.expect("just looked")].depth += 1;
                Effect::Done(Outcome::Ok, Value::Null)
            }
            _ if self.waits.is_empty() && self.room(shared) => Effect::Done(Outcome::Ok, self.grant(process, shared)),
            Function::TryAcquire | Function::TryAcquireShared => Effect::Done(Outcome::Fail, Value::Null),
            _ => {
                self.waits.push_back((process, shared));
                Effect::Waits
            }
        }
    }
}
