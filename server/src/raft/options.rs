//! How a node is set up.

use std::{path::PathBuf, sync::Arc, time::Duration};

use conclave_proto::ServerId;
use conclave_state::Limits;
use raft::eraftpb::ConfState;

use super::Member;
use crate::storage::Membership;
use crate::timings::Timings;

/// Everything a node is told at its start. Bounds have their unit at the end of their name.
#[derive(Clone, Debug)]
pub struct Options {
    /// This server; not 0.
    pub id: ServerId,
    /// The cluster's id. Disks and peers of another one are refused.
    pub cluster: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The first members, the same on all of them; only read the first time. A server that is not among them waits
    /// to be added to a running cluster.
    pub members: Vec<Member>,
    /// Raft's unit of time.
    pub tick: Duration,
    /// Ticks of silence before an election; drawn anew each time from here to half as many more.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Most bytes of entries in one append message.
    pub append_bytes_max: u64,
    /// Most append messages under way to one follower.
    pub appends_in_flight_max: usize,
    /// Most bytes of entries proposed but not committed; further proposals are refused as overload.
    pub uncommitted_bytes_max: u64,
    /// Most bytes of entries applied while the state is locked once.
    pub apply_bytes_max: u64,
    /// Most proposals waiting for their outcome on this server.
    pub waiters_max: usize,
    /// Most reads and renewals waiting for their confirmation on this server.
    pub confirmations_max: usize,
    /// Most requests in the node's mailbox.
    pub mailbox_max: usize,
    /// After this long a proposal is answered as unknown.
    pub proposal_timeout: Duration,
    /// Most entries of log before it is compacted.
    pub log_entries_max: u64,
    /// Most bytes of log before it is compacted.
    pub log_bytes_max: u64,
    /// Entries kept by a compaction, for followers a little behind.
    pub log_entries_keep: u64,
    /// Most bytes of the log's newest entries kept in memory.
    pub log_cache_bytes_max: u64,
    /// Most bytes waiting for one peer; more are dropped, which Raft makes good.
    pub peer_queue_bytes_max: usize,
    /// A leader whose process provably is gone (its port refuses connections) is not waited for.
    pub early_elections: bool,
    /// Who this server is to its peers; without it, plain text.
    pub identity: Option<Arc<conclave_tls::Identity>>,
    /// The state's bounds, which a leader sees to.
    pub limits: Limits,
    /// How long a container stays empty before it goes.
    pub container_grace: Duration,
    /// How long history is kept.
    pub history_age: Duration,
    /// Where the node counts what takes how long.
    pub timings: Arc<Timings>,
}

impl Options {
    /// What the log of one of the first members begins with; none for a server that waits to be added.
    #[must_use]
    pub fn first_membership(&self) -> Option<Membership> {
        if !self.members.iter().any(|member| member.id == self.id) {
            return None;
        }
        let mut members = self.members.clone();
        members.sort_by_key(|member| member.id);
        let mut conf = ConfState::default();
        for member in &members {
            if member.learner { &mut conf.learners } else { &mut conf.voters }.push(member.id.0);
        }
        Some(Membership { conf, members })
    }

    /// The defaults.
    #[must_use]
    pub fn new(id: ServerId, cluster: impl Into<String>, data_dir: impl Into<PathBuf>, members: Vec<Member>) -> Self {
        Self {
            id,
            cluster: cluster.into(),
            data_dir: data_dir.into(),
            members,
            tick: Duration::from_millis(50),
            election_ticks: 20,
            heartbeat_ticks: 2,
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 256,
            uncommitted_bytes_max: 64 << 20,
            apply_bytes_max: 1 << 20,
            waiters_max: 65_536,
            confirmations_max: 262_144,
            mailbox_max: 131_072,
            proposal_timeout: Duration::from_secs(5),
            log_entries_max: 50_000,
            log_bytes_max: 256 << 20,
            log_entries_keep: 5_000,
            log_cache_bytes_max: 64 << 20,
            peer_queue_bytes_max: 64 << 20,
            early_elections: true,
            identity: None,
            limits: Limits::default(),
            container_grace: Duration::from_secs(60),
            history_age: Duration::from_secs(3600),
            timings: Arc::default(),
        }
    }

    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.id.0 == 0 {
            return Err("id is 0: give every server an id of its own, from 1".to_owned());
        }
        if self.cluster.is_empty() {
            return Err("the cluster's id is empty: give all servers of a cluster the same name".to_owned());
        }
        for member in &self.members {
            if member.id.0 == 0 {
                return Err(format!("member at {} has id 0: ids begin with 1", member.peer_address));
            }
            if self.members.iter().filter(|other| other.id == member.id).count() > 1 {
                return Err(format!("members: id {} is there twice", member.id));
            }
        }
        if self.heartbeat_ticks == 0 || self.election_ticks < 2 * self.heartbeat_ticks {
            return Err(format!(
                "election_ticks is {} and heartbeat_ticks {}: heartbeats need at least one tick, elections at least \
                 twice as many as heartbeats",
                self.election_ticks, self.heartbeat_ticks
            ));
        }
        if self.uncommitted_bytes_max <= self.append_bytes_max {
            return Err(format!(
                "uncommitted_bytes_max is {}, which must be more than append_bytes_max, {}",
                self.uncommitted_bytes_max, self.append_bytes_max
            ));
        }
        if self.tick < Duration::from_millis(1) {
            return Err("tick is shorter than a millisecond".to_owned());
        }
        if self.log_entries_keep >= self.log_entries_max {
            return Err(format!(
                "log_entries_keep is {}, which must be less than log_entries_max, {}",
                self.log_entries_keep, self.log_entries_max
            ));
        }
        Ok(())
    }
}
