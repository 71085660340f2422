//! Many runs, one after the other, and what they come to together.
//!
//! A profile is a list of command lines of `run`, as somebody would type them: so each can be done again alone, and
//! whatever `run` can do a profile can.

pub mod page;

use std::collections::BTreeMap;

use conclave_checker::report::Standing;
use serde_json::{Value, json};

use crate::{judge::Row, nemesis::Class, run::Summary};

/// The profiles, with their lists.
pub const PROFILES: &[(&str, &str)] = &[
    ("ci", include_str!("../../profiles/ci.txt")),
    ("nightly", include_str!("../../profiles/nightly.txt")),
    ("release", include_str!("../../profiles/release.txt")),
];

/// The lines of a list: each with how often it is to be run. Empty lines and what follows a `#` say nothing.
///
/// # Errors
/// The line that does not begin with a number and `x`.
pub fn lines(list: &str) -> Result<Vec<(usize, String)>, String> {
    let meant = list.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    meant
        .map(|line| {
            let (times, rest) = line.split_once("x ").ok_or_else(|| format!("{line:?} has no '3x ' before it"))?;
            let times = times.parse().map_err(|_| format!("{line:?}: {times:?} is no number"))?;
            Ok((times, rest.trim().to_owned()))
        })
        .collect()
}

/// What became of one run.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The folder of its report, within the suite's.
    pub folder: String,
    /// The arguments of `run`, without the seed.
    pub line: String,
    /// Its seed.
    pub seed: u64,
    /// What came of it, or why it could not begin.
    pub came: Result<Came, String>,
    /// Seconds it took.
    pub seconds: f64,
}

/// What a suite keeps of a run.
#[derive(Clone, Debug, Default)]
pub struct Came {
    /// As of [`Summary::exit_code`].
    pub code: u8,
    /// Where its servers lived.
    pub place: String,
    /// Its verdict.
    pub rows: Vec<Row>,
    /// Faults that met somebody, by class.
    pub faults: BTreeMap<&'static str, usize>,
    /// How many servers lost power, each as often as it did.
    pub power_cuts: usize,
    /// Overlaps of beliefs.
    pub overlaps: usize,
    /// What was not to be had here.
    pub not_available: Vec<String>,
    /// From a fault to the first write after it, nanoseconds, by what was done.
    pub first_writes_ns: Vec<(String, i64)>,
}

impl Came {
    /// Of a run.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        let met = || summary.faults.iter().filter(|fault| !fault.missed);
        let mut faults = BTreeMap::new();
        for fault in met() {
            *faults.entry(fault.class.name()).or_default() += 1;
        }
        Self {
            code: summary.exit_code(),
            place: summary.place.clone(),
            rows: summary.rows.clone(),
            faults,
            power_cuts: met().filter(|fault| fault.class == Class::Power).map(|fault| fault.servers.len()).sum(),
            overlaps: summary.overlaps.len(),
            not_available: summary.not_available.iter().map(ToString::to_string).collect(),
            first_writes_ns: met().filter_map(|fault| Some((fault.what.clone(), fault.first_write_ns?))).collect(),
        }
    }
}

/// All runs of a suite.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Which profile.
    pub profile: String,
    /// In the order of the list.
    pub all: Vec<Ran>,
    /// From the first to the last.
    pub seconds: f64,
}

