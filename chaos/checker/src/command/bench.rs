//! `bench`: what the checker takes for histories of known size.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{
    Model,
    generate::{Config, generate, write::write},
};

/// Measure the checker on generated histories: seconds and memory, reading included.
///
/// Each history is judged by a process of its own, so that its peak of memory is its own.
#[derive(Args, Debug)]
pub struct Bench {
    /// Seed of the histories.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Time for each history, after which it is unknown.
    #[arg(long, default_value = "120s", value_name = "TIME")]
    timeout: String,
    /// Memory for each search.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    memory: String,
}

/// A history to be judged.
struct Case {
    name: &'static str,
    model: &'static str,
    clients: u32,
    operations: u32,
    keys: u32,
    values: u32,
    unknown: f64,
}

const CASE: Case = Case { name: "", model: "", clients: 10, operations: 0, keys: 1, values: 0, unknown: 0.0 };

const CASES: &[Case] = &[
    Case { name: "lock", model: "fenced-mutex", clients: 25, operations: 10_000, ..CASE },
    Case { name: "lock", model: "fenced-mutex", clients: 50, operations: 1_000_000, ..CASE },
    Case {
        name: "lock, 1 % unknown",
        model: "fenced-mutex",
        clients: 50,
        operations: 1_000_000,
        unknown: 0.01,
        ..CASE
    },
    Case { name: "lock without tokens", model: "owner-mutex", clients: 50, operations: 1_000_000, ..CASE },
    Case { name: "semaphore", model: "fenced-semaphore:5", clients: 50, operations: 1_000_000, ..CASE },
    Case { name: "read/write lock", model: "rwlock", clients: 50, operations: 1_000_000, ..CASE },
    Case { name: "election", model: "election", clients: 25, operations: 100_000, ..CASE },
    Case { name: "register, 5 values", model: "register", operations: 50_000, values: 5, ..CASE },
    Case { name: "register, 5 values", model: "register", operations: 100_000, values: 5, ..CASE },
    Case { name: "register, written once", model: "register", operations: 1_000_000, ..CASE },
    Case { name: "register, revisions", model: "kv-revision", operations: 1_000_000, ..CASE },
    Case { name: "cas-register, 5 values", model: "cas-register", operations: 100_000, values: 5, ..CASE },
    Case { name: "key-values, 100 keys", model: "kv", operations: 1_000_000, keys: 100, ..CASE },
    Case { name: "queue", model: "fifo-queue", operations: 100_000, ..CASE },
    Case { name: "list-append", model: "list-append", operations: 100_000, ..CASE },
    Case { name: "counter", model: "counter", operations: 100_000, ..CASE },
    Case { name: "directory", model: "sequential-directory", operations: 100_000, ..CASE },
    Case { name: "sessions", model: "session", clients: 50, operations: 1_000_000, ..CASE },
];

impl Bench {
    /// Prints a line for each case as it is done.
    pub fn run(self) -> ExitCode {
        match self.measure() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn measure(&self) -> anyhow::Result<()> {
        let place = std::env::temp_dir().join(format!("conclave-bench-{}", std::process::id()));
        std::fs::create_dir(&place).with_context(|| place.display().to_string())?;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("seed {}, load {}", self.seed, load.split(' ').take(3).collect::<Vec<_>>().join(" "));
        println!(
            "{:<24} {:<20} {:>10} {:>7}  {:<16} {:>8} {:>8} {:>9}",
            "history", "model", "operations", "clients", "verdict", "seconds", "judging", "peak MB"
        );
        let result = CASES
            .iter()
            .filter(|case| case.name.contains(&self.only) || case.model.contains(&self.only))
            .try_for_each(|case| self.one(case, &place.join("history.jsonl")));
        std::fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
        result
    }

    fn one(&self, case: &Case, path: &Path) -> anyhow::Result<()> {
        let config = Config {
            keys: case.keys,
            values: case.values,
            unknown: case.unknown,
            ..Config::new(Model::parse(case.model)?, case.clients, case.operations, self.seed)
        };
        let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        write(&generate(&config), &mut file)?;
        file.flush()?;
        let output = Command::new(std::env::current_exe()?)
            .args(["check", "-o", "json", "--model", case.model, "--timeout", &self.timeout, "--memory", &self.memory])
            .arg(path)
            .output()
            .context("the checker does not start")?;
        let Ok(said) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            bail!("the checker failed: {}", String::from_utf8_lossy(&output.stderr).trim())
        };
        let number = |name: &str| said[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "{:<24} {:<20} {:>10} {:>7}  {:<16} {:>8.2} {:>8.2} {:>9.1}",
            case.name,
            case.model,
            number("operations"),
            case.clients,
            said["verdict"].as_str().unwrap_or("?"),
            number("seconds"),
            number("search_seconds"),
            number("peak_bytes") / 1e6,
        );
        if said["verdict"] == "not-linearizable" {
            bail!("a correct history was convicted: {said}");
        }
        Ok(())
    }
}
