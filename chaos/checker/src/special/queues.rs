//! Queues in which no value is put twice: O(n log n).
//!
//! Bouajjani, Emmi, Enea and Hamza, "On reducing linearizability to state reachability", ICALP 2015, section 4: there is
//! an order unless one of these is found:
//!
//! * a value is dequeued twice, or without an enqueue, or before one was called;
//! * a was certainly put before b, and b certainly taken before a, or a never;
//! * a dequeue found nothing, and at every moment of it some value was certainly there.
//!
//! An enqueue of unknown outcome whose value nobody got is left out: it could only have been in the way.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{Function, Operation, Refutation, Value, Verdict, check::Part, history::NEVER, shrink::name};

/// A value's way through the queue: operations, and positions as far as they bind.
#[derive(Clone, Copy)]
struct Item {
    put: u32,
    put_called: u32,
    put_returned: u32,
    taken: Option<u32>,
    /// [`NEVER`] if nobody took it.
    taken_called: u32,
    taken_returned: u32,
}

/// Why there is no order.
struct Bad {
    operations: Vec<u32>,
    culprit: u32,
    cause: String,
}

/// The verdict; `None` if a value was put twice, or if it depends on what dequeues of unknown outcome took.
pub(crate) fn verdict<'a>(
    part: &Part<'a>,
    operations: impl Iterator<Item = (u32, &'a Operation)>,
    found_empty: impl Fn(&Operation) -> bool,
) -> Option<Verdict> {
    let mut puts: BTreeMap<&Value, (u32, &Operation)> = BTreeMap::new();
    let mut takes: BTreeMap<&Value, (u32, &Operation)> = BTreeMap::new();
    let (mut empties, mut unknown_takes, mut twice) = (Vec::new(), false, None);
    for (at, operation) in operations {
        if operation.function == Function::Enqueue {
            if puts.insert(&operation.argument, (at, operation)).is_some() {
                return None;
            }
        } else if found_empty(operation) {
            empties.push((at, operation));
        } else if operation.returned == NEVER {
            unknown_takes = true;
        } else {
            match takes.entry(&operation.result) {
                Entry::Vacant(entry) => {
                    entry.insert((at, operation));
                }
                Entry::Occupied(entry) => twice = twice.or(Some((entry.get().0, at))),
            }
        }
    }
    let named = |at: u32| name(part, &part.history.operations[at as usize]);
    let bad = |bad: Bad| {
        let Bad { mut operations, culprit, cause } = bad;
        operations.sort_unstable();
        operations.dedup();
        Some(Verdict::NotLinearizable(Box::new(Refutation { key: part.key, operations, culprit, cause })))
    };
    if let Some((one, other)) = twice {
        let put = puts.get(&part.history.operations[other as usize].result).map(|(put, _)| *put);
        let operations = [one, other].into_iter().chain(put).collect();
        let cause = format!("{} got what {} had got, and it was put once", named(other), named(one));
        return bad(Bad { operations, culprit: other, cause });
    }
    for (value, (at, take)) in &takes {
        match puts.get(value) {
            None => {
                let cause = format!("{}: nobody put that", named(*at));
                return bad(Bad { operations: vec![*at], culprit: *at, cause });
            }
            Some((put, operation)) if take.returned < operation.called => {
                let cause = format!("{} returned before {} was called", named(*at), named(*put));
                return bad(Bad { operations: vec![*at, *put], culprit: *at, cause });
            }
            _ => {}
        }
    }
    let mut items: Vec<Item> = puts
        .iter()
        .filter_map(|(value, (put, operation))| {
            let take = takes.get(value);
            // Put before it was taken, taken after it was put.
            let item = Item {
                put: *put,
                put_called: operation.called,
                put_returned: operation.returned.min(take.map_or(NEVER, |(_, take)| take.returned)),
                taken: take.map(|(at, _)| *at),
                taken_called: take.map_or(NEVER, |(_, take)| take.called.max(operation.called)),
                taken_returned: take.map_or(NEVER, |(_, take)| take.returned),
            };
            (item.put_returned != NEVER).then_some(item)
        })
        .collect();
    let strict = judge(&items, &empties, named);
    match strict {
        None => Some(Verdict::Linearizable),
        Some(found) if !unknown_takes => bad(found),
        // What nobody is known to have got may have been taken by those.
        Some(_) => {
            items.retain(|item| item.taken.is_some());
            judge(&items, &empties, named).and_then(bad)
        }
    }
}

fn judge(items: &[Item], empties: &[(u32, &Operation)], named: impl Fn(u32) -> String) -> Option<Bad> {
    overtaken(items, &named).or_else(|| not_empty(items, empties, &named))
}

/// A value that was put after another and taken before it.
fn overtaken(items: &[Item], named: &impl Fn(u32) -> String) -> Option<Bad> {
    let mut by_put: Vec<&Item> = items.iter().collect();
    by_put.sort_by_key(|item| item.put_returned);
    let mut later: Vec<&Item> = items.iter().filter(|item| item.taken.is_some()).collect();
    later.sort_by_key(|item| item.put_called);
    let mut before = by_put.into_iter().peekable();
    // Of all that were put before: the one taken last.
    let mut last: Option<&Item> = None;
    for item in later {
        while let Some(earlier) = before.next_if(|earlier| earlier.put_returned < item.put_called) {
            if last.is_none_or(|last| last.taken_called < earlier.taken_called) {
                last = Some(earlier);
            }
        }
        let (Some(first), Some(taken)) = (last, item.taken) else { continue };
        if item.taken_returned < first.taken_called {
            let end = match first.taken {
                Some(at) => format!("got only by {}", named(at)),
                None => "never got".into(),
            };
            let (put, other) = (named(first.put), named(item.put));
            let cause = format!(
                "{} came out of order: {put} had returned before {other} was called, and was {end}",
                named(taken)
            );
            let operations = [first.put, item.put, taken].into_iter().chain(first.taken).collect();
            return Some(Bad { operations, culprit: taken, cause });
        }
    }
    None
}

/// A dequeue that found nothing although something was there all the time.
fn not_empty(items: &[Item], empties: &[(u32, &Operation)], named: &impl Fn(u32) -> String) -> Option<Bad> {
    // Where a value was certainly there, ascending; then joined where one begins before the other ends.
    let mut there: Vec<&Item> = items.iter().filter(|item| item.put_returned < item.taken_called).collect();
    there.sort_by_key(|item| item.put_returned);
    let mut spans: Vec<(u32, u32, Vec<&Item>)> = Vec::new();
    for item in there {
        match spans.last_mut() {
            Some((_, until, cover)) if item.put_returned < *until => {
                if item.taken_called > *until {
                    *until = item.taken_called;
                    cover.push(item);
                }
            }
            _ => spans.push((item.put_returned, item.taken_called, vec![item])),
        }
    }
    empties.iter().find_map(|(at, empty)| {
        let span = spans.partition_point(|(from, ..)| *from < empty.called).checked_sub(1)?;
        let (_, until, cover) = &spans[span];
        if empty.returned > *until {
            return None;
        }
        let meanwhile =
            cover.iter().filter(|item| item.put_returned < empty.returned && item.taken_called > empty.called);
        let operations = meanwhile.flat_map(|item| [Some(item.put), item.taken]).flatten().chain([*at]).collect();
        let cause = format!("{} found nothing, but the queue was never empty meanwhile", named(*at));
        Some(Bad { operations, culprit: *at, cause })
    })
}
