//! Locks that people build on one Redis server, each as it is told.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use conclave_checker::Model;

use super::{Start, Target, installed};
use crate::client::Recipe;

pub(super) const PORT: u16 = 6_379;

/// Where Redis's server is.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    installed("redis-server", &["/usr/bin/redis-server", "/usr/local/bin/redis-server"], "redis-server")
}

/// Settings of every server whose keys are locks. Every write is on the disk before it is answered, so that a killed
/// server forgets no lock: what convicts these locks is how they lock, not how Redis was configured.
pub(super) fn settings(dir: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("port", PORT.to_string()),
        ("bind", "0.0.0.0".into()),
        ("protected-mode", "no".into()),
        ("save", "\"\"".into()),
        ("appendonly", "yes".into()),
        ("appendfsync", "always".into()),
        ("dir", dir.display().to_string()),
    ]
}

/// Of a server that stands alone, without a file of settings.
pub(super) fn alone(dir: &Path) -> anyhow::Result<Start> {
    let args = settings(dir).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect();
    Ok(Start { program: program()?, args, env: vec![] })
}

#[derive(Clone, Copy)]
pub(super) struct Lock {
    pub name: &'static str,
    about: &'static str,
    recipe: Recipe,
}

pub(super) const LOCKS: &[Lock] = &[
    Lock {
        name: "redis-get-set",
        about: "GET, and if there is nothing SET with PX; DEL to release (a pattern of many tutorials, which Redis warns of)",
        recipe: Recipe::RedisGetSet,
    },
    Lock {
        name: "redis-setnx",
        about: "SET NX PX; DEL to release, whoever's it is by then (the simple pattern on the page of Redis's SET)",
        recipe: Recipe::RedisSetNx,
    },
    Lock {
        name: "redis-setnx-owner",
        about: "SET NX PX with a random value; released by a script that compares it first (the page of Redis's SET)",
        recipe: Recipe::RedisSetNxOwner,
    },
];

impl Target for Lock {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn nodes_max(&self) -> usize {
        1
    }

    fn start(&self, _: usize, _: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        alone(dir)
    }

    fn starts_empty(&self) -> bool {
        true
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(addresses.iter().map(|address| format!("redis://{address}:{PORT}")).collect())
    }

    fn recipe(&self) -> Recipe {
        self.recipe
    }

    fn model(&self) -> Model {
        match self.recipe {
            Recipe::RedisGetSet => Model::Mutex,
            _ => Model::OwnerMutex,
        }
    }
}
