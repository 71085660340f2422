//! Time that keeps running while the machine sleeps.

use std::{fmt, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// A moment on this machine's boot clock (`CLOCK_BOOTTIME`), in milliseconds: monotonic, untouched by changes of the
/// wall clock, and counting suspend. Meaningless on another machine and after a reboot.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BootTime(u64);

impl BootTime {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has a boot clock");
        Self(u64::try_from(Duration::from(time).as_millis()).expect("a boot clock of centuries"))
    }

    /// The moment this many milliseconds after boot.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since boot.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time from now until this moment; zero if it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    /// Whether this moment has come.
    #[must_use]
    pub fn has_passed(self) -> bool {
        Self::now() >= self
    }

    /// Time from `earlier` to this moment; zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment later by `millis`.
    #[must_use]
    pub(crate) const fn plus_ms(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s after boot", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_order_and_never_go_below_zero() {
        let now = BootTime::now();
        assert!(now.as_millis() > 0 && now.has_passed());
        assert_eq!(now.plus_ms(5).since(now), Duration::from_millis(5));
        assert_eq!(now.since(now.plus_ms(5)), Duration::ZERO);
        assert_eq!(now.remaining(), Duration::ZERO);
        assert!(!now.plus_ms(60_000).has_passed());
    }
}
