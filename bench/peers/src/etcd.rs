//! etcd: `Put`, and the `Lock` and `Unlock` calls.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use etcd_client::{Client, LockOptions};
use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::{Load, Workload, meter::Meter};

/// Seconds of each client's lease; kept alive every third of them.
const LEASE_TTL: i64 = 10;

pub async fn answers(endpoint: &str) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    // A linearizable read: there is a leader, and it has a quorum.
    client.get("wait", None).await?;
    Ok(())
}

pub async fn run(load: &Load, meter: &Meter) -> Result<()> {
    let mut servers = Vec::new();
    for endpoint in &load.endpoints {
        servers.push(Client::connect([endpoint], None).await.with_context(|| format!("etcd at {endpoint}"))?);
    }
    let mut clients = Vec::new();
    for at in 0..load.clients {
        let server = at % servers.len();
        clients.push(match load.own_connections {
            true => Client::connect([&load.endpoints[server]], None).await?,
            false => servers[server].clone(),
        });
    }
    match load.workload {
        Workload::Put => {
            let loops: FuturesUnordered<_> = (0..load.clients * load.depth)
                .map(|at| put(load, meter, clients[at / load.depth].clone(), at))
                .collect();
            tokio::join!(load.clock(meter), loops.collect::<()>());
        }
        Workload::LockOwn | Workload::LockShared => {
            let mut leases = Vec::new();
            for client in &mut clients {
                leases.push(client.lease_grant(LEASE_TTL, None).await?.id());
            }
            let loops: FuturesUnordered<_> = (0..load.clients * load.depth)
                .map(|at| lock(load, meter, clients[at / load.depth].clone(), leases[at / load.depth], at))
                .collect();
            let alive: FuturesUnordered<_> =
                clients.iter().zip(&leases).map(|(client, lease)| keep_alive(client.clone(), *lease)).collect();
            let work = async {
                tokio::join!(load.clock(meter), loops.collect::<()>());
            };
            tokio::select! {
                () = work => {}
                // They go on until dropped.
                () = alive.collect::<()>() => {}
            }
            for (client, lease) in clients.iter_mut().zip(leases) {
                let _ = client.lease_revoke(lease).await;
            }
        }
    }
    Ok(())
}

async fn put(load: &Load, meter: &Meter, mut client: Client, at: usize) {
    let value = load.value();
    let mut next = at * load.keys / (load.clients * load.depth);
    while meter.is_running() {
        let key = format!("bench/key-{:07}", next % load.keys);
        next += 1;
        let start = Instant::now();
        match client.put(key, value.clone(), None).await {
            Ok(_) => meter.done(start.elapsed()),
            Err(error) => meter.failed(&error),
        }
    }
}

async fn lock(load: &Load, meter: &Meter, mut client: Client, lease: i64, at: usize) {
    let name = match load.workload {
        Workload::LockShared => "bench/shared".to_owned(),
        _ => format!("bench/own-{at}"),
    };
    let mut once = async || {
        let held = client.lock(name.as_str(), Some(LockOptions::new().with_lease(lease))).await?;
        client.unlock(held.key()).await
    };
    while meter.is_running() {
        let start = Instant::now();
        match once().await {
            Ok(_) => meter.done(start.elapsed()),
            Err(error) => meter.failed(&error),
        }
    }
}

async fn keep_alive(mut client: Client, lease: i64) {
    let Ok((mut keeper, mut answers)) = client.lease_keep_alive(lease).await else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(Duration::from_secs(LEASE_TTL as u64 / 3)).await;
        if keeper.keep_alive().await.is_err() || answers.message().await.is_err() {
            // The lock calls will say what is wrong.
            return std::future::pending().await;
        }
    }
}
