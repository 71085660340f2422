//! Planted bugs: how many seeds does each take to be found?

use std::time::Duration;

use anyhow::bail;
use comfy_table::{Table, presets};
use conclave_faults::Bug;
use conclave_sim::{
    profile::{PROFILES, Profile},
    run,
    trace::Trace,
};

use super::{Range, Sim, hunt, progress};

/// So long each may take, unless the call says otherwise.
const WITHIN: Duration = Duration::from_secs(600);

/// The bugs that a name means.
pub fn bugs(name: &str) -> anyhow::Result<Vec<Bug>> {
    if cfg!(not(feature = "faults")) {
        bail!("this program has no bugs planted: use conclave-chaos-faulty");
    }
    if name == "all" {
        return Ok(Bug::ALL.to_vec());
    }
    match Bug::ALL.iter().find(|bug| bug.key() == name) {
        Some(bug) => Ok(vec![*bug]),
        None => {
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.key()).collect();
            bail!("there is no planted bug {name:?}: choose all or one of {}", known.join(", "))
        }
    }
}

/// Looks for each; whether all were found.
pub fn find(bugs: &[Bug], sim: &Sim, profile: &Profile) -> anyhow::Result<bool> {
    // Unless the call names another one, the profiles take turns: some bugs need much of one thing.
    let all: Vec<&Profile> = PROFILES.iter().filter(|profile| profile.name != "calm").collect();
    let one = [profile];
    let profiles: &[&Profile] = if profile.name == "default" { &all } else { &one };
    let (from, until) = sim.seeds.unwrap_or((0, u64::MAX));
    let within = Some(sim.within()?.unwrap_or(WITHIN));
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(vec!["planted bug", "seeds", "simulated s", "s", "found by"]);
    let mut missed = 0;
    for bug in bugs {
        let bar = progress(None);
        bar.set_prefix(bug.key());
        let range = Range { profiles, steps: sim.steps, from, until, within, jobs: sim.jobs(), planted: Some(*bug) };
        let hunt = hunt(&range, &bar);
        bar.finish_and_clear();
        let found = match hunt.failed.as_ref().and_then(|failed| failed.violation.as_ref().map(|v| (failed.seed, v))) {
            Some((seed, violation)) => {
                // What fails without the bug is not found by it.
                conclave_faults::plant(None);
                let sound = run(seed, range.profile(seed), sim.steps, Trace::default());
                if let Some(violation) = &sound.violation {
                    println!("{}: seed {seed} fails without it: {}: {}", bug.key(), violation.what, violation.why);
                    println!("  {}", sim.replay_line(range.profile(seed), seed, None));
                    bail!("the seeds must be sound before bugs are looked for with them");
                }
                let line = sim.replay_line(range.profile(seed), seed, Some(*bug));
                println!("{}: {}: {}\n  {line}", bug.key(), violation.what, violation.why);
                violation.what.to_owned()
            }
            None => {
                println!("{}: not found in {} runs", bug.key(), hunt.summary.runs);
                missed += 1;
                "not found".to_owned()
            }
        };
        table.add_row(vec![
            bug.key().to_owned(),
            hunt.summary.runs.to_string(),
            (hunt.summary.simulated_us / 1_000_000).to_string(),
            format!("{:.1}", hunt.took.as_secs_f64()),
            found,
        ]);
    }
    println!("{table}");
    if missed > 0 {
        println!("{missed} of {} planted bugs were not found", bugs.len());
    }
    Ok(missed == 0)
}
