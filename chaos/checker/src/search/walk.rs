//! The walk through a history's calls and returns, with all configurations that explain it so far.
//!
//! Wing and Gong (1993) try orders one at a time and Lowe (2017) remembers where he was; both then hold, for the whole history,
//! what was tried. Here all orders advance together, from return to return, so that only the present has to be held.
//! As in Lowe's just-in-time linearization an operation takes effect only when one has to, because it returns:
//! then every sequence of operations under way that ends with it is tried. What keeps configurations few:
//!
//! * A read takes effect as soon as it fits: it changes nothing, and is done with.
//! * Of interchangeable operations under way the one that returns first takes effect first.
//! * Operations of unknown outcome are counted by class, not told apart: they never return.
//! * A configuration that can do no more than another is dropped ([`super::frontier`]).
//!
//! A narrow walk keeps the most promising configurations only, and leaves unknown outcomes alone as long as it can. If
//! it comes to the end, there is an order. If not, a wider one starts where the first was left out.

use super::{
    budget::Budget,
    frontier::{Bits, Config, Frontier},
    mistakes::{Mistake, made, tight},
    space::{Entry, QuickMap, Space},
    uses::Uses,
};
use crate::model::{Role, Spec};

/// How a walk ended.
#[derive(Clone, Debug)]
pub enum End {
    /// There is an order.
    Fits,
    /// There is none.
    Dead(Dead),
    /// A limit was reached: which.
    Limit(String),
}

/// Where all orders ended.
#[derive(Clone, Debug)]
pub struct Dead {
    /// The operation that has no place, an index into the entries.
    pub entry: usize,
    /// The states that were possible before, in words, a few of them.
    pub states: Vec<String>,
}

/// How many configurations a walk keeps from return to return (and [`TRIED`] times as many in between), and whether it uses unknown outcomes only when there is no other way.
#[derive(Clone, Copy)]
struct Width {
    configs: usize,
    lazy: bool,
}

const WIDTHS: &[Width] = &[
    Width { configs: 512, lazy: true },
    Width { configs: 16_384, lazy: false },
    Width { configs: usize::MAX, lazy: false },
];

/// So low that small histories reach them.
const TIGHT_WIDTHS: &[Width] =
    &[Width { configs: 1, lazy: true }, Width { configs: 2, lazy: false }, Width { configs: usize::MAX, lazy: false }];

/// See [`Width`].
const TRIED: usize = 64;
/// Configurations tried between two looks at the clock.
const TRIES_PER_LOOK: u32 = 4096;
/// Bytes of states and sets after which those no longer needed are forgotten.
const SWEEP_BYTES: u64 = 16 << 20;
/// Most operations under way at a time. A configuration has a bit for each, so the widest has 4 KiB.
pub const PENDING_MAX: u32 = 1 << 15;

/// See [`Entry::free`].
const UNCOUNTED: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Event {
    entry: u32,
    /// A return; else a call.
    returns: bool,
}

/// Operations under way of one class: when they return, and their slots; ascending.
#[derive(Clone, Default)]
struct Group {
    class: u32,
    read: bool,
    waiting: Vec<(u32, u32)>,
}

/// A moment of the walk: all that changes.
#[derive(Clone)]
struct Moment<const W: usize> {
    event: usize,
    configs: Vec<Config<W>>,
    groups: Vec<Group>,
    /// Operations of unknown outcome by class, with their number; [`UNCOUNTED`] if any number will do.
    free: Vec<(u32, u32)>,
    reads: Bits<W>,
}

struct Walk<'a, const W: usize> {
    space: Space<'a>,
    uses: Uses,
    class_of: Vec<u32>,
    slot_of: Vec<u32>,
    events: Vec<Event>,
    entries: &'a [Entry<'a>],
    budget: &'a Budget,
    bytes: u64,
    tries: u32,
    returns: u32,
    seen: Frontier<W>,
    next: Frontier<W>,
}

