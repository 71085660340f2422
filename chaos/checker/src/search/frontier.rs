//! Where the search can stand at one moment: a set of configurations, none of which can do all that another can.

use super::{
    mistakes::{Mistake, made},
    space::QuickMap,
    uses::Uses,
};

/// A state, and which of the operations under way have already taken effect.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Config<const W: usize> {
    pub state: u32,
    /// Operations of unknown outcome that have taken effect, an id of [`Uses`].
    pub used: u32,
    /// By slot. A slot is an operation's only while it is under way, so there are few.
    pub done: Bits<W>,
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Bits<const W: usize>([u64; W]);

impl<const W: usize> Bits<W> {
    pub const NONE: Self = Self([0; W]);

    #[inline]
    pub fn has(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    #[inline]
    pub fn with(mut self, slot: u32) -> Self {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
        self
    }

    #[inline]
    pub fn without(mut self, slot: u32) -> Self {
        self.0[slot as usize / 64] &= !(1 << (slot % 64));
        self
    }

    fn minus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
        self
    }

    fn within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(word, other)| word & !other == 0)
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// No next configuration of the same kind.
const LAST: u32 = u32::MAX;
/// Most configurations of one kind that are compared with a new one.
const COMPARED_MAX: usize = 64;

/// Configurations with those left out that another one makes needless: the same state, the same changes made, no more
/// unknown outcomes used, and no fewer reads done.
pub struct Frontier<const W: usize> {
    heads: QuickMap<(u32, Bits<W>), u32>,
    configs: Vec<(Config<W>, u32)>,
}

impl<const W: usize> Frontier<W> {
    pub fn new() -> Self {
        Self { heads: QuickMap::default(), configs: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.heads.clear();
        self.configs.clear();
    }

    pub fn len(&self) -> usize {
        self.configs.len()
    }

    pub fn get(&self, at: usize) -> Config<W> {
        self.configs[at].0
    }

    pub fn configs(&self) -> impl Iterator<Item = Config<W>> + '_ {
        self.configs.iter().map(|(config, _)| *config)
    }

    pub fn bytes(&self) -> u64 {
        let head = size_of::<(u32, Bits<W>)>() + 6;
        let config = size_of::<(Config<W>, u32)>();
        (self.heads.capacity() * head + self.configs.capacity() * config) as u64
    }

    /// Adds a configuration unless it is needless. Those before `fixed` stay as they are. `reads`: slots of reads.
    pub fn insert(&mut self, config: Config<W>, fixed: usize, reads: &Bits<W>, uses: &Uses) {
        let state = if made(Mistake::StateForgotten) { 0 } else { config.state };
        let done = if made(Mistake::DoneForgotten) { Bits::NONE } else { config.done.minus(reads) };
        let kind = (state, done);
        let covers = |one: &Config<W>, other: &Config<W>| {
            (one.done.within(&other.done) || made(Mistake::DoneForgotten))
                && (uses.within(other.used, one.used) || made(Mistake::UsedForgotten))
        };
        let head = self.heads.get(&kind).copied().unwrap_or(LAST);
        let mut at = head;
        for _ in 0..COMPARED_MAX {
            if at == LAST {
                break;
            }
            let (other, next) = self.configs[at as usize];
            if covers(&config, &other) {
                return;
            }
            if at as usize >= fixed && covers(&other, &config) {
                self.configs[at as usize].0 = config;
                return;
            }
            at = next;
        }
        self.heads.insert(kind, self.configs.len() as u32);
        self.configs.push((config, head));
    }
}
