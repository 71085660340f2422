//! Histories of a correct object under concurrent clients, and what can be done to spoil them.
//!
//! A world in virtual time: clients call, the call takes effect at some moment, the answer comes back later. What is
//! written down are calls and returns; the moments of effect are forgotten, so the history is linearizable by
//! construction. Answers get lost (the client goes on under a new process id), calls arrive late or never, sessions end
//! and take their holds with them, waiters run out of patience. The same configuration gives the same history.
//!
//! [`mutate`] then spoils one operation so that no order is left.

pub mod mutate;
mod objects;
mod world;
pub mod write;

pub use world::generate;

use crate::Model;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Config {
    /// The object.
    pub model: Model,
    /// Clients at work at a time.
    pub clients: u32,
    /// Operations, of all clients together.
    pub operations: u32,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Independent objects.
    pub keys: u32,
    /// Part of the calls whose answer is lost, from 0 to 1.
    pub unknown: f64,
    /// Part of the calls that fail without effect, from 0 to 1.
    pub fail: f64,
    /// Different values that are written; 0: each is written once.
    pub values: u32,
}

impl Config {
    /// For this model; no failures, one key, each value written once.
    #[must_use]
    pub fn new(model: Model, clients: u32, operations: u32, seed: u64) -> Self {
        Self { model, clients, operations, seed, keys: 1, unknown: 0.0, fail: 0.0, values: 0 }
    }
}

#[cfg(test)]
mod tests;
