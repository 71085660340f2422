//! A replicated Redis: one primary, two replicas, and three Sentinels that make a replica the primary when it is gone.
//!
//! Set up as Redis's page "High availability with Redis Sentinel" says: three Sentinels on hosts of their own, a quorum of
//! two, and `min-replicas-to-write`, which the page proposes so that a primary that is cut off stops to take writes after
//! a while. Replication stays asynchronous, as the page warns: "acknowledged writes" may be "lost during failovers".

use std::{net::Ipv4Addr, path::Path};

use conclave_checker::Model;

use super::{
    Start, Target,
    redis::{self, PORT},
    settle,
};
use crate::client::Recipe;

/// What Sentinels call the group of servers.
pub(crate) const NAME: &str = "locks";
/// The port of a Sentinel, by which clients tell it from a server.
pub(crate) const SENTINEL_PORT: u16 = 26_379;
const SERVERS: usize = 3;
const SENTINELS: usize = 3;
/// A server that says nothing for so long counts as gone. The page has 5 s in its example, and leaves it to the user.
const DOWN_AFTER_MS: u32 = 1_000;
/// After a failover the next one begins at the earliest after twice this time.
const FAILOVER_TIMEOUT_MS: u32 = 3_000;

pub(super) struct Failover;

impl Target for Failover {
    fn name(&self) -> &str {
        "redis-failover"
    }

    fn about(&self) -> &str {
        "SET NX PX with a random value, compared by a script before DEL, at the primary that Sentinels name (the page of \
         Redis's SET, and its guidelines for Sentinel clients); servers 4 to 6 are the Sentinels"
    }

    fn nodes_min(&self) -> usize {
        SERVERS + SENTINELS
    }

    fn nodes_max(&self) -> usize {
        SERVERS + SENTINELS
    }

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        let (path, first) = (dir.join("redis.conf"), addresses[0]);
        let mut args = vec![path.display().to_string()];
        // Both write into their settings who replicates whom by now, and are started with that again.
        if id <= SERVERS {
            let mut settings = redis::settings(dir);
            settings.push(("min-replicas-to-write", "1".into()));
            settings.push(("min-replicas-max-lag", "10".into()));
            if id > 1 {
                settings.push(("replicaof", format!("{first} {PORT}")));
            }
            settle(&path, &settings)?;
        } else {
            let quorum = SENTINELS / 2 + 1;
            let settings = [
                ("port", SENTINEL_PORT.to_string()),
                ("bind", "0.0.0.0".into()),
                ("protected-mode", "no".into()),
                ("dir", dir.display().to_string()),
                ("sentinel monitor", format!("{NAME} {first} {PORT} {quorum}")),
                ("sentinel down-after-milliseconds", format!("{NAME} {DOWN_AFTER_MS}")),
                ("sentinel failover-timeout", format!("{NAME} {FAILOVER_TIMEOUT_MS}")),
                ("sentinel parallel-syncs", format!("{NAME} 1")),
            ];
            settle(&path, &settings)?;
            args.push("--sentinel".into());
        }
        Ok(Start { program: redis::program()?, args, env: vec![] })
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        let port = |at| if at < SERVERS { PORT } else { SENTINEL_PORT };
        Ok(addresses.iter().enumerate().map(|(at, address)| format!("redis://{address}:{}", port(at))).collect())
    }

    fn recipe(&self) -> Recipe {
        Recipe::RedisFailover
    }

    fn model(&self) -> Model {
        Model::OwnerMutex
    }
}
