//! From what was told to a verdict, in three layers that are never mixed up.
//!
//! * L1, the lock service's own account: the history of its grants, judged by the checker. It can hold under every fault.
//! * L2, what clients believe: nobody can stop a paused client from believing too long, so overlaps under a pause of the
//!   earlier holder are counted and measured; any other is a failure.
//! * L3, the resource: what it let in. With tokens compared it can hold under every fault, whatever clients believe.

pub mod beliefs;
pub mod evidence;
pub mod history;
pub mod invariants;
pub mod layers;
pub mod line;
pub mod replicas;
pub mod touches;

pub use conclave_checker::report::Standing;

/// A row of the verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// Such as `L1`.
    pub id: &'static str,
    /// What should hold.
    pub text: &'static str,
    /// Whether it did.
    pub standing: Standing,
    /// It could not be told. Never a pass.
    pub unknown: bool,
    /// Figures, or how it failed.
    pub details: String,
}

impl Row {
    /// In a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.standing {
            _ if self.unknown => "unknown",
            Standing::Pass => "pass",
            Standing::Fail => "FAIL",
            Standing::NotExercised => "not exercised",
        }
    }
}
