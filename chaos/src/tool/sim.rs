//! `conclave-chaos sim`: the simulator.

mod planted;
mod record;
mod report;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use conclave_faults::Bug;
use conclave_sim::{
    Outcome,
    plan::Plan,
    profile::{self, Profile},
    run, shrink,
    summary::Summary,
    trace::Trace,
};
use indicatif::{ProgressBar, ProgressStyle};

/// Most runs that shrinking one failure may take.
const SHRINK_RUNS_MAX: usize = 2_000;

/// Runs whole clusters in one thread under virtual time, one for each seed, breaks them and judges what they did.
///
/// Exit status: 0 if nothing was broken; 1 with the line that replays the first violation; 2 for a mistake in the call.
#[derive(Args)]
pub struct Sim {
    /// Seeds to run: `A..B`, without B. With `--minutes` alone: fresh ones.
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<(u64, u64)>,
    /// Steps (faults and operations) of a run, at most; otherwise the profile's.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// What runs may meet: default, calm, crash, network, disk, clock, members or large.
    #[arg(long, value_name = "NAME", default_value = "default")]
    profile: String,
    /// Runs one seed and prints everything that happens in it.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "jobs"])]
    replay: Option<u64>,
    /// Cuts a failing plan down to the fewest faults and operations that still fail, and prints it.
    #[arg(long)]
    shrink: bool,
    /// Breaks Conclave on purpose, by one of its planted bugs or by each in turn, and looks how many seeds find it. Only in
    /// conclave-chaos-faulty.
    #[arg(long, value_name = "BUG|all")]
    planted: Option<String>,
    /// Ends after so many minutes.
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Threads; otherwise one for each core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Appends one line about these runs to a file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (from, until) = text.split_once("..").ok_or("write A..B, as in 0..1000")?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, until) = (number(from)?, number(until)?);
    if from >= until { Err(format!("{from}..{until} is empty")) } else { Ok((from, until)) }
}

/// What many runs came to.
pub struct Hunt {
    /// Of all runs together.
    pub summary: Summary,
    /// The violation of the lowest seed that was run, if any.
    pub failed: Option<Outcome>,
    /// The first seed, and the one after the last.
    pub seeds: (u64, u64),
    /// So long it took.
    pub took: Duration,
    /// Threads.
    pub jobs: usize,
}

/// What to run.
pub struct Range<'a> {
    /// One profile, or several in turn.
    pub profiles: &'a [&'a Profile],
    /// See [`Sim::steps`].
    pub steps: Option<usize>,
    /// From here.
    pub from: u64,
    /// Up to before this.
    pub until: u64,
    /// No new run begins after this.
    pub within: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// Active in all of them.
    pub planted: Option<Bug>,
}

impl Range<'_> {
    /// The profile of a seed.
    pub fn profile(&self, seed: u64) -> &Profile {
        let count = u64::try_from(self.profiles.len()).expect("a handful");
        self.profiles[usize::try_from(seed % count).expect("a handful")]
    }
}

/// Runs seeds until one fails, time is over or there are no more.
pub fn hunt(range: &Range<'_>, bar: &ProgressBar) -> Hunt {
    let began = Instant::now();
    let next = AtomicU64::new(range.from);
    let failed_already = AtomicBool::new(false);
    let results: Mutex<(Summary, Option<Outcome>)> = Mutex::default();
    std::thread::scope(|threads| {
        for _ in 0..range.jobs {
            threads.spawn(|| {
                conclave_faults::plant(range.planted);
                loop {
                    let over = range.within.is_some_and(|within| began.elapsed() >= within);
                    let seed = next.fetch_add(1, Relaxed);
                    if over || seed >= range.until || failed_already.load(Relaxed) {
                        next.fetch_sub(1, Relaxed);
                        break;
                    }
                    let outcome = run(seed, range.profile(seed), range.steps, Trace::default());
                    let mut results = results.lock().expect("nobody panics with it");
                    results.0.add(&outcome.summary);
                    bar.set_message(report::speed(&results.0, began.elapsed()));
                    bar.inc(1);
                    if outcome.violation.is_some() {
                        failed_already.store(true, Relaxed);
                        if results.1.as_ref().is_none_or(|first| outcome.seed < first.seed) {
                            results.1 = Some(outcome);
                        }
                    }
                }
                conclave_faults::plant(None);
            });
        }
    });
    let (summary, failed) = results.into_inner().expect("nobody panics with it");
    let seeds = (range.from, next.into_inner().min(range.until));
    Hunt { summary, failed, seeds, took: began.elapsed(), jobs: range.jobs }
}

