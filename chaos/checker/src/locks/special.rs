//! The fast way: holds put together, ordered, scheduled. O(n log n).

use super::{
    cores,
    holds::{self, NoHolds},
    object::Object,
    refusals, schedule, vacancies,
};

/// What the fast way says.
#[derive(Clone, Debug, PartialEq)]
pub enum Quick {
    /// There is an order.
    Good,
    /// There is none: some operations that have none by themselves, the culprit among them, and the cause.
    Bad(Vec<u32>, u32, String),
    /// It takes a search.
    Unsure,
}

/// Decides, or says that it cannot.
#[must_use]
pub fn decide(object: &Object) -> Quick {
    match run(object) {
        Ok(()) => Quick::Good,
        Err(NoHolds::Bad(operations, culprit, cause)) => Quick::Bad(operations, culprit, cause),
        Err(NoHolds::Ambiguous) => Quick::Unsure,
    }
}

fn run(object: &Object) -> Result<(), NoHolds> {
    let rules = object.rules();
    let holds = holds::collect(object)?;
    if !rules.fenced && (rules.permits > 1 || rules.shared) {
        return cores::check(&holds, rules);
    }
    let slots = schedule::earliest(&holds, rules)?;
    vacancies::check(&holds, &slots)?;
    refusals::check(&holds, &slots, rules)
}
