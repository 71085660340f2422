//! States and operations as small numbers, with the steps between them remembered.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::mistakes::{Mistake, made, tight};
use crate::{
    Function, Operation, Outcome, Value,
    model::{Role, Spec},
};

/// An operation as the search sees it. Shrinking lifts some of what the history demands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Index into [`crate::History::operations`].
    pub index: u32,
    /// What it does and returns.
    pub operation: &'a Operation,
    /// `Must` or `May`.
    pub role: Role,
    /// It has its moment after this position,
    pub called: u32,
    /// and before this one, if it must.
    pub returned: u32,
}

impl Entry<'_> {
    /// Demands nothing any more: it may take effect at any time, and as often as it likes if [`Spec::repeats`].
    pub fn free(&mut self) {
        (self.role, self.called, self.returned) = (Role::May, 0, 0);
    }

    /// See [`Entry::free`]. What returns at position 0 can only be free.
    pub fn is_free(&self) -> bool {
        self.role == Role::May && self.returned == 0
    }
}

/// A quick hash for small numbers. They are our own, so nobody can choose them to collide.
#[derive(Clone, Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// A map with [`Mix`].
pub type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Steps not taken yet; those that lead nowhere; the mark of those with several ends.
const UNTRIED: u32 = u32::MAX;
const NOWHERE: u32 = u32::MAX - 1;
const SEVERAL: u32 = 1 << 31;

/// With more classes than this, steps are kept in a map and not in a table.
const TABLE_CLASSES_MAX: usize = 256;

/// What makes operations interchangeable.
#[derive(Eq, Hash, PartialEq)]
struct Likeness<'a> {
    function: Function,
    outcome: Outcome,
    argument: &'a Value,
    result: &'a Value,
    who: u32,
}

/// States by number, and the steps between them. Only this part depends on the model, so that the walk is compiled once.
trait States {
    /// Appends the states that may follow.
    fn step(&mut self, state: u32, class: u32, ends: &mut Vec<u32>);
    fn len(&self) -> usize;
    fn bytes(&self) -> u64;
    fn show(&self, state: u32) -> String;
    fn sweep(&mut self, keep: &[u32]);
}

struct Interned<'a, S: Spec> {
    spec: &'a S,
    /// One operation of each class.
    classes: Vec<&'a Operation>,
    states: Vec<S::State>,
    ids: HashMap<S::State, u32>,
    scratch: Vec<S::State>,
    bytes: u64,
}

impl<S: Spec> Interned<'_, S> {
    fn state(&mut self, state: S::State) -> u32 {
        if let Some(id) = self.ids.get(&state) {
            return *id;
        }
        let id = self.states.len() as u32;
        assert!(id < SEVERAL, "states are swept long before");
        // Held twice: by id, and as the key of the map.
        self.bytes += 2 * self.spec.state_bytes(&state) as u64 + 48;
        self.states.push(state.clone());
        self.ids.insert(state, id);
        id
    }
}

impl<S: Spec> States for Interned<'_, S> {
    fn step(&mut self, state: u32, class: u32, ends: &mut Vec<u32>) {
        let mut next = std::mem::take(&mut self.scratch);
        self.spec.step(&self.states[state as usize], self.classes[class as usize], &mut next);
        ends.extend(next.drain(..).map(|state| self.state(state)));
        self.scratch = next;
    }

    fn len(&self) -> usize {
        self.states.len()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn show(&self, state: u32) -> String {
        self.spec.show(&self.states[state as usize])
    }

    fn sweep(&mut self, keep: &[u32]) {
        let kept: Vec<_> = keep.iter().map(|id| self.states[*id as usize].clone()).collect();
        self.states = Vec::new();
        self.ids = HashMap::new();
        self.bytes = 0;
        for state in kept {
            self.state(state);
        }
    }
}

/// States and classes of interchangeable operations of one object.
pub struct Space<'a> {
    /// See [`Spec::repeats`].
    pub repeats: bool,
    states: Box<dyn States + 'a>,
    /// By class: whether it never changes anything.
    reads: Vec<bool>,
    /// By state and class, if there are few classes.
    table: Vec<u32>,
    map: QuickMap<u64, u32>,
    several: Vec<Vec<u32>>,
}

