//! Clients, the wire and the clock.

use std::{cmp::Reverse, collections::BinaryHeap, collections::HashMap};

use fastrand::Rng;

use super::{
    Config,
    objects::{Effect, Thing},
};
use crate::{
    Function, History, Model, Operation, Outcome, Value,
    history::{NEVER, NO_TIME},
};

/// Nanoseconds of virtual time.
const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000 * MICROSECOND;
/// Time after which a silent session ends; more than any answer takes, so that only crashes lose one.
const TTL_NS: i64 = 1_000 * MILLISECOND;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum What {
    /// A client begins its next operation.
    Call { slot: u32 },
    /// An operation takes effect.
    Effect { operation: u32 },
    /// The answer arrives.
    Return { operation: u32 },
    /// The client stops waiting.
    Impatience { operation: u32 },
    /// A session ends.
    End { process: u32, key: u32 },
}

/// What a client knows of itself.
struct Client {
    process: u32,
    /// Key and what it was told it has there, oldest first.
    has: Vec<(u32, Value)>,
}

struct World<'a> {
    config: &'a Config,
    rng: Rng,
    history: History,
    things: Vec<Thing>,
    clients: Vec<Client>,
    agenda: BinaryHeap<Reverse<(i64, u64, What)>>,
    sequence: u64,
    /// By operation: its answer, the slot that waits for it, and whether the answer gets lost.
    answers: Vec<(Option<(Outcome, Value)>, u32, bool)>,
    /// The operation with which a process waits.
    waiting: HashMap<u32, u32>,
    ended: Vec<bool>,
    now: i64,
}

/// A history of a correct object. The same configuration gives the same history.
#[must_use]
pub fn generate(config: &Config) -> History {
    let keys = if config.model == Model::ListAppend { 1 } else { config.keys.max(1) };
    let things = (0..keys).map(|_| Thing::new(&config.model, config.values)).collect();
    let mut world = World {
        config,
        rng: Rng::with_seed(config.seed),
        history: History::default(),
        things,
        clients: Vec::new(),
        agenda: BinaryHeap::new(),
        sequence: 0,
        answers: Vec::new(),
        waiting: HashMap::new(),
        ended: Vec::new(),
        now: 0,
    };
    world.history.keys =
        if keys == 1 { vec![Value::Null] } else { (0..keys).map(|key| Value::Int(i64::from(key))).collect() };
    if config.model == Model::Session {
        world.history.keys = vec![Value::Int(0)];
    }
    for slot in 0..config.clients.max(1) {
        let process = world.process();
        world.clients.push(Client { process, has: Vec::new() });
        world.after(MICROSECOND, MILLISECOND, What::Call { slot });
    }
    world.run();
    world.history
}

