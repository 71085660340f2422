//! Which ways of locking, and of watching a service, a program's clients know.

use std::sync::atomic::AtomicBool;

use anyhow::bail;

use super::{Recipe, Spec, conclave, lock::Lock, lockfile, redis, redlock, sentinel};

/// What the clients of a program can do. Programs other than the suite's own have recipes whose libraries are not to be
/// part of it.
pub trait Recipes {
    /// The client's way of locking.
    ///
    /// # Errors
    /// If this program does not know the recipe, or the recipe cannot begin.
    fn lock(&self, spec: &Spec) -> anyhow::Result<Box<dyn Lock>>;

    /// Watches the service until the process is killed; writes only until `stop`.
    ///
    /// # Errors
    /// As [`Recipes::lock`].
    fn observe(&self, spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()>;
}

/// Those of the suite's own clients.
#[derive(Clone, Copy, Debug)]
pub struct Own;

impl Recipes for Own {
    fn lock(&self, spec: &Spec) -> anyhow::Result<Box<dyn Lock>> {
        Ok(match spec.recipe {
            Recipe::Conclave => Box::new(conclave::SessionLock::new(spec)?),
            Recipe::RedisGetSet | Recipe::RedisSetNx | Recipe::RedisSetNxOwner => Box::new(redis::KeyLock::new(spec)?),
            Recipe::RedisFailover => Box::new(sentinel::lock(spec)?),
            Recipe::Redlock => Box::new(redlock::Redlock::new(spec)?),
            Recipe::Lockfile => Box::new(lockfile::FileLock::new(spec)?),
            Recipe::Etcd | Recipe::Zookeeper => return elsewhere(spec.recipe),
        })
    }

    fn observe(&self, spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
        match spec.recipe {
            Recipe::Conclave => conclave::observe(spec, stop),
            Recipe::RedisGetSet | Recipe::RedisSetNx | Recipe::RedisSetNxOwner => redis::observe(spec, stop),
            Recipe::RedisFailover => sentinel::observe(spec, stop),
            Recipe::Redlock => redlock::observe(spec, stop),
            Recipe::Lockfile => lockfile::observe(spec, stop),
            Recipe::Etcd | Recipe::Zookeeper => elsewhere(spec.recipe),
        }
    }
}

fn elsewhere<T>(recipe: Recipe) -> anyhow::Result<T> {
    bail!("{recipe:?} is a recipe of conclave-chaos-peers, not of this program")
}
