//! The suite's commands alone, with neither server nor simulator linked in: quick to build for those who work on it.
//! `CONCLAVE_BIN_DIR` has to say where `conclaved` is.

use std::process::ExitCode;

use clap::Parser;
use conclave_suite::command::Command;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    Cli::parse().command.run()
}
