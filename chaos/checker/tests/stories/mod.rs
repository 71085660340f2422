//! Histories to look at, made up from a seed: clients that take turns, with the faults and the mistake asked for.

use std::time::Duration;

use conclave_checker::{
    Function, History, Judgement, Operation, Outcome, Refutation, Value, Verdict,
    history::{Fault, NEVER, NO_TIME},
    report::{Invariant, Lane, Point, Span, Standing, State},
};

/// An operation before it has its place among the events.
pub struct Call {
    pub process: u32,
    pub key: u32,
    pub function: Function,
    pub argument: Value,
    pub result: Value,
    pub outcome: Outcome,
    pub from_ns: i64,
    /// None: it never returned.
    pub until_ns: Option<i64>,
}

/// Orders calls and returns by time. Operation `i` of the result was `calls[order[i]]`.
pub fn history(
    calls: &[Call],
    processes: u32,
    keys: &[&str],
    faults: &[(&str, &str, i64, i64)],
) -> (History, Vec<u32>) {
    let mut events: Vec<(i64, u8, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        events.push((call.from_ns, 1, at));
        events.extend(call.until_ns.map(|until| (until, 0, at)));
    }
    for (at, (_, _, from, until)) in faults.iter().enumerate() {
        events.extend([(*from, 2, at), (*until, 3, at)]);
    }
    events.sort_unstable();
    let mut history = History {
        processes: (0..processes).map(|process| Value::Int(process.into())).collect(),
        keys: keys.iter().map(|key| Value::from(*key)).collect(),
        events: u32::try_from(events.len()).unwrap(),
        ..History::default()
    };
    let mut index = vec![0; calls.len()];
    let mut order = Vec::new();
    let mut fault_at = vec![(0, 0); faults.len()];
    for (position, (ns, kind, at)) in (0_u32..).zip(events) {
        match kind {
            0 => {
                let operation: &mut Operation = &mut history.operations[index[at]];
                (operation.returned, operation.returned_ns) = (position, ns);
            }
            1 => {
                let call = &calls[at];
                index[at] = history.operations.len();
                order.push(u32::try_from(at).unwrap());
                history.operations.push(Operation {
                    process: call.process,
                    key: call.key,
                    function: call.function,
                    outcome: call.outcome,
                    called: position,
                    returned: NEVER,
                    argument: call.argument.clone(),
                    result: call.result.clone(),
                    called_ns: ns,
                    returned_ns: NO_TIME,
                });
            }
            2 => fault_at[at].0 = position,
            _ => fault_at[at].1 = position,
        }
    }
    for ((what, target, from_ns, until_ns), (from, until)) in faults.iter().zip(fault_at) {
        let (what, target) = ((*what).into(), (*target).into());
        history.faults.push(Fault { what, target, from, until, from_ns: *from_ns, until_ns: *until_ns });
    }
    (history, order)
}

pub fn judgement(history: &History, refutations: Vec<Refutation>) -> Judgement {
    let verdict = match refutations.first() {
        Some(first) => Verdict::NotLinearizable(Box::new(first.clone())),
        None => Verdict::Linearizable,
    };
    Judgement {
        verdict,
        refutations,
        operations: history.operations.len(),
        took: Duration::from_micros(18_400),
        peak_bytes: 3 << 20,
    }
}

const MS: i64 = 1_000_000;

