//! The search against brute force, on small random histories of every model that needs it.

use crate::{
    Function::{self, *},
    History, Limits, Model, Operation, Outcome, Value, Verdict, brute,
    history::{NEVER, NO_TIME},
    model::{Spec, Visit},
    search::{Budget, search},
};

fn ints(values: &[i64]) -> Vec<Value> {
    values.iter().map(|value| Value::Int(*value)).collect()
}

fn list(values: &[i64]) -> Value {
    Value::List(ints(values).into())
}

/// What a random operation may be: its function, arguments and results; `Same` results repeat the argument.
type Menu = Vec<(Function, Vec<Value>, Vec<Value>)>;

fn null() -> Vec<Value> {
    vec![Value::Null]
}

fn menu(model: &Model) -> Menu {
    let few = ints(&[1, 2, 3]);
    let mut read = few.clone();
    read.push(Value::Null);
    let pairs = vec![list(&[1, 2]), list(&[2, 1]), list(&[2, 3]), list(&[3, 1])];
    let versions = || {
        let mut versions: Vec<_> = [[1, 1], [1, 2], [2, 2], [2, 3]].iter().map(|pair| list(pair)).collect();
        versions.push(Value::Null);
        versions
    };
    match model {
        Model::Register { .. } => vec![(Read, null(), read), (Write, few, null())],
        Model::CasRegister { .. } => vec![(Read, null(), read), (Write, few, null()), (Cas, pairs, null())],
        Model::Kv => {
            let texts: Vec<Value> = ["a", "b", "ab", "aa"].map(Value::from).to_vec();
            let mut read = texts.clone();
            read.push(Value::Null);
            let short = texts[..2].to_vec();
            vec![(Get, null(), read), (Put, short.clone(), null()), (Append, short, null()), (Delete, null(), null())]
        }
        Model::KvRevision => {
            vec![
                (Get, null(), versions()),
                (Put, ints(&[1, 2]), versions()),
                (Delete, null(), vec![Value::Null, 3.into()]),
            ]
        }
        Model::FifoQueue => vec![(Enqueue, few, null()), (Dequeue, null(), read)],
        Model::Counter => vec![(Read, null(), ints(&[0, 1, 2, 3])), (Add, ints(&[1, 2, -1]), null())],
        Model::ListAppend => {
            let micro = |f: &str, key: i64, value: Value| Value::List([f.into(), key.into(), value].into());
            let mut txns = Vec::new();
            for key in [1, 2] {
                for value in [1, 2] {
                    txns.push(Value::List([micro("append", key, value.into())].into()));
                }
                for seen in [&[][..], &[1], &[2], &[1, 2]] {
                    txns.push(Value::List([micro("r", key, list(seen))].into()));
                    txns.push(Value::List([micro("r", key, list(seen)), micro("append", 3 - key, 1.into())].into()));
                }
            }
            vec![(Txn, txns, null())]
        }
        other => panic!("{other} is tested elsewhere"),
    }
}

/// A history of a few operations of a few processes; unknown outcomes and failures among them.
fn random(rng: &mut fastrand::Rng, menu: &Menu) -> History {
    let processes = rng.usize(1..=4);
    let count = rng.usize(1..=7);
    let mut history =
        History { processes: ints(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), keys: null(), ..History::default() };
    let mut idle: Vec<u32> = (0..processes as u32).collect();
    let mut open: Vec<usize> = Vec::new();
    let mut fresh = processes as u32;
    while history.operations.len() < count || !open.is_empty() {
        let position = history.events;
        let call = history.operations.len() < count && !idle.is_empty() && (open.is_empty() || rng.bool());
        if call {
            let (function, arguments, _) = &menu[rng.usize(..menu.len())];
            open.push(history.operations.len());
            history.operations.push(Operation {
                process: idle.swap_remove(rng.usize(..idle.len())),
                key: 0,
                function: *function,
                outcome: Outcome::Unknown,
                called: position,
                returned: NEVER,
                argument: arguments[rng.usize(..arguments.len())].clone(),
                result: Value::Null,
                called_ns: NO_TIME,
                returned_ns: NO_TIME,
            });
        } else {
            let at = open.swap_remove(rng.usize(..open.len()));
            let operation = &mut history.operations[at];
            let (_, _, results) = menu.iter().find(|(function, ..)| *function == operation.function).unwrap();
            match rng.u32(..8) {
                0 | 1 => {
                    idle.push(fresh);
                    fresh += 1;
                }
                2 => {
                    (operation.outcome, operation.returned) = (Outcome::Fail, position);
                    idle.push(operation.process);
                }
                _ => {
                    (operation.outcome, operation.returned) = (Outcome::Ok, position);
                    operation.result = results[rng.usize(..results.len())].clone();
                    idle.push(operation.process);
                }
            }
        }
        history.events += 1;
    }
    history
}

/// Brute force, search and check agree on so many histories; both verdicts come up.
struct Agree<'a> {
    model: &'a Model,
    histories: u64,
}

impl Visit for Agree<'_> {
    type Out = ();

    fn visit<S: Spec>(self, spec: &S) {
        let (model, menu) = (self.model, menu(self.model));
        let (mut good, mut bad) = (0, 0);
        for seed in 0..self.histories {
            let history = random(&mut fastrand::Rng::with_seed(seed), &menu);
            let right = brute::linearizable(spec, &history);
            let part = crate::check::whole(&history);
            let budget = Budget::new(&Limits::default());
            let verdicts = [search(spec, &part, &budget), crate::check(&history, model, &Limits::default()).verdict];
            for verdict in verdicts {
                match verdict {
                    Verdict::Linearizable => assert!(right, "{model}, seed {seed}: bad, called good: {history:#?}"),
                    Verdict::NotLinearizable(why) => {
                        assert!(!right, "{model}, seed {seed}: good, called bad: {why:?} {history:#?}");
                        // What is shown has no order by itself, and needs every operation it shows.
                        let few = |without: Option<u32>| {
                            let kept = why.operations.iter().filter(|at| Some(**at) != without);
                            let operations = kept.map(|at| history.operations[*at as usize].clone()).collect();
                            History { operations, ..history.clone() }
                        };
                        assert!(!brute::linearizable(spec, &few(None)), "{model}, seed {seed}: {why:?} {history:#?}");
                        assert!(why.operations.contains(&why.culprit), "{model}, seed {seed}: {why:?}");
                    }
                    Verdict::Unknown(why) => panic!("{model}, seed {seed}: unknown: {why}"),
                }
            }
            *if right { &mut good } else { &mut bad } += 1;
        }
        assert!(good.min(bad) * 10 > self.histories, "{model}: {good} good, {bad} bad: too much of a kind");
    }
}

fn agree(name: &str) {
    let model = Model::parse(name).unwrap();
    model.with(Agree { model: &model, histories: 20_000 });
}

#[test]
fn register_agrees_with_brute_force() {
    agree("register");
}

#[test]
fn cas_register_agrees_with_brute_force() {
    agree("cas-register");
}

#[test]
fn kv_agrees_with_brute_force() {
    agree("kv");
}

#[test]
fn kv_revision_agrees_with_brute_force() {
    agree("kv-revision");
}

#[test]
fn fifo_queue_agrees_with_brute_force() {
    agree("fifo-queue");
}

#[test]
fn counter_agrees_with_brute_force() {
    agree("counter");
}

#[test]
fn list_append_agrees_with_brute_force() {
    agree("list-append");
}
