//! What can be broken on purpose: fail points and planted bugs.
//!
//! Without the feature `faults`, which no release has, everything here is nothing: [`point!`] expands to no code and
//! [`planted!`] to `false`.
//!
//! * A *fail point* is a place where the world outside can fail: a write, a sync, a rename, a send. Which of them do
//!   what is said by the environment variable `FAILPOINTS`, as in `log-append=panic;snapshot-rename=return(EIO)`.
//! * A *planted bug* is a mistake in Conclave itself, one for each mechanism that keeps it safe. At most one is active
//!   in a process ([`plant`], or the environment variable `CONCLAVE_PLANTED`). The proof that our instruments find bugs
//!   is that they find these.

mod planted;
mod points;

pub use planted::{Bug, active, plant, plant_everywhere, plant_from_environment};
pub use points::*;

/// True while this bug is active. Always `false`, at compile time, without the feature `faults`.
///
/// ```
/// if conclave_faults::planted!(ReplyBeforeFsync) {
///     unreachable!("nothing is active unless planted");
/// }
/// ```
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::active($crate::Bug::$bug)
    };
}
