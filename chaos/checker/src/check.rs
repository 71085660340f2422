//! From a history to a judgement.

use std::time::Duration;

use crate::{History, Judgement, Model};

/// How far the checker goes before it says unknown.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Wall time.
    pub time: Duration,
    /// Bytes that all searches together may use at a time.
    pub bytes: u64,
    /// Threads; 0 for as many as there are cores.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), bytes: 1 << 30, threads: 0 }
    }
}

/// Judges a history.
#[must_use]
pub fn check(history: &History, model: &Model, limits: &Limits) -> Judgement {
    let _ = (history, model, limits);
    todo!("the algorithms")
}
