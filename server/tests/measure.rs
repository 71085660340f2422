//! Not tests but measurements; run them alone: `cargo test --release -p conclave-server --test measure -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, propose, put, put_command};
use nix::sys::resource::{UsageWho, getrusage};

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, u32::try_from(time.tv_usec()).unwrap() * 1000)
    };
    of(usage.user_time()) + of(usage.system_time())
}

fn threads() -> Vec<(String, u64)> {
    let mut all = std::collections::BTreeMap::<String, u64>::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (head, tail) = stat.rsplit_once(')').unwrap();
        let name = head.split_once('(').unwrap().1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        // User and system time, in ticks of 10 ms.
        *all.entry(name).or_default() += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    }
    all.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_a_put() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    put(&cluster.node(leader).handle, "/warm", b"up").await.unwrap();
    for (clients, everywhere) in [(1, false), (32, true), (128, true), (128, false)] {
        let began = (Instant::now(), cpu(), threads());
        let end = Instant::now() + Duration::from_secs(4);
        let mut tasks = Vec::new();
        for client in 0..clients {
            let at = if everywhere { 1 + client % 3 } else { leader };
            let handle = cluster.node(at).handle.clone();
            tasks.push(tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let sent = Instant::now();
                    let path = format!("/bench/{client}-{}", latencies.len() % 100);
                    propose(&handle, put_command(&path, &[7; 256])).await.unwrap();
                    latencies.push(sent.elapsed());
                }
                latencies
            }));
        }
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        let (wall, cpu) = (began.0.elapsed(), cpu() - began.1);
        latencies.sort();
        let puts = latencies.len();
        println!(
            "{clients} clients, {}: {:.0} puts/s, median {:?}, p99 {:?}, {:.1} us of CPU a put",
            if everywhere { "on all servers" } else { "on the leader" },
            puts as f64 / wall.as_secs_f64(),
            latencies[puts / 2],
            latencies[puts * 99 / 100],
            cpu.as_secs_f64() * 1e6 / puts as f64,
        );
        for (name, ticks) in threads() {
            let before = began.2.iter().find(|(other, _)| *other == name).map_or(0, |(_, ticks)| *ticks);
            if ticks > before {
                println!("    {name:>16}: {:.1} us a put", (ticks - before) as f64 * 1e4 / puts as f64);
            }
        }
    }
    for node in cluster.nodes() {
        println!("{} bytes on the disk", node.handle.disk_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn time_without_a_leader() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..8 {
        let leader = cluster.leader().await;
        let other = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        put(&cluster.node(other).handle, "/before", b"kill").await.unwrap();
        let handle = cluster.node(other).handle.clone();
        let began = Instant::now();
        cluster.kill(leader).await;
        let killed = began.elapsed();
        while propose(&handle, put_command("/after", b"kill")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        println!("round {round}: killed in {killed:?}, first write after {:?}", began.elapsed());
        cluster.restart(leader).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
