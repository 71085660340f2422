//! The search against brute force, on small random histories of every model that needs it.

use crate::{
    Function::{self, *},
    History, Limits, Model, Operation, Outcome, Value, Verdict, brute,
    history::{NEVER, NO_TIME},
    model::{Spec, Visit},
    search::{
        Budget, End, entries,
        mistakes::{self, Mistake},
        search, walk,
    },
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

/// Few enough functions and many enough values that the special checkers decide most.
fn plain(model: &Model) -> Menu {
    let many = ints(&[1, 2, 3, 4, 5, 6]);
    let mut read = many.clone();
    read.push(Value::Null);
    match model {
        Model::Kv => vec![(Get, null(), read), (Put, many, null())],
        Model::Register { .. } => vec![(Read, null(), read), (Write, many, null())],
        Model::KvRevision => {
            let versions: Vec<_> = [[1, 1], [2, 2], [3, 3], [4, 4], [3, 2]].iter().map(|pair| list(pair)).collect();
            let mut menu = Vec::new();
            for (at, version) in versions.iter().enumerate() {
                menu.push((Put, vec![Value::Int(at as i64 + 1)], vec![version.clone()]));
            }
            menu.push((Get, null(), versions.into_iter().chain(null()).collect()));
            menu.push((Delete, null(), vec![2.into(), 5.into(), 6.into(), Value::Null]));
            menu
        }
        other => menu(other),
    }
}

/// A history of a few operations of a few processes; unknown outcomes and failures among them.
fn random(rng: &mut fastrand::Rng, menu: &Menu) -> History {
    let processes = rng.usize(1..=4);
    let count = rng.usize(1..=7);
    let lost = [2, 5][rng.usize(..2)];
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
            let known = |(function, arguments, _): &&(Function, Vec<Value>, Vec<Value>)| {
                *function == operation.function && arguments.contains(&operation.argument)
            };
            let (_, _, results) = menu.iter().find(known).unwrap();
            match rng.u32(..8) {
                chance if chance < lost => {
                    idle.push(fresh);
                    fresh += 1;
                }
                7 => {
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
        let (model, menus) = (self.model, [menu(self.model), plain(self.model)]);
        let (mut good, mut bad, mut special) = (0, 0, 0);
        for seed in 0..self.histories {
            let history = random(&mut fastrand::Rng::with_seed(seed), &menus[seed as usize % 2]);
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
            special += u64::from(spec.special(&part, &budget).is_some());
        }
        println!("{model}: {good} good, {bad} bad; {special} by a special checker");
        let has_one = !matches!(model, Model::CasRegister { .. } | Model::Counter);
        assert!(!has_one || special * 10 > self.histories, "{model}: only {special} by the special checker");
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

/// A history on which search and brute force differ; the number of histories that agreed before it.
struct Differ<'a> {
    model: &'a Model,
    mistake: Option<Mistake>,
    tight: bool,
    histories: u64,
}

impl Visit for Differ<'_> {
    type Out = Option<u64>;

    fn visit<S: Spec>(self, spec: &S) -> Option<u64> {
        let menu = menu(self.model);
        (0..self.histories).find(|seed| {
            let history = random(&mut fastrand::Rng::with_seed(*seed), &menu);
            let part = crate::check::whole(&history);
            let limits = Limits { time: std::time::Duration::from_secs(5), ..Limits::default() };
            let budget = Budget::new(&limits);
            let entries = entries(spec, &part);
            let walked = || matches!(walk(spec, &entries, &budget), End::Fits);
            // An assertion that fails has caught the mistake as well.
            let broken = std::panic::AssertUnwindSafe(|| mistakes::with(self.mistake, self.tight, walked));
            let found = std::panic::catch_unwind(broken);
            found.is_err() || found.ok() != Some(brute::linearizable(spec, &history))
        })
    }
}

const SEARCHED: &[&str] = &["cas-register", "counter", "kv", "kv-revision", "fifo-queue", "list-append"];

/// Sweeps, walks begun again and steps in a map, which small histories do not come to otherwise.
#[test]
fn with_low_limits_the_search_agrees_with_brute_force() {
    for name in SEARCHED {
        let model = Model::parse(name).unwrap();
        let differ = Differ { model: &model, mistake: None, tight: true, histories: 10_000 };
        assert_eq!(model.with(differ), None, "{name}");
    }
}

/// A comparison that no broken search fails would say nothing of the one that is not.
#[test]
fn the_comparison_with_brute_force_catches_every_mistake() {
    use Mistake::*;
    let mistakes = [
        StateForgotten,
        DoneForgotten,
        UsedForgotten,
        ReturnIgnored,
        ReadMissed,
        ReadMissedLater,
        UnknownOnceMore,
        UnknownNever,
        NotRetired,
        ResultForgotten,
        LastFirst,
        NarrowIsEnough,
        SweepMixesStates,
        SweepForgetsUses,
    ];
    for mistake in mistakes {
        let caught = |histories: u64| -> Vec<String> {
            SEARCHED
                .iter()
                .flat_map(|name| [(name, false), (name, true)])
                .filter_map(|(name, tight)| {
                    let model = Model::parse(name).unwrap();
                    let differ = Differ { model: &model, mistake: Some(mistake), tight, histories };
                    let after = model.with(differ)?;
                    Some(format!("{name}{} {after}", if tight { " (low limits)" } else { "" }))
                })
                .collect()
        };
        let mut found = caught(1_000);
        if found.is_empty() {
            found = caught(20_000);
        }
        println!("{mistake:?}: {}", found.join(", "));
        assert!(!found.is_empty(), "{mistake:?} is not caught");
    }
}

/// Many operations under way at a time, of few classes: sets of every width, and a frontier that stays small.
#[test]
fn hundreds_under_way_at_a_time_are_judged() {
    for (adders, sum, right) in
        [(60, 30, true), (200, 130, true), (1500, 700, true), (5000, 2500, true), (200, 201, false)]
    {
        let mut text = String::new();
        let mut event = |process: i32, kind: &str, f: &str, value: i32| {
            text += &format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"value\":{value}}}\n");
        };
        (0..adders).for_each(|process| event(process, "invoke", "add", 1));
        event(-1, "invoke", "read", 0);
        event(-1, "ok", "read", sum);
        (0..adders).for_each(|process| event(process, "ok", "add", 1));
        let history = crate::history::parse(text.as_bytes(), crate::history::Format::Json).unwrap();
        let verdict = crate::check(&history, &Model::Counter, &Limits::default()).verdict;
        assert_eq!(verdict == Verdict::Linearizable, right, "{adders} adders, {sum}: {verdict:?}");
    }
}

/// Histories of each model in the next test.
const LONGER: u64 = 240;

/// Two ways to the same verdict, on histories too long for brute force, good and spoiled.
#[test]
fn special_checkers_and_search_agree_on_longer_histories() {
    struct Both<'a>(&'a History);
    impl Visit for Both<'_> {
        type Out = Option<(bool, bool)>;
        fn visit<S: Spec>(self, spec: &S) -> Self::Out {
            let part = crate::check::whole(self.0);
            let limits = Limits { time: std::time::Duration::from_secs(2), ..Limits::default() };
            // Only the walk: to make a counterexample small changes no verdict.
            let found = match walk(spec, &entries(spec, &part), &Budget::new(&limits)) {
                End::Limit(_) => return None,
                found => matches!(found, End::Fits),
            };
            let special = spec.special(&part, &Budget::new(&limits))?;
            assert!(!matches!(special, Verdict::Unknown(_)));
            Some((found, special == Verdict::Linearizable))
        }
    }
    for name in ["register", "fifo-queue", "kv", "kv-revision"] {
        let model = Model::parse(name).unwrap();
        let (mut good, mut bad, mut compared) = (0, 0, 0);
        for seed in 0..LONGER {
            let unknown = [0.0, 0.03][seed as usize % 2];
            let config =
                crate::generate::Config { unknown, ..crate::generate::Config::new(model.clone(), 4, 40, seed) };
            let mut history = crate::generate::generate(&config);
            if seed % 3 > 0 {
                // Swap two results: most of the time that is one too many.
                let mut rng = fastrand::Rng::with_seed(seed);
                let read: Vec<usize> = (0..history.operations.len())
                    .filter(|at| {
                        history.operations[*at].outcome == Outcome::Ok
                            && matches!(history.operations[*at].function, Read | Get | Dequeue)
                    })
                    .collect();
                if let (Some(one), Some(other)) = (rng.choice(&read), rng.choice(&read)) {
                    let result = history.operations[*one].result.clone();
                    let other = std::mem::replace(&mut history.operations[*other].result, result);
                    history.operations[*one].result = other;
                }
            }
            let Some((found, special)) = model.with(Both(&history)) else { continue };
            assert_eq!(found, special, "{name}, seed {seed}: search, special: {history:#?}");
            compared += 1;
            *if found { &mut good } else { &mut bad } += 1;
        }
        println!("{name}: {compared} compared, {good} good, {bad} bad");
        assert!(compared * 20 >= LONGER * 19, "{name}: only {compared} of {LONGER} compared");
        assert!(good * 4 > LONGER && bad * 4 > LONGER, "{name}: {good} good, {bad} bad");
    }
}
