//! `conclave-chaos suite`: a list of runs, and what they come to.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, atomic::Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser};

use super::run::{Run, STOP, misfortune, stop_on_signals};
use crate::{
    record, report,
    run::{Options, run},
    suite::{Came, PROFILES, Ran, Runs, lines, page},
};

/// Does a whole list of runs, and says what they come to together.
///
/// Each run's report is a folder of its own; index.html has the verdict over all of them. One line is appended to the
/// cumulative record.
///
/// Exit status: 0 if nothing was broken in any run; 1 if something was; 2 if something could not be done or judged; 3 for a
/// mistake in the call, or if a run could not begin.
#[derive(Args, Debug)]
pub struct Suite {
    /// Which list: ci (under 20 minutes), nightly or release.
    #[arg(long, value_name = "NAME", default_value = "ci", value_parser = profile)]
    profile: (String, &'static str),
    /// Only runs whose line has this text in it.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The seed of the first run; each further one has the next.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Runs at once. More than one disturb each other.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// The folder for the reports; it must not have anything in it.
    #[arg(long, value_name = "DIR", default_value = "chaos-suite")]
    report: PathBuf,
    /// The cumulative record, a file to which a line is appended.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// A line of a profile.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: Run,
}

/// A run that is to be.
struct Next {
    line: String,
    options: Options,
}

fn profile(name: &str) -> Result<(String, &'static str), String> {
    let found = PROFILES.iter().find(|(known, _)| *known == name);
    let names = || PROFILES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.map(|(name, list)| ((*name).to_owned(), *list)).ok_or_else(|| format!("there are {}", names()))
}

impl Suite {
    pub fn main(self) -> ExitCode {
        match self.go() {
            Ok(runs) => ExitCode::from(runs.exit_code()),
            Err(error) => misfortune(&error),
        }
    }

    fn go(self) -> anyhow::Result<Runs> {
        stop_on_signals()?;
        report::folder(&self.report)?;
        let nexts = nexts(self.profile.1, self.seed, self.only.as_deref(), &self.report)?;
        ensure!(!nexts.is_empty(), "no run of this profile is asked for");
        let (begun, commit, count) = (Instant::now(), record::commit(), nexts.len());
        let queue = Mutex::new(nexts.into_iter().enumerate().collect::<VecDeque<_>>());
        let path = self.report.join("index.html");
        let runs = Mutex::new(Runs { profile: self.profile.0, all: Vec::new(), seconds: 0.0 });
        let write = |runs: &Runs| {
            fs::write(&path, page::page(runs)).with_context(|| format!("cannot write {}", path.display()))
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some((at, next)) = take(&queue) {
                        let ran = once(at, count, next);
                        let mut known = runs.lock().expect("nobody panics with it");
                        known.all.push(ran);
                        known.all.sort_by(|a, b| a.folder.cmp(&b.folder));
                        known.seconds = begun.elapsed().as_secs_f64();
                        // Whatever comes later, what is known so far can be read.
                        if let Err(error) = write(&known) {
                            eprintln!("conclave-chaos: {error:#}");
                        }
                    }
                });
            }
        });
        let runs = runs.into_inner().expect("nobody panics with it");
        write(&runs)?;
        if let Some(record) = &self.record {
            record::append(record, &commit, runs.figures())?;
        }
        say(&runs, &path);
        Ok(runs)
    }
}

fn nexts(list: &str, seed: u64, only: Option<&str>, report: &Path) -> anyhow::Result<Vec<Next>> {
    let mut nexts: Vec<Next> = Vec::new();
    for (times, line) in lines(list).map_err(anyhow::Error::msg)? {
        for _ in 0..times {
            if only.is_some_and(|text| !line.contains(text)) {
                continue;
            }
            let mut options = options(&line)?;
            options.seed = seed + nexts.len() as u64;
            options.report = report.join(format!("run-{:03}", nexts.len() + 1));
            options.quiet = true;
            nexts.push(Next { line: line.clone(), options });
        }
    }
    Ok(nexts)
}

/// What a command line of `run` asks for.
pub fn options(line: &str) -> anyhow::Result<Options> {
    let words = std::iter::once("run").chain(line.split_whitespace());
    Line::try_parse_from(words).with_context(|| format!("{line:?} is no command line of run"))?.run.options()
}

fn take(queue: &Mutex<VecDeque<(usize, Next)>>) -> Option<(usize, Next)> {
    if STOP.load(Ordering::Relaxed) {
        return None;
    }
    queue.lock().expect("nobody panics with it").pop_front()
}

fn once(at: usize, count: usize, next: Next) -> Ran {
    let (begun, seed) = (Instant::now(), next.options.seed);
    let folder = next.options.report.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let came = run(next.options, &STOP).map(|summary| Came::of(&summary)).map_err(|error| format!("{error:#}"));
    let verdict = match &came {
        Err(why) => format!("COULD NOT BEGIN: {why}"),
        Ok(came) => {
            let of = |word: &str| {
                let ids = came.rows.iter().filter(|row| row.word() == word).map(|row| row.id);
                ids.collect::<Vec<_>>().join(" ")
            };
            let faults: usize = came.faults.values().sum();
            match came.code {
                0 => format!("ok, {faults} faults; {} held", of("pass")),
                1 => format!("BROKEN: {}", of("FAIL")),
                _ => format!("NOT ALL JUDGED: unknown {}; {}", of("unknown"), came.not_available.join(", ")),
            }
        }
    };
    eprintln!("{:3}/{count}  {} --seed {seed}: {verdict}", at + 1, next.line);
    Ran { folder, line: next.line, seed, came, seconds: begun.elapsed().as_secs_f64() }
}

fn say(runs: &Runs, page: &Path) {
    println!("profile {}: {} runs in {:.0} s", runs.profile, runs.all.len(), runs.seconds);
    for (id, _, [pass, fail, not, unknown]) in runs.standings() {
        println!("  {id:<4} held in {pass}, failed in {fail}, not exercised in {not}, unknown in {unknown}");
    }
    for lacks in runs.not_available() {
        println!("  {lacks}");
    }
    println!("report: {}", page.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_profile_is_a_run() {
        for (name, list) in PROFILES {
            let nexts = nexts(list, 5, None, Path::new("reports")).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(!nexts.is_empty(), "{name}");
            assert_eq!(nexts[0].options.seed, 5);
        }
    }
}
