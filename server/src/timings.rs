//! How long things take, counted without locks: cheap enough for every entry.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Upper bounds of the buckets: 16 µs, doubling, up to 8.4 s; what takes longer is only in the total.
const BUCKETS: usize = 20;
const FIRST_MICROS: u64 = 16;

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Spread {
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Spread {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Rounded up: 16 µs belong to the bucket of 16 µs.
        let at = micros.div_ceil(FIRST_MICROS).max(1).next_power_of_two().trailing_zeros() as usize;
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// Counts the time since `begun`.
    pub fn since(&self, begun: Instant) {
        self.observe(begun.elapsed());
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Sum in seconds, count, and for each bucket its upper bound in seconds and how many are in it alone.
    #[must_use]
    pub fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets: Vec<(f64, u64)> =
            (0..BUCKETS).map(|at| ((FIRST_MICROS << at) as f64 / 1e6, self.buckets[at].load(Relaxed))).collect();
        let count = self.count();
        let within: u64 = buckets.iter().map(|bucket| bucket.1).sum();
        buckets.push((f64::INFINITY, count.saturating_sub(within)));
        (self.micros.load(Relaxed) as f64 / 1e6, count, buckets)
    }
}

/// Where a node's time goes.
#[derive(Debug, Default)]
pub struct Timings {
    /// Storing entries and hard state, until they survive a crash.
    pub log_sync: Spread,
    /// Entries stored.
    pub log_entries: AtomicU64,
    /// Applying committed entries that came together: watches told, callers answered. The state is locked meanwhile.
    pub apply: Spread,
    /// Entries applied.
    pub applied: AtomicU64,
    /// Snapshots taken.
    pub snapshots_taken: AtomicU64,
    /// Snapshots of the leader installed.
    pub snapshots_installed: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_bucket() {
        let spread = Spread::default();
        for micros in [0, 16, 17, 32, 1_000, 8_388_608, 8_388_609, 100_000_000] {
            spread.observe(Duration::from_micros(micros));
        }
        let (sum, count, buckets) = spread.read();
        assert_eq!(count, 8);
        assert!((sum - 116.778_282).abs() < 1e-6, "{sum}");
        let filled: Vec<_> = buckets.into_iter().filter(|bucket| bucket.1 > 0).collect();
        assert_eq!(filled, [(0.000_016, 2), (0.000_032, 2), (0.001_024, 1), (8.388_608, 1), (f64::INFINITY, 2)]);
    }
}
