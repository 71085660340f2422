//! What clients speak to: the session stream, unary calls for tools, administration. Only here and in the connections
//! between servers is gRPC known.

pub(crate) mod admin;
pub mod admit;
pub mod codec;
pub mod consensus;
pub mod door;
pub mod hub;
#[cfg(test)]
mod hub_tests;
mod index;
pub mod outbox;
pub mod queue;
pub mod read;
pub mod session;
pub(crate) mod store;
mod streams;
pub mod wire;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use conclave_proto::{
    Revision, ServerId,
    v1::{self, server_item::Item as Wire},
};
use conclave_state::{Command, Machine, OpResult, Outcome, TxnResult};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::streams::SessionsServer;
use self::{
    consensus::{Clock, Consensus, Time},
    hub::{Hub, StreamId},
    outbox::SlotId,
    wire::Bounds,
};
use crate::{
    config,
    metrics::Counters,
    raft::{Handle, ProposeError},
};

/// What all of a server's services share.
pub struct Service<C = Handle> {
    /// Consensus and state.
    pub handle: C,
    /// What waits are measured by.
    pub time: Arc<dyn Time>,
    /// Watches.
    pub hub: Arc<Hub>,
    /// This server.
    pub id: ServerId,
    /// Its cluster.
    pub cluster: String,
    /// Bounds.
    pub limits: config::Limits,
    /// Unary requests that may be under way.
    pub requests: Semaphore,
    /// Streams are told to go elsewhere.
    pub stop: CancellationToken,
    /// The streams' tasks.
    pub tasks: TaskTracker,
    /// What happens between scrapes.
    pub counters: Counters,
}

impl<C: Consensus> Service<C> {
    /// See the fields.
    #[must_use]
    pub fn new(handle: C, hub: Arc<Hub>, id: ServerId, cluster: String, limits: config::Limits) -> Arc<Self> {
        Self::timed(handle, Arc::new(Clock::default()), hub, id, cluster, limits)
    }

    /// With a time of the caller's own.
    #[must_use]
    pub fn timed(
        handle: C,
        time: Arc<dyn Time>,
        hub: Arc<Hub>,
        id: ServerId,
        cluster: String,
        limits: config::Limits,
    ) -> Arc<Self> {
        let requests = Semaphore::new(limits.requests_in_flight_max);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let counters = Counters::default();
        Arc::new(Self { handle, time, hub, id, cluster, limits, requests, stop, tasks, counters })
    }

    fn bounds(&self) -> Bounds {
        Bounds { data_bytes_max: self.limits.data_bytes_max.0, txn_ops_max: self.limits.txn_ops_max }
    }

    /// Proposes a command and waits for its outcome and the revision after it.
    async fn propose(&self, command: Command) -> Result<(Revision, Outcome), ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let begun = Instant::now();
        self.handle.propose(
            command,
            Box::new(move |answer| {
                let answer = answer.map(|(machine, applied)| (machine.revision(), applied.outcome.clone()));
                let _ = sender.send(answer); // the caller may have gone
            }),
        );
        let answer = receiver.await.unwrap_or(Err(ProposeError::Stopping));
        self.count(answer.as_ref().map(|(_, outcome)| outcome).map_err(|error| *error), begun);
        answer
    }

    /// Counts an answered proposal.
    fn count(&self, answer: Result<&Outcome, ProposeError>, begun: Instant) {
        let applied = answer.map(|outcome| !matches!(outcome, Outcome::Refused(_)));
        self.counters.proposal(applied, begun.elapsed());
    }

    /// Waits until a leader is known, or for so long.
    async fn wait_for_leader(&self, within: Duration) {
        let mut status = self.handle.status();
        if status.borrow().leader.0 == 0 {
            let known = status.wait_for(|status| status.leader.0 != 0);
            let _ = consensus::timeout(&*self.time, within, known).await;
        }
    }

    /// The queue watch of a call whose transaction was just applied; the state is locked. Whether the node stands at
    /// the front already, and what else the client must be told after the reply.
    fn watch_queue(
        &self,
        stream: StreamId,
        machine: &Machine,
        slot: SlotId,
        queue: &v1::QueueWatch,
        result: &TxnResult,
        op: u32,
    ) -> (bool, Option<Wire>) {
        let invalid = |message: String| {
            let reason = v1::watch_ended::Reason::Invalid.into();
            let ended = v1::WatchEnded { watch: queue.watch, reason, resume_revision: 0, message };
            (false, Some(Wire::WatchEnded(ended)))
        };
        match result.results.get(op as usize) {
            Some(OpResult::Created { path, .. }) => {
                match self.hub.open_queue(stream, machine, queue, path.as_str(), Some(slot)) {
                    Ok(ready) => (ready, None),
                    Err(error) => invalid(error.to_string()),
                }
            }
            // A failed comparison says by itself that there is no node to watch.
            _ if result.failed_compare.is_some() => (false, None),
            _ => invalid(format!("queue_op={op} is not an operation that created a node")),
        }
    }
}
