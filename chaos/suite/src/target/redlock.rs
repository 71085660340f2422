//! Redlock: a lock on a majority of Redis servers that know nothing of each other.

use std::{net::Ipv4Addr, path::Path};

use conclave_checker::Model;

use super::{
    Start, Target,
    redis::{self, PORT},
};
use crate::client::Recipe;

pub(super) struct Redlock;

impl Target for Redlock {
    fn name(&self) -> &str {
        "redlock"
    }

    fn about(&self) -> &str {
        "SET NX PX with a random value on five independent servers, held if a majority answered within the lease \
         (Redis's page \"Distributed Locks with Redis\", with fsync=always as it asks for)"
    }

    fn nodes_min(&self) -> usize {
        3
    }

    fn nodes_max(&self) -> usize {
        9
    }

    fn nodes_usual(&self) -> usize {
        5
    }

    fn start(&self, _: usize, _: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        redis::alone(dir)
    }

    fn starts_empty(&self) -> bool {
        true
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(addresses.iter().map(|address| format!("redis://{address}:{PORT}")).collect())
    }

    fn recipe(&self) -> Recipe {
        Recipe::Redlock
    }

    fn model(&self) -> Model {
        Model::OwnerMutex
    }
}
