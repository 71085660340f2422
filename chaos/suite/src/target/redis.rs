//! Locks that people build on one Redis server, each as it is told.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::Context as _;
use conclave_checker::Model;

use super::{Start, Target};
use crate::client::Recipe;

const PORT: u16 = 6_379;
/// Where Debian's package puts it, and where else it may be.
const PROGRAMS: &[&str] = &["/usr/bin/redis-server", "/usr/local/bin/redis-server"];

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

    fn start(&self, _: usize, _: &[Ipv4Addr], dir: &std::path::Path) -> anyhow::Result<Start> {
        let program = PROGRAMS.iter().map(PathBuf::from).find(|path| path.is_file());
        let program = program.context("redis-server: not available (Debian's package is redis-server)")?;
        // Every write is on the disk before it is answered, so that a killed server forgets no lock: what convicts
        // these locks is how they lock, not how Redis was configured.
        let args = [
            ("--port", PORT.to_string()),
            ("--bind", "0.0.0.0".into()),
            ("--protected-mode", "no".into()),
            ("--save", String::new()),
            ("--appendonly", "yes".into()),
            ("--appendfsync", "always".into()),
            ("--dir", dir.display().to_string()),
        ];
        Ok(Start {
            program,
            args: args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            env: vec![],
        })
    }

    fn endpoint(&self, address: Ipv4Addr) -> String {
        format!("redis://{address}:{PORT}")
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
