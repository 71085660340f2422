//! The command `conclave-chaos`.

mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Breaks Conclave on purpose and judges what it did.
#[derive(Parser)]
#[command(name = "conclave-chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Do,
}

#[derive(Subcommand)]
enum Do {
    Sim(sim::Sim),
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Do::Sim(sim) => sim.main(),
    }
}
