//! What a holder holds.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, OnceLock},
    task::Poll,
};

use conclave_proto::{FencingToken, Revision, SessionId};
use tokio::sync::Notify;

use super::line::Hold;
use crate::{
    BootTime, Compare, Effect, Error, LostReason, Result, TxnBuilder,
    requests::Via,
    session::{Handle, Shared},
};

/// A hold is over, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The session is lost.
    #[error("session lost: {0}")]
    Session(LostReason),
    /// The server says that this incarnation of the node is gone: somebody else deleted it.
    #[error("its node was deleted")]
    Removed,
    /// This process released it.
    #[error("it was released")]
    Released,
}

/// The end of a hold that is not the session's end.
#[derive(Default)]
struct End {
    lost: OnceLock<Lost>,
    told: Notify,
}

impl End {
    fn set(&self, lost: Lost) {
        if self.lost.set(lost).is_ok() {
            self.told.notify_waiters();
        }
    }
}

/// What a transaction needs to know of a hold.
#[derive(Clone)]
pub(crate) struct HoldRef {
    session: Arc<Handle>,
    path: Arc<str>,
    end: Arc<End>,
}

impl HoldRef {
    /// Definite failure if it is over, by the clock and what is known.
    pub(crate) fn check(&self) -> Result<()> {
        match held(&self.session.shared, &self.end) {
            Ok(()) => Ok(()),
            Err(Lost::Session(reason)) => Err(Error::session_lost(&reason, Effect::None)),
            Err(lost) => Err(Error::lock_lost(&self.path, lost)),
        }
    }

    /// The server says that it is over.
    pub(crate) fn refused(&self) -> Error {
        self.end.set(Lost::Removed);
        Error::lock_lost(&self.path, "the server refused: this incarnation of the holder's node is gone")
    }
}

fn held(shared: &Shared, end: &End) -> Result<(), Lost> {
    // The clock first: a process that was stopped must see loss before anything else.
    shared.check().map_err(Lost::Session)?;
    end.lost.get().map_or(Ok(()), |lost| Err(lost.clone()))
}

/// A lock or permit that is held. Dropping it releases it.
///
/// A guard never says held past its deadline; but a process can be stopped between asking and acting. Pass
/// [`Guard::token`] to whatever the lock protects, and let that compare.
///
/// ```no_run
/// # use std::time::Duration;
/// # use conclave_client::{Session, fence::{Fence, Fenced}};
/// # async fn example(session: Session, mut store: Fence) -> Result<(), Box<dyn std::error::Error>> {
/// let guard = session.lock("/locks/orders/42").wait(Duration::from_secs(30)).await?;
/// store.enter("orders/42", guard.token())?; // the resource compares, before the first read
/// guard.run(async { /* long work, dropped if the lock is lost */ }).await?;
/// guard.txn().put("/orders/42/status", "paid").commit().await?; // refused unless this hold is still ours
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// If the lock's node is deleted by somebody else while the session lives, the guard learns of it from
/// [`Guard::verify`] and [`Guard::txn`], not by itself.
#[must_use = "a guard that is dropped is released at once"]
pub struct Guard {
    hold: Hold,
    path: Arc<str>,
    node_path: String,
    token: FencingToken,
    end: Arc<End>,
}

impl Guard {
    pub(crate) fn new(hold: Hold, path: String, node_path: String, token: FencingToken) -> Self {
        Self { hold, path: path.into(), node_path, token, end: Arc::default() }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.hold.session.shared
    }

    /// What the protected resource compares: larger than that of every earlier holder.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// When the hold is lost unless a server confirms the session before; moves on while all is well.
    #[must_use]
    pub fn deadline(&self) -> BootTime {
        self.shared().deadline()
    }

    /// Whether it is certainly held at this moment, by the clock and what the server last said.
    #[must_use]
    pub fn is_held(&self) -> bool {
        held(self.shared(), &self.end).is_ok()
    }

    /// The lock's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of this holder's own node.
    #[must_use]
    pub fn node_path(&self) -> &str {
        &self.node_path
    }

    /// The revision that made this holder's node.
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.token.create_revision()
    }

    /// The session it hangs on.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        SessionId(self.shared().with(|core, _| core.session()))
    }

    /// Resolves with the reason once the hold is over.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        let (shared, end) = (self.shared().clone(), self.end.clone());
        async move {
            let mut state = shared.state();
            loop {
                let mut told = pin!(end.told.notified());
                told.as_mut().enable();
                if let Err(lost) = held(&shared, &end) {
                    return lost;
                }
                tokio::select! {
                    biased;
                    () = told => {}
                    _ = state.changed() => {}
                }
            }
        }
    }

    /// Runs work under the hold. The clock is looked at before every step of the work, and the work is dropped at the
    /// deadline or when the hold is lost.
    ///
    /// # Errors
    /// Why the hold was lost; the work was dropped, at an await.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        let mut lost = pin!(self.lost());
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(lost) = lost.as_mut().poll(context) {
                return Poll::Ready(Err(lost));
            }
            held(self.shared(), &self.end)?;
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// A transaction that the server refuses unless this very incarnation is still held.
    pub fn txn(&self) -> TxnBuilder {
        let hold = HoldRef { session: self.hold.session.clone(), path: self.path.clone(), end: self.end.clone() };
        let compare = Compare::held_since(self.node_path.as_str(), self.create_revision());
        TxnBuilder::held(Via::Session(self.hold.session.clone()), hold, compare)
    }

    /// Asks the cluster (linearizable) whether this incarnation is still held.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LockLost`] if it is not; [`crate::ErrorKind::SessionLost`].
    pub async fn verify(&self) -> Result<()> {
        self.txn().commit().await?;
        // The answer may have been long on its way.
        self.shared().check().map_err(|reason| Error::session_lost(&reason, Effect::None))
    }

    /// Releases it; only ever this incarnation. Dropped midway, it still happens.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LockLost`] if it was no longer held, [`crate::ErrorKind::SessionLost`].
    pub async fn release(self) -> Result<()> {
        let Self { hold, path, end, .. } = self;
        end.set(Lost::Released);
        let result = hold.release().await?;
        if result.succeeded { Ok(()) } else { Err(Error::lock_lost(&path, "it was lost before it was released")) }
    }
}
