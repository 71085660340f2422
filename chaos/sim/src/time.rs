//! Virtual time, and the clocks of processes, which need not agree with it.

use std::sync::Arc;

use parking_lot::Mutex;

/// Microseconds since the run began.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MS: Micros = 1_000;

/// A process's monotonic clock, and how far its wall clock is off. Cheap to clone: all clones are one clock.
#[derive(Clone, Debug)]
pub struct LocalClock(Arc<Mutex<Local>>);

#[derive(Debug)]
struct Local {
    /// Both clocks at the last change of rate.
    true_us: Micros,
    local_us: Micros,
    /// Parts per million that it runs too fast.
    drift_ppm: i64,
    wall_offset_ms: i64,
    /// Of the whole run: what the clock gained by jumps.
    jumped_us: Micros,
}

impl Local {
    fn at(&self, true_us: Micros) -> Micros {
        let passed = i128::from(true_us - self.true_us);
        let gained = (passed * i128::from(self.drift_ppm)).div_euclid(1_000_000);
        self.local_us + u64::try_from(passed + gained).expect("a clock's rate is positive")
    }

    fn rebase(&mut self, true_us: Micros) {
        self.local_us = self.at(true_us);
        self.true_us = true_us;
    }
}

impl LocalClock {
    /// A clock that shows `local_us` at `true_us` and runs right.
    #[must_use]
    pub fn new(true_us: Micros, local_us: Micros) -> Self {
        let local = Local { true_us, local_us, drift_ppm: 0, wall_offset_ms: 0, jumped_us: 0 };
        Self(Arc::new(Mutex::new(local)))
    }

    /// What it shows.
    #[must_use]
    pub fn at(&self, true_us: Micros) -> Micros {
        self.0.lock().at(true_us)
    }

    /// The earliest true time at which it shows `local_us` or more, if nothing is done to it.
    #[must_use]
    pub fn when(&self, local_us: Micros) -> Micros {
        let local = self.0.lock();
        let Some(left) = local_us.checked_sub(local.local_us) else { return local.true_us };
        let rate = i128::from(1_000_000 + local.drift_ppm);
        let left = (i128::from(left) * 1_000_000 + rate - 1) / rate;
        let mut when = local.true_us + u64::try_from(left).expect("time goes forwards");
        while local.at(when) < local_us {
            when += 1;
        }
        when
    }

    /// The wall clock, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self, true_us: Micros) -> u64 {
        const BEGAN_MS: i64 = 1_700_000_000_000;
        let passed = i64::try_from(true_us / MS).expect("a run ends some day");
        u64::try_from(BEGAN_MS + passed + self.0.lock().wall_offset_ms).unwrap_or_default()
    }

    /// From now on it runs `drift_ppm` too fast.
    pub fn drift(&self, true_us: Micros, drift_ppm: i64) {
        let mut local = self.0.lock();
        local.rebase(true_us);
        local.drift_ppm = drift_ppm;
    }

    /// The monotonic clock leaps forwards.
    pub fn jump(&self, true_us: Micros, forward_us: Micros) {
        let mut local = self.0.lock();
        local.rebase(true_us);
        local.local_us += forward_us;
        local.jumped_us += forward_us;
    }

    /// The wall clock is set wrong by so much.
    pub fn set_wall(&self, offset_ms: i64) {
        self.0.lock().wall_offset_ms = offset_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_no_earlier_than_it_says() {
        let clock = LocalClock::new(0, 5_000);
        let mut from = 1_000_000;
        for drift in [-200_000, -7, 0, 3, 150_000] {
            let now = clock.when(clock.at(from) + 1);
            clock.drift(now, drift);
            let here = clock.at(now);
            for ahead in [0, 1, 17, 1_000_003] {
                let when = clock.when(here + ahead);
                assert!(clock.at(when) >= here + ahead, "drift={drift} ahead={ahead}");
                assert!(when == now || clock.at(when - 1) < here + ahead, "and not a microsecond later");
            }
            from = now + 2_000_000;
        }
        clock.drift(from, 0);
        let now = from + 10_000_000;
        let before = clock.at(now);
        clock.jump(now, 7);
        assert_eq!(clock.at(now), before + 7);
    }
}