/// Two fenced locks that nine clients want; the holder of one is paused, and a grant comes too early.
pub fn double_grant(seed: u64) -> (History, Judgement) {
    let mut random = fastrand::Rng::with_seed(seed);
    let keys = ["/locks/orders/42", "/locks/invoices"];
    let mut calls: Vec<Call> = Vec::new();
    let mut free_at = [0_i64; 2];
    let mut client_at: Vec<i64> = (0..9).map(|client| client * 7 * MS).collect();
    let mut token = 1_000;
    let mut wrong: Option<[usize; 3]> = None;
    for round in 0..150 {
        let client = (0..9).min_by_key(|&client| client_at[client]).unwrap();
        let process = u32::try_from(client).unwrap();
        let key = usize::from(client % 3 == 0);
        let called = client_at[client] + random.i64(1..12) * MS;
        let trying = random.u8(..) < 40;
        let mut call = |function, argument, result, outcome, from_ns, until_ns| {
            let key = u32::try_from(key).unwrap();
            calls.push(Call { process, key, function, argument, result, outcome, from_ns, until_ns });
            calls.len() - 1
        };
        if trying && free_at[key] > called + 4 * MS {
            call(
                Function::TryAcquire,
                Value::Null,
                Value::Null,
                Outcome::Fail,
                called,
                Some(called + random.i64(1..4) * MS),
            );
            client_at[client] = called + 9 * MS;
            continue;
        }
        let early = key == 0 && round > 90 && wrong.is_none();
        let granted =
            if early { free_at[key] - 14 * MS } else { free_at[key].max(called) } + random.i64(300_000..2 * MS);
        let called = called.min(granted - MS);
        token += random.i64(1..40);
        let acquire = call(Function::Acquire, Value::Null, Value::Int(token), Outcome::Ok, called, Some(granted));
        let release = granted + random.i64(9..26) * MS;
        let released = release + random.i64(400_000..3 * MS);
        let lost = random.u8(..) < 5;
        call(
            Function::Release,
            Value::Int(token),
            Value::Null,
            if lost { Outcome::Unknown } else { Outcome::Ok },
            release,
            (!lost).then_some(released),
        );
        if early {
            // The holder before it, whose release comes after this grant.
            let before = calls.iter().enumerate().filter(|(_, one)| {
                one.key == 0 && one.function == Function::Acquire && one.until_ns.is_some_and(|until| until < granted)
            });
            let before = before.max_by_key(|(_, one)| one.until_ns).unwrap().0;
            wrong = Some([before, before + 1, acquire]);
        }
        free_at[key] = release;
        client_at[client] = released + random.i64(1..9) * MS;
    }
    let faults = [
        ("partition", "n1 | n2 n3", 180 * MS, 420 * MS),
        ("pause", "n2", 700 * MS, 790 * MS),
        ("kill -9", "n3", 760 * MS, 1_010 * MS),
        ("clock jump +2 s", "n1", 1_300 * MS, 1_300 * MS),
    ];
    let (history, order) = history(&calls, 9, &keys, &faults);
    let at = |call: usize| u32::try_from(order.iter().position(|&one| one as usize == call).unwrap()).unwrap();
    let refutations = wrong.map(|[first, release, second]| {
        let mut operations = vec![at(first), at(release), at(second)];
        operations.sort_unstable();
        let (held, granted) = (&history.operations[at(first) as usize], &history.operations[at(second) as usize]);
        Refutation {
            key: 0,
            operations,
            culprit: at(second),
            cause: format!(
                "client {} was granted token {} while client {} still held the lock with token {}: its release was called only afterwards.",
                history.processes[granted.process as usize],
                granted.result,
                history.processes[held.process as usize],
                held.result,
            ),
        }
    });
    let judgement = judgement(&history, refutations.into_iter().collect());
    (history, judgement)
}

/// What three servers were while [`double_grant`] ran.
#[allow(dead_code, reason = "of those who share this file, only some draw servers")]
pub fn servers() -> Vec<Lane> {
    let span = |state, from, until: Option<i64>, text: &str| Span {
        state,
        from_ns: from * MS,
        until_ns: until.map(|until| until * MS),
        text: text.into(),
    };
    use State::{Candidate, Down, Follower, Leader, Paused};
    let point = |at: i64, text: &str| Point { at_ns: at * MS, text: text.into() };
    vec![
        Lane {
            name: "n1".into(),
            spans: vec![
                span(Leader, 0, Some(300), "term 3"),
                span(Candidate, 300, Some(425), "term 3"),
                span(Follower, 425, None, ""),
            ],
            points: vec![point(560, "snapshot at index 4096")],
        },
        Lane {
            name: "n2".into(),
            spans: vec![
                span(Follower, 0, Some(292), ""),
                span(Candidate, 292, Some(310), "term 4"),
                span(Leader, 310, Some(700), "term 4"),
                span(Paused, 700, Some(790), ""),
                span(Follower, 790, None, ""),
            ],
            points: vec![],
        },
        Lane {
            name: "n3".into(),
            spans: vec![
                span(Follower, 0, Some(715), ""),
                span(Leader, 715, Some(760), "term 5"),
                span(Down, 760, Some(1_010), ""),
                span(Follower, 1_010, Some(1_100), ""),
                span(Leader, 1_100, None, "term 6"),
            ],
            points: vec![],
        },
    ]
}

