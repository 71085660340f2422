//! Moments for grants and ends whose order is known: each as early as it can be.
//!
//! Fenced, the order is that of the tokens. An unfenced lock has one too: the least that a hold must cover runs from the
//! return of its grant to the call of its release, these cores may not overlap, and so they are in order.
//!
//! Given the order, taking every moment as early as possible is as good as any choice: no bound is an obstacle to an
//! earlier one. So a history has a schedule exactly if this one exists (interval scheduling with release times and
//! deadlines on a chain); and where it does not, the operation whose call forced the moment and the one whose return
//! forbids it contradict each other by themselves.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    holds::{END, End, Hold, Holds, NoHolds, Span},
    rules::Rules,
};

/// When a hold began, and when it can have ended at the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    /// The slot of the grant.
    pub granted: u32,
    /// The first slot in which it can be over; [`NEVER`](crate::history::NEVER) for a hold that does not end.
    pub over: u32,
}

/// A slot, and the hold and the operation that made it no earlier.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Bound {
    slot: u32,
    hold: u32,
    by: u32,
}

/// The earliest slots of all holds, in their order.
pub(super) fn earliest(holds: &Holds, rules: Rules) -> Result<Vec<Slots>, NoHolds> {
    let mut slots = Vec::with_capacity(holds.holds.len());
    let mut granted: Option<Bound> = None;
    // What has to be over before a writer, or any holder of a lock, begins; and before a reader.
    let mut last: Option<Bound> = None;
    let mut last_writer: Option<Bound> = None;
    // The latest ends, as many as there are permits.
    let mut latest: BinaryHeap<Reverse<Bound>> = BinaryHeap::new();
    for (hold, at) in holds.holds.iter().zip(0..) {
        let mut begin = Bound { slot: hold.grant.from, hold: at, by: hold.grant.at };
        if let Some(granted) = granted {
            begin = begin.max_slot(granted);
        }
        fits(&holds.holds, begin, at, hold.grant)?;
        let room = if rules.permits > 1 {
            (latest.len() == rules.permits as usize).then(|| latest.peek().expect("as many as permits").0)
        } else if hold.shared {
            last_writer
        } else {
            last
        };
        if let Some(room) = room
            && room.slot > begin.slot
        {
            begin = room;
            if rules.permits > 1 && begin.slot > hold.grant.to {
                return Err(too_many(&holds.holds, &latest, at));
            }
            fits(&holds.holds, begin, at, hold.grant)?;
        }
        granted = Some(begin);
        let mut over = begin;
        if let Some((latest_seen, first_return)) = hold.seen {
            fits(&holds.holds, begin, at, first_return)?;
            over = over.max_slot(Bound { slot: latest_seen.from, hold: at, by: latest_seen.at });
        }
        match hold.end {
            End::Strict(end) => {
                over = over.max_slot(Bound { slot: end.from, hold: at, by: end.at });
                fits(&holds.holds, over, at, end)?;
            }
            End::Soft(end) => fits(&holds.holds, over, at, end)?,
            End::Open if rules.fenced => {}
            End::Open => over = Bound { slot: END + 1, hold: at, by: hold.grant.at },
        }
        slots.push(Slots { granted: begin.slot, over: over.slot });
        last = Some(last.map_or(over, |last| over.max_slot(last)));
        if !hold.shared {
            last_writer = Some(last_writer.map_or(over, |last| over.max_slot(last)));
        }
        if rules.permits > 1 {
            latest.push(Reverse(over));
            if latest.len() > rules.permits as usize {
                latest.pop();
            }
        }
    }
    Ok(slots)
}

impl Bound {
    fn max_slot(self, other: Self) -> Self {
        if other.slot > self.slot { other } else { self }
    }
}

fn fits(holds: &[Hold], bound: Bound, at: u32, span: Span) -> Result<(), NoHolds> {
    if bound.slot <= span.to {
        return Ok(());
    }
    let (first, second) = (&holds[bound.hold as usize], &holds[at as usize]);
    let mut operations = vec![first.grant.at, bound.by, second.grant.at, span.at, span.before];
    let with = |hold: &Hold| hold.token.map_or_else(String::new, |token| format!(" with token {token}"));
    let what = if bound.hold == at {
        format!("it returned before the hold{} began, or others saw that hold afterwards", with(first))
    } else if bound.by == first.grant.at && bound.slot > END {
        "the lock was held, and never released".to_owned()
    } else if bound.by == first.grant.at {
        format!("the grant{} was called only after it had returned, and yet has the smaller token", with(first))
    } else {
        if let End::Strict(end) = first.end {
            operations.push(end.at);
        }
        format!("it returned while the lock was held{}: that hold ended only afterwards", with(first))
    };
    operations.sort_unstable();
    operations.dedup();
    Err(NoHolds::Bad(operations, span.at, what))
}

fn too_many(holds: &[Hold], latest: &BinaryHeap<Reverse<Bound>>, at: u32) -> NoHolds {
    let mut operations = vec![holds[at as usize].grant.at];
    for Reverse(bound) in latest {
        operations.extend([holds[bound.hold as usize].grant.at, bound.by]);
        if let End::Strict(end) = holds[bound.hold as usize].end {
            operations.push(end.at);
        }
    }
    operations.sort_unstable();
    operations.dedup();
    let what = format!("it returned while all {} permits were held by others that ended only afterwards", latest.len());
    NoHolds::Bad(operations, holds[at as usize].grant.at, what)
}
