//! Unfenced semaphores and read/write locks: what each hold covers at least may not exceed what there is.
//!
//! The least that a hold covers, its core, runs from just before the return of its grant to just after the call of its
//! release. Every hold can shrink to its core at the same time, so the history has an order (attempts that were
//! refused aside) exactly if the cores never ask for too much.

use super::{
    holds::{END, End, Hold, Holds, NoHolds, Refusal},
    refusals,
    rules::Rules,
    schedule,
};

/// Holds at their least, and the attempts against them.
pub(super) fn check(holds: &Holds, rules: Rules) -> Result<(), NoHolds> {
    // (slot, kind, hold): within a slot ends come first, then holds that fit between two events, then beginnings.
    let mut moments: Vec<(u32, u8, u32)> = Vec::with_capacity(2 * holds.holds.len());
    for (hold, at) in holds.holds.iter().zip(0..) {
        let begins = hold.grant.to;
        let ends = match hold.end {
            End::Open => END + 1,
            End::Strict(end) | End::Soft(end) => end.from,
        };
        if ends <= begins {
            moments.push((begins, 1, at));
        } else {
            moments.push((begins, 2, at));
            moments.push((ends, 0, at));
        }
    }
    moments.sort_unstable();
    let mut active: Vec<u32> = Vec::new();
    let mut steps: Vec<(u32, u64, bool)> = Vec::new();
    let (mut permits, mut writers) = (0_u64, 0_u32);
    for (slot, kind, at) in moments {
        let hold = &holds.holds[at as usize];
        if kind != 0 {
            let room = if rules.shared {
                if hold.shared { writers == 0 } else { active.is_empty() }
            } else {
                permits + u64::from(hold.permits) <= u64::from(rules.permits)
            };
            if !room {
                return Err(too_much(&holds.holds, &active, at, rules));
            }
        }
        let writer = u32::from(!hold.shared);
        if kind != 0 {
            active.push(at);
            permits += u64::from(hold.permits);
            writers += writer;
            steps.push((slot, permits, !active.is_empty()));
        }
        if kind != 2 {
            active.retain(|active| *active != at);
            permits -= u64::from(hold.permits);
            writers -= writer;
            steps.push((slot, permits, !active.is_empty()));
        }
    }
    attempts(holds, rules, &steps)
}

fn attempts(holds: &Holds, rules: Rules, steps: &[(u32, u64, bool)]) -> Result<(), NoHolds> {
    let explained = |refusal: &&Refusal| {
        let full = |(_, permits, held): &(u32, u64, bool)| {
            if rules.shared { *held } else { permits + u64::from(refusal.permits) > u64::from(rules.permits) }
        };
        // What was held when it was called, and every change until it returned.
        let from = steps.partition_point(|(slot, ..)| *slot < refusal.span.from);
        let to = steps.partition_point(|(slot, ..)| *slot <= refusal.span.to);
        steps[from.saturating_sub(1)..to].iter().any(full)
    };
    let unexplained: Vec<Refusal> = holds.refusals.iter().filter(|refusal| !explained(refusal)).copied().collect();
    if unexplained.is_empty() {
        return Ok(());
    }
    // At their least, holds leave the widest gaps. Taken in the order of their grants' returns, which need not be right
    // but often is, they can be given their longest.
    if holds.holds.iter().all(|hold| hold.permits == 1)
        && holds.refusals.iter().all(|refusal| refusal.permits == 1)
        && let Ok(slots) = schedule::earliest(holds, rules)
        && refusals::explained(holds, &slots, rules)
    {
        return Ok(());
    }
    refusals::impossible(holds, rules, &unexplained)
}

fn too_much(holds: &[Hold], active: &[u32], at: u32, rules: Rules) -> NoHolds {
    let culprit = &holds[at as usize];
    // Of a read/write lock, one that is in the way is enough.
    let one = active.iter().copied().find(|held| !culprit.shared || !holds[*held as usize].shared);
    let others: Vec<u32> = if rules.shared { one.into_iter().collect() } else { active.to_vec() };
    let mut operations = vec![culprit.grant.at];
    for hold in others.iter().copied().chain([at]).map(|at| &holds[at as usize]) {
        operations.push(hold.grant.at);
        if let End::Strict(end) = hold.end {
            operations.push(end.at);
        }
    }
    operations.sort_unstable();
    operations.dedup();
    let what = if rules.shared {
        "it was granted while another that excludes it held, which ended only afterwards".to_owned()
    } else {
        format!("it was granted while others held so much of the {} permits that it does not fit", rules.permits)
    };
    NoHolds::Bad(operations, culprit.grant.at, what)
}