/// A table with a row of each standing.
#[allow(dead_code, reason = "of those who share this file, only some draw it")]
pub fn invariants() -> Vec<Invariant> {
    let row = |id: &str, text: &str, standing, details: &str| Invariant {
        id: id.into(),
        text: text.into(),
        standing,
        details: details.into(),
    };
    vec![
        row("I1", "at most one holder per lock at each log index", Standing::Fail, "/locks/orders/42: two holders"),
        row("I2", "tokens of a lock strictly rise with each grant", Standing::Pass, "148 grants, 3 elections"),
        row("I7", "no session ends before its last renewal + TTL", Standing::NotExercised, "no session ended"),
    ]
}

/// A register of each key, read, written and compared by `clients`; one read is stale if `bad`.
pub fn registers(seed: u64, operations: usize, clients: u32, keys: &[&str], bad: bool) -> (History, Judgement) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut calls = Vec::with_capacity(operations);
    let mut client_at: Vec<i64> = (0..clients).map(|client| i64::from(client) * 90_000).collect();
    let mut values = vec![0_i64; keys.len()];
    let mut stale = None;
    for (next, number) in (1..).zip(0..operations) {
        let process = u32::try_from(number).unwrap() % clients;
        let at = &mut client_at[process as usize];
        let from = *at + random.i64(50_000..900_000);
        let until = from + random.i64(200_000..2_500_000);
        *at = until;
        let key = random.usize(..keys.len());
        let value = &mut values[key];
        let (function, argument, result, outcome) = match random.u8(..10) {
            0..5 => (Function::Read, Value::Null, Value::Int(*value), Outcome::Ok),
            5..8 => {
                *value = next;
                (Function::Write, Value::Int(next), Value::Null, Outcome::Ok)
            }
            8 if random.bool() => {
                let pair = Value::List(vec![Value::Int(*value), Value::Int(next)].into());
                *value = next;
                (Function::Cas, pair, Value::Null, Outcome::Ok)
            }
            8 => {
                (Function::Cas, Value::List(vec![Value::Int(-1), Value::Int(next)].into()), Value::Null, Outcome::Fail)
            }
            _ if random.u8(..) < 12 => (Function::Write, Value::Int(next), Value::Null, Outcome::Unknown),
            _ => (Function::Read, Value::Null, Value::Int(*value), Outcome::Ok),
        };
        if bad
            && stale.is_none()
            && number > operations * 2 / 3
            && function == Function::Write
            && outcome == Outcome::Ok
        {
            stale = Some((number, key, from, until));
        }
        let until_ns = (outcome != Outcome::Unknown).then_some(until);
        let key = u32::try_from(key).unwrap();
        calls.push(Call { process, key, function, argument, result, outcome, from_ns: from, until_ns });
    }
    let mut wrong = None;
    if let Some((write, key, _, until)) = stale {
        // The next read of that key that begins after the write has returned sees the very first value again.
        let read = (write..calls.len()).find(|&at| {
            calls[at].function == Function::Read && calls[at].key as usize == key && calls[at].from_ns > until
        });
        wrong = read.map(|read| {
            calls[read].result = Value::Int(0);
            (write, read)
        });
    }
    let end = client_at.iter().copied().max().unwrap_or(0);
    let faults = [("partition", "n1 | n2 n3", end / 5, end / 4), ("slow disk", "n2", end / 2, end * 3 / 5)];
    let (history, order) = history(&calls, clients, keys, &faults);
    let mut refutations = Vec::new();
    if let Some((write, read)) = wrong {
        let mut place = vec![0; order.len()];
        (0_u32..).zip(&order).for_each(|(now, &was)| place[was as usize] = now);
        let mut operations = vec![place[write], place[read]];
        operations.sort_unstable();
        let cause = format!(
            "read of {} by client {} returned 0, but the write of {} had returned before it was called, and nothing wrote 0 since.",
            keys[calls[read].key as usize], calls[read].process, calls[write].argument
        );
        refutations.push(Refutation { key: calls[read].key, operations, culprit: place[read], cause });
    }
    let judgement = judgement(&history, refutations);
    (history, judgement)
}
