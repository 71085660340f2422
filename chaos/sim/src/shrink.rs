//! Shrinking: of a plan that fails, the fewest steps that still break the same thing (delta debugging, Zeller and
//! Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).

use crate::{oracle::Violation, plan::Plan, profile::Profile, run::run_plan, trace::Trace};

/// The smallest plan found, what it breaks, and how many runs that took; at most `runs_max`.
#[must_use]
pub fn shrink(
    profile: &Profile,
    plan: &Plan,
    violation: &Violation,
    runs_max: usize,
    mut told: impl FnMut(usize, usize),
) -> (Plan, Violation, usize) {
    let mut best = (plan.clone(), violation.clone());
    let mut runs = 0;
    // What comes after the violation does not matter.
    let mut attempt = |best: &mut (Plan, Violation), steps: Vec<crate::plan::Step>| {
        runs += 1;
        let plan = Plan { steps, ..best.0.clone() };
        let outcome = run_plan(profile, plan.clone(), Trace::default());
        match outcome.violation {
            Some(found) if found.what == best.1.what => {
                *best = (plan, found);
                told(best.0.steps.len(), runs);
                (true, runs)
            }
            _ => (false, runs),
        }
    };
    let before: Vec<_> = best.0.steps.iter().filter(|step| step.at <= best.1.at).cloned().collect();
    if before.len() < best.0.steps.len() {
        attempt(&mut best, before);
    }
    let mut parts = 2;
    loop {
        let length = best.0.steps.len();
        if length == 0 {
            break;
        }
        let size = length.div_ceil(parts);
        let mut smaller = false;
        let mut from = 0;
        while from < best.0.steps.len() {
            let mut steps = best.0.steps.clone();
            let until = (from + size).min(steps.len());
            steps.drain(from..until);
            let (fails, so_far) = attempt(&mut best, steps);
            if fails {
                smaller = true;
            } else {
                from = until;
            }
            if so_far >= runs_max {
                return (best.0, best.1, so_far);
            }
        }
        if size == 1 && !smaller {
            break;
        }
        if size > 1 {
            parts = (parts * 2).min(best.0.steps.len().max(1));
        }
    }
    (best.0, best.1, runs)
}
