//! `conclave-chaos run`: real servers, real faults, a verdict.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use conclave_suite::{
    client::Workload,
    place::namespaces,
    plan::Class,
    run::{Options, Summary, run},
    target,
};

/// Set when the run is to end early.
static STOP: AtomicBool = AtomicBool::new(false);

/// Starts real servers and clients, breaks them on purpose, and judges what the locks were worth.
///
/// Needs root, iproute2 and nftables: every server and client lives in a network namespace of its own. All of it is gone at the
/// end; what a killed run leaves, the next one removes.
///
/// Exit status: 0 if nothing was broken; 1 if something was; 2 if something that was asked for is not available here or could
/// not be judged; 3 for a mistake in the call, or if the run could not begin.
#[derive(Args)]
pub struct Run {
    /// Whose lock: conclave, redis-get-set, redis-setnx or redis-setnx-owner.
    #[arg(long, value_name = "NAME", default_value = "conclave", value_parser = target_name)]
    target: String,
    /// Servers; otherwise 3, or 1 where there can be only one.
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 5)]
    clients: usize,
    /// Locks that they choose from.
    #[arg(long, value_name = "N", default_value_t = 2)]
    keys: usize,
    /// What clients do under the lock.
    #[arg(long, value_name = "NAME", default_value = "lock")]
    workload: Work,
    /// What is broken, by commas: pause, kill, partition; or none.
    #[arg(long, value_name = "NAMES", default_value = "pause,partition,kill", value_parser = classes)]
    nemesis: Classes,
    /// How long faults begin.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    time: Duration,
    /// The lease of a lock; otherwise the target's.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Of the plan of faults, and of the clients' choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for the report; it must not have anything in it.
    #[arg(long, value_name = "DIR", default_value = "chaos-report")]
    report: PathBuf,
    /// Removes what killed runs left, and does nothing else.
    #[arg(long)]
    clean: bool,
}

/// A client of a run; not for people.
#[derive(Args)]
pub struct Client {
    spec: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    /// Hold it.
    Lock,
    /// Read and write a resource that compares tokens.
    Fenced,
    /// Read and write a resource that does not.
    Unfenced,
}

#[derive(Clone)]
struct Classes(Vec<Class>);

fn classes(text: &str) -> Result<Classes, String> {
    if text == "none" {
        return Ok(Classes(Vec::new()));
    }
    text.split(',').map(str::parse).collect::<Result<_, _>>().map(Classes)
}

/// `30s`, `500ms`, `2m`; whole numbers.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale_ms = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = scale_ms.and_then(|scale| digits.parse::<u64>().ok()?.checked_mul(scale));
    ms.map(Duration::from_millis).ok_or_else(|| "a time is a whole number with ms, s or m, as in 30s".into())
}

fn target_name(text: &str) -> Result<String, String> {
    match target::target(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("there are {}", target::NAMES.join(", "))),
    }
}

impl Client {
    pub fn main(&self) -> ExitCode {
        match conclave_suite::client::main(&self.spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("client: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Run {
    pub fn main(self) -> ExitCode {
        if self.clean {
            return match namespaces::sweep() {
                Ok(removed) => {
                    eprintln!("conclave-chaos: {removed} left by killed runs removed");
                    ExitCode::SUCCESS
                }
                Err(error) => misfortune(&error),
            };
        }
        match self.go() {
            Ok(summary) => {
                say(&summary);
                ExitCode::from(summary.exit_code())
            }
            Err(error) => misfortune(&error),
        }
    }

    fn go(self) -> anyhow::Result<Summary> {
        stop_on_signals()?;
        let workload = match self.workload {
            Work::Lock => Workload::Lock,
            Work::Fenced => Workload::Fenced,
            Work::Unfenced => Workload::Unfenced,
        };
        let options = Options {
            target: self.target,
            nodes: self.nodes,
            clients: self.clients,
            keys: self.keys,
            workload,
            nemeses: self.nemesis.0,
            time: self.time,
            seed: self.seed,
            ttl: self.ttl,
            report: self.report,
            program: std::env::current_exe().context("where is this program?")?,
            quiet: false,
        };
        run(options, &STOP)
    }
}

fn misfortune(error: &anyhow::Error) -> ExitCode {
    eprintln!("conclave-chaos: {error:#}");
    ExitCode::from(3)
}

/// Ctrl-C and a polite end: the run takes everything down and judges what there is.
fn stop_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            STOP.store(true, Ordering::Relaxed);
        });
    })?;
    Ok(())
}

fn say(summary: &Summary) {
    println!(
        "{} on {} servers, {}, seed {}",
        summary.options.target, summary.nodes, summary.place, summary.options.seed
    );
    for row in &summary.rows {
        println!("  {:<4} {:<14} {}", row.id, row.word(), row.details);
    }
    for lacks in &summary.not_available {
        println!("  {lacks}");
    }
    let longest = summary.faults.iter().filter_map(|fault| fault.first_write_ns).max();
    if let Some(longest) = longest {
        println!("  longest from a fault to the first write after it: {}", conclave_suite::report::time(longest));
    }
    println!("report: {}", summary.options.report.join("index.html").display());
    println!("replay: {}", summary.replay());
}
