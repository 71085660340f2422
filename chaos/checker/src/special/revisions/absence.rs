//! What found nothing: it needs a moment between a deletion and the next put.
//!
//! It takes the first such gap that is not over by its call. A later gap only begins later; and two of them in different
//! gaps do not get in each other's way, as the one in the earlier gap was called earlier.

use super::{Bad, Fit, Nothing, Versions, operation};
use crate::{check::Part, shrink::name};

/// Versions in which nothing is there.
fn gaps(versions: &Versions<'_>) -> Vec<usize> {
    (0..versions.all.len()).filter(|of| versions.all[*of].value.is_null()).collect()
}

/// Those that have no moment in any gap.
pub(super) fn homeless(part: &Part<'_>, versions: &Versions<'_>, fit: &Fit, nothings: &[Nothing]) -> Vec<Nothing> {
    let gaps = gaps(versions);
    let fits = |nothing: &Nothing| {
        let now = operation(part, nothing.at);
        let gap = gaps.partition_point(|gap| fit.until[gap + 1].0 <= now.called);
        gaps.get(gap).is_some_and(|gap| fit.begun[*gap].is_none_or(|(called, _)| called < now.returned))
    };
    nothings.iter().filter(|nothing| !fits(nothing)).copied().collect()
}

/// Why it has no moment: what returned before its call and what was called after its return show that something was
/// there all the time.
pub(super) fn bad(part: &Part<'_>, versions: &Versions<'_>, fit: &Fit, at: u32) -> Bad {
    let now = operation(part, at);
    let gaps = gaps(versions);
    let next = gaps.partition_point(|gap| fit.until[gap + 1].0 <= now.called);
    // The beginning is a gap before which nothing is over.
    let (_, there) = fit.until[gaps[next - 1] + 1];
    let mut operations = vec![at];
    versions.with_change(part, there, &mut operations);
    let seen = name(part, operation(part, there));
    let until = match gaps.get(next).and_then(|gap| fit.begun[*gap]) {
        Some((_, last)) => {
            versions.with_change(part, last, &mut operations);
            format!(
                "and was not removed before {}, which was called only afterwards",
                name(part, operation(part, last))
            )
        }
        None => "and was never removed".into(),
    };
    let cause = format!(
        "{} found nothing, but something was there all the time: {seen} had returned before that call, {until}",
        name(part, now)
    );
    Bad(operations, at, cause)
}
