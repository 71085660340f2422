//! Each target for a moment: its seeds, and its seeds damaged. `CONCLAVE_FUZZ_SECONDS` makes the moment longer,
//! `CONCLAVE_TEST_SEED` repeats its choices.

use std::{
    panic::catch_unwind,
    time::{Duration, Instant},
};

use conclave_harness::{
    TARGETS, Target,
    mutate::{Random, damaged},
};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// The input that a target panics at is shown, so that it can become a case.
fn survive(target: &Target, data: &[u8]) {
    let outcome = catch_unwind(|| (target.run)(data));
    assert!(outcome.is_ok(), "{} does not survive b\"{}\"", target.name, data.escape_ascii());
}

#[test]
fn every_decoder_survives_damaged_input() {
    let clock = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos()) ^ since.as_secs()
    };
    let seed = number("CONCLAVE_TEST_SEED").unwrap_or_else(clock);
    let moment = number("CONCLAVE_FUZZ_SECONDS").map_or(Duration::from_millis(700), Duration::from_secs);
    println!("repeat this run's choices with CONCLAVE_TEST_SEED={seed}");
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for data in &seeds {
            survive(target, data);
        }
        let mut random = Random(seed);
        let (began, mut runs) = (Instant::now(), 0_u64);
        while began.elapsed() < moment {
            for _ in 0..100 {
                survive(target, &damaged(&seeds, &mut random));
            }
            runs += 100;
        }
        println!("{:<20} {runs:>9} runs: {}", target.name, target.about);
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TARGETS.len());
    assert!(names.len() >= 10);
}
