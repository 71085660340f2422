//! Counting operations, and what they cost.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike as _,
};
use serde::Serialize;

/// The slowest operation told apart from still slower ones, in microseconds.
const LATENCY_MAX_US: u64 = 120_000_000;

/// The kernel's unit of time in `/proc`: the same on all architectures Rust runs on here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of a run.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Completed in the measured time.
    pub operations: u64,
    /// The measured time.
    pub seconds: f64,
    /// Operations per second.
    pub rate: f64,
    /// Of the operations completed in the measured time.
    pub latency_us: Latency,
    /// Failed in the measured time or the warm-up.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// CPU time of this process, user and system, for each operation.
    pub load_cpu_us_per_operation: f64,
    /// The same of the processes named by `--pids`.
    pub servers_cpu_us_per_operation: Option<f64>,
}

/// A distribution of latencies, in microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    pub mean: f64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Warmup,
    Measured,
    Over,
}

/// Counts. Shared by all loops of the one thread.
pub struct Meter {
    phase: Cell<Phase>,
    histogram: RefCell<Histogram<u64>>,
    operations: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    began: Cell<Option<Instant>>,
    took: Cell<Duration>,
    pids: Vec<u32>,
    own_cpu: Cell<Duration>,
    servers_cpu: Cell<Option<Duration>>,
}

impl Meter {
    pub fn new(pids: Vec<u32>) -> Self {
        Self {
            phase: Phase::Warmup.into(),
            histogram: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("good bounds").into(),
            operations: 0.into(),
            errors: 0.into(),
            first_error: None.into(),
            began: None.into(),
            took: Duration::ZERO.into(),
            pids,
            own_cpu: Duration::ZERO.into(),
            servers_cpu: None.into(),
        }
    }

    /// From here on everything counts.
    pub fn begin(&self) {
        self.phase.set(Phase::Measured);
        self.own_cpu.set(own_cpu());
        self.servers_cpu.set(cpu_of(&self.pids));
        self.began.set(Some(Instant::now()));
    }

    /// Nothing counts any more.
    pub fn end(&self) {
        self.took.set(self.began.get().map_or(Duration::ZERO, |began| began.elapsed()));
        self.phase.set(Phase::Over);
        self.own_cpu.set(own_cpu().saturating_sub(self.own_cpu.get()));
        let before = self.servers_cpu.get();
        self.servers_cpu.set(cpu_of(&self.pids).zip(before).map(|(now, before)| now.saturating_sub(before)));
    }

    /// Whether the loops should go on.
    pub fn is_running(&self) -> bool {
        self.phase.get() != Phase::Over
    }

    /// An operation is done that took this long.
    pub fn done(&self, took: Duration) {
        if self.phase.get() == Phase::Measured {
            self.operations.set(self.operations.get() + 1);
            self.histogram.borrow_mut().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
        }
    }

    /// An operation failed.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        if self.is_running() {
            self.errors.set(self.errors.get() + 1);
            self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
        }
    }

    /// The result.
    pub fn figures(&self) -> Figures {
        let histogram = self.histogram.borrow();
        let (operations, seconds) = (self.operations.get(), self.took.get().as_secs_f64());
        let per_operation = |cpu: Duration| cpu.as_secs_f64() * 1e6 / operations.max(1) as f64;
        Figures {
            operations,
            seconds,
            rate: if seconds > 0.0 { operations as f64 / seconds } else { 0.0 },
            latency_us: Latency {
                p50: histogram.value_at_quantile(0.5),
                p90: histogram.value_at_quantile(0.9),
                p99: histogram.value_at_quantile(0.99),
                p999: histogram.value_at_quantile(0.999),
                max: histogram.max(),
                mean: histogram.mean(),
            },
            errors: self.errors.get(),
            first_error: self.first_error.borrow().clone(),
            load_cpu_us_per_operation: per_operation(self.own_cpu.get()),
            servers_cpu_us_per_operation: self.servers_cpu.get().map(per_operation),
        }
    }
}

fn own_cpu() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// CPU time of these processes together; none if there are none, or one is not there.
fn cpu_of(pids: &[u32]) -> Option<Duration> {
    if pids.is_empty() {
        return None;
    }
    let ticks = pids.iter().map(|pid| ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?));
    Some(Duration::from_secs_f64(ticks.sum::<Option<u64>>()? as f64 / TICKS_PER_SECOND))
}

/// User and system time in a line of `/proc/PID/stat`. The name before them may hold anything, `)` too.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_time_counts() {
        let meter = Meter::new(Vec::new());
        meter.done(Duration::from_millis(5));
        meter.begin();
        for ms in 1..=100 {
            meter.done(Duration::from_millis(ms));
        }
        meter.failed(&"first");
        meter.failed(&"second");
        meter.end();
        meter.done(Duration::from_millis(5));
        meter.failed(&"late");
        let figures = meter.figures();
        assert_eq!((figures.operations, figures.errors), (100, 2));
        assert_eq!(figures.first_error.as_deref(), Some("first"));
        assert!((49_900..=50_100).contains(&figures.latency_us.p50), "{figures:?}");
        assert!((99_900..=100_100).contains(&figures.latency_us.max), "{figures:?}");
        assert!(figures.rate > 0.0 && !meter.is_running());
    }

    #[test]
    fn the_cpu_time_of_a_process_is_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("nonsense"), None);
        assert!(cpu_of(&[std::process::id()]).is_some());
        assert_eq!(cpu_of(&[]), None);
    }
}
