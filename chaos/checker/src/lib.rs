//! Judges histories of concurrent operations: linearizable, not linearizable (and why), or unknown.
//!
//! A [`History`] is what clients saw: when each operation was called, when and how it returned. A [`Model`] says what a
//! correct object would do, one operation at a time. A history is linearizable (Herlihy and Wing, 1990) if each
//! operation can be given a moment between its call and its return so that the model, taking them in that order, gives
//! the results that were seen.
//!
//! The way of a history: [`history`] reads and pairs events; [`mod@check`] splits it by key, hands each part to the fastest
//! algorithm that decides it and combines the [`Verdict`]s; [`report`] draws it.

pub mod brute;
pub mod check;
#[cfg(feature = "cli")]
pub mod command;
pub mod generate;
pub mod guide;
pub mod history;
pub mod locks;
pub mod model;
pub mod report;
pub mod search;
mod shrink;
mod special;
pub mod verdict;

pub use check::{Limits, NotAdmitted, check, judge};
pub use history::{Function, History, Operation, Outcome, Recorder, Value};
pub use model::Model;
pub use verdict::{Judgement, Refutation, Verdict};
