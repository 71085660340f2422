//! Counting semaphores.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_proto::v1;

use super::line::Line;
use crate::{
    Compare, Error, ErrorKind, Guard, Node, Op, Relation, Result,
    requests::RequestFuture,
    session::{Handle, gone},
};

/// Names of those that hold or wait begin so.
const PERMIT: &str = "permit-";
/// The semaphore's node may come and go between two tries, but not for ever.
const TRIES_MAX: usize = 16;

/// Asks for a permit. Await it, or [`SemaphoreRequest::acquire`] it.
#[must_use = "a request does nothing until it is awaited"]
pub struct SemaphoreRequest {
    session: Arc<Handle>,
    path: String,
    permits: u32,
    label: String,
    wait: Option<Duration>,
    no_wait: bool,
}

impl SemaphoreRequest {
    pub(crate) fn new(session: Arc<Handle>, path: String, permits: u32) -> Self {
        Self { session, path, permits, label: String::new(), wait: None, no_wait: false }
    }

    /// What this holder is doing, for people that look at locks; kept as the data of its node.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Do not wait: [`crate::ErrorKind::NotAcquired`] if no permit is free.
    pub fn try_now(mut self) -> Self {
        self.no_wait = true;
        self
    }

    /// Wait this long at the most, then fail with [`crate::ErrorKind::NotAcquired`].
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = Some(time);
        self
    }

    /// Gets in line and waits for a permit; first come, first served. Safe to drop, as [`crate::LockRequest::acquire`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::PermitsMismatch`] if the semaphore was made with another number of permits, and those of
    /// [`crate::LockRequest::acquire`].
    pub async fn acquire(self) -> Result<Guard> {
        if self.permits == 0 {
            let message = format!("a semaphore has at least one permit: path={}", self.path);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let line = Line {
            session: self.session,
            path: self.path,
            prefix: PERMIT,
            blocking: PERMIT,
            permits: self.permits,
            data: self.label.into(),
            wait: self.wait,
            no_wait: self.no_wait,
        };
        line.within(acquire(&line)).await
    }
}

impl IntoFuture for SemaphoreRequest {
    type Output = Result<Guard>;
    type IntoFuture = RequestFuture<Guard>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

/// The data of a semaphore's node.
fn permits_text(permits: u32) -> String {
    format!("{{\"permits\":{permits}}}")
}

fn permits_of(data: &[u8]) -> Option<u32> {
    std::str::from_utf8(data).ok()?.strip_prefix("{\"permits\":")?.strip_suffix('}')?.parse().ok()
}

async fn acquire(line: &Line) -> Result<Guard> {
    let data = Bytes::from(permits_text(line.permits));
    let path = &line.path;
    let read = || vec![Op::get(path).0];
    let mut found = None;
    for _ in 0..TRIES_MAX {
        // Nearly always it is there already, and one message does.
        let there = v1::Txn {
            compare: vec![Compare::data(path, Relation::Equal, data.clone()).0],
            then: vec![line.create()],
            otherwise: read(),
        };
        match line.acquire(there, 0).await? {
            Ok(guard) => return Ok(guard),
            Err(refused) => found = node_of(refused)?,
        }
        if found.is_some() {
            break;
        }
        let missing = v1::Txn {
            compare: vec![Compare::missing(path).0],
            then: vec![make(path, data.clone()), line.create()],
            otherwise: read(),
        };
        match line.acquire(missing, 1).await? {
            Ok(guard) => return Ok(guard),
            // Somebody else made it meanwhile: with our number of permits, if all is well.
            Err(refused) => found = node_of(refused)?.filter(|node| node.data != data),
        }
        if found.is_some() {
            break;
        }
    }
    let asked = line.permits;
    let message = match found.as_ref().map(|node| permits_of(&node.data)) {
        Some(Some(permits)) => format!("semaphore has {permits} permits, asked for {asked}: path={path}"),
        Some(None) => format!("node is no semaphore, its data does not say how many permits: path={path}"),
        None => format!("semaphore comes and goes: path={path}"),
    };
    Err(Error::new(ErrorKind::PermitsMismatch, message))
}

/// The semaphore's node, and missing parents, as containers.
fn make(path: &str, data: Bytes) -> v1::Op {
    let create = v1::op::Create {
        path: path.to_owned(),
        data,
        kind: v1::Kind::Container.into(),
        create_parents: true,
        parents_kind: v1::Kind::Container.into(),
        ..Default::default()
    };
    v1::Op { op: Some(v1::op::Op::Create(create)) }
}

fn node_of(mut refused: v1::TxnResult) -> Result<Option<Node>> {
    match refused.results.pop().and_then(|result| result.result) {
        Some(v1::op_result::Result::Got(got)) => Ok(got.node.map(Node::from)),
        _ => Err(gone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_read_as_they_are_written() {
        assert_eq!(permits_text(3), r#"{"permits":3}"#);
        assert_eq!(permits_of(permits_text(7).as_bytes()), Some(7));
        for other in ["", "3", "{\"permits\":}", "{\"permits\":-1}", "{\"permits\":3}x"] {
            assert_eq!(permits_of(other.as_bytes()), None, "{other}");
        }
    }
}