impl<'a> Space<'a> {
    /// The initial state.
    pub const INIT: u32 = 0;

    /// The space, and the class of each entry.
    pub fn new<S: Spec>(spec: &'a S, entries: &[Entry<'a>]) -> (Self, Vec<u32>) {
        let mut likenesses = HashMap::new();
        let mut classes = Vec::new();
        let class_of = entries.iter().enumerate().map(|(at, entry)| {
            let operation = entry.operation;
            let who = match (spec.by_time(), spec.by_process()) {
                (true, _) => at as u32,
                (false, true) => operation.process,
                (false, false) => 0,
            };
            let Operation { function, outcome, argument, result, .. } = operation;
            let result = if made(Mistake::ResultForgotten) { &Value::Null } else { result };
            let likeness = Likeness { function: *function, outcome: *outcome, argument, result, who };
            *likenesses.entry(likeness).or_insert_with(|| {
                classes.push(operation);
                classes.len() as u32 - 1
            })
        });
        let class_of = class_of.collect();
        let reads = classes.iter().map(|operation| spec.reads(operation)).collect();
        let (states, ids, scratch) = (Vec::new(), HashMap::new(), Vec::new());
        let mut states = Interned { spec, classes, states, ids, scratch, bytes: 0 };
        states.state(spec.init());
        let states = Box::new(states);
        let repeats = spec.repeats();
        let mut space =
            Self { repeats, states, reads, table: Vec::new(), map: QuickMap::default(), several: Vec::new() };
        space.make_room();
        (space, class_of)
    }

    pub fn reads(&self, class: u32) -> bool {
        self.reads[class as usize]
    }

    pub fn show(&self, state: u32) -> String {
        self.states.show(state)
    }

    fn tabled(&self) -> bool {
        self.reads.len() <= TABLE_CLASSES_MAX && !tight()
    }

    fn make_room(&mut self) {
        if self.tabled() {
            self.table.resize(self.states.len() * self.reads.len(), UNTRIED);
        }
    }

    /// Calls `each` with every state that may follow.
    #[inline]
    pub fn next(&mut self, state: u32, class: u32, mut each: impl FnMut(u32)) {
        let end = self.end(state, class);
        if end == NOWHERE {
        } else if end & SEVERAL == 0 {
            each(end);
        } else {
            self.several[(end & !SEVERAL) as usize].iter().copied().for_each(each);
        }
    }

    /// Whether the step is possible.
    #[inline]
    pub fn possible(&mut self, state: u32, class: u32) -> bool {
        self.end(state, class) != NOWHERE
    }

    #[inline]
    fn end(&mut self, state: u32, class: u32) -> u32 {
        let known = if self.tabled() {
            self.table[state as usize * self.reads.len() + class as usize]
        } else {
            self.map.get(&(u64::from(state) << 32 | u64::from(class))).copied().unwrap_or(UNTRIED)
        };
        if known == UNTRIED { self.try_step(state, class) } else { known }
    }

    #[cold]
    fn try_step(&mut self, state: u32, class: u32) -> u32 {
        let mut ids = Vec::new();
        self.states.step(state, class, &mut ids);
        self.make_room();
        ids.sort_unstable();
        ids.dedup();
        if made(Mistake::OneEnd) {
            ids.truncate(1);
        }
        let end = match ids[..] {
            [] => NOWHERE,
            [one] => one,
            _ => {
                self.several.push(ids);
                (self.several.len() as u32 - 1) | SEVERAL
            }
        };
        if self.tabled() {
            self.table[state as usize * self.reads.len() + class as usize] = end;
        } else {
            self.map.insert(u64::from(state) << 32 | u64::from(class), end);
        }
        end
    }

    /// Bytes in use, about.
    pub fn bytes(&self) -> u64 {
        self.states.bytes() + 4 * self.table.capacity() as u64 + 14 * self.map.capacity() as u64
    }

    /// Forgets all states but these, which get new numbers in the order given.
    pub fn sweep(&mut self, keep: &[u32]) {
        self.states.sweep(keep);
        self.table = Vec::new();
        self.map = QuickMap::default();
        self.several = Vec::new();
        self.make_room();
    }
}
