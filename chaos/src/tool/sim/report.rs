//! What was exercised, for people.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use conclave_sim::{profile::Profile, summary::Summary};

use super::Hunt;

/// Invariants that the simulator judges; one that is missing in a summary was never exercised.
const INVARIANTS: &[(&str, &str)] = &[
    ("I1", "one holder per lock at each index"),
    ("I2", "tokens of a lock rise"),
    ("I3", "a request takes effect once"),
    ("I4", "what is acquired was valid meanwhile"),
    ("I5", "a fence accepts no smaller token"),
    ("I6", "a client hears of its loss in time"),
    ("I7", "no session ends early"),
    ("I8", "no two believe to hold at once"),
    ("I9", "a lock is freed once"),
    ("I10", "grants follow queue order"),
    ("I11", "no lost wake-up"),
    ("I12", "no orphan"),
    ("I13", "no herd"),
    ("I14", "who leaves the middle of a queue wakes nobody"),
    ("I15", "comes back after healing"),
    ("I16", "an unknown outcome is called so"),
    ("I17", "linearizable reads are"),
    ("I18", "what was acknowledged survives"),
    ("I19", "watches: ordered, once, whole, complete"),
    ("election", "one leader in a term"),
    ("replicas", "equal hash at equal index"),
];

/// Simulated time against real time.
pub fn speed(summary: &Summary, took: Duration) -> String {
    let simulated = summary.simulated_us as f64 / 1e6;
    format!("{simulated:.0} s simulated, {:.0} s in a second", simulated / took.as_secs_f64().max(1e-9))
}

fn rows<K: ToString>(title: &str, rows: impl IntoIterator<Item = (K, u64)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, number) in rows {
        table.add_row(vec![format!("  {}", name.to_string()), number.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{title}\n{table}\n")
}

/// Prints a hunt's summary.
pub fn print(hunt: &Hunt, profile: &Profile) {
    let summary = &hunt.summary;
    println!(
        "{} runs of profile {} (seeds {}..{}): {} on {} thread{}, {} events, trace {:016x}",
        summary.runs,
        profile.name,
        hunt.seeds.0,
        hunt.seeds.1,
        speed(summary, hunt.took),
        hunt.jobs,
        if hunt.jobs == 1 { "" } else { "s" },
        summary.events,
        summary.trace,
    );
    println!("{}", rows("Faults, by class", sorted(&summary.faults)));
    let cuts = summary.cuts.iter().map(|(point, number)| (format!("{point:?}"), *number));
    println!("{}", rows("Crashes in the middle of something, by what came next", cuts));
    println!("{}", rows("Exercised", sorted(&summary.counts)));
    println!("{}", rows("Grants, by how many stood in line", sorted(&summary.queues)));
    println!(
        "After healing a leader was there within {:.2} s; in {} of {} runs later than 2 s.\n",
        summary.led_after_max as f64 / 1e6,
        summary.led_late,
        summary.runs
    );
    println!("Invariants");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, about) in INVARIANTS {
        let times = summary.exercised.get(name).copied().unwrap_or_default();
        let runs = summary.exercised_runs.get(name).copied().unwrap_or_default();
        let said = if times == 0 { "not exercised".to_owned() } else { format!("{times} times, in {runs} runs") };
        table.add_row(vec![format!("  {name}"), (*about).to_owned(), said]);
    }
    println!("{table}\n");
}

fn sorted<'a>(counts: &'a BTreeMap<&'static str, u64>) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    counts.iter().map(|(name, number)| (*name, *number))
}
