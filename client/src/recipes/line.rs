//! Getting in line: what locks, semaphores and elections have in common.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_faults::planted;
use conclave_proto::{FencingToken, NodePath, Revision, v1};
use tokio::sync::oneshot;

use crate::{
    Effect, Error, ErrorKind, Guard, Result,
    env::timeout,
    session::{Handle, call_body, gone},
};

/// A hold, or a place in line, of one key in the session's core. Dropped, it is given back: wherever the acquire stands, also
/// when the server's answer is still on its way.
pub(crate) struct Hold {
    pub(crate) session: Arc<Handle>,
    key: u64,
    released: bool,
}

impl Hold {
    /// Gives it back and says what the server said; it happens even if nobody waits for that.
    pub(crate) async fn release(mut self) -> Result<v1::TxnResult> {
        self.released = true;
        let (waiter, answer) = oneshot::channel();
        self.session.shared.with(|core, now| core.release(now, self.key, Some(waiter)));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released {
            self.session.shared.with(|core, now| core.release(now, self.key, None));
        }
    }
}

/// What to get in line for, and how.
pub(crate) struct Line {
    pub(crate) session: Arc<Handle>,
    /// Of the lock.
    pub(crate) path: String,
    /// What the name of the own node begins with.
    pub(crate) prefix: &'static str,
    /// What the names of those that stand in the way begin with; empty: all.
    pub(crate) blocking: &'static str,
    /// How many may hold.
    pub(crate) permits: u32,
    /// Data of the own node.
    pub(crate) data: Bytes,
    pub(crate) wait: Option<Duration>,
    pub(crate) no_wait: bool,
}

/// What the server said to a try to get in line whose comparisons did not hold.
pub(crate) type NotInLine = v1::TxnResult;

impl Line {
    /// The operation that makes the own node, and missing parents as containers.
    pub(crate) fn create(&self) -> v1::Op {
        let create = v1::op::Create {
            path: format!("{}/{}", self.path, self.prefix),
            data: self.data.clone(),
            kind: v1::Kind::Ephemeral.into(),
            ttl_ms: 0,
            sequential: true,
            create_parents: true,
            parents_kind: v1::Kind::Container.into(),
        };
        v1::Op { op: Some(v1::op::Op::Create(create)) }
    }

    /// Gets in line by `txn`, whose operation `queue_op` creates the node, and waits for the grant.
    pub(crate) async fn acquire(&self, txn: v1::Txn, queue_op: usize) -> Result<Result<Guard, NotInLine>> {
        match NodePath::parse(&self.path) {
            Ok(path) if !path.is_root() => {}
            Ok(_) => {
                return Err(Error::new(ErrorKind::InvalidArgument, "the root cannot be a lock, name a path below it"));
            }
            Err(error) => return Err(Error::new(ErrorKind::InvalidArgument, error.to_string())),
        }
        let shared = &self.session.shared;
        let key = shared.with(|core, _| core.new_hold());
        let queue = v1::QueueWatch {
            watch: key,
            path: String::new(),
            permits: self.permits,
            blocking: self.blocking.to_owned(),
        };
        let body = call_body(&v1::Call {
            body: Some(v1::call::Body::Txn(txn)),
            queue: Some(queue),
            queue_op: u32::try_from(queue_op).expect("a handful of operations"),
            ..Default::default()
        });
        let (waiter, answer) = oneshot::channel();
        // Made before the core knows of it, so that there is no moment in which a drop goes unnoticed.
        let hold = Hold { session: self.session.clone(), key, released: false };
        shared.with(|core, now| core.acquire(now, key, body, queue_op, self.permits, self.blocking, waiter));
        let (mut result, granted) = answer.await.unwrap_or_else(|_| Err(gone()))?;
        if !result.succeeded {
            return Ok(Err(result));
        }
        if !granted {
            if self.no_wait {
                return Err(self.not_acquired("it is not free"));
            }
            let (waiter, grant) = oneshot::channel();
            shared.with(|core, now| core.await_grant(now, key, waiter));
            grant.await.unwrap_or_else(|_| Err(gone()))?;
        }
        // The grant may have been long on its way to a process that was stopped.
        if !planted!(NoCheckAfterWait) {
            shared.check().map_err(|reason| Error::session_lost(&reason, Effect::None))?;
        }
        let node_path = match result.results.swap_remove(queue_op).result {
            Some(v1::op_result::Result::Created(created)) => created.path,
            _ => return Err(gone()),
        };
        let revision = if planted!(TokenFromSequence) {
            Revision(node_path.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0) + 1)
        } else if planted!(TokenFromWallClock) {
            Revision(shared.env().wall_ms())
        } else {
            Revision(result.revision)
        };
        let token = FencingToken::new(shared.with(|core, _| core.fence_epoch()), revision);
        Ok(Ok(Guard::new(hold, self.path.clone(), node_path, token)))
    }

    /// As `work`, within the time to wait.
    pub(crate) async fn within(&self, work: impl Future<Output = Result<Guard>>) -> Result<Guard> {
        match self.wait {
            Some(wait) => match timeout(&**self.session.shared.env(), wait, work).await {
                Some(result) => result,
                None => Err(self.not_acquired(&format!("not within {wait:?}"))),
            },
            None => work.await,
        }
    }

    fn not_acquired(&self, why: &str) -> Error {
        Error::new(ErrorKind::NotAcquired, format!("not acquired: path={}: {why}", self.path)).with_retry()
    }
}
