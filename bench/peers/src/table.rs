//! The results side by side.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// Columns, in this order, where there are results.
const SYSTEMS: [&str; 4] = ["conclave", "conclave-own", "etcd", "zookeeper"];
/// Rows, in this order.
const WORKLOADS: [&str; 3] = ["put", "lock-own", "lock-shared"];

#[derive(Clone, Deserialize)]
struct Outcome {
    rate: f64,
    latency_us: Latency,
    errors: u64,
    load_cpu_us_per_operation: f64,
    servers_cpu_us_per_operation: Option<f64>,
}

#[derive(Clone, Deserialize)]
struct Latency {
    p50: u64,
    p99: u64,
}

/// Reads `SYSTEM.WORKLOAD.CLIENTS.ROUND.json`; of several rounds the median one by rate counts.
pub fn table(dir: &Path) -> Result<String> {
    let mut all: BTreeMap<(usize, u32), BTreeMap<String, Vec<Outcome>>> = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let [system, workload, clients, _round, "json"] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        let Some(workload) = WORKLOADS.iter().position(|w| *w == workload) else { continue };
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match serde_json::from_str(&text) {
            Ok(result) => {
                let row = all.entry((workload, clients.parse().context(name.clone())?)).or_default();
                row.entry(system.to_owned()).or_default().push(result);
            }
            // A run that failed leaves an empty file; its cell says so.
            Err(_) => eprintln!("{name}: no result"),
        }
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<12} {:>7} | {:<13} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} | {:>8}",
        "WORKLOAD", "CLIENTS", "SYSTEM", "RATE/S", "P50 US", "P99 US", "ERRORS", "LOAD CPU", "SRV CPU", "CONCLAVE"
    )?;
    for ((workload, clients), systems) in all {
        let median = |system: &str| {
            let mut rounds = systems.get(system)?.clone();
            rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
            Some(rounds[rounds.len() / 2].clone())
        };
        let ours = median("conclave");
        for system in SYSTEMS {
            let Some(result) = median(system) else { continue };
            let ratio = match &ours {
                Some(ours) if !system.starts_with("conclave") => format!("{:.1}x", ours.rate / result.rate),
                _ => String::new(),
            };
            let servers = result.servers_cpu_us_per_operation.map_or("-".to_owned(), |us| format!("{us:.1}"));
            writeln!(
                text,
                "{:<12} {clients:>7} | {system:<13} {:>9.0} {:>9} {:>9} {:>7} {:>9.1} {:>9} | {ratio:>8}",
                WORKLOADS[workload],
                result.rate,
                result.latency_us.p50,
                result.latency_us.p99,
                result.errors,
                result.load_cpu_us_per_operation,
                servers
            )?;
        }
    }
    writeln!(
        text,
        "CPU in microseconds an operation: of the load, and of the three servers together. CONCLAVE: its rate / this rate."
    )?;
    Ok(text)
}
