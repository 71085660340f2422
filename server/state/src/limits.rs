//! Bounds that decide outcomes. They are part of the replicated state, so that every replica refuses the same.

use serde::{Deserialize, Serialize};

/// Set by the leader through [`crate::Command::Configure`] when they differ from its configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Limits {
    /// Most bytes of one node's data.
    pub data_bytes_max: u64,
    /// Most operations, and most comparisons, of one transaction.
    pub txn_ops_max: u32,
    /// Most nodes of the tree. Sequential ephemeral nodes (locks) may go `headroom_nodes` beyond.
    pub nodes_max: u64,
    /// Most bytes of all nodes' data and paths together. Ephemeral nodes may go `headroom_bytes` beyond.
    pub store_bytes_max: u64,
    /// Kept for ephemeral nodes, so that a full store costs nobody a lock.
    pub headroom_nodes: u64,
    /// Kept for ephemeral nodes.
    pub headroom_bytes: u64,
    /// Most open sessions.
    pub sessions_max: u64,
    /// Most answers kept for one session, that is, most of its numbered requests in flight.
    pub answers_max: u32,
    /// Most bytes of one transaction's answer (data and names read, paths made).
    pub answer_bytes_max: u64,
    /// Most bytes of the answers kept for one session.
    pub answers_bytes_max: u64,
    /// Most revisions of history; older ones are compacted as newer ones come.
    pub history_revisions_max: u64,
    /// Most bytes of history (data and paths of all changes).
    pub history_bytes_max: u64,
    /// Shortest and longest session TTL, in milliseconds.
    pub session_ttl_min_ms: u64,
    /// See `session_ttl_min_ms`.
    pub session_ttl_max_ms: u64,
    /// Most bytes of a session's name.
    pub session_name_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_bytes_max: 1 << 20,
            txn_ops_max: 128,
            nodes_max: 4_000_000,
            store_bytes_max: 4 << 30,
            headroom_nodes: 200_000,
            headroom_bytes: 64 << 20,
            sessions_max: 100_000,
            answers_max: 1024,
            answer_bytes_max: 2 << 20,
            answers_bytes_max: 16 << 20,
            history_revisions_max: 200_000,
            history_bytes_max: 256 << 20,
            session_ttl_min_ms: 500,
            session_ttl_max_ms: 24 * 3600 * 1000,
            session_name_bytes_max: 256,
        }
    }
}
