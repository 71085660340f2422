//! Clients of the chaos suite that need the libraries of other services: etcd's and ZooKeeper's.
//!
//! The suite starts this program as it starts its own clients, with the hidden command `client` and what to do in one
//! argument. What clients do under a lock, and how they tell of it, is the suite's; here are the ways of locking and of
//! watching the service.

mod etcd;
mod zookeeper;

use std::{process::ExitCode, sync::atomic::AtomicBool};

use anyhow::bail;
use clap::{Parser, Subcommand};
use conclave_suite::client::{self, Recipe, Spec, lock::Lock, recipes::Recipes};

/// A client of 'conclave-chaos'; not for people.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Does what it is told, until told to stop.
    Client {
        /// What to do, as JSON.
        spec: String,
    },
}

struct Peers;

impl Recipes for Peers {
    fn lock(&self, spec: &Spec) -> anyhow::Result<Box<dyn Lock>> {
        Ok(match spec.recipe {
            Recipe::Etcd => Box::new(etcd::LeaseLock::new(spec)?),
            Recipe::Zookeeper => Box::new(zookeeper::NodeLock::new(spec)?),
            other => bail!("{other:?} is a recipe of conclave-chaos, not of this program"),
        })
    }

    fn observe(&self, spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
        match spec.recipe {
            Recipe::Etcd => etcd::observe(spec, stop),
            Recipe::Zookeeper => zookeeper::observe(spec, stop),
            other => bail!("{other:?} is a recipe of conclave-chaos, not of this program"),
        }
    }
}

fn main() -> ExitCode {
    let Command::Client { spec } = Cli::parse().command;
    match client::main(&spec, &Peers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error:#}");
            ExitCode::FAILURE
        }
    }
}
