//! The commands of the suite, for whichever program wants them: `conclave-chaos` does.

mod recovery;
mod run;
mod suite;
mod trial;

use std::process::ExitCode;

use clap::Subcommand;

/// One of them.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<run::Run>),
    Recovery(recovery::Recovery),
    Suite(suite::Suite),
    Trial(trial::Trial),
    #[command(hide = true)]
    Client(run::Client),
    /// Does nothing until it is killed: for a container that only holds a network.
    #[command(hide = true)]
    Idle,
}

impl Command {
    /// Does it. The program that calls this is the one whose hidden command makes clients.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Run(run) => run.main(),
            Self::Recovery(recovery) => recovery.main(),
            Self::Suite(suite) => suite.main(),
            Self::Trial(trial) => trial.main(),
            Self::Client(client) => client.main(),
            Self::Idle => loop {
                std::thread::park();
            },
        }
    }
}
