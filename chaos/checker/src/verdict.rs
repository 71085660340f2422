//! What the checker says.

use std::time::Duration;

/// Of one history, or of one independent part.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none.
    NotLinearizable(Box<Refutation>),
    /// A limit was reached first: which, in words.
    Unknown(String),
}

/// Why there is no order.
#[derive(Clone, Debug, PartialEq)]
pub struct Refutation {
    /// The key concerned, an index into [`crate::History::keys`].
    pub key: u32,
    /// A small set of operations that has no order by itself: indexes into [`crate::History::operations`], ascending.
    pub operations: Vec<u32>,
    /// The one of them that has no place.
    pub culprit: u32,
    /// Which operation has no place and why, in one sentence.
    pub cause: String,
}

/// The verdict on a history, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Of the whole: bad if any key is, else unknown if any key is.
    pub verdict: Verdict,
    /// All refutations found, one for each bad key, worst first.
    pub refutations: Vec<Refutation>,
    /// Operations looked at.
    pub operations: usize,
    /// Wall time.
    pub took: Duration,
    /// Most bytes the search had in use, as counted by itself.
    pub peak_bytes: u64,
}
