//! The fast way against brute force and against the search, on small histories of every kind.

use fastrand::Rng;

use super::{
    rules::Rules,
    spec::{Known, Lock},
    special::{Quick, decide},
};
use crate::{
    Function, History, Limits, Operation, Outcome, Value, Verdict, brute,
    check::Part,
    history::{NEVER, NO_TIME},
    model::Spec,
    search::{self, Budget},
};

/// A history of a few processes, one lock, right more often than not.
fn random(rng: &mut Rng, rules: Rules) -> History {
    let mut history = History { keys: vec![Value::Null], ..History::default() };
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut busy: Vec<Vec<i64>> = Vec::new();
    let clients = rng.usize(2..=3);
    for _ in 0..clients {
        history.processes.push(Value::Int(history.processes.len() as i64));
        open.push(None);
        busy.push(Vec::new());
    }
    let operations = rng.usize(1..=7);
    let mut crashed = Vec::new();
    let mut last = 0;
    let mut events = 0;
    let slip = [0.0, 0.05, 0.3][rng.usize(..3)];
    while history.operations.len() < operations || open.iter().any(Option::is_some) {
        let slot = rng.usize(..open.len());
        if let Some(at) = open[slot] {
            if rng.u8(..4) == 0 && history.operations.len() >= operations {
                open[slot] = None;
                continue;
            }
            finish(rng, rules, &mut history.operations[at], &mut busy, slot, &mut last, slip);
            let operation = &mut history.operations[at];
            open[slot] = None;
            if operation.outcome == Outcome::Unknown {
                // A crash: somebody else goes on.
                crashed.push(slot);
                history.processes.push(Value::Int(history.processes.len() as i64));
                open.push(None);
                busy.push(Vec::new());
            } else {
                operation.returned = events;
            }
            events += 1;
        } else if history.operations.len() < operations && !crashed.contains(&slot) {
            let (function, argument) = start(rng, rules, &busy, slot);
            open[slot] = Some(history.operations.len());
            history.operations.push(Operation {
                process: slot as u32,
                key: 0,
                function,
                outcome: Outcome::Unknown,
                called: events,
                returned: NEVER,
                argument,
                result: Value::Null,
                called_ns: NO_TIME,
                returned_ns: NO_TIME,
            });
            events += 1;
        }
    }
    history.events = events;
    history
}

fn start(rng: &mut Rng, rules: Rules, busy: &[Vec<i64>], slot: usize) -> (Function, Value) {
    let holds = !busy[slot].is_empty();
    let token = |rng: &mut Rng| match rng.u8(..10) {
        0 => Value::Int(rng.i64(1..6)),
        1..=4 if holds => Value::Int(*busy[slot].last().expect("holds")),
        _ => Value::Null,
    };
    let permits = |rng: &mut Rng| {
        if rules.permits > 1 && !rules.fenced && rng.u8(..4) == 0 { Value::Int(rng.i64(1..=2)) } else { Value::Null }
    };
    if rng.u8(..12) == 0 {
        let value = if rules.fenced { token(rng) } else { Value::Null };
        let named = Value::Int(rng.i64(0..busy.len() as i64));
        return (Function::Expire, if rules.fenced || rng.bool() { value } else { named });
    }
    if rules.election {
        return match rng.u8(..6) {
            0 | 1 if !holds => (Function::Campaign, Value::Null),
            0..=2 if holds => (Function::Resign, token(rng)),
            3..=5 => (Function::Observe, Value::Null),
            _ => (Function::Campaign, Value::Null),
        };
    }
    if holds && rng.u8(..8) > 0 {
        let value = if rules.fenced { token(rng) } else { permits(rng) };
        return (Function::Release, value);
    }
    if rules.shared && rng.bool() {
        let function = if rng.bool() { Function::AcquireShared } else { Function::TryAcquireShared };
        return (function, Value::Null);
    }
    match rng.u8(..8) {
        0 => (Function::Release, if rules.fenced { token(rng) } else { Value::Null }),
        1..=4 => (Function::TryAcquire, permits(rng)),
        _ => (Function::Acquire, permits(rng)),
    }
}

fn finish(
    rng: &mut Rng,
    rules: Rules,
    operation: &mut Operation,
    busy: &mut [Vec<i64>],
    slot: usize,
    last: &mut i64,
    slip: f64,
) {
    let wrong = rng.f64() < slip;
    operation.outcome = if rng.u8(..8) == 0 { Outcome::Unknown } else { Outcome::Ok };
    let used: usize = busy.iter().map(Vec::len).sum();
    match operation.function {
        Function::Release | Function::Resign => {
            if (busy[slot].is_empty() || rng.u8(..16) == 0) && !wrong {
                operation.outcome = Outcome::Fail;
                return;
            }
            busy[slot].pop();
        }
        Function::Expire => {
            if rng.u8(..4) > 0 {
                busy[slot].clear();
            }
        }
        Function::Observe => {
            let leader = busy.iter().position(|tokens| !tokens.is_empty());
            operation.result = match leader {
                _ if wrong => [Value::Null, Value::Int(rng.i64(1..6))][rng.usize(..2)].clone(),
                Some(leader) if rng.bool() => {
                    Value::List([Value::Int(leader as i64), Value::Int(busy[leader][0])].into())
                }
                Some(leader) => Value::Int(busy[leader][0]),
                None => Value::Null,
            };
            if operation.outcome == Outcome::Unknown {
                operation.result = Value::Null;
            }
        }
        _ => {
            let full = used >= rules.permits as usize;
            if full != wrong && rng.u8(..4) > 0 {
                operation.outcome = Outcome::Fail;
                operation.result = if rng.u8(..6) == 0 { "timed out".into() } else { Value::Null };
                return;
            }
            if full && !wrong {
                // Somebody lost it.
                busy.iter_mut().for_each(Vec::clear);
            }
            *last = if wrong && rng.bool() { rng.i64(1..6) } else { *last + rng.i64(1..=2) };
            busy[slot].push(*last);
            if operation.outcome == Outcome::Ok && rules.fenced && rng.u8(..16) > 0 {
                operation.result = Value::Int(*last);
            }
        }
    }
}

