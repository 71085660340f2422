//! Drives etcd and ZooKeeper with the workloads of `conclave bench`, and sets the results side by side.
//!
//! Built to be fair to the peers: the same closed loops on one thread, the same sizes, the same spread of clients over
//! the servers, each system through its own client library and by the way its documentation describes.
//! * etcd: `Put`, and the `Lock`/`Unlock` calls under a lease that is kept alive. Clients on one server share a
//!   connection, as `conclave bench` does, unless `--own-connections`.
//! * ZooKeeper: `setData`, and the lock recipe of its documentation: an ephemeral sequential node, the list of children,
//!   a watch on the predecessor. A session always has a connection of its own.

mod etcd;
mod meter;
mod table;
mod zookeeper;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one workload against one system and prints JSON.
    Run(Load),
    /// Waits until all endpoints of a system serve.
    Wait {
        #[arg(long)]
        system: System,
        #[arg(long, value_delimiter = ',', required = true)]
        endpoints: Vec<String>,
    },
    /// Prints one table of the results in a directory: files named SYSTEM.WORKLOAD.CLIENTS.ROUND.json.
    Table { dir: PathBuf },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum System {
    Etcd,
    Zookeeper,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Workload {
    Put,
    LockOwn,
    LockShared,
}

#[derive(Args, Clone, Debug)]
struct Load {
    #[arg(long)]
    system: System,
    #[arg(long)]
    workload: Workload,
    /// host:port of each server.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Requests each client keeps in flight.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    #[arg(long, default_value_t = 1024)]
    keys: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before, not counted.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// etcd: a connection for each client instead of one for all clients on a server.
    #[arg(long)]
    own_connections: bool,
    /// Processes whose CPU time to measure too.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
}

impl Load {
    fn value(&self) -> Vec<u8> {
        (0..self.value_size).map(|at| b"conclave"[at % 8]).collect()
    }

    /// Waits for the warm-up and the measured time, then tells the loops to end.
    async fn clock(&self, meter: &meter::Meter) {
        tokio::time::sleep(Duration::from_secs_f64(self.warmup)).await;
        meter.begin();
        tokio::time::sleep(Duration::from_secs_f64(self.duration)).await;
        meter.end();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(load) => {
            let meter = meter::Meter::new(load.pids.clone());
            match load.system {
                System::Etcd => etcd::run(&load, &meter).await?,
                System::Zookeeper => zookeeper::run(&load, &meter).await?,
            }
            let figures = meter.figures();
            anyhow::ensure!(figures.operations > 0, "no operation succeeded: {:?}", figures.first_error);
            println!("{}", serde_json::to_string_pretty(&figures)?);
        }
        Command::Wait { system, endpoints } => {
            let until = std::time::Instant::now() + Duration::from_secs(60);
            for endpoint in &endpoints {
                loop {
                    let answered = match system {
                        System::Etcd => etcd::answers(endpoint).await,
                        System::Zookeeper => zookeeper::answers(endpoint).await,
                    };
                    match answered {
                        Ok(()) => break,
                        Err(error) if std::time::Instant::now() > until => {
                            anyhow::bail!("{system:?} at {endpoint} does not serve: {error}")
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                    }
                }
            }
        }
        Command::Table { dir } => print!("{}", table::table(&dir)?),
    }
    Ok(())
}
