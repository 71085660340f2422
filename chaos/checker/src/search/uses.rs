//! Which operations of unknown outcome an order has used: how many of each class, kept once for all that have used the
//! same.

use super::space::QuickMap;

/// Interned multisets of classes.
pub struct Uses {
    /// By id: classes and counts, ascending by class.
    sets: Vec<Box<[(u32, u32)]>>,
    ids: std::collections::HashMap<Box<[(u32, u32)]>, u32>,
    more: QuickMap<u64, u32>,
    bytes: u64,
}

impl Uses {
    /// Nothing used.
    pub const NONE: u32 = 0;

    pub fn new() -> Self {
        let mut uses = Self { sets: Vec::new(), ids: Default::default(), more: QuickMap::default(), bytes: 0 };
        uses.id(Box::default());
        uses
    }

    fn id(&mut self, set: Box<[(u32, u32)]>) -> u32 {
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let id = self.sets.len() as u32;
        self.bytes += 2 * (8 * set.len() as u64 + 16) + 32;
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }

    /// How often `class` was used.
    pub fn count(&self, set: u32, class: u32) -> u32 {
        let set = &self.sets[set as usize];
        set.binary_search_by_key(&class, |(class, _)| *class).map_or(0, |at| set[at].1)
    }

    /// How many were used.
    pub fn total(&self, set: u32) -> u32 {
        self.sets[set as usize].iter().map(|(_, count)| count).sum()
    }

    /// One more of `class`.
    pub fn with(&mut self, set: u32, class: u32) -> u32 {
        let key = u64::from(set) << 32 | u64::from(class);
        if let Some(id) = self.more.get(&key) {
            return *id;
        }
        let mut counts = self.sets[set as usize].to_vec();
        match counts.binary_search_by_key(&class, |(class, _)| *class) {
            Ok(at) => counts[at].1 += 1,
            Err(at) => counts.insert(at, (class, 1)),
        }
        let id = self.id(counts.into());
        self.more.insert(key, id);
        id
    }

    /// Whether `set` uses no more of anything than `other`.
    pub fn within(&self, set: u32, other: u32) -> bool {
        if set == other || set == Self::NONE {
            return true;
        }
        let mut others = self.sets[other as usize].iter();
        self.sets[set as usize]
            .iter()
            .all(|(class, count)| others.any(|(other, enough)| other == class && enough >= count))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes + 14 * self.more.capacity() as u64
    }

    /// Forgets all sets but those in `keep`, which get new ids; what all of them have in common is taken out of them
    /// and returned.
    pub fn sweep(&mut self, keep: &mut [&mut u32]) -> Vec<(u32, u32)> {
        let mut common: Option<Vec<(u32, u32)>> = None;
        for set in keep.iter() {
            common = Some(match common {
                None => self.sets[**set as usize].to_vec(),
                Some(mut common) => {
                    common.retain_mut(|(class, count)| {
                        *count = (*count).min(self.count(**set, *class));
                        *count > 0
                    });
                    common
                }
            });
        }
        let common = common.unwrap_or_default();
        let mut fresh = Self::new();
        for set in keep.iter_mut() {
            let mut counts = self.sets[**set as usize].to_vec();
            for (class, less) in &common {
                let at = counts.binary_search_by_key(class, |(class, _)| *class).expect("common to all");
                counts[at].1 -= less;
            }
            counts.retain(|(_, count)| *count > 0);
            **set = fresh.id(counts.into());
        }
        *self = fresh;
        common
    }
}