impl World<'_> {
    fn run(&mut self) {
        while let Some(Reverse((now, _, what))) = self.agenda.pop() {
            self.now = now;
            match what {
                What::Call { slot } => self.call(slot),
                What::Effect { operation } => self.effect(operation),
                What::Return { operation } => self.answer(operation),
                What::Impatience { operation } => self.impatience(operation),
                What::End { process, key } => self.end(process, key),
            }
        }
    }

    fn process(&mut self) -> u32 {
        let process = self.history.processes.len() as u32;
        self.history.processes.push(Value::Int(i64::from(process)));
        self.ended.push(false);
        process
    }

    fn at(&mut self, time: i64, what: What) {
        self.sequence += 1;
        self.agenda.push(Reverse((time, self.sequence, what)));
    }

    fn after(&mut self, least: i64, most: i64, what: What) {
        let delay = self.rng.i64(least..=most);
        self.at(self.now + delay, what);
    }

    fn begin(&mut self, process: u32, key: u32, function: Function, argument: Value) -> u32 {
        let operation = self.history.operations.len() as u32;
        self.history.operations.push(Operation {
            process,
            key,
            function,
            outcome: Outcome::Unknown,
            called: self.history.events,
            returned: NEVER,
            argument,
            result: Value::Null,
            called_ns: self.now,
            returned_ns: NO_TIME,
        });
        self.history.events += 1;
        self.answers.push((None, NEVER, false));
        operation
    }

    fn call(&mut self, slot: u32) {
        let enough = self.history.operations.len() >= self.config.operations as usize;
        let holds = |(key, _): &(u32, Value)| matches!(self.things[*key as usize], Thing::Lock(_));
        // Who holds a lock goes on until it is released: others may wait for it.
        if enough && !self.clients[slot as usize].has.last().is_some_and(holds) {
            return;
        }
        let client = &self.clients[slot as usize];
        let process = client.process;
        // Who has something goes on with it most of the time; nobody waits for a second lock while holding one.
        let (key, has) = match client.has.last() {
            Some((key, has)) => (*key, Some(has.clone())),
            None => (self.choose_key(), None),
        };
        let (function, argument) = self.things[key as usize].wish(&mut self.rng, has.as_ref());
        let operation = self.begin(process, key, function, argument);
        let lost = self.rng.f64() < self.config.unknown;
        self.answers[operation as usize].1 = slot;
        self.answers[operation as usize].2 = lost;
        if !lost && self.rng.f64() < self.config.fail {
            self.answers[operation as usize].0 = Some((Outcome::Fail, Value::from("unavailable")));
            return self.after(MICROSECOND, MILLISECOND, What::Return { operation });
        }
        if lost {
            // The client gives up at some moment; the call arrives as usual, late, or never.
            self.after(MILLISECOND, 20 * MILLISECOND, What::Return { operation });
            match self.rng.u8(..4) {
                0 => return,
                1 => return self.after(MILLISECOND, 200 * MILLISECOND, What::Effect { operation }),
                _ => {}
            }
        }
        self.after(MICROSECOND, MILLISECOND, What::Effect { operation });
    }

    fn choose_key(&mut self) -> u32 {
        if self.config.model == Model::Session {
            // Every session is one of its own.
            let key = self.history.keys.len() as u32 - 1;
            self.history.keys.push(Value::Int(i64::from(key) + 1));
            self.things.push(Thing::new(&self.config.model, 0));
            return key;
        }
        self.rng.u32(..self.things.len() as u32)
    }

    fn effect(&mut self, at: u32) {
        let operation = &self.history.operations[at as usize];
        let (process, key) = (operation.process, operation.key);
        // What arrives after the end of its session does nothing.
        if self.ended[process as usize] {
            return;
        }
        let effect = self.things[key as usize].apply(i64::from(process), operation.function, &operation.argument);
        match effect {
            Effect::Done(outcome, value) => self.settle(at, outcome, value),
            Effect::Waits => {
                self.waiting.insert(process, at);
                if self.rng.u8(..4) == 0 {
                    self.after(MILLISECOND, 50 * MILLISECOND, What::Impatience { operation: at });
                }
            }
        }
        self.wake(key);
    }

    /// The answer to an operation is known; it has to travel.
    fn settle(&mut self, operation: u32, outcome: Outcome, value: Value) {
        let (answer, _, lost) = &mut self.answers[operation as usize];
        *answer = Some((outcome, value));
        if !*lost {
            self.after(MICROSECOND, MILLISECOND, What::Return { operation });
        }
    }

    fn wake(&mut self, key: u32) {
        for (process, value) in self.things[key as usize].woken() {
            if let Some(operation) = self.waiting.remove(&(process as u32)) {
                self.settle(operation, Outcome::Ok, value);
            }
        }
    }

    fn impatience(&mut self, at: u32) {
        let operation = &self.history.operations[at as usize];
        let (process, key) = (operation.process, operation.key);
        if self.waiting.get(&process) == Some(&at) && self.things[key as usize].give_up(i64::from(process)) {
            self.waiting.remove(&process);
            self.settle(at, Outcome::Fail, Value::from("timed out"));
            self.wake(key);
        }
    }

    fn answer(&mut self, at: u32) {
        let (answer, slot, lost) = self.answers[at as usize].clone();
        let (process, key) = {
            let operation = &self.history.operations[at as usize];
            (operation.process, operation.key)
        };
        if lost {
            return self.crash(slot, process, key);
        }
        let Some((outcome, value)) = answer else { return };
        let operation = &mut self.history.operations[at as usize];
        operation.outcome = outcome;
        operation.returned = self.history.events;
        operation.returned_ns = self.now;
        operation.result = value.clone();
        self.history.events += 1;
        if slot == NEVER {
            return;
        }
        let (function, argument) = (operation.function, operation.argument.clone());
        let has = &mut self.clients[slot as usize].has;
        let refused = value.is_null() || value == Value::from("unavailable");
        match (function, outcome) {
            (
                Function::Acquire
                | Function::TryAcquire
                | Function::AcquireShared
                | Function::TryAcquireShared
                | Function::Campaign
                | Function::Create,
                Outcome::Ok,
            ) => has.push((key, value)),
            (Function::Open, Outcome::Ok) => has.push((key, argument)),
            // What was not even tried is tried again.
            (Function::Release | Function::Resign | Function::Delete | Function::Close, Outcome::Fail) if refused => {}
            (Function::Release | Function::Resign | Function::Delete | Function::Close, _)
            | (Function::Renew, Outcome::Fail)
                if !refused || outcome == Outcome::Ok =>
            {
                has.pop();
            }
            _ => {}
        }
        // Some clients go silent while they hold, and lose it.
        if !self.clients[slot as usize].has.is_empty()
            && self.config.unknown > 0.0
            && self.rng.f64() < self.config.unknown / 4.0
        {
            return self.crash(slot, process, key);
        }
        self.after(MICROSECOND, 2 * MILLISECOND, What::Call { slot });
    }

    /// The client is heard of no more; another takes its place.
    fn crash(&mut self, slot: u32, process: u32, key: u32) {
        let fresh = self.process();
        let old = std::mem::replace(&mut self.clients[slot as usize], Client { process: fresh, has: Vec::new() });
        let has_sessions =
            matches!(self.things[key as usize], Thing::Lock(_) | Thing::Directory { .. } | Thing::Session { .. });
        if has_sessions {
            let mut keys: Vec<u32> = old.has.iter().map(|(key, _)| *key).chain([key]).collect();
            keys.dedup();
            for key in keys {
                // A second key's end would be another session's; clients hold on one key at a time.
                self.at(self.now + TTL_NS, What::End { process, key });
            }
        }
        self.after(MICROSECOND, 2 * MILLISECOND, What::Call { slot });
    }

    /// The session of a process ends. Where the history has to say so, somebody reports it.
    fn end(&mut self, process: u32, key: u32) {
        self.ended[process as usize] = true;
        if self.config.model == Model::Session {
            if let Thing::Session { open: Some(true) } = self.things[key as usize] {
                let operation = self.report(key, Value::Null);
                self.effect(operation);
            }
            return;
        }
        let thing = &mut self.things[key as usize];
        let fenced = thing.fenced();
        // The report is called before the end and returns after it.
        let reported = if fenced { self.rng.bool() } else { true };
        let operation = reported.then(|| self.report(key, Value::Int(i64::from(process))));
        let token = self.things[key as usize].end(i64::from(process));
        self.waiting.remove(&process);
        if let Some(operation) = operation {
            if fenced {
                let token = token.map_or(Value::Null, Value::Int);
                self.history.operations[operation as usize].argument = token;
            }
            self.settle(operation, Outcome::Ok, Value::Null);
        }
        self.wake(key);
    }

    fn report(&mut self, key: u32, value: Value) -> u32 {
        let reporter = self.process();
        self.begin(reporter, key, Function::Expire, value)
    }
}
