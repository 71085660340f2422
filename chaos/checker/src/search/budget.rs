//! How much time and memory a check has left.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::Limits;

/// Shared by all searches of one check.
#[derive(Debug)]
pub struct Budget {
    began: Instant,
    time: Duration,
    bytes_max: u64,
    bytes: AtomicU64,
    bytes_peak: AtomicU64,
}

impl Budget {
    /// The clock starts now.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            began: Instant::now(),
            time: limits.time,
            bytes_max: limits.bytes,
            bytes: AtomicU64::new(0),
            bytes_peak: AtomicU64::new(0),
        }
    }

    /// Why the search has to stop, if it has to. Reads a clock: ask every few thousand steps.
    #[must_use]
    pub fn exhausted(&self) -> Option<String> {
        if self.began.elapsed() >= self.time {
            return Some(format!("the time limit of {:?} was reached", self.time));
        }
        if self.bytes.load(Relaxed) > self.bytes_max {
            return Some(self.too_big());
        }
        None
    }

    /// Says that the caller now uses `now` bytes where it used `before`; false if that is too much for all together.
    #[must_use]
    pub fn grow(&self, before: u64, now: u64) -> bool {
        let total = if now >= before {
            self.bytes.fetch_add(now - before, Relaxed) + (now - before)
        } else {
            self.bytes.fetch_sub(before - now, Relaxed) - (before - now)
        };
        self.bytes_peak.fetch_max(total, Relaxed);
        total <= self.bytes_max
    }

    /// The reason to give when [`Budget::grow`] refuses.
    #[must_use]
    pub fn too_big(&self) -> String {
        format!("the memory limit of {} MiB was reached", self.bytes_max >> 20)
    }

    /// Most bytes in use at a time.
    #[must_use]
    pub fn bytes_peak(&self) -> u64 {
        self.bytes_peak.load(Relaxed)
    }

    /// Since the check began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Time that is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.time.saturating_sub(self.began.elapsed())
    }
}
