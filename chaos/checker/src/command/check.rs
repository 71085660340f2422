//! `check`: one line a file.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, Parser, ValueEnum};

use super::units;
use crate::{History, Judgement, Limits, Model, Value, Verdict, check, guide, history, report};

/// Judge histories: linearizable, not, or unknown.
///
/// A history is JSON lines in Jepsen's event form (.jsonl), or Jepsen's EDN (.edn), packed (.gz) or not; `-` is standard input.
/// Exit code 0: all are linearizable; 1: one is not; 2: one is unknown and none is bad; 3: a file or the command line
/// could not be read.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
pub struct Check {
    /// What the history is of; `--help MODEL` says more about each.
    #[arg(long, required_unless_present = "help", value_parser = Model::parse)]
    model: Option<Model>,
    /// The value that a register begins with: JSON, or a text. Without it, registers begin unset.
    #[arg(long, value_name = "VALUE", value_parser = units::value)]
    init: Option<Value>,
    /// Time for each history, after which it is unknown.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = units::duration)]
    timeout: Duration,
    /// Memory for the search, beside the history itself; beyond it a history is unknown.
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = units::bytes)]
    memory: u64,
    /// Threads; 0 for as many as there are cores.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Values in EDN are [key value], as jepsen.independent makes them.
    #[arg(long)]
    independent: bool,
    /// Draw the history and what is wrong with it as a page.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How to say it.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// This help; or the operations of a model, their values and an example.
    #[arg(short, long, value_name = "MODEL", num_args = 0..=1, default_missing_value = "")]
    help: Option<String>,
    /// Histories.
    #[arg(value_name = "HISTORY", required_unless_present = "help")]
    histories: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// One line a file.
    Text,
    /// One JSON object a line.
    Json,
}

const BAD: u8 = 1;
const UNKNOWN: u8 = 2;
const UNREADABLE: u8 = 3;

/// What is said of a file.
struct Judged<'a> {
    path: &'a Path,
    history: History,
    judgement: Judgement,
    /// By refutation: the line of its culprit.
    lines: Vec<Option<u32>>,
    /// Reading and judging.
    took: Duration,
    /// Most memory that the process had in use when it had judged.
    peak_bytes: u64,
}

/// As the terminal and the page say it.
fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.1} MB")
}

impl Check {
    /// Judges all files. Messages go to standard error, verdicts to standard output.
    pub fn run(self) -> ExitCode {
        if let Some(name) = &self.help {
            return help(name);
        }
        let mut code = 0;
        let mut worse = |other: u8| {
            // Unreadable beats bad beats unknown.
            let rank = |code| [0, 2, 1, 3][usize::from(code)];
            if rank(other) > rank(code) {
                code = other;
            }
        };
        let model = match self.settled() {
            Ok(model) => model,
            Err(why) => {
                eprintln!("conclave-check: {why}");
                return ExitCode::from(UNREADABLE);
            }
        };
        for path in &self.histories {
            match self.judge(path, &model) {
                Ok(judged) => {
                    worse(match judged.judgement.verdict {
                        Verdict::Linearizable => 0,
                        Verdict::NotLinearizable(_) => BAD,
                        Verdict::Unknown(_) => UNKNOWN,
                    });
                    // A reader that went away has heard enough.
                    if self.say(&judged).is_err() {
                        return ExitCode::from(code);
                    }
                    if let Some(out) = &self.report
                        && let Err(error) = self.draw(out, &judged, &model)
                    {
                        eprintln!("conclave-check: {}: {error}", out.display());
                        worse(UNREADABLE);
                    }
                }
                Err(why) => {
                    eprintln!("conclave-check: {why}");
                    worse(UNREADABLE);
                }
            }
        }
        ExitCode::from(code)
    }

    /// The model with its initial state, once all flags fit together.
    fn settled(&self) -> Result<Model, String> {
        if self.report.is_some() && self.histories.len() > 1 {
            return Err("--report draws one history; name one only".into());
        }
        let model = self.model.clone().ok_or("--model is missing")?;
        match &self.init {
            Some(value) => model.with_init(value.clone()).map_err(|error| error.to_string()),
            None => Ok(model),
        }
    }

