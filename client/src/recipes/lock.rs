//! Exclusive and shared locks.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use conclave_proto::v1;

use super::line::Line;
use crate::{
    Guard, Result,
    requests::RequestFuture,
    session::{Handle, gone},
};

/// Names of exclusive and of shared holders begin so. Everybody stands in the way of an exclusive one, exclusive ones
/// in the way of a shared one.
const EXCLUSIVE: &str = "lock-";
const SHARED: &str = "read-";

/// Asks for a lock. Await it, or [`LockRequest::acquire`] it.
#[must_use = "a request does nothing until it is awaited"]
pub struct LockRequest {
    session: Arc<Handle>,
    path: String,
    shared: bool,
    label: String,
    wait: Option<Duration>,
    no_wait: bool,
}

impl LockRequest {
    pub(crate) fn new(session: Arc<Handle>, path: String) -> Self {
        Self { session, path, shared: false, label: String::new(), wait: None, no_wait: false }
    }

    /// Shared with other shared holders; excludes exclusive ones.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// What this holder is doing, for people that look at locks; kept as the data of its node.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Do not wait: [`crate::ErrorKind::NotAcquired`] if the lock is not free.
    pub fn try_now(mut self) -> Self {
        self.no_wait = true;
        self
    }

    /// Wait this long at the most, then fail with [`crate::ErrorKind::NotAcquired`]. Without it: as long as the session lives.
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = Some(time);
        self
    }

    /// Gets in line and waits for the lock; first come, first served.
    ///
    /// Dropping the future leaves the line: no orphan stays, not even if the server's answer was still on its way.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotAcquired`], [`crate::ErrorKind::SessionLost`], [`crate::ErrorKind::InvalidArgument`],
    /// [`crate::ErrorKind::LockLost`] if its node was deleted while it waited.
    pub async fn acquire(self) -> Result<Guard> {
        let (prefix, blocking) = if self.shared { (SHARED, EXCLUSIVE) } else { (EXCLUSIVE, "") };
        let line = Line {
            session: self.session,
            path: self.path,
            prefix,
            blocking,
            permits: 1,
            data: self.label.into(),
            wait: self.wait,
            no_wait: self.no_wait,
        };
        let txn = v1::Txn { then: vec![line.create()], ..Default::default() };
        line.within(async { line.acquire(txn, 0).await?.map_err(|_| gone()) }).await
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Guard>;
    type IntoFuture = RequestFuture<Guard>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}
