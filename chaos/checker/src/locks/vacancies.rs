//! Observations that nobody led: each needs a moment between two holds.
//!
//! It takes the first gap that is not over by its call: before the first hold whose grant can still come after it. A
//! later gap only begins later. Two observations in different gaps do not get in each other's way, as the one in the
//! earlier gap was called earlier.

use super::{
    holds::{End, Holds, NoHolds},
    schedule::Slots,
};

/// Checks them, given that the holds by themselves have a schedule.
pub(super) fn check(holds: &Holds, slots: &[Slots]) -> Result<(), NoHolds> {
    if holds.vacancies.is_empty() {
        return Ok(());
    }
    let latest = latest(holds);
    for vacancy in &holds.vacancies {
        let gap = latest.partition_point(|slot| *slot < vacancy.from);
        let Some(before) = gap.checked_sub(1) else { continue };
        if slots[before].over > vacancy.to {
            let hold = &holds.holds[before];
            let mut operations = vec![vacancy.at, hold.grant.at];
            if let End::Strict(end) = hold.end {
                operations.push(end.at);
            }
            operations.extend(hold.seen.iter().flat_map(|(last, first)| [last.at, first.at]));
            operations.sort_unstable();
            operations.dedup();
            let term = hold.token.map_or_else(|| "somebody".to_owned(), |token| format!("term {token}"));
            let what = format!("it saw nobody lead, but {term} had begun before and went on afterwards");
            return Err(NoHolds::Bad(operations, vacancy.at, what));
        }
    }
    // Attempts that were refused want the same gaps small: a search weighs that.
    if holds.refusals.is_empty() { Ok(()) } else { Err(NoHolds::Ambiguous) }
}

/// The latest slot of each grant that leaves room for all that must follow it.
fn latest(holds: &Holds) -> Vec<u32> {
    let mut latest = vec![0; holds.holds.len()];
    let mut bound = super::holds::END;
    for (hold, latest) in holds.holds.iter().zip(&mut latest).rev() {
        bound = bound.min(hold.grant.to);
        if let End::Strict(end) = hold.end {
            bound = bound.min(end.to);
        }
        if let Some((_, first)) = hold.seen {
            bound = bound.min(first.to);
        }
        *latest = bound;
    }
    latest
}
