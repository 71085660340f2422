//! ZooKeeper: `setData`, and the lock recipe of its documentation.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::{Load, Workload, meter::Meter};

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

async fn connect(endpoint: &str) -> Result<Client> {
    Client::connector()
        .with_session_timeout(SESSION_TIMEOUT)
        .connect(endpoint)
        .await
        .with_context(|| format!("ZooKeeper at {endpoint}"))
}

pub async fn answers(endpoint: &str) -> Result<()> {
    let client = connect(endpoint).await?;
    // A sync goes through the leader.
    client.sync("/").await?;
    Ok(())
}

async fn make(client: &Client, path: &str, data: &[u8]) -> Result<()> {
    match client.create(path, data, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await {
        Ok(_) | Err(Error::NodeExists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub async fn run(load: &Load, meter: &Meter) -> Result<()> {
    let mut clients = Vec::new();
    for at in 0..load.clients {
        clients.push(connect(&load.endpoints[at % load.endpoints.len()]).await?);
    }
    make(&clients[0], "/bench", b"").await?;
    let loops = load.clients * load.depth;
    match load.workload {
        Workload::Put => {
            for at in 0..load.keys {
                make(&clients[0], &format!("/bench/key-{at:07}"), b"").await?;
            }
            let loops: FuturesUnordered<_> =
                (0..loops).map(|at| put(load, meter, &clients[at / load.depth], at)).collect();
            tokio::join!(load.clock(meter), loops.collect::<()>());
        }
        Workload::LockOwn | Workload::LockShared => {
            make(&clients[0], "/bench/shared", b"").await?;
            for at in 0..loops {
                make(&clients[0], &format!("/bench/own-{at}"), b"").await?;
            }
            // Other servers may be behind the one that made the nodes.
            for client in &clients {
                client.sync("/bench").await?;
            }
            let loops: FuturesUnordered<_> =
                (0..loops).map(|at| lock(load, meter, &clients[at / load.depth], at)).collect();
            tokio::join!(load.clock(meter), loops.collect::<()>());
        }
    }
    Ok(())
}

async fn put(load: &Load, meter: &Meter, client: &Client, at: usize) {
    let value = load.value();
    let mut next = at * load.keys / (load.clients * load.depth);
    while meter.is_running() {
        let key = format!("/bench/key-{:07}", next % load.keys);
        next += 1;
        let start = Instant::now();
        match client.set_data(&key, &value, None).await {
            Ok(_) => meter.done(start.elapsed()),
            Err(error) => meter.failed(&error),
        }
    }
}

async fn lock(load: &Load, meter: &Meter, client: &Client, at: usize) {
    let dir = match load.workload {
        Workload::LockShared => "/bench/shared".to_owned(),
        _ => format!("/bench/own-{at}"),
    };
    while meter.is_running() {
        let start = Instant::now();
        match once(client, &dir).await {
            Ok(()) => meter.done(start.elapsed()),
            Err(error) => meter.failed(&error),
        }
    }
}

/// One acquire and release. In the recipe's words: create; list; lowest: held; otherwise watch the next lower one, wait
/// for its end, and list again.
async fn once(client: &Client, dir: &str) -> Result<(), Error> {
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&format!("{dir}/lock-"), b"", &options).await?;
    let own = format!("lock-{sequence}");
    loop {
        let children = client.list_children(dir).await?;
        // Ten digits always: names compare as numbers do.
        let Some(before) = children.iter().filter(|name| **name < own).max() else { break };
        let (stat, watcher) = client.check_and_watch_stat(&format!("{dir}/{before}")).await?;
        if stat.is_some() {
            watcher.changed().await;
        }
    }
    client.delete(&format!("{dir}/{own}"), None).await
}
