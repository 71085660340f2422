//! Generated histories are good, mutated ones are bad, and brute force says so too.

use super::{Config, generate, mutate::KINDS, write::write};
use crate::{
    History, Limits, Model, Outcome, Verdict, brute, check,
    check::Part,
    history::{Format, parse},
    model::{Spec, Visit},
};

fn models() -> impl Iterator<Item = Model> {
    Model::NAMES.iter().map(|name| Model::parse(&name.replace(":N", ":2")).expect("a name of a model"))
}

/// Whether some order of the parts of a history explains it.
fn possible(history: &History, model: &Model) -> bool {
    struct Brute<'a>(&'a History);
    impl Visit for Brute<'_> {
        type Out = bool;
        fn visit<S: Spec>(self, spec: &S) -> bool {
            brute::linearizable(spec, self.0)
        }
    }
    let keys = if model.keyed() { history.keys.len() } else { 1 };
    (0..keys as u32).all(|key| {
        let mut part = history.clone();
        part.operations.retain(|operation| !model.keyed() || operation.key == key);
        model.with(Brute(&part))
    })
}

fn judge(history: &History, model: &Model) -> Verdict {
    check(history, model, &Limits::default()).verdict
}

#[test]
fn the_same_configuration_gives_the_same_history() {
    for model in models() {
        let config = Config { unknown: 0.05, fail: 0.05, keys: 3, ..Config::new(model, 5, 500, 7) };
        let history = generate(&config);
        assert_eq!(history, generate(&config), "{config:?}");
        assert_ne!(history, generate(&Config { seed: 8, ..config.clone() }), "{config:?}");
        assert!(history.operations.iter().any(|operation| operation.outcome == Outcome::Unknown), "{config:?}");
        assert!(history.operations.iter().any(|operation| operation.outcome == Outcome::Fail), "{config:?}");
    }
}

#[test]
fn what_is_written_is_admitted_and_judged_the_same() {
    for model in models() {
        let history = generate(&Config { unknown: 0.05, fail: 0.05, ..Config::new(model.clone(), 3, 60, 1) });
        let mut bytes = Vec::new();
        write(&history, &mut bytes).expect("memory takes all");
        let read = parse(&bytes, Format::Json).expect("what is written can be read");
        model.admit(&read).expect("what is generated is admitted");
        assert_eq!(read.operations.len(), history.operations.len(), "{model}");
        assert_eq!(judge(&read, &model), Verdict::Linearizable, "{model}");
    }
}

#[test]
fn generated_histories_are_linearizable() {
    for model in models() {
        for seed in 0..40 {
            let values = [0, 3][seed as usize % 2];
            let config = Config {
                unknown: [0.0, 0.1][seed as usize / 2 % 2],
                fail: 0.05,
                keys: 1 + (seed % 3) as u32,
                values,
                ..Config::new(model.clone(), 3, 60, seed)
            };
            let history = generate(&config);
            assert_eq!(judge(&history, &model), Verdict::Linearizable, "{config:?}");
        }
    }
}

#[test]
fn mutated_histories_are_bad_and_brute_force_agrees() {
    for kind in KINDS {
        for model in models().filter(|model| kind.suits(model)) {
            let (mut bad, mut tried) = (0, 0);
            for seed in 0..4_000 {
                if tried == 40 {
                    break;
                }
                let unknown = [0.0, 0.15][seed as usize % 2];
                let mut history = generate(&Config { unknown, ..Config::new(model.clone(), 3, 6, seed) });
                if history.operations.len() > 9 || kind.apply(&mut history, &model, seed).is_none() {
                    continue;
                }
                tried += 1;
                let possible = possible(&history, &model);
                bad += u32::from(!possible);
                let verdict = judge(&history, &model);
                assert_eq!(possible, verdict == Verdict::Linearizable, "{} {model} {seed}: {history:#?}", kind.name);
                if let Verdict::NotLinearizable(why) = verdict {
                    let shown = why.operations.iter().map(|at| history.operations[*at as usize].clone()).collect();
                    let shown = History { operations: shown, ..history.clone() };
                    assert!(!self::possible(&shown, &model), "{} {model} {seed}: {why:?} {history:#?}", kind.name);
                    assert!(why.operations.contains(&why.culprit), "{} {model} {seed}: {why:?}", kind.name);
                }
            }
            assert!(tried > 0, "{} finds no place in small histories of {model}", kind.name);
            assert_eq!(bad, tried, "{} of {model} spoils every time", kind.name);
        }
    }
}

#[test]
fn large_mutated_histories_are_convicted_with_the_operation_that_was_touched() {
    for kind in KINDS {
        for model in models().filter(|model| kind.suits(model)) {
            let mut found = 0;
            for seed in 0..4 {
                // What anybody may release, a release of unknown outcome explains.
                let unknown = if model == Model::Mutex { 0.0 } else { 0.01 };
                let config = Config { unknown, keys: 2, ..Config::new(model.clone(), 6, 150, seed) };
                let mut history = generate(&config);
                let Some(touched) = kind.apply(&mut history, &model, seed) else { continue };
                found += 1;
                let judgement = check(&history, &model, &Limits::default());
                let Verdict::NotLinearizable(refutation) = &judgement.verdict else {
                    panic!("{} of {config:?}: {:?}", kind.name, judgement.verdict)
                };
                assert!(
                    refutation.operations.contains(&touched),
                    "{} of {config:?} touched {touched}: {refutation:?}",
                    kind.name
                );
            }
            assert!(found > 1, "{} finds a place in histories of {model}", kind.name);
        }
    }
}

#[test]
fn parts_of_a_history_have_their_own_keys() {
    let history = generate(&Config { keys: 4, ..Config::new(Model::FencedMutex, 4, 200, 3) });
    for key in 0..4 {
        let indexes: Vec<u32> =
            (0..200).filter(|at| history.operations.get(*at as usize).is_some_and(|o| o.key == key)).collect();
        let part = Part { history: &history, key, indexes };
        assert!(part.operations().len() > 10, "key {key} is used");
    }
}
