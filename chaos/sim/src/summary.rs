//! What a run, or many together, exercised.

use std::collections::BTreeMap;

use crate::{life::Point, time::Micros};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs that it is of.
    pub runs: u64,
    /// Of all together.
    pub simulated_us: Micros,
    /// Events in the traces.
    pub events: u64,
    /// Hash of the trace; of many runs, of their hashes in order of seeds.
    pub trace: u64,
    /// Turns of nodes.
    pub turns: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Faults that befell, by class.
    pub faults: BTreeMap<&'static str, u64>,
    /// Crashes in the middle of something, by what was about to happen.
    pub cuts: BTreeMap<Point, u64>,
    /// Elections, snapshots, unknown outcomes and the like.
    pub counts: BTreeMap<&'static str, u64>,
    /// Grants, by how many stood in line.
    pub queues: BTreeMap<&'static str, u64>,
    /// How often each invariant could have been broken.
    pub exercised: BTreeMap<&'static str, u64>,
    /// In how many runs it could.
    pub exercised_runs: BTreeMap<&'static str, u64>,
    /// From healing to a leader: the longest, in microseconds.
    pub led_after_max: Micros,
    /// Runs in which that took more than two seconds.
    pub led_late: u64,
}

impl Summary {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        fn merge<K: Clone + Ord>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, number) in from {
                *into.entry(key.clone()).or_default() += number;
            }
        }
        self.runs += other.runs;
        self.simulated_us += other.simulated_us;
        self.events += other.events;
        self.trace = self.trace.rotate_left(7) ^ other.trace;
        self.turns += other.turns;
        self.polls += other.polls;
        merge(&mut self.faults, &other.faults);
        merge(&mut self.cuts, &other.cuts);
        merge(&mut self.counts, &other.counts);
        merge(&mut self.queues, &other.queues);
        merge(&mut self.exercised, &other.exercised);
        merge(&mut self.exercised_runs, &other.exercised_runs);
        self.led_after_max = self.led_after_max.max(other.led_after_max);
        self.led_late += other.led_late;
    }
}
