//! `conclave-demo`: the first run.
//!
//! It replays the incident that gave birth to Conclave, twice with the same orders, the same rate and the same mishaps:
//! once with Conclave's lock and a fenced database, once with the lock of the incident.

mod crew;
mod naive;
mod orders;
mod replay;
mod report;
mod shop;
mod worker;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};

use crate::replay::{Kind, Plan, replay};

/// Three servers, orders at ten times the usual rate, a stopped worker, a killed leader; and a table to judge it by.
#[derive(Debug, Parser)]
#[command(name = "conclave-demo", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// The orders: lines of at_ms,order,change,item,amount_cents
    #[arg(long, value_name = "FILE", default_value = "chaos/data/orders.csv")]
    orders: PathBuf,
    /// Times the usual rate
    #[arg(long, default_value_t = 10.0)]
    speed: f64,
    /// Worker processes
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// TTL of Conclave's sessions, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    ttl_ms: u64,
    /// TTL of the naive lock, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200)]
    naive_ttl_ms: u64,
    /// Run the naive lock against a real Redis instead of our own key-value server
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<SocketAddr>,
    /// Only the run with the naive lock, which needs no servers
    #[arg(long)]
    only_naive: bool,
    /// Where conclaved is [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One worker; started by the demonstration
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        name: String,
        #[arg(long)]
        db: PathBuf,
        #[arg(long = "endpoint")]
        endpoints: Vec<String>,
        #[arg(long)]
        naive: Option<SocketAddr>,
        #[arg(long)]
        ttl_ms: u64,
    },
    /// The naive lock's server, on the socket that is its standard input
    #[command(hide = true)]
    KeyValueServer,
    /// Prints the orders that chaos/data/orders.csv holds
    #[command(hide = true)]
    GenerateOrders {
        #[arg(long, default_value_t = 3_000)]
        rows: usize,
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}

/// Bounds of the options, so that a slip of the finger does not start ten thousand processes.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=64;
const SPEED: std::ops::RangeInclusive<f64> = 0.1..=1_000.0;
const TTL_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
const NAIVE_TTL_MS: std::ops::RangeInclusive<u64> = 1..=60_000;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(begin(cli))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conclave-demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn begin(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.part {
        None => {}
        Some(Part::Worker { name, db, endpoints, naive, ttl_ms }) => {
            let ttl = Duration::from_millis(ttl_ms);
            let lock = match naive {
                Some(address) => worker::Lock::Naive { address, ttl },
                None => worker::Lock::Conclave { endpoints, ttl },
            };
            return worker::run(name, db, lock).await.map(|()| ExitCode::SUCCESS);
        }
        Some(Part::KeyValueServer) => {
            use std::os::fd::AsFd as _;
            let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no socket")?;
            naive::serve(&TcpListener::from(socket)).context("the key-value server")?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::GenerateOrders { rows, seed }) => {
            print!("{}", orders::generate(rows, seed));
            return Ok(ExitCode::SUCCESS);
        }
    }
    ensure!(WORKERS.contains(&cli.workers), "--workers is {}, expected {WORKERS:?}", cli.workers);
    ensure!(SPEED.contains(&cli.speed), "--speed is {}, expected {SPEED:?}", cli.speed);
    ensure!(TTL_MS.contains(&cli.ttl_ms), "--ttl-ms is {}, expected {TTL_MS:?}", cli.ttl_ms);
    ensure!(
        NAIVE_TTL_MS.contains(&cli.naive_ttl_ms),
        "--naive-ttl-ms is {}, expected {NAIVE_TTL_MS:?}",
        cli.naive_ttl_ms
    );
    let plan = Plan {
        changes: orders::read(&cli.orders)?,
        speed: cli.speed,
        workers: cli.workers,
        bin_dir: cli.bin_dir,
        redis: cli.redis,
        ttl: Duration::from_millis(cli.ttl_ms),
        naive_ttl: Duration::from_millis(cli.naive_ttl_ms),
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("signals")?;
    // Whichever ends first, everything started is taken down where it is dropped.
    tokio::select! {
        code = demonstrate(&plan, cli.only_naive) => code,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn demonstrate(plan: &Plan, only_naive: bool) -> anyhow::Result<ExitCode> {
    let dir =
        tempfile::Builder::new().prefix("conclave-demo-").tempdir().context("no directory for the demonstration")?;
    let seconds = plan.span().as_secs_f64();
    println!(
        "The incident: {} changes to orders arrive at {} times the usual rate, {:.0} a second; {} worker processes lock an\n\
         order, read it, work on it, write it to SQLite. Some are stopped for a moment, one for longer than its lock lives.\n\
         It is run twice, {seconds:.0} s each: the same orders, the same rate, the same mishaps.\n",
        plan.changes.len(),
        plan.speed,
        plan.changes.len() as f64 / seconds.max(0.001),
        plan.workers,
    );
    if only_naive {
        let naive = replay(plan, Kind::Naive, dir.path()).await.context("the run with the naive lock")?;
        println!("\n{}", report::table(plan, &[("naive lock", &naive)]));
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "1. Conclave: three servers, sessions of {:.1} s, every read and write of an order fenced by the lock's token",
        plan.ttl.as_secs_f64()
    );
    let conclave = replay(plan, Kind::Conclave, dir.path()).await.context("the run with Conclave")?;
    println!(
        "\n2. The naive lock: GET, then SET NX with {:.1} s to live, then DEL; {}",
        plan.naive_ttl.as_secs_f64(),
        match plan.redis {
            Some(address) => format!("against the Redis at {address}"),
            None => "against one key-value server of our own that answers as Redis does".into(),
        }
    );
    let naive = replay(plan, Kind::Naive, dir.path()).await.context("the run with the naive lock")?;

    println!("\n{}\n", report::table(plan, &[("Conclave", &conclave), ("naive lock", &naive)]));
    let complaints = report::complaints(&conclave);
    if !complaints.is_empty() {
        println!("Conclave's column is not clean: {}.", complaints.join("; "));
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "Conclave: every change applied exactly once. A stopped worker woke up believing that it held its lock; the next\n\
         worker's first read had raised the fence, so its late write was refused, and its guard told it why."
    );
    let spoilt = naive.judgement.wrong + naive.judgement.more;
    if spoilt > 0 {
        println!(
            "The naive lock: {} changes applied twice or more, {} orders corrupted. Nobody was told.\n\
             A longer time to live only makes it rarer: try DEMO='--naive-ttl-ms 2000'.",
            naive.judgement.more, naive.judgement.wrong
        );
    } else {
        println!(
            "The naive lock got away with it this time: {} overlaps, none of them at a bad moment.",
            naive.overlaps
        );
    }
    println!(
        "\nTry next:\n  \
         make cluster                       three servers to play with, until Ctrl-C\n  \
         make bench                         how fast it is on this machine\n  \
         make test                          how we know; kill -9 of everything included"
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
