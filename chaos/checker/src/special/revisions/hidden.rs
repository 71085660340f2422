//! Changes of unknown outcome that no read told the revision of: assumed only where something shows that there must
//! have been one. What comes of the assumption is checked like everything else; if it does not fit, another might.

use std::collections::{HashMap, VecDeque};

use super::{Bad, Fit, Hidden, NOTHING, Nothing, Stop, Version, Versions, operation};
use crate::{check::Part, shrink::name};

/// Most versions that are looked at for one operation.
const LOOKED_AT_MAX: usize = 1024;

/// Before a deletion there must have been something to delete. The versions with puts assumed where there was nothing;
/// `None` if there is no need for any.
pub(super) fn puts<'a>(
    part: &Part<'a>,
    versions: &Versions<'a>,
    fit: &Fit,
    hidden: &mut Hidden<'a>,
) -> Result<Option<Versions<'a>>, Stop> {
    let mut assumed = Vec::new();
    for of in 1..versions.all.len() {
        let (before, version) = (&versions.all[of - 1], &versions.all[of]);
        let Some(change) = version.change.filter(|_| version.removes && before.value.is_null()) else { continue };
        let until = fit.until[of].0;
        if before.room == 0 || hidden.puts_all == 0 || hidden.first_put >= until {
            let mut operations = Vec::new();
            versions.with_change(part, change, &mut operations);
            let named = name(part, operation(part, change));
            let cause = match before.change {
                Some(before) => {
                    versions.with_change(part, before, &mut operations);
                    format!(
                        "{named} removed something, but since {} nothing was there",
                        name(part, operation(part, before))
                    )
                }
                None => format!("{named} removed something, but nothing had been put"),
            };
            return Err(Bad(operations, change, cause).into());
        }
        let put = hidden.puts.pop_front().filter(|(put, _)| operation(part, *put).called < until);
        let (put, value) = put.ok_or(Stop::Open)?;
        assumed.push((of - 1, put, value));
    }
    Ok((!assumed.is_empty()).then(|| insert(versions, &assumed)))
}

/// The versions with more of them: after which, by which change, and what was there then.
fn insert<'a>(versions: &Versions<'a>, more: &[(usize, u32, &'a super::Value)]) -> Versions<'a> {
    let mut more = more.iter().copied().peekable();
    let mut all = Vec::with_capacity(versions.all.len() + more.len());
    for (of, version) in versions.all.iter().enumerate() {
        all.push(version.clone());
        while let Some((_, change, value)) = more.next_if(|(after, ..)| *after == of) {
            let end = version.reads.end;
            let room = version.room.saturating_sub(1);
            all.push(Version { value, change: Some(change), removes: false, reads: end..end, room });
        }
    }
    Versions { all, reads: versions.reads.clone() }
}

/// Versions whose value may have been removed so that the operation found nothing; `None` for too many.
fn windows(part: &Part<'_>, versions: &Versions<'_>, fit: &Fit, at: u32) -> Option<Vec<usize>> {
    let now = operation(part, at);
    let from = fit.until[1..].partition_point(|(returned, _)| *returned <= now.called);
    let to = fit.over.partition_point(|over| over.is_none_or(|(called, _)| called < now.returned));
    let between = from..to.max(from);
    (between.len() <= LOOKED_AT_MAX)
        .then(|| between.filter(|of| !versions.all[*of].value.is_null() && versions.all[*of].room > 0).collect())
}

/// Whether a deletion of unknown outcome might be why it found nothing; or one that may have removed something, as it
/// may itself.
pub(super) fn may_explain(
    part: &Part<'_>,
    versions: &Versions<'_>,
    fit: &Fit,
    hidden: &Hidden<'_>,
    nothing: Nothing,
    nothings: &[Nothing],
) -> bool {
    if nothing.removed {
        return true;
    }
    let returned = operation(part, nothing.at).returned;
    let first = hidden.deletes.first().is_some_and(|delete| operation(part, *delete).called < returned);
    let other = |other: &Nothing| other.removed && operation(part, other.at).called < returned;
    if !first && !nothings.iter().any(other) {
        return false;
    }
    windows(part, versions, fit, nothing.at).is_none_or(|windows| !windows.is_empty())
}

/// The versions with deletions assumed so that all these may have found nothing; `None` if it is not so easy.
pub(super) fn deletes<'a>(
    part: &Part<'a>,
    versions: &Versions<'a>,
    fit: &Fit,
    hidden: &Hidden<'a>,
    homeless: &[Nothing],
) -> Option<Versions<'a>> {
    let mut left: VecDeque<u32> = hidden.deletes.iter().copied().collect();
    let mut assumed: HashMap<usize, u32> = HashMap::new();
    let mut homeless = homeless.to_vec();
    homeless.sort_by_key(|nothing| operation(part, nothing.at).returned);
    for nothing in homeless {
        let returned = operation(part, nothing.at).returned;
        let windows = windows(part, versions, fit, nothing.at)?;
        // What is removed next must still be there.
        let free = |of: &&usize| versions.all.get(**of + 1).is_none_or(|next| !next.removes);
        let called = |at: u32| operation(part, at).called;
        if windows.iter().any(|of| assumed.get(of).is_some_and(|delete| called(*delete) < returned)) {
            continue;
        }
        let of = *windows.iter().filter(free).find(|of| !assumed.contains_key(of))?;
        let until = returned.min(fit.until[of + 1].0);
        if left.front().is_some_and(|delete| called(*delete) < until) {
            assumed.insert(of, left.pop_front()?);
        } else if nothing.removed {
            assumed.insert(of, nothing.at);
        } else {
            return None;
        }
    }
    let mut assumed: Vec<_> = assumed.into_iter().map(|(of, delete)| (of, delete, &NOTHING)).collect();
    assumed.sort_unstable_by_key(|(of, ..)| *of);
    Some(insert(versions, &assumed))
}
