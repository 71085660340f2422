//! `conclave-chaos run`: real servers, real faults, a verdict.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{
    client::{Access, Workload},
    nemesis::{Class, asked::Nemeses},
    place::{self, Choice},
    run::{HOLD, Options, Summary, run},
    target::{self, Own},
};
use anyhow::{Context as _, ensure};
use clap::Args;

/// Set when the run is to end early.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// Starts real servers and clients, breaks them on purpose, and judges what the locks were worth.
///
/// Needs root, iproute2 and nftables: every server and client has a network of its own; and Docker where servers are to be
/// containers. All of it is gone at the end; what a killed run leaves, the next one removes.
///
/// Exit status: 0 if nothing was broken; 1 if something was; 2 if something that was asked for is not available here or could
/// not be judged; 3 for a mistake in the call, or if the run could not begin.
#[derive(Args, Debug)]
pub struct Run {
    /// Whose lock: conclave, redis-get-set, redis-setnx, redis-setnx-owner, redis-failover, redlock, etcd, zookeeper or lockfile;
    /// or conclave-planted:BUG, Conclave with a mistake planted in it (those that conclave-chaos-faulty sim --planted knows).
    #[arg(long, value_name = "NAME", default_value = "conclave", value_parser = target_name)]
    target: String,
    /// Where servers live: containers, namespaces, or auto for containers where Docker and the image conclave:dev are there.
    #[arg(long, value_name = "PLACE", default_value = "namespaces")]
    place: Choice,
    /// Servers; otherwise as many as the target usually has, 3 where it has a choice.
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 5)]
    clients: usize,
    /// Locks that they choose from.
    #[arg(long, value_name = "N", default_value_t = 2)]
    keys: usize,
    /// What clients do: lock, fenced, fenced-postgres or unfenced with any lock; with Conclave also register, kv, list-append,
    /// txn, watch, expiry, rwlock, semaphore, election, queue or bank.
    #[arg(long, value_name = "NAME", default_value = "lock")]
    workload: Workload,
    /// What is broken, by commas: pause, kill, partition, loss, delay, clock, drift, disk, power, files, wipe; with Conclave also
    /// membership, transfer, compaction and restart; several at once with a plus, as in pause+kill. Or all: each that can be had;
    /// pairs: every two of them; random: one or two at a time, at random; none.
    #[arg(long, value_name = "NAMES", default_value = "pause,partition,kill")]
    nemesis: Nemeses,
    /// Of these faults only the forms with one of these words in their description, as in fast,client; of a fault without such
    /// a form, all.
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    form: Vec<String>,
    /// How long faults begin.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    time: Duration,
    /// The lease of a lock; otherwise the target's.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// How long clients hold a lock, at random; otherwise 20ms..80ms. Holds as long as the lease show what becomes of one whose
    /// holder is cut off.
    #[arg(long, value_name = "TIME..TIME", value_parser = times)]
    hold: Option<(Duration, Duration)>,
    /// Of the plan of faults, and of the clients' choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for the report; it must not have anything in it.
    #[arg(long, value_name = "DIR", default_value = "chaos-report")]
    report: PathBuf,
    /// Removes what killed runs left, and does nothing else.
    #[arg(long)]
    clean: bool,
    #[command(flatten)]
    own: OwnCluster,
}

/// A cluster of one's own in place of servers that the run starts: it needs no privilege then, and breaks only its own clients.
#[derive(Args, Debug)]
#[command(next_help_heading = "A cluster of your own")]
struct OwnCluster {
    /// Its servers.
    #[arg(long, value_name = "URL,…", value_delimiter = ',', requires = "namespace", conflicts_with_all = ["target", "place", "nodes"])]
    endpoints: Vec<String>,
    /// The node below which the run stays. Nothing may be in it, and nothing is when the run has ended.
    #[arg(long, value_name = "PATH", requires = "endpoints")]
    namespace: Option<String>,
    /// Who signed the servers' certificates.
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    ca: Option<PathBuf>,
    /// The certificate that clients show.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Where the clients' token is.
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    token_file: Option<PathBuf>,
}

impl OwnCluster {
    fn named(self) -> Option<Own> {
        let namespace = self.namespace?;
        let access = Access { ca: self.ca, certificate: self.cert.zip(self.key), token_file: self.token_file };
        Some(Own { endpoints: self.endpoints, access, namespace })
    }
}

/// A client of a run; not for people.
#[derive(Args, Debug)]
pub struct Client {
    spec: String,
}

/// `30s`, `500ms`, `2m`; whole numbers.
pub fn time(text: &str) -> Result<Duration, String> {
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

/// `20ms..80ms`.
fn times(text: &str) -> Result<(Duration, Duration), String> {
    let (least, most) = text.split_once("..").ok_or("two times, as in 20ms..80ms")?;
    let (least, most) = (time(least)?, time(most)?);
    if least > most { Err("the first time is the shorter one".into()) } else { Ok((least, most)) }
}

pub fn target_name(text: &str) -> Result<String, String> {
    match target::target(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("there are {}, and conclave-planted:BUG", target::NAMES.join(", "))),
    }
}

impl Client {
    pub fn main(&self) -> ExitCode {
        match crate::client::main(&self.spec, &crate::client::recipes::Own) {
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
            return match place::sweep() {
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
        run(self.options()?, &STOP)
    }

    /// What it asks for.
    ///
    /// # Errors
    /// If no form of a fault has a word that is asked for, or it cannot be told where this program is.
    pub fn options(self) -> anyhow::Result<Options> {
        let forms = || self.nemesis.classes().into_iter().flat_map(Class::forms);
        for word in &self.form {
            let known = || forms().map(|form| form.what).collect::<Vec<_>>().join("; ");
            ensure!(forms().any(|form| form.has_word(word)), "no form has the word {word:?}; there are: {}", known());
        }
        Ok(Options {
            target: self.target,
            place: self.place,
            own: self.own.named(),
            nodes: self.nodes,
            clients: self.clients,
            keys: self.keys,
            workload: self.workload,
            nemeses: self.nemesis,
            forms: self.form,
            time: self.time,
            seed: self.seed,
            ttl: self.ttl,
            hold: self.hold.unwrap_or(HOLD),
            report: self.report,
            program: std::env::current_exe().context("where is this program?")?,
            quiet: false,
        })
    }
}

pub fn misfortune(error: &anyhow::Error) -> ExitCode {
    eprintln!("conclave-chaos: {error:#}");
    ExitCode::from(3)
}

/// Ctrl-C and a polite end: the run takes everything down and judges what there is.
pub fn stop_on_signals() -> anyhow::Result<()> {
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
    println!("{} on {}, {}, seed {}", summary.options.target, summary.on(), summary.place, summary.options.seed);
    for row in &summary.rows {
        println!("  {:<4} {:<14} {}", row.id, row.word(), row.details);
    }
    for lacks in &summary.not_available {
        println!("  {lacks}");
    }
    let longest = summary.faults.iter().filter_map(|fault| fault.first_write_ns).max();
    if let Some(longest) = longest {
        println!("  longest from a fault to the first write after it: {}", crate::report::time(longest));
    }
    println!("report: {}", summary.options.report.join("index.html").display());
    println!("replay: {}", summary.replay());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_times_is_two_of_them_in_order() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3));
        assert_eq!(times("20ms..3s"), Ok((short, long)));
        assert_eq!(times("20ms..20ms"), Ok((short, short)));
        for bad in ["20ms", "3s..20ms", "..", "1..2", "20ms..3 s"] {
            assert!(times(bad).is_err(), "{bad}");
        }
    }
}
