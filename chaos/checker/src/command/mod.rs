//! The commands, for the programs that offer them.

mod bench;
mod check;
mod generate;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What the checker does from the command line.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Judge histories: linearizable, not, or unknown.
    Check(check::Check),
    /// Generate a history, right or spoiled on purpose.
    Generate(generate::Generate),
    /// Measure the checker on generated histories.
    #[command(name = "bench-checker", alias = "bench")]
    Bench(bench::Bench),
}

impl Command {
    /// Does it, and says how it ended.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Check(check) => check.run(),
            Self::Generate(generate) => generate.run(),
            Self::Bench(bench) => bench.run(),
        }
    }
}

/// Judges histories of concurrent operations.
#[derive(Parser)]
#[command(name = "conclave-check", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The program `conclave-check`.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.command.run(),
        Err(error) => misused(&error),
    }
}

/// Prints help, or what is wrong with the command line: exit code 3, as 2 means an unknown verdict.
#[must_use]
pub fn misused(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(3) } else { ExitCode::SUCCESS }
}
