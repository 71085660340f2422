//! Against brute force and the search: small histories of a right object, most of them touched afterwards.

use fastrand::Rng;

use crate::{
    Function, History, Limits, Model, Outcome, Value, Verdict, brute,
    check::whole,
    generate::{Config, generate},
    model::{Spec, Visit},
    search::{Budget, search},
};

/// Makes something else of what an operation returned; right again now and then.
fn touch(history: &mut History, rng: &mut Rng) {
    let ok = |at: &usize| history.operations[*at].outcome == Outcome::Ok;
    let oks: Vec<usize> = (0..history.operations.len()).filter(ok).collect();
    let (Some(one), Some(other)) = (rng.choice(&oks).copied(), rng.choice(&oks).copied()) else { return };
    let theirs = history.operations[other].result.clone();
    let shifted = |revision: i64, rng: &mut Rng| Value::Int(revision + rng.i64(-2..=2));
    let both_get = [one, other].iter().all(|at| history.operations[*at].function == Function::Get);
    let operation = &history.operations[one];
    let result = match (operation.function, &operation.result, rng.u8(..4)) {
        (Function::Delete, Value::Int(revision), 0..=1) => shifted(*revision, rng),
        (Function::Delete, Value::Null, _) => Value::Int(rng.i64(1..6)),
        (Function::Get | Function::Put, Value::List(pair), 0..=1) => {
            let Value::Int(revision) = pair[1] else { return };
            Value::List([pair[0].clone(), shifted(revision, rng)].into())
        }
        (Function::Put, ..) => return,
        (Function::Get, _, 2) if both_get => theirs,
        _ => Value::Null,
    };
    history.operations[one].result = result;
}

struct Agree(Model, u64);

impl Visit for Agree {
    type Out = ();
    fn visit<S: Spec>(self, spec: &S) {
        let (mut good, mut bad, mut decided) = (0, 0, [0, 0]);
        for seed in 0..self.1 {
            let mut rng = Rng::with_seed(seed);
            let config = Config {
                unknown: [0.0, 0.1, 0.3][seed as usize % 3],
                values: [0, 0, 2][rng.usize(..3)],
                ..Config::new(self.0.clone(), rng.u32(2..=4), rng.u32(3..=8), seed)
            };
            let mut history = generate(&config);
            for _ in 0..rng.u8(..3) {
                touch(&mut history, &mut rng);
            }
            let right = brute::linearizable(spec, &history);
            let budget = Budget::new(&Limits::default());
            let found = search(spec, &whole(&history), &budget);
            assert_eq!(found == Verdict::Linearizable, right, "seed {seed}, search: {history:#?}");
            *if right { &mut good } else { &mut bad } += 1;
            let Some(verdict) = spec.special(&whole(&history), &budget) else { continue };
            assert_eq!(verdict == Verdict::Linearizable, right, "seed {seed}: {verdict:?} {history:#?}");
            decided[usize::from(right)] += 1;
            let Verdict::NotLinearizable(why) = verdict else { continue };
            let operations = why.operations.iter().map(|at| history.operations[*at as usize].clone()).collect();
            let few = History { operations, ..history.clone() };
            assert!(why.operations.contains(&why.culprit), "seed {seed}: {why:?}");
            assert!(!brute::linearizable(spec, &few), "seed {seed}: {why:?} {history:#?}");
        }
        println!("{good} good, of these {} without search; {bad} bad, of these {}", decided[1], decided[0]);
        assert!(decided[1] * 100 > good * 95 && decided[0] * 100 > bad * 80, "{decided:?} of {good} and {bad}");
        assert!(good.min(bad) * 4 > self.1, "{good} good, {bad} bad: too much of a kind");
    }
}

#[test]
fn revisions_agree_with_brute_force_and_with_the_search() {
    Model::KvRevision.with(Agree(Model::KvRevision, 30_000));
}

/// All of a long history without the search, unknown outcomes and failures among it.
#[test]
fn long_histories_need_no_search() {
    struct Special<'a>(&'a History);
    impl Visit for Special<'_> {
        type Out = Option<Verdict>;
        fn visit<S: Spec>(self, spec: &S) -> Self::Out {
            spec.special(&whole(self.0), &Budget::new(&Limits::default()))
        }
    }
    for seed in 0..10 {
        let (unknown, values) = ([0.0, 0.01][seed as usize % 2], [0, 5][seed as usize / 2 % 2]);
        let config = Config { unknown, fail: 0.01, values, ..Config::new(Model::KvRevision, 10, 20_000, seed) };
        let verdict = Model::KvRevision.with(Special(&generate(&config)));
        assert_eq!(verdict, Some(Verdict::Linearizable), "{config:?}");
    }
}
