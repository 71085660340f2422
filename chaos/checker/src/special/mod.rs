//! Algorithms that need no search, where what was written tells everything apart.

pub(crate) mod queues;
pub(crate) mod revisions;
pub(crate) mod transactions;
pub(crate) mod zones;
