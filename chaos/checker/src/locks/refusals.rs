//! Attempts that found no room: each needs a moment at which there was none.
//!
//! Where at most one holds, the gaps between holds are smallest, all at once, with grants as early and ends as late as
//! their order allows: an end and the next grant share a slot unless one returned before the other was called. So an
//! attempt that lies wholly within such a gap has no moment, and only a grant of unknown outcome can still explain it.
//! Where several hold at a time, that schedule is one of many: what it satisfies is fine, what no hold at its longest
//! could satisfy is bad, and the rest takes a search.

use super::{
    holds::{END, End, Hold, Holds, NoHolds, Refusal},
    rules::Rules,
    schedule::Slots,
};

/// Most steps that are spent on finding out that no hold at its longest explains an attempt.
const STEPS_MAX: usize = 50_000_000;

/// Slots during which there was no room; the hold that ended the gap before it.
#[derive(Clone, Copy, Debug)]
struct Full {
    from: u32,
    to: u32,
}

/// Checks them against the schedule of the holds.
pub(super) fn check(holds: &Holds, slots: &[Slots], rules: Rules) -> Result<(), NoHolds> {
    if holds.refusals.is_empty() {
        return Ok(());
    }
    let (full, unexplained) = explain(holds, slots, rules);
    if unexplained.is_empty() {
        return Ok(());
    }
    if rules.permits > 1 || rules.shared {
        return impossible(holds, rules, &unexplained);
    }
    fill(holds, &full, rules, &unexplained)
}

/// When there was no room, by this schedule, and the attempts that it does not explain.
fn explain(holds: &Holds, slots: &[Slots], rules: Rules) -> (Vec<Full>, Vec<Refusal>) {
    let full = if rules.permits > 1 {
        full_semaphore(&holds.holds, slots, rules.permits as usize)
    } else {
        held(&holds.holds, slots)
    };
    let unexplained = holds.refusals.iter().copied().filter(|refusal| !within(&full, *refusal)).collect();
    (full, unexplained)
}

/// Whether this schedule explains all.
pub(super) fn explained(holds: &Holds, slots: &[Slots], rules: Rules) -> bool {
    explain(holds, slots, rules).1.is_empty()
}

/// From each grant to its latest end: one for each hold, in order.
fn held(holds: &[Hold], slots: &[Slots]) -> Vec<Full> {
    let mut full = vec![Full { from: 0, to: 0 }; holds.len()];
    // The grants of the next hold, and of the next writer.
    let (mut next, mut next_writer) = (END, END);
    for (at, hold) in holds.iter().enumerate().rev() {
        let ended = match hold.end {
            End::Open => END,
            End::Strict(end) | End::Soft(end) => end.to,
        };
        let granted = slots[at].granted;
        // A session that ended before the grant can have ended nothing.
        let replaced = if hold.shared { next_writer } else { next };
        full[at] = Full { from: granted, to: ended.min(replaced).max(granted) };
        next = granted;
        if !hold.shared {
            next_writer = granted;
        }
    }
    full
}

/// While all permits were held: where one must have gone before a grant, the one that could stay the shortest.
fn full_semaphore(holds: &[Hold], slots: &[Slots], permits: usize) -> Vec<Full> {
    let mut full = Vec::new();
    // Latest and earliest end.
    let mut active: Vec<(u32, u32)> = Vec::new();
    for (at, hold) in holds.iter().enumerate() {
        let granted = slots[at].granted;
        active.retain(|(latest, _)| *latest >= granted);
        if active.len() >= permits {
            let shortest = active
                .iter()
                .enumerate()
                .filter(|(_, (_, over))| *over <= granted)
                .min_by_key(|(_, (latest, _))| *latest)
                .map(|(at, _)| at);
            // The schedule says that one of them can be over.
            active.swap_remove(shortest.unwrap_or(0));
        }
        let latest = match hold.end {
            End::Open => END,
            End::Strict(end) | End::Soft(end) => end.to.max(granted),
        };
        active.push((latest, slots[at].over));
        if active.len() == permits {
            let first = active.iter().map(|(latest, _)| *latest).min().unwrap_or(END);
            let next = slots.get(at + 1).map_or(END, |next| next.granted);
            full.push(Full { from: granted, to: first.min(next) });
        }
    }
    full
}

