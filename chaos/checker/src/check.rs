//! From a history to a judgement.

use std::time::Duration;

use rayon::prelude::*;

use crate::{
    History, Judgement, Model, Operation, Verdict,
    model::{Spec, Visit},
    search::{self, Budget},
};

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

/// The operations on one object: those of one key, or all.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The whole history.
    pub history: &'a History,
    /// The object's key, an index into [`History::keys`]; that of the first operation if the object is the whole.
    pub key: u32,
    /// Indexes into [`History::operations`], ascending; so they are in the order of their calls.
    pub indexes: Vec<u32>,
}

impl<'a> Part<'a> {
    /// The operations with their indexes, in the order of their calls.
    pub fn operations(&self) -> impl ExactSizeIterator<Item = (u32, &'a Operation)> + Clone + '_ {
        self.indexes.iter().map(|at| (*at, &self.history.operations[*at as usize]))
    }
}

/// All operations as one part.
#[cfg(test)]
pub(crate) fn whole(history: &History) -> Part<'_> {
    Part { history, key: 0, indexes: (0..history.operations.len() as u32).collect() }
}

/// The independent parts of a history.
fn parts<'a>(history: &'a History, model: &Model) -> Vec<Part<'a>> {
    let count = if model.keyed() { history.keys.len() } else { 1 };
    let mut parts: Vec<_> = (0..count).map(|key| Part { history, key: key as u32, indexes: Vec::new() }).collect();
    for (at, operation) in history.operations.iter().enumerate() {
        let part = if model.keyed() { operation.key as usize } else { 0 };
        parts[part].indexes.push(at as u32);
    }
    parts
}

/// A history that has an operation which the model does not know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("operation {operation} is not one of the model's: {reason}")]
pub struct NotAdmitted {
    /// An index into [`History::operations`].
    pub operation: usize,
    /// What would be right.
    pub reason: String,
}

/// Judges a history, if the model knows all its operations.
///
/// # Errors
/// The first operation that it does not know.
pub fn judge(history: &History, model: &Model, limits: &Limits) -> Result<Judgement, NotAdmitted> {
    model.admit(history).map_err(|(operation, reason)| NotAdmitted { operation, reason })?;
    Ok(check(history, model, limits))
}

/// Judges a history that the model admits ([`Model::admit`]).
#[must_use]
pub fn check(history: &History, model: &Model, limits: &Limits) -> Judgement {
    struct One<'a>(&'a Part<'a>, &'a Budget);
    impl Visit for One<'_> {
        type Out = Verdict;
        fn visit<S: Spec>(self, spec: &S) -> Verdict {
            spec.special(self.0, self.1).unwrap_or_else(|| search::search(spec, self.0, self.1))
        }
    }
    let budget = Budget::new(limits);
    let parts = parts(history, model);
    let judge = || -> Vec<Verdict> { parts.par_iter().map(|part| model.with(One(part, &budget))).collect() };
    let verdicts = match rayon::ThreadPoolBuilder::new().num_threads(limits.threads).build() {
        Ok(pool) => pool.install(judge),
        Err(_) => judge(),
    };
    let mut refutations = Vec::new();
    let mut unknown = None;
    for verdict in verdicts {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable(refutation) => refutations.push(*refutation),
            Verdict::Unknown(why) => unknown = unknown.or(Some(why)),
        }
    }
    refutations.sort_by_key(|refutation| (refutation.operations.len(), refutation.culprit));
    let verdict = match (refutations.first(), unknown) {
        (Some(worst), _) => Verdict::NotLinearizable(Box::new(worst.clone())),
        (None, Some(why)) => Verdict::Unknown(why),
        (None, None) => Verdict::Linearizable,
    };
    Judgement {
        verdict,
        refutations,
        operations: history.operations.len(),
        took: budget.elapsed(),
        peak_bytes: budget.bytes_peak(),
    }
}
