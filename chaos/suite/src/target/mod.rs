//! Locks on trial: their servers, and the recipe that clients use with them.

mod conclave;
mod redis;

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use conclave_checker::Model;

use crate::client::Recipe;

/// A program to be started on a server's host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    /// What to run.
    pub program: PathBuf,
    /// With these arguments.
    pub args: Vec<String>,
    /// And this in its environment.
    pub env: Vec<(String, String)>,
}

/// A lock service with a way of locking.
pub trait Target: Send + Sync {
    /// As on the command line.
    fn name(&self) -> &'static str;

    /// How its lock works and who says so, in a sentence.
    fn about(&self) -> &'static str;

    /// Most servers it can have.
    fn nodes_max(&self) -> usize;

    /// How server `id` (from 1 on) is started, the first time and again. `dir` is its own and outlives its process.
    ///
    /// # Errors
    /// If the program is not here.
    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &std::path::Path) -> anyhow::Result<Start>;

    /// Where clients find server `id`.
    fn endpoint(&self, address: Ipv4Addr) -> String;

    /// What clients do.
    fn recipe(&self) -> Recipe;

    /// What its history has to be linearizable to.
    fn model(&self) -> Model;

    /// Whether grants come with fencing tokens.
    fn has_tokens(&self) -> bool {
        self.recipe() == Recipe::Conclave
    }

    /// The lease for which the service grants a lock without hearing from its holder again, if the clients do not ask
    /// for another: so long, and not longer, a pause of the holder may last without the lock being given away.
    fn lease(&self) -> Duration {
        Duration::from_millis(1_500)
    }
}

/// Names of all targets.
pub const NAMES: &[&str] = &["conclave", "redis-get-set", "redis-setnx", "redis-setnx-owner"];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Box<dyn Target>> {
    match name {
        "conclave" => Some(Box::new(conclave::Conclave)),
        _ => redis::LOCKS.iter().find(|lock| lock.name == name).map(|lock| Box::new(*lock) as Box<dyn Target>),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_has_its_target() {
        for name in super::NAMES {
            assert_eq!(super::target(name).map(|target| target.name()), Some(*name));
        }
        assert!(super::target("redis").is_none());
    }
}