/// Verdicts on so many random histories agree: brute force, search, and the fast way where it decides.
fn agree(name: &str, rules: Rules, rounds: u64) {
    let budget = Budget::new(&Limits::default());
    let (mut good, mut bad, mut quick_good, mut quick_bad) = (0, 0, 0, 0);
    for seed in 0..rounds {
        let history = random(&mut Rng::with_seed(seed), rules);
        let indexes: Vec<u32> = (0..history.operations.len() as u32).collect();
        let part = Part { history: &history, key: 0, indexes };
        let lock = Lock { rules };
        let object = lock.object(&part).expect("the model knows all operations");
        let quick = decide(&object);
        let known = Known(object);
        let right = brute::linearizable(&known, &history);
        let found = search::search(&known, &part, &budget);
        assert_eq!(right, found == Verdict::Linearizable, "{name}, seed {seed}, search: {history:#?}");
        if let Verdict::NotLinearizable(why) = &found {
            let shown = why.operations.iter().map(|at| history.operations[*at as usize].clone()).collect();
            let shown = History { operations: shown, ..history.clone() };
            assert!(!brute::linearizable(&known, &shown), "{name}, seed {seed}: {why:?}: {history:#?}");
        }
        match quick {
            Quick::Good => assert!(right, "{name}, seed {seed}: the fast way says good: {history:#?}"),
            Quick::Bad(_, _, ref why) => {
                assert!(!right, "{name}, seed {seed}: the fast way says bad, {why}: {history:#?}");
                let Some(Verdict::NotLinearizable(refutation)) = lock.special(&part, &budget) else {
                    panic!("{name}, seed {seed}: {why}, and yet not bad")
                };
                let (operations, culprit) = (&refutation.operations, refutation.culprit);
                assert!(operations.contains(&culprit), "{name}, seed {seed}");
                let few = History {
                    operations: operations.iter().map(|at| history.operations[*at as usize].clone()).collect(),
                    ..history.clone()
                };
                assert!(!brute::linearizable(&known, &few), "{name}, seed {seed}: {why}: {few:#?}");
            }
            Quick::Unsure => {}
        }
        good += u64::from(right);
        bad += u64::from(!right);
        quick_good += u64::from(quick == Quick::Good);
        quick_bad += u64::from(matches!(quick, Quick::Bad(..)));
    }
    println!("{name}: good {good}, of these fast {quick_good}; bad {bad}, of these fast {quick_bad}");
    assert!(good > rounds / 20 && bad > rounds / 20, "{name}: both verdicts occur: {good} and {bad}");
    assert!(quick_good > good / 4 && quick_bad > bad / 8, "{name}: the fast way decides: {quick_good}, {quick_bad}");
}

/// Only locks have steps with several ends: which hold was lost, which token was given.
#[test]
fn the_comparison_catches_a_search_that_takes_one_end_of_several() {
    let rules = Rules::fenced_semaphore(2);
    let caught = (0..20_000).position(|seed| {
        let history = random(&mut Rng::with_seed(seed), rules);
        let part = crate::check::whole(&history);
        let known = Known(Lock { rules }.object(&part).expect("the model knows all operations"));
        let budget = Budget::new(&Limits::default());
        let one_end = || search::search(&known, &part, &budget);
        let found = search::mistakes::with(Some(search::mistakes::Mistake::OneEnd), false, one_end);
        (found == Verdict::Linearizable) != brute::linearizable(&known, &history)
    });
    println!("caught after {caught:?}");
    assert!(caught.is_some());
}

macro_rules! agreement {
    ($($name:ident: $rules:expr;)*) => {$(
        #[test]
        fn $name() {
            agree(stringify!($name), $rules, 20_000);
        }
    )*};
}

agreement! {
    mutex: Rules::MUTEX;
    owner_mutex: Rules::OWNER_MUTEX;
    reentrant_mutex: Rules::REENTRANT_MUTEX;
    fenced_mutex: Rules::FENCED_MUTEX;
    semaphore_2: Rules::semaphore(2);
    semaphore_3: Rules::semaphore(3);
    fenced_semaphore_2: Rules::fenced_semaphore(2);
    fenced_semaphore_3: Rules::fenced_semaphore(3);
    rwlock: Rules::RWLOCK;
    fenced_rwlock: Rules::FENCED_RWLOCK;
    election: Rules::ELECTION;
}
