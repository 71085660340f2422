//! The command `conclave-chaos`.

mod points;
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
    /// Lists the fail points of a server, and what each of them must lead to.
    Points,
    Sim(sim::Sim),
    #[command(flatten)]
    Suite(conclave_suite::command::Command),
    #[command(flatten)]
    Checker(conclave_checker::command::Command),
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Do::Points => points::list(),
            Do::Suite(command) => command.run(),
            Do::Sim(sim) => sim.main(),
            Do::Checker(command) => command.run(),
        },
        Err(error) => conclave_checker::command::misused(&error),
    }
}