/// Walks through all entries, which are in the order of their calls.
pub fn walk<'a, S: Spec>(spec: &'a S, entries: &'a [Entry<'a>], budget: &'a Budget) -> End {
    let mut events: Vec<(u32, Event)> = Vec::with_capacity(entries.len() * 2);
    for (at, entry) in entries.iter().enumerate() {
        events.push((entry.called, Event { entry: at as u32, returns: false }));
        if entry.role == Role::Must {
            events.push((entry.returned, Event { entry: at as u32, returns: true }));
        }
    }
    events.sort_by_key(|(position, event)| (*position, event.returns));
    let events: Vec<Event> = events.into_iter().map(|(_, event)| event).collect();

    let mut slot_of = vec![0; entries.len()];
    let (mut vacant, mut slots) = (Vec::new(), 0);
    for event in &events {
        let entry = event.entry as usize;
        if event.returns {
            vacant.push(slot_of[entry]);
        } else if entries[entry].role == Role::Must {
            slot_of[entry] = vacant.pop().unwrap_or_else(|| {
                slots += 1;
                slots - 1
            });
        }
    }
    let order = Order { entries, events, slot_of };
    let space = Space::new(spec, entries);
    match slots {
        0..=64 => Walk::<1>::new(space, order, budget).run(),
        65..=256 => Walk::<4>::new(space, order, budget).run(),
        257..=2048 => Walk::<32>::new(space, order, budget).run(),
        2049..=PENDING_MAX => Walk::<512>::new(space, order, budget).run(),
        _ => End::Limit(format!("{slots} operations on one object are under way at a time, more than {PENDING_MAX}")),
    }
}

/// Calls and returns in their order.
struct Order<'a> {
    entries: &'a [Entry<'a>],
    events: Vec<Event>,
    slot_of: Vec<u32>,
}

