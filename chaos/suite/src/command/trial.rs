//! `conclave-chaos trial`: does the suite convict what is known to be bad, and acquit the rest?

use std::{fs, path::PathBuf, process::ExitCode, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::{
    run::{STOP, misfortune, stop_on_signals, time},
    suite::options,
};
use crate::{
    record, report,
    run::run,
    suite::Came,
    trial::{Case, Expected, ROWS, Row, Tried, Verdict, exit_code, page},
};

/// Seeds in which a known-bad lock has to break, and in which a control has to hold, unless another number is asked for.
const SEEDS_BAD: u64 = 8;
const SEEDS_CONTROL: u64 = 3;

/// Puts locks on trial: known-bad ones that have to be convicted, and controls that have to be acquitted.
///
/// Needs what 'sh scripts/setup.sh --peers' installs: Redis, etcd, ZooKeeper. A known-bad lock that is convicted is not tried
/// with further seeds, unless --runs asks for them.
///
/// Exit status: 0 if every known-bad lock was convicted and every control acquitted; 1 if one was not; 2 if one could not be
/// tried or judged here; 3 for a mistake in the call.
#[derive(Args, Debug)]
pub struct Trial {
    /// Runs of each row; otherwise up to 8 until a known-bad lock is convicted, and 3 of a control.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// How long faults begin in each run.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    time: Duration,
    /// Only these rows, by commas: names of the table, as in redlock-pause.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = row_name)]
    only: Vec<String>,
    /// The first seed of every row.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for the reports; it must not have anything in it.
    #[arg(long, value_name = "DIR", default_value = "chaos-trial")]
    report: PathBuf,
    /// Writes the table to this file, too, in Markdown.
    #[arg(long, value_name = "FILE")]
    docs: Option<PathBuf>,
}

fn row_name(text: &str) -> Result<String, String> {
    let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    let known = ROWS.iter().any(|row| row.name == text);
    known.then(|| text.to_owned()).ok_or_else(|| format!("there are {}", names()))
}

impl Trial {
    pub fn main(self) -> ExitCode {
        match self.go() {
            Ok(cases) => ExitCode::from(exit_code(&cases)),
            Err(error) => misfortune(&error),
        }
    }

    fn go(self) -> anyhow::Result<Vec<Case>> {
        stop_on_signals()?;
        report::folder(&self.report)?;
        let asked = |row: &&Row| self.only.is_empty() || self.only.iter().any(|name| name == row.name);
        let mut cases = Vec::new();
        for row in ROWS.iter().filter(asked) {
            cases.push(self.case(row)?);
            // Whatever comes later, what is known so far can be read.
            self.write(&cases)?;
        }
        for case in &cases {
            let verdict = match case.verdict() {
                Verdict::AsExpected => case.row.expected.word().to_owned(),
                Verdict::Otherwise(why) => format!("NOT {}: {why}", case.row.expected.word().to_uppercase()),
                Verdict::Unjudged(why) => format!("not judged: {why}"),
            };
            println!("{:<20} {verdict} ({} of {} runs)", case.row.name, case.showed(), case.tried.len());
        }
        println!("report: {}", self.report.join("index.html").display());
        Ok(cases)
    }

    fn case(&self, row: &Row) -> anyhow::Result<Case> {
        let mut case = Case { row: *row, tried: Vec::new(), not_available: None };
        let unknown = row.unknown_faults();
        if !unknown.is_empty() {
            let why = format!("{}: not available (no such fault in this suite)", unknown.join(", "));
            eprintln!("{:<20} {why}", row.name);
            case.not_available = Some(why);
            return Ok(case);
        }
        let seeds = self.runs.unwrap_or(match row.expected {
            Expected::Convicted(_) => SEEDS_BAD,
            Expected::Acquitted(_) => SEEDS_CONTROL,
        });
        for seed in self.seed..self.seed + seeds {
            let folder = format!("{}-{seed}", row.name);
            let mut options = options(&format!("{} --time {}ms", row.line, self.time.as_millis()))?;
            (options.seed, options.report, options.quiet) = (seed, self.report.join(&folder), true);
            let came = run(options, &STOP).map(|summary| Came::of(&summary)).map_err(|error| format!("{error:#}"));
            ensure!(!STOP.load(Ordering::Relaxed), "interrupted");
            let tried = Tried { seed, folder, came };
            let said = match (&tried.came, &tried.failed()[..]) {
                (Err(why), _) => format!("COULD NOT BEGIN: {why}"),
                (Ok(came), []) if came.code != 0 => format!("not all judged: {}", came.not_available.join(", ")),
                (Ok(_), []) => "held".to_owned(),
                (Ok(_), failed) => format!("broke: {}", failed.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(" ")),
            };
            eprintln!("{:<20} seed {seed}: {said}", row.name);
            case.tried.push(tried);
            if self.runs.is_none() && case.settled() {
                break;
            }
        }
        Ok(case)
    }

    fn write(&self, cases: &[Case]) -> anyhow::Result<()> {
        let (command, date) = (self.command(), record::now());
        let path = self.report.join("index.html");
        fs::write(&path, page::page(cases, &command, &date))
            .with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(path) = &self.docs {
            let text = page::markdown(cases, &command, &date);
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Does it again.
    fn command(&self) -> String {
        let runs = self.runs.map_or_else(String::new, |runs| format!(" --runs {runs}"));
        let only = if self.only.is_empty() { String::new() } else { format!(" --only {}", self.only.join(",")) };
        format!("conclave-chaos trial --time {}s{runs}{only} --seed {}", self.time.as_secs_f64(), self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_whose_faults_there_are_is_a_run() {
        let known = ROWS.iter().filter(|row| row.unknown_faults().is_empty());
        for row in known {
            options(row.line).unwrap_or_else(|error| panic!("{}: {error:#}", row.name));
        }
    }
}
