//! How many operations a counterexample shows, over everything that the generator can spoil.
//!
//! `cargo test -p conclave-checker --test counterexamples -- --nocapture` prints the table of docs/checker.md.

use std::time::Duration;

use conclave_checker::{
    Limits, Model, Verdict, check,
    generate::{Config, generate, mutate::KINDS},
};

/// Histories of each model and kind; half of them have unknown outcomes and failures among them.
const SEEDS: u64 = 12;
/// Operations of a history, over two keys.
const OPERATIONS: u32 = 400;

#[test]
fn counterexamples_are_small() {
    println!("{:<22} {:>7} {:>6} {:>6} {:>6} {:>6}  largest", "model", "spoiled", "median", "90 %", "max", "ms");
    for name in Model::NAMES {
        let model = Model::parse(&name.replace(":N", ":2")).expect("a name of a model");
        let mut sizes = Vec::new();
        let mut worst = (0, String::new());
        let mut longest = Duration::ZERO;
        for kind in KINDS.iter().filter(|kind| kind.suits(&model)) {
            for seed in 0..SEEDS {
                // What anybody may release, a release of unknown outcome explains.
                let spoiled = if model == Model::Mutex { 0.0 } else { [0.0, 0.01][seed as usize % 2] };
                let config = Config {
                    unknown: spoiled,
                    fail: spoiled,
                    keys: 2,
                    ..Config::new(model.clone(), 6, OPERATIONS, seed)
                };
                let mut history = generate(&config);
                if kind.apply(&mut history, &model, seed).is_none() {
                    continue;
                }
                let judgement = check(&history, &model, &Limits::default());
                let Verdict::NotLinearizable(refutation) = &judgement.verdict else {
                    panic!("{} of {config:?}: {:?}", kind.name, judgement.verdict)
                };
                let size = refutation.operations.len();
                sizes.push(size);
                longest = longest.max(judgement.took);
                if size > worst.0 {
                    worst = (size, format!("{} {seed}: {}", kind.name, refutation.cause));
                }
                if std::env::var_os("CAUSES").is_some() {
                    println!("  {name} {} {seed}: {size}: {}", kind.name, refutation.cause);
                }
            }
        }
        sizes.sort_unstable();
        let at = |part: usize| sizes[(sizes.len() - 1) * part / 100];
        assert!(at(50) <= 4 && at(90) <= 6 && at(100) <= 20, "{name}: {sizes:?}, {}", worst.1);
        println!(
            "{name:<22} {:>7} {:>6} {:>6} {:>6} {:>6}  {}",
            sizes.len(),
            at(50),
            at(90),
            at(100),
            longest.as_millis(),
            worst.1.chars().take(150).collect::<String>()
        );
    }
}