/// Whether the attempt has a slot in one of the intervals, whose beginnings rise.
fn within(full: &[Full], refusal: Refusal) -> bool {
    let begun = full.partition_point(|full| full.from <= refusal.span.to);
    // Ends rise too, except among readers: look back while they may reach.
    full[..begun].iter().rev().take(READERS_BACK).any(|full| full.to >= refusal.span.from)
}

/// How many holds before an attempt are looked at for one that reaches it. More readers at once than that are left to
/// the longest holds, and to a search.
const READERS_BACK: usize = 256;

/// Fills the gaps in which attempts have no explanation with grants of unknown outcome: each serves one gap, from its
/// call on, and needs a token of its own.
fn fill(holds: &Holds, full: &[Full], rules: Rules, unexplained: &[Refusal]) -> Result<(), NoHolds> {
    if holds.revealed || holds.maybes.iter().any(|maybe| maybe.ends) {
        return Err(NoHolds::Ambiguous);
    }
    // The first attempt to return in each gap; a gap is named by the hold that ends it.
    let mut gaps: Vec<(usize, Refusal)> = Vec::new();
    for refusal in unexplained {
        let gap = full.partition_point(|full| full.from <= refusal.span.to);
        gaps.push((gap, *refusal));
    }
    gaps.sort_by_key(|(gap, refusal)| (*gap, refusal.span.to));
    gaps.dedup_by_key(|(gap, _)| *gap);
    gaps.sort_by_key(|(_, refusal)| refusal.span.to);
    let mut maybes = holds.maybes.iter().peekable();
    for (gap, refusal) in gaps {
        let room = if rules.fenced {
            let token = |at: usize| holds.holds.get(at).and_then(|hold| hold.token);
            match (gap.checked_sub(1).and_then(token), token(gap)) {
                (Some(before), Some(after)) => before.next().is_some_and(|least| least < after),
                (Some(before), None) => before.next().is_some(),
                _ => true,
            }
        } else {
            // An unfenced hold without an end lasts: only the last gap has room for one.
            gap == full.len()
        };
        if !room || maybes.next_if(|maybe| maybe.from <= refusal.span.to).is_none() {
            return Err(bad(&holds.holds, gap, refusal));
        }
    }
    Ok(())
}

fn bad(holds: &[Hold], gap: usize, refusal: Refusal) -> NoHolds {
    let mut operations = vec![refusal.span.at];
    let before = gap.checked_sub(1).map(|at| &holds[at]);
    if let Some(before) = before {
        operations.push(before.grant.at);
        if let End::Strict(end) | End::Soft(end) = before.end {
            operations.extend([end.at, end.before]);
        }
    }
    operations.extend(holds.get(gap).map(|after| after.grant.at));
    operations.sort_unstable();
    operations.dedup();
    let what = match (before, holds.get(gap)) {
        (None, None) => "it was refused although nobody ever held",
        (None, Some(_)) => "it was refused before anybody could hold",
        (Some(_), None) => "it was refused after the last hold had ended",
        (Some(_), Some(_)) => {
            "it was refused between the end of one hold and the beginning of the next, while it was free"
        }
    };
    NoHolds::Bad(operations, refusal.span.at, what.to_owned())
}

/// Convicts only what no hold at its longest explains.
pub(super) fn impossible(holds: &Holds, rules: Rules, unexplained: &[Refusal]) -> Result<(), NoHolds> {
    if holds.revealed || unexplained.len().saturating_mul(holds.holds.len() + holds.maybes.len()) > STEPS_MAX {
        return Err(NoHolds::Ambiguous);
    }
    for refusal in unexplained {
        let possible = holds.holds.iter().filter(|hold| {
            let ended = match hold.end {
                End::Open => END,
                End::Strict(end) | End::Soft(end) => end.to,
            };
            hold.grant.from <= refusal.span.to && ended >= refusal.span.from
        });
        let maybes = holds.maybes.iter().filter(|maybe| maybe.from <= refusal.span.to);
        let most: u64 = possible.map(|hold| u64::from(hold.permits)).sum::<u64>()
            + maybes.map(|maybe| u64::from(maybe.permits)).sum::<u64>();
        let enough = if rules.shared { most > 0 } else { most + u64::from(refusal.permits) > u64::from(rules.permits) };
        if !enough {
            let what = "it was refused, but not enough can have been held at any moment of it".to_owned();
            return Err(NoHolds::Bad(vec![refusal.span.at], refusal.span.at, what));
        }
    }
    Err(NoHolds::Ambiguous)
}
