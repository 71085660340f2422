//! The one clock of a run.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the host's `CLOCK_MONOTONIC`: the same in all its processes and network namespaces, so that what
/// different processes stamp can be put in one order.
#[must_use]
pub fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    i64::try_from(Duration::from(now).as_nanos()).expect("centuries")
}

/// As the clock counts.
#[must_use]
pub fn ns(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}
