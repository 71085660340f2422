//! Mistakes that tests have the search make on purpose, to see that the comparison with brute force catches each; and
//! limits so low that small histories reach what else only great ones do. Without tests all of this is constant.

#[cfg(not(test))]
pub use none::{made, tight};
#[cfg(test)]
pub use some::{made, tight, with};

/// What the search does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// Configurations in different states are taken for the same.
    StateForgotten,
    /// Configurations with different operations done are taken for the same.
    DoneForgotten,
    /// Configurations that have used more unknown outcomes are as good as any.
    UsedForgotten,
    /// Operations return without having taken effect.
    ReturnIgnored,
    /// Reads that fit when they are called are not taken.
    ReadMissed,
    /// Reads that fit after a step are not taken.
    ReadMissedLater,
    /// Operations of unknown outcome take effect once more than there are.
    UnknownOnceMore,
    /// Operations of unknown outcome never take effect.
    UnknownNever,
    /// Operations take effect after their return.
    NotRetired,
    /// Operations with different results are interchangeable.
    ResultForgotten,
    /// Of interchangeable operations the one that returns last takes effect first.
    LastFirst,
    /// What a narrow walk does not find is not there.
    NarrowIsEnough,
    /// A step with several ends has one.
    OneEnd,
    /// States get each other's numbers when others are forgotten.
    SweepMixesStates,
    /// What all have used is forgotten, and may be used again.
    SweepForgetsUses,
}

#[cfg(not(test))]
mod none {
    /// Never.
    #[inline(always)]
    pub const fn made(_: super::Mistake) -> bool {
        false
    }

    /// Never.
    #[inline(always)]
    pub const fn tight() -> bool {
        false
    }
}

#[cfg(test)]
mod some {
    use std::cell::Cell;

    use super::Mistake;

    thread_local! {
        static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
        static TIGHT: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this thread makes it.
    pub fn made(mistake: Mistake) -> bool {
        MADE.get() == Some(mistake)
    }

    /// Whether this thread's limits are low: one configuration at first, no tables, a sweep after every return.
    pub fn tight() -> bool {
        TIGHT.get()
    }

    /// With a mistake and low limits.
    pub fn with<T>(mistake: Option<Mistake>, tight: bool, work: impl FnOnce() -> T) -> T {
        /// Undone also when the work panics.
        struct Undo;
        impl Drop for Undo {
            fn drop(&mut self) {
                MADE.set(None);
                TIGHT.set(false);
            }
        }
        MADE.set(mistake);
        TIGHT.set(tight);
        let _undo = Undo;
        work()
    }
}