fn progress(length: Option<u64>) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = match length {
        Some(_) => "{wide_bar} {pos}/{len} seeds, {msg}",
        None => "{spinner} {pos} seeds, {msg}",
    };
    bar.set_style(ProgressStyle::with_template(style).expect("it is a template"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Sim {
    /// Runs it.
    #[must_use]
    pub fn main(&self) -> ExitCode {
        conclave_sim::quiet_panics();
        match self.dispatch() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("conclave-chaos sim: {error:#}");
                ExitCode::from(2)
            }
        }
    }

    fn dispatch(&self) -> anyhow::Result<bool> {
        if self.jobs == Some(0) {
            bail!("--jobs 0 would run nothing: give at least 1");
        }
        let profile = profile::by_name(&self.profile).map_err(anyhow::Error::msg)?;
        match (&self.planted, self.replay) {
            (Some(bug), Some(seed)) => {
                let [bug] = planted::bugs(bug)?[..] else { bail!("--replay needs one bug, not all") };
                conclave_faults::plant(Some(bug));
                Ok(self.replay(profile, seed))
            }
            (None, Some(seed)) => Ok(self.replay(profile, seed)),
            (Some(bug), None) => planted::find(&planted::bugs(bug)?, self, profile),
            (None, None) => self.runs(profile),
        }
    }

    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn within(&self) -> anyhow::Result<Option<Duration>> {
        self.minutes
            .map(|minutes| Duration::try_from_secs_f64(minutes * 60.0).context("--minutes must be a positive number"))
            .transpose()
    }

    fn runs(&self, profile: &Profile) -> anyhow::Result<bool> {
        let within = self.within()?;
        let (from, until) = match (self.seeds, within) {
            (Some(seeds), _) => seeds,
            (None, None) => (0, 1_000),
            // Small enough to be typed.
            (None, Some(_)) => (fastrand::u64(1 << 32..1 << 48), u64::MAX),
        };
        let bounded = self.seeds.is_some() || within.is_none();
        let bar = progress(bounded.then_some(until - from));
        let range =
            Range { profiles: &[profile], steps: self.steps, from, until, within, jobs: self.jobs(), planted: None };
        // What is checked out may be another one by the end.
        let commit = conclave_suite::record::commit();
        let hunt = hunt(&range, &bar);
        bar.finish_and_clear();
        report::print(&hunt, profile);
        if let Some(path) = &self.record {
            record::append(path, &commit, &hunt, profile)?;
        }
        let Some(failed) = &hunt.failed else { return Ok(true) };
        self.tell(profile, failed, None);
        Ok(false)
    }

    /// A violation, in words, and how to see it again.
    fn tell(&self, profile: &Profile, failed: &Outcome, bug: Option<Bug>) {
        let Some(violation) = &failed.violation else { return };
        let at = violation.at as f64 / 1e6;
        println!("{} is broken at {at:.6} s of seed {}: {}", violation.what, failed.seed, violation.why);
        if self.shrink {
            self.shrink(profile, failed);
        }
        println!("{}", self.replay_line(profile, failed.seed, bug));
    }

    fn replay_line(&self, profile: &Profile, seed: u64, bug: Option<Bug>) -> String {
        let program = if bug.is_some() { "conclave-chaos-faulty" } else { "conclave-chaos" };
        let steps = self.steps.map_or(String::new(), |steps| format!(" --steps {steps}"));
        let bug = bug.map_or(String::new(), |bug| format!(" --planted {}", bug.key()));
        format!("{program} sim --profile {}{steps}{bug} --replay {seed}", profile.name)
    }

    fn shrink(&self, profile: &Profile, failed: &Outcome) {
        let Some(violation) = &failed.violation else { return };
        let plan = Plan::grow(failed.seed, profile, self.steps);
        let bar = progress(None);
        let before = plan.steps.len();
        let (plan, violation, runs) = shrink(profile, &plan, violation, SHRINK_RUNS_MAX, |left, runs| {
            bar.set_position(u64::try_from(runs).unwrap_or(u64::MAX));
            bar.set_message(format!("{left} of {before} steps are left"));
        });
        bar.finish_and_clear();
        println!("Of {before} steps these {} break {} too ({runs} runs):", plan.steps.len(), violation.what);
        for step in &plan.steps {
            println!("  {step}");
        }
        println!("  then, at {:.6} s: {}", violation.at as f64 / 1e6, violation.why);
    }

    fn replay(&self, profile: &Profile, seed: u64) -> bool {
        let plan = Plan::grow(seed, profile, self.steps);
        println!("Seed {seed}, profile {}, {} servers, {} steps:", profile.name, plan.servers, plan.steps.len());
        for step in &plan.steps {
            println!("  {step}");
        }
        println!("What happens:");
        let outcome = run(seed, profile, self.steps, Trace::printing(Box::new(|line| println!("{line}"))));
        println!("trace {:016x}, {} events", outcome.summary.trace, outcome.summary.events);
        if outcome.violation.is_none() {
            println!("Nothing is broken.");
            return true;
        }
        self.tell(profile, &outcome, None);
        false
    }
}
