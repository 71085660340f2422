//! `conclave bench`: how fast, how slow at worst, and at what cost.
//!
//! Closed loops: each client keeps a fixed number of requests in flight and sends the next when one is answered. Every
//! client is a session of its own; clients are spread over the servers, and those on one server share a connection
//! unless `--own-connections`. One thread drives everything, as the load often shares its machine with the servers.

mod disk;
mod meter;
mod workloads;

use std::time::Duration;

use conclave_client::{Client, Config, Session, SessionOptions};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::{
    args,
    exit::{self, Failure},
    output::Out,
    units,
};
use disk::Disk;
use meter::{Figures, Meter};

/// Sessions opened at the same time.
const OPENINGS: usize = 64;
/// Nodes of benchmarks live below this one.
const HOME: &str = "/bench";

#[derive(Serialize)]
struct Report {
    workload: &'static str,
    clients: u32,
    depth: u32,
    value_size: usize,
    keys: u32,
    own_connections: bool,
    endpoints: Vec<String>,
    #[serde(flatten)]
    figures: Figures,
    /// What one operation is.
    unit: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fsync: Option<Disk>,
    /// The median operation, in synced writes of that disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_per_fsync: Option<f64>,
}

/// What the workloads share.
pub struct Bench {
    load: args::Load,
    /// One for each server, or one for each client.
    clients: Vec<Client>,
    /// Where this run's nodes are.
    home: String,
    meter: Meter,
}

impl Bench {
    fn new(config: &Config, endpoints: usize, load: &args::Load, name: &str) -> Result<Self, Failure> {
        let count = if load.own_connections { load.clients as usize } else { endpoints };
        let client = |at: usize| Client::new(config.clone().with_first_endpoint(at)).map_err(Failure::from);
        Ok(Self {
            load: load.clone(),
            clients: (0..count).map(client).collect::<Result<_, _>>()?,
            home: format!("{HOME}/{name}-{}-{}", std::process::id(), units::now_ms()),
            meter: Meter::new(load.pids.clone()),
        })
    }

    /// One session for each client, in turn on each server.
    async fn sessions(&self, ttl: Duration) -> Result<Vec<Session>, Failure> {
        let open = |at: usize| {
            let client = &self.clients[at % self.clients.len()];
            client.session(SessionOptions::new().ttl(ttl).name(format!("bench/{}/{at}", std::process::id())))
        };
        Ok(stream::iter((0..self.load.clients as usize).map(open)).buffered(OPENINGS).try_collect().await?)
    }

    /// Waits for the warm-up and the measured time (or Ctrl-C), then tells the loops to end.
    async fn clock(&self) {
        tokio::time::sleep(self.load.warmup.0).await;
        self.meter.begin();
        tokio::select! {
            () = tokio::time::sleep(self.load.duration.0) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        self.meter.end();
    }

    async fn clean(&self) {
        // What is left over hurts nobody; the figures matter more than a failure here.
        let _ = self.clients[0].delete(self.home.clone()).recursive().await;
    }
}

/// Measures and tells.
pub async fn run(config: &Config, endpoints: &[String], args: args::Bench, out: &mut Out) -> Result<(), Failure> {
    let (name, unit, load) = match &args {
        args::Bench::Put(load) => ("put", "replicated writes", load),
        args::Bench::Get { load, stale: false } => ("get", "linearizable reads", load),
        args::Bench::Get { load, stale: true } => ("get-stale", "local reads", load),
        args::Bench::LockOwn(load) => ("lock-own", "acquire + release", load),
        args::Bench::LockShared(load) => ("lock-shared", "hand-offs", load),
        args::Bench::Watch(load) => ("watch", "deliveries", load),
        args::Bench::Sessions { load, .. } => ("sessions", "sessions opened", load),
        args::Bench::Fsync { dir } => {
            let disk = Disk::measure(dir)?;
            return if out.is_json() { out.json(&disk) } else { out.line(disk.to_string()) };
        }
    };
    if load.json {
        out.format = args::Format::Json;
    }
    if load.duration.0 < Duration::from_millis(100) {
        return Err(Failure::usage("--duration is too short to measure anything: at least 100ms"));
    }
    // Before the load, so that neither disturbs the other.
    let fsync = load.fsync_dir.as_deref().map(Disk::measure).transpose()?;
    let bench = Bench::new(config, endpoints.len(), load, name)?;
    bench.clients[0].create(bench.home.clone()).create_container_parents().await?;
    let notes = match &args {
        args::Bench::Put(_) => workloads::put(&bench).await,
        args::Bench::Get { stale, .. } => workloads::get(&bench, *stale).await,
        args::Bench::LockOwn(_) => workloads::lock(&bench, false).await,
        args::Bench::LockShared(_) => workloads::lock(&bench, true).await,
        args::Bench::Watch(_) => workloads::watch(&bench).await,
        args::Bench::Sessions { ttl, .. } => workloads::sessions(&bench, ttl.0).await,
        args::Bench::Fsync { .. } => unreachable!("done above"),
    };
    bench.clean().await;
    let notes = notes?;
    let figures = bench.meter.figures();
    let p50_per_fsync =
        fsync.as_ref().filter(|disk| disk.median_us > 0.0).map(|disk| figures.latency_us.p50 as f64 / disk.median_us);
    let report = Report {
        workload: name,
        clients: load.clients,
        depth: load.depth,
        value_size: load.value_size.0,
        keys: load.keys,
        own_connections: load.own_connections,
        endpoints: endpoints.to_vec(),
        figures,
        unit,
        notes,
        fsync,
        p50_per_fsync,
    };
    if out.is_json() {
        out.json(&report)?;
    } else {
        show(&report, out)?;
    }
    out.flush()?;
    if report.figures.operations == 0 {
        let why = report.figures.first_error.unwrap_or_else(|| "nothing was answered in time".to_owned());
        return Err(Failure::new(exit::UNAVAILABLE, format!("no operation succeeded: {why}")));
    }
    Ok(())
}

fn show(report: &Report, out: &mut Out) -> Result<(), Failure> {
    let micros = |us: u64| units::span(Duration::from_micros(us));
    let fine = |us: u64| if us < 10_000 { format!("{us}us") } else { micros(us) };
    let f = &report.figures;
    let row = vec![
        report.workload.to_owned(),
        report.clients.to_string(),
        report.depth.to_string(),
        format!("{} {}/s", units::count(f.rate.round() as u64), report.unit),
        fine(f.latency_us.p50),
        fine(f.latency_us.p99),
        fine(f.latency_us.max),
        units::count(f.errors),
        format!("{:.1}us", f.load_cpu_us_per_operation),
        f.servers_cpu_us_per_operation.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}us")),
    ];
    out.table(
        &[
            "WORKLOAD",
            ">CLIENTS",
            ">DEPTH",
            ">RATE",
            ">P50",
            ">P99",
            ">MAX",
            ">ERRORS",
            ">LOAD CPU/OP",
            ">SERVER CPU/OP",
        ],
        vec![row],
    )?;
    for note in &report.notes {
        out.line(note)?;
    }
    if let Some(error) = &f.first_error {
        out.line(format!("first error: {}", crate::output::printable(error)))?;
    }
    if let (Some(disk), Some(times)) = (&report.fsync, report.p50_per_fsync) {
        out.line(disk.to_string())?;
        out.line(format!("the median operation takes {times:.1} such synced writes"))?;
    }
    Ok(())
}
