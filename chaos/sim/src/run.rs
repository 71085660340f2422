//! One run.

use crate::{oracle::Violation, plan::Plan, profile::Profile, summary::Summary, trace::Trace, world::World};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What it exercised.
    pub summary: Summary,
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
}

/// Runs a seed. `steps` replaces the profile's number of them.
#[must_use]
pub fn run(seed: u64, profile: &Profile, steps: Option<usize>, trace: Trace) -> Outcome {
    run_plan(profile, Plan::grow(seed, profile, steps), trace)
}

/// Runs a plan.
#[must_use]
pub fn run_plan(profile: &Profile, plan: Plan, trace: Trace) -> Outcome {
    let seed = plan.seed;
    let (summary, violation) = World::new(profile, plan, trace).run();
    Outcome { seed, summary, violation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{PROFILES, by_name};

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        for profile in PROFILES {
            let traces = [3, 3, 4].map(|seed| run(seed, profile, Some(60), Trace::default()).summary.trace);
            assert_eq!(traces[0], traces[1], "{}", profile.name);
            assert_ne!(traces[0], traces[2], "{}", profile.name);
        }
    }

    #[test]
    fn old_seeds_stay_clean() {
        let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let mut words = line.split_whitespace();
            let profile = by_name(words.next().expect("a profile")).expect("there is one");
            let seed = words.next().and_then(|word| word.parse().ok()).expect("a seed");
            let outcome = run(seed, profile, None, Trace::default());
            assert_eq!(outcome.violation, None, "{line}");
        }
    }

    #[test]
    fn nothing_is_broken_where_nothing_breaks() {
        let calm = by_name("calm").expect("there is one");
        for seed in 0..3 {
            let outcome = run(seed, calm, None, Trace::default());
            assert_eq!(outcome.violation, None, "seed {seed}");
            assert!(outcome.summary.counts["elections"] == 1, "one leader is enough: {:?}", outcome.summary.counts);
            assert!(outcome.summary.exercised["I1"] > 0);
        }
    }
}