impl Runs {
    /// 0: nothing was broken anywhere. 1: something was. 2: something could not be done or judged. 3: a run could not
    /// begin.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let codes = || self.all.iter().map(|ran| ran.came.as_ref().map_or(3, |came| came.code));
        // Broken is worse than not begun.
        if codes().any(|code| code == 1) { 1 } else { codes().max().unwrap_or(0) }
    }

    /// Faults that met somebody, by class, in all runs; classes that met nobody are there with 0.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&'static str, usize> {
        let mut sum: BTreeMap<_, _> = Class::ALL.iter().map(|class| (class.name(), 0)).collect();
        for (name, count) in self.came().flat_map(|came| &came.faults) {
            *sum.entry(*name).or_default() += count;
        }
        sum
    }

    /// How many servers lost power in all runs, each as often as it did.
    #[must_use]
    pub fn power_cuts(&self) -> usize {
        self.came().map(|came| came.power_cuts).sum()
    }

    /// For each row of the verdict, in their order: its name, what should hold, and in how many runs it passed, failed, was not
    /// exercised, could not be told.
    #[must_use]
    pub fn standings(&self) -> Vec<(&'static str, &'static str, [usize; 4])> {
        let mut sum: Vec<(_, _, [usize; 4])> = Vec::new();
        for row in self.came().flat_map(|came| &came.rows) {
            let known = sum.iter().position(|(id, ..)| *id == row.id).unwrap_or_else(|| {
                sum.push((row.id, row.text, [0; 4]));
                sum.len() - 1
            });
            let stands = match row.standing {
                _ if row.unknown => 3,
                Standing::Pass => 0,
                Standing::Fail => 1,
                Standing::NotExercised => 2,
            };
            sum[known].2[stands] += 1;
        }
        sum
    }

    /// What was not to be had, in words, with how many runs lacked it.
    #[must_use]
    pub fn not_available(&self) -> Vec<String> {
        let mut runs = BTreeMap::<_, usize>::new();
        for lacks in self.came().flat_map(|came| &came.not_available) {
            *runs.entry(lacks).or_default() += 1;
        }
        runs.into_iter().map(|(lacks, count)| format!("in {count} of {} runs {lacks}", self.all.len())).collect()
    }

    /// For each fault: how often, and the median and longest time to the first write after it, in nanoseconds.
    #[must_use]
    pub fn recoveries(&self) -> BTreeMap<String, (usize, i64, i64)> {
        let mut times: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (what, ns) in self.came().flat_map(|came| &came.first_writes_ns) {
            times.entry(what.clone()).or_default().push(*ns);
        }
        let figures = |mut ns: Vec<i64>| {
            ns.sort_unstable();
            (ns.len(), ns[(ns.len() - 1) / 2], ns[ns.len() - 1])
        };
        times.into_iter().map(|(what, ns)| (what, figures(ns))).collect()
    }

    /// A line of the cumulative record.
    #[must_use]
    pub fn figures(&self) -> Value {
        let failed: Vec<_> = self
            .all
            .iter()
            .filter(|ran| ran.came.as_ref().is_ok_and(|came| came.code == 1))
            .map(|ran| format!("{} --seed {}", ran.line, ran.seed))
            .collect();
        let recoveries: BTreeMap<_, _> = self
            .recoveries()
            .into_iter()
            .map(|(what, (count, median, max))| (what, json!([count, median / 1_000_000, max / 1_000_000])))
            .collect();
        json!({
            "suite": self.profile,
            "runs": self.all.len(),
            "seconds": self.seconds.round(),
            "faults": self.faults(),
            "power_cuts": self.power_cuts(),
            "overlaps": self.came().map(|came| came.overlaps).sum::<usize>(),
            "first_write_count_median_max_ms": recoveries,
            "verdict": match self.exit_code() { 0 => "clean", 1 => "broken", 2 => "not all judged", _ => "not all begun" },
            "broken": failed,
        })
    }

    fn came(&self) -> impl Iterator<Item = &Came> {
        self.all.iter().filter_map(|ran| ran.came.as_ref().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_how_often_each_line() {
        let list = "# two of these\n2x --workload lock  # why\n\n1x --nodes 5\n";
        assert_eq!(lines(list), Ok(vec![(2, "--workload lock".into()), (1, "--nodes 5".into())]));
        assert!(lines("--nodes 5").is_err() && lines("ax --nodes 5").is_err());
    }

    fn ran(code: u8) -> Ran {
        let came = Came { code, faults: [("kill", 2)].into(), power_cuts: 3, ..Came::default() };
        Ran { folder: String::new(), line: "--nodes 3".into(), seed: 9, came: Ok(came), seconds: 1.0 }
    }

    #[test]
    fn rows_are_counted_in_the_order_of_the_verdict() {
        let row = |id, standing| Row { id, text: "holds", standing, unknown: false, details: String::new() };
        let with = |rows| Ran { came: Ok(Came { rows, ..Came::default() }), ..ran(0) };
        let first = with(vec![row("L1", Standing::Pass), row("I2", Standing::Pass)]);
        let unknown = Row { unknown: true, ..row("L1", Standing::NotExercised) };
        let second = with(vec![unknown, row("I2", Standing::Fail), row("I10", Standing::NotExercised)]);
        let runs = Runs { profile: "ci".into(), all: vec![first, second], seconds: 2.0 };
        let expected = [("L1", [1, 0, 0, 1]), ("I2", [1, 1, 0, 0]), ("I10", [0, 0, 1, 0])];
        assert_eq!(runs.standings(), expected.map(|(id, counts)| (id, "holds", counts)));
    }

    #[test]
    fn what_was_lacking_is_told_once_with_how_often() {
        let lacking = || Ran {
            came: Ok(Came { not_available: vec!["drift: not available (why)".into()], ..Came::default() }),
            ..ran(0)
        };
        let runs = Runs { profile: "ci".into(), all: vec![lacking(), ran(0), lacking()], seconds: 2.0 };
        assert_eq!(runs.not_available(), ["in 2 of 3 runs drift: not available (why)"]);
    }

    #[test]
    fn one_broken_run_breaks_the_suite_and_is_named() {
        let suite = |all| Runs { profile: "ci".into(), all, seconds: 2.0 };
        assert_eq!(suite(vec![ran(0), ran(0)]).exit_code(), 0);
        assert_eq!(suite(vec![ran(0), ran(2)]).exit_code(), 2);
        let failed = Ran { came: Err("no root".into()), ..ran(0) };
        assert_eq!(suite(vec![ran(0), failed.clone()]).exit_code(), 3);
        let broken = suite(vec![ran(1), ran(2), failed]);
        assert_eq!(broken.exit_code(), 1);
        let figures = broken.figures();
        assert_eq!(figures["broken"], json!(["--nodes 3 --seed 9"]));
        assert_eq!(figures["power_cuts"], json!(6));
        assert_eq!((&figures["faults"]["kill"], &figures["faults"]["pause"]), (&json!(4), &json!(0)));
    }
}
