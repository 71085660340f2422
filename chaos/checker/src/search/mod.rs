//! The search for an order.

mod budget;
mod frontier;
pub(crate) mod mistakes;
mod space;
#[cfg(test)]
mod tests;
mod uses;
mod walk;

pub use budget::Budget;
pub(crate) use space::Entry;
pub(crate) use walk::{Dead, End, walk};

use crate::{
    Verdict,
    check::Part,
    model::{Role, Spec},
    shrink,
};

/// Judges one object by search.
pub fn search<S: Spec>(spec: &S, part: &Part<'_>, budget: &Budget) -> Verdict {
    let entries = entries(spec, part);
    match walk(spec, &entries, budget) {
        End::Fits => Verdict::Linearizable,
        End::Limit(why) => Verdict::Unknown(why),
        End::Dead(dead) => Verdict::NotLinearizable(Box::new(shrink::refute(spec, part, &entries, &dead, budget))),
    }
}

/// What the history demands of the object.
pub(crate) fn entries<'a, S: Spec>(spec: &S, part: &Part<'a>) -> Vec<Entry<'a>> {
    let entry = |(index, operation): (u32, &'a crate::Operation)| Entry {
        index,
        operation,
        role: spec.role(operation),
        called: operation.called,
        returned: operation.returned,
    };
    part.operations().map(entry).filter(|entry| entry.role != Role::Nothing).collect()
}
