//! What sessions ask of consensus, and of time. A simulator answers for both in its own way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use conclave_proto::{Index, SessionId};
use conclave_state::{Command, Machine};
use futures_util::future::BoxFuture;
use parking_lot::RwLockReadGuard;
use tokio::sync::watch;

use crate::raft::{Answer, ConfirmError, Handle, Status};

/// See the methods of the same names of [`Handle`].
pub trait Consensus: Clone + Send + Sync + 'static {
    /// The state, locked for reading.
    fn state(&self) -> RwLockReadGuard<'_, Machine>;
    /// Proposes a command.
    fn propose(&self, command: Command, answer: Answer);
    /// Resolves when this replica has applied everything that was committed anywhere when the call was made.
    fn barrier(&self, within: Duration) -> impl Future<Output = Result<Index, ConfirmError>> + Send;
    /// Renews a session with the leader.
    fn renew(&self, session: SessionId, within: Duration) -> impl Future<Output = Result<(), ConfirmError>> + Send;
    /// This server's view of itself, and when it changes.
    fn status(&self) -> watch::Receiver<Arc<Status>>;
}

impl Consensus for Handle {
    fn state(&self) -> RwLockReadGuard<'_, Machine> {
        Self::state(self)
    }

    fn propose(&self, command: Command, answer: Answer) {
        Self::propose(self, command, answer);
    }

    fn barrier(&self, within: Duration) -> impl Future<Output = Result<Index, ConfirmError>> + Send {
        Self::barrier(self, within)
    }

    fn renew(&self, session: SessionId, within: Duration) -> impl Future<Output = Result<(), ConfirmError>> + Send {
        Self::renew(self, session, within)
    }

    fn status(&self) -> watch::Receiver<Arc<Status>> {
        Self::status(self)
    }
}

/// A monotonic clock and its timers.
pub trait Time: Send + Sync {
    /// Time since some moment before.
    fn now(&self) -> Duration;
    /// Resolves after so long, not before.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock, tokio's timers.
#[derive(Debug)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Time for Clock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The outcome of `work`, or none if it takes longer than `time`.
pub(super) async fn timeout<T>(clock: &dyn Time, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let sleep = clock.sleep(time);
    tokio::select! {
        biased;
        out = work => Some(out),
        () = sleep => None,
    }
}