    fn judge<'a>(&self, path: &'a Path, model: &Model) -> Result<Judged<'a>, String> {
        let began = std::time::Instant::now();
        let bytes = history::load(path).map_err(|error| error.to_string())?;
        let format = history::format(path, &bytes, self.independent);
        let history = history::parse(&bytes, format).map_err(|error| format!("{}: {error}", path.display()))?;
        model.admit(&history).map_err(|(at, why)| {
            let line = history::line_of(&bytes, format, history.operations[at].called).unwrap_or(0);
            format!("{}: line {line}: {why}", path.display())
        })?;
        let limits = Limits { time: self.timeout, bytes: self.memory, threads: self.threads };
        let judgement = check(&history, model, &limits);
        let line = |refutation: &crate::Refutation| {
            history::line_of(&bytes, format, history.operations[refutation.culprit as usize].called)
        };
        let lines = judgement.refutations.iter().take(report::MAX_REFUTATIONS).map(line).collect();
        let peak_bytes = peak_bytes().unwrap_or(judgement.peak_bytes);
        Ok(Judged { path, history, judgement, lines, took: began.elapsed(), peak_bytes })
    }

    fn say(&self, judged: &Judged<'_>) -> io::Result<()> {
        let Judged { path, history, judgement, lines, took, peak_bytes } = judged;
        let path = path.display();
        let verdict = match &judgement.verdict {
            Verdict::Linearizable => "linearizable",
            Verdict::NotLinearizable(_) => "not-linearizable",
            Verdict::Unknown(_) => "unknown",
        };
        let refutations = judgement.refutations.iter().zip(lines);
        let mut out = io::stdout().lock();
        if self.output == Output::Json {
            let refutations: Vec<_> = refutations
                .map(|(refutation, line)| {
                    serde_json::json!({
                        "key": history.keys[refutation.key as usize].to_string(),
                        "cause": refutation.cause,
                        "line": line,
                        "culprit": refutation.culprit,
                        "operations": refutation.operations,
                    })
                })
                .collect();
            let reason = match &judgement.verdict {
                Verdict::Unknown(reason) => Some(reason),
                _ => None,
            };
            let line = serde_json::json!({
                "file": path.to_string(),
                "verdict": verdict,
                "reason": reason,
                "operations": judgement.operations,
                "seconds": took.as_secs_f64(),
                "search_seconds": judgement.took.as_secs_f64(),
                "peak_bytes": peak_bytes,
                "search_bytes": judgement.peak_bytes,
                "refutations": refutations,
            });
            return writeln!(out, "{line}");
        }
        let (seconds, megabytes) = (took.as_secs_f64(), megabytes(*peak_bytes));
        writeln!(out, "{path}: {verdict} {} operations {seconds:.2} s {megabytes} peak", judgement.operations)?;
        if let Verdict::Unknown(reason) = &judgement.verdict {
            eprintln!("{path}: {reason}");
        }
        for (refutation, line) in refutations {
            let key = &history.keys[refutation.key as usize];
            let key = if key.is_null() { String::new() } else { format!("key {key}: ") };
            let line = line.map_or(String::new(), |line| format!("{line}:"));
            eprintln!("{path}:{line} {key}{}", refutation.cause);
        }
        Ok(())
    }

    fn draw(&self, out: &Path, judged: &Judged<'_>, model: &Model) -> io::Result<()> {
        let (title, name) = (judged.path.display().to_string(), model.to_string());
        let init = self.init.as_ref().map_or(String::new(), |init| format!(" --init '{init}'"));
        let replay = format!("conclave-check check --model {name}{init} '{title}'");
        let mut page = report::Report::new(&title, &name, &judged.history, &judged.judgement);
        page.replay = Some(&replay);
        let facts = [("peak memory".to_owned(), megabytes(judged.peak_bytes))];
        page.facts = &facts;
        report::write(&page, std::fs::File::create(out)?)
    }
}

/// Most memory that this process had in use, where the system says so.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn help(name: &str) -> ExitCode {
    if name.is_empty() {
        let mut command = Check::command().name("conclave-check check");
        let _ = command.print_long_help();
        println!("\nModels: {}", Model::NAMES.join(", "));
        return ExitCode::SUCCESS;
    }
    match guide::guide(name) {
        Some(guide) => {
            print!("{guide}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("conclave-check: no model is called {name:?}; there are {}", Model::NAMES.join(", "));
            ExitCode::from(UNREADABLE)
        }
    }
}
