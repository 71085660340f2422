//! Moments for all that has a revision.

use super::{Bad, Versions, operation};
use crate::{check::Part, history::NEVER, shrink::name};

/// A position, and the operation that is called or returns there.
pub(super) type Bound = (u32, u32);

/// By version: between which positions its operations lie.
pub(super) struct Fit {
    /// The last call of all that must be over when it begins, its change included; none: nothing.
    pub begun: Vec<Option<Bound>>,
    /// The same with its reads.
    pub over: Vec<Option<Bound>>,
    /// The first return of it and of all that follow it; one more than there are versions.
    pub until: Vec<Bound>,
}

/// The bounds, or two operations that contradict each other.
pub(super) fn fit(part: &Part<'_>, versions: &Versions<'_>) -> Result<Fit, Bad> {
    let count = versions.all.len();
    let mut fit = Fit { begun: Vec::with_capacity(count), over: Vec::with_capacity(count), until: Vec::new() };
    let mut latest: Option<Bound> = None;
    for version in &versions.all {
        if let Some(at) = version.change {
            late(part, versions, at, latest)?;
            latest = latest.max(Some((operation(part, at).called, at)));
        }
        let begun = latest;
        for at in versions.reads(version) {
            late(part, versions, *at, begun)?;
            latest = latest.max(Some((operation(part, *at).called, *at)));
        }
        fit.begun.push(begun);
        fit.over.push(latest);
    }
    fit.until = vec![(NEVER, NEVER); count + 1];
    for (of, version) in versions.all.iter().enumerate().rev() {
        let all = version.change.iter().chain(versions.reads(version));
        let first = all.map(|at| (operation(part, *at).returned, *at)).min();
        fit.until[of] = fit.until[of + 1].min(first.unwrap_or((NEVER, NEVER)));
    }
    Ok(fit)
}

/// Whether the operation returned before one was called that has to come first.
fn late(part: &Part<'_>, versions: &Versions<'_>, at: u32, latest: Option<Bound>) -> Result<(), Bad> {
    let now = operation(part, at);
    let Some((_, other)) = latest.filter(|(called, _)| now.returned < *called) else { return Ok(()) };
    let (this, that) = (name(part, now), name(part, operation(part, other)));
    let mut operations = Vec::new();
    versions.with_change(part, at, &mut operations);
    versions.with_change(part, other, &mut operations);
    if versions.of(at) == versions.of(other) {
        return Err(Bad(operations, at, format!("{this} returned before {that} was called")));
    }
    let cause = format!("{that} has no place: {this} has a later revision and had returned before that call");
    Err(Bad(operations, other, cause))
}