impl<'a, const W: usize> Walk<'a, W> {
    fn new((space, class_of): (Space<'a>, Vec<u32>), order: Order<'a>, budget: &'a Budget) -> Self {
        let Order { entries, events, slot_of } = order;
        Self {
            space,
            uses: Uses::new(),
            class_of,
            slot_of,
            events,
            entries,
            budget,
            bytes: 0,
            tries: 0,
            returns: 0,
            seen: Frontier::new(),
            next: Frontier::new(),
        }
    }

    fn run(mut self) -> End {
        let init = Config { state: Space::INIT, used: Uses::NONE, done: Bits::NONE };
        let mut start =
            Moment { event: 0, configs: vec![init], groups: Vec::new(), free: Vec::new(), reads: Bits::NONE };
        let mut end = End::Fits;
        for width in if tight() { TIGHT_WIDTHS } else { WIDTHS } {
            match self.pass(start, *width) {
                (ended, None) => {
                    end = ended;
                    break;
                }
                (_, Some(first)) => start = first,
            }
        }
        let _ = self.budget.grow(self.bytes, 0);
        end
    }

    /// One walk from `moment` on. If it found no order but left something out, also the moment before it first did.
    fn pass(&mut self, mut moment: Moment<W>, width: Width) -> (End, Option<Moment<W>>) {
        let mut left_out: Option<Moment<W>> = None;
        while let Some(event) = self.events.get(moment.event).copied() {
            let entry = event.entry as usize;
            if !event.returns {
                self.call(&mut moment, entry);
                moment.event += 1;
                continue;
            }
            let before = if left_out.is_none() { Some(moment.configs.clone()) } else { None };
            let complete = match self.settle(&mut moment, entry, width) {
                Ok(complete) => complete,
                Err(limit) => return (End::Limit(limit), None),
            };
            if let (false, Some(before)) = (complete, &before) {
                left_out = Some(Moment { configs: before.clone(), ..moment.clone() });
            }
            if moment.configs.is_empty() {
                if left_out.is_some() && !made(Mistake::NarrowIsEnough) {
                    return (End::Fits, left_out);
                }
                let mut states: Vec<u32> = before.iter().flatten().map(|config| config.state).collect();
                states.sort_unstable();
                states.dedup();
                let states = states.iter().take(8).map(|state| self.space.show(*state)).collect();
                return (End::Dead(Dead { entry, states }), None);
            }
            self.retire(&mut moment, entry);
            moment.event += 1;
            if let Err(limit) = self.tidy(&mut moment, left_out.as_mut()) {
                return (End::Limit(limit), None);
            }
        }
        (End::Fits, None)
    }

    fn call(&mut self, moment: &mut Moment<W>, entry: usize) {
        let class = self.class_of[entry];
        if self.entries[entry].role == Role::May {
            let more = if self.entries[entry].is_free() && self.space.repeats { UNCOUNTED } else { 1 };
            match moment.free.iter_mut().find(|(free, _)| *free == class) {
                Some((_, count)) => *count = count.saturating_add(more),
                None => moment.free.push((class, more)),
            }
            return;
        }
        let (slot, returned) = (self.slot_of[entry], self.entries[entry].returned);
        let read = self.space.reads(class);
        let at = moment.groups.iter().position(|group| group.class == class).unwrap_or_else(|| {
            moment.groups.push(Group { class, read, waiting: Vec::new() });
            moment.groups.len() - 1
        });
        let waiting = &mut moment.groups[at].waiting;
        let place = waiting.partition_point(|(other, _)| *other < returned);
        waiting.insert(place, (returned, slot));
        if read && !made(Mistake::ReadMissed) {
            moment.reads = moment.reads.with(slot);
            for config in &mut moment.configs {
                if self.space.possible(config.state, class) {
                    config.done = config.done.with(slot);
                }
            }
        }
    }

    fn retire(&mut self, moment: &mut Moment<W>, entry: usize) {
        if made(Mistake::NotRetired) {
            return;
        }
        let (class, slot) = (self.class_of[entry], self.slot_of[entry]);
        let at = moment.groups.iter().position(|group| group.class == class).expect("it was called");
        moment.groups[at].waiting.retain(|(_, other)| *other != slot);
        if moment.groups[at].waiting.is_empty() {
            moment.groups.swap_remove(at);
        }
        moment.reads = moment.reads.without(slot);
    }

    /// Brings every configuration to where `entry` has taken effect. False if some were left out.
    fn settle(&mut self, moment: &mut Moment<W>, entry: usize, width: Width) -> Result<bool, String> {
        let slot = self.slot_of[entry];
        self.next.clear();
        self.seen.clear();
        for config in &moment.configs {
            if config.done.has(slot) || made(Mistake::ReturnIgnored) {
                let config = Config { done: config.done.without(slot), ..*config };
                self.next.insert(config, 0, &moment.reads, &self.uses);
            } else {
                self.seen.insert(*config, 0, &moment.reads, &self.uses);
            }
        }
        let mut complete = true;
        if self.seen.len() > 0 {
            let starts = self.seen.len();
            complete &= self.spread(moment, slot, false, width)?;
            if !moment.free.is_empty() && !made(Mistake::UnknownNever) {
                if width.lazy && self.next.len() > 0 {
                    complete = false;
                } else {
                    // Once more from the same configurations, now with unknown outcomes.
                    let starts: Vec<_> = (0..starts).map(|at| self.seen.get(at)).collect();
                    self.seen.clear();
                    starts.into_iter().for_each(|config| self.seen.insert(config, 0, &moment.reads, &self.uses));
                    complete = self.spread(moment, slot, true, width)?;
                }
            }
        }
        moment.configs.clear();
        moment.configs.extend(self.next.configs());
        if moment.configs.len() > width.configs {
            complete = false;
            let uses = &self.uses;
            moment.configs.sort_by_cached_key(|config| (uses.total(config.used), config.done.count()));
            moment.configs.truncate(width.configs);
        }
        Ok(complete)
    }

    /// Tries all sequences of operations under way from the configurations in `seen`, up to where `slot` is done.
    /// False if some were left out.
    fn spread(&mut self, moment: &Moment<W>, slot: u32, free: bool, width: Width) -> Result<bool, String> {
        let mut at = 0;
        while at < self.seen.len() {
            if at / TRIED >= width.configs {
                return Ok(false);
            }
            let config = self.seen.get(at);
            at += 1;
            self.tries += 1;
            if self.tries.is_multiple_of(TRIES_PER_LOOK) {
                self.look(0)?;
            }
            for group in &moment.groups {
                let mut waiting = group.waiting.iter().filter(|(_, slot)| !config.done.has(*slot));
                let first = if made(Mistake::LastFirst) { waiting.next_back() } else { waiting.next() };
                let Some((_, first)) = first else { continue };
                // Reads that fit are done already.
                if !group.read {
                    self.step(moment, config, group.class, config.done.with(*first), config.used, slot, at);
                }
            }
            if free {
                for (class, count) in &moment.free {
                    if *count == UNCOUNTED {
                        self.step(moment, config, *class, config.done, config.used, slot, at);
                    } else if self.uses.count(config.used, *class) < *count + u32::from(made(Mistake::UnknownOnceMore))
                    {
                        let used = self.uses.with(config.used, *class);
                        self.step(moment, config, *class, config.done, used, slot, at);
                    }
                }
            }
        }
        Ok(true)
    }

    #[allow(clippy::too_many_arguments)]
    fn step(
        &mut self,
        moment: &Moment<W>,
        config: Config<W>,
        class: u32,
        done: Bits<W>,
        used: u32,
        slot: u32,
        fixed: usize,
    ) {
        let mut ends = [0; 4];
        let (mut count, mut more) = (0, Vec::new());
        self.space.next(config.state, class, |state| {
            if count < ends.len() {
                ends[count] = state;
            } else {
                more.push(state);
            }
            count += 1;
        });
        for state in ends[..count.min(4)].iter().copied().chain(more) {
            // What is of no effect and need not be is of no use.
            if done == config.done && state == config.state {
                continue;
            }
            let mut done = done;
            if state != config.state && !made(Mistake::ReadMissedLater) {
                for group in moment.groups.iter().filter(|group| group.read) {
                    if self.space.possible(state, group.class) {
                        group.waiting.iter().for_each(|(_, slot)| done = done.with(*slot));
                    }
                }
            }
            if done.has(slot) {
                let config = Config { state, used, done: done.without(slot) };
                self.next.insert(config, 0, &moment.reads, &self.uses);
            } else {
                self.seen.insert(Config { state, used, done }, fixed, &moment.reads, &self.uses);
            }
        }
    }

    /// Counts memory and looks at the clock. `held`: bytes of moments.
    fn look(&mut self, held: u64) -> Result<(), String> {
        let now = self.space.bytes() + self.uses.bytes() + self.seen.bytes() + self.next.bytes() + held;
        let fits = self.budget.grow(self.bytes, now);
        self.bytes = now;
        if !fits {
            return Err(self.budget.too_big());
        }
        self.budget.exhausted().map_or(Ok(()), Err)
    }

    /// Between two returns: forgets what no configuration refers to any more.
    fn tidy(&mut self, moment: &mut Moment<W>, left_out: Option<&mut Moment<W>>) -> Result<(), String> {
        self.returns += 1;
        if self.returns.is_multiple_of(512) || moment.configs.len() > 100_000 {
            let held = moment.configs.capacity() + left_out.as_ref().map_or(0, |moment| moment.configs.capacity());
            self.look((held * size_of::<Config<W>>()) as u64)?;
        }
        let due = self.space.bytes() + self.uses.bytes() >= SWEEP_BYTES && self.returns.is_multiple_of(256);
        if !due && !tight() {
            return Ok(());
        }
        let mut left_out = left_out;
        let mut numbers: QuickMap<u32, u32> = QuickMap::default();
        let mut keep = Vec::new();
        let all = moment.configs.iter_mut().chain(left_out.iter_mut().flat_map(|moment| moment.configs.iter_mut()));
        for config in all {
            config.state = *numbers.entry(config.state).or_insert_with(|| {
                keep.push(config.state);
                keep.len() as u32 - 1
            });
        }
        if made(Mistake::SweepMixesStates) {
            keep.reverse();
        }
        self.space.sweep(&keep);
        let all = moment.configs.iter_mut().chain(left_out.iter_mut().flat_map(|moment| moment.configs.iter_mut()));
        let mut sets: Vec<&mut u32> = all.map(|config| &mut config.used).collect();
        let common = self.uses.sweep(&mut sets);
        for (class, less) in if made(Mistake::SweepForgetsUses) { Vec::new() } else { common } {
            for free in [Some(&mut moment.free), left_out.as_mut().map(|moment| &mut moment.free)].into_iter().flatten()
            {
                free.iter_mut().filter(|(free, _)| *free == class).for_each(|(_, count)| *count -= less);
                free.retain(|(_, count)| *count > 0);
            }
        }
        Ok(())
    }
}
