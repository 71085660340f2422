//! A client that watches the service: who leads, and since when writes are taken again.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Happened, ServerView, runtime, tell};
use crate::clock::now_ns;

/// How often it asks every server what it is.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// After this long a server does not answer, and a write has failed.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(1_000);
/// Most writes under way, however fast they are sent: blocking ones take a thread each.
const WRITES_MAX: usize = 500;

/// What an observer can do to a service. Both calls end within about [`ANSWER_WITHIN`].
pub trait Observe: Send + Sync + 'static {
    /// Asks every server what it is; in their order.
    fn servers(&self) -> impl Future<Output = Vec<ServerView>> + Send;

    /// Writes; whether that was acknowledged. `nth` counts the writes, for whoever takes turns.
    fn write(&self, nth: usize) -> impl Future<Output = bool> + Send;
}

/// Writes at this pace and asks, and tells of it. Once it was told to stop it goes on asking: at the end all servers have to
/// be in the same state, and nobody writes any more.
///
/// # Errors
/// If there are no threads, or the service cannot be made.
pub fn watch<S: Observe>(
    make: impl AsyncFnOnce() -> anyhow::Result<S>,
    every: Duration,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let service = Arc::new(make().await?);
        let asking = Arc::clone(&service);
        tokio::spawn(async move {
            loop {
                tell(Happened::Servers { servers: asking.servers().await });
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        let room = Arc::new(tokio::sync::Semaphore::new(under_way_max(every)));
        tell(Happened::Ready);
        // Each write is a task of its own, so that one that hangs hides nothing.
        for nth in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    let sent_ns = now_ns();
                    if service.write(nth).await {
                        tell(Happened::Written { sent_ns });
                    }
                    drop(permit);
                });
            }
            tokio::time::sleep(every).await;
        }
        std::future::pending::<()>().await;
        Ok(())
    })
}

/// Room for all writes that are begun until the first of them is given up, and for as many again that end late: otherwise none
/// would be sent at the very moment when the service comes back.
fn under_way_max(every: Duration) -> usize {
    let given_up = ANSWER_WITHIN.as_nanos().div_ceil(every.as_nanos().max(1));
    usize::try_from(2 * given_up).unwrap_or(WRITES_MAX).clamp(1, WRITES_MAX)
}

/// The same for calls that block their thread.
pub(super) trait ObserveBlocking: Send + Sync + 'static {
    /// How many servers there are.
    fn count(&self) -> usize;

    /// Asks one of them.
    fn server(&self, at: usize) -> ServerView;

    /// See [`Observe::write`].
    fn write(&self) -> bool;
}

/// See [`watch`].
pub(super) fn watch_blocking<S: ObserveBlocking>(service: S, every: Duration, stop: &AtomicBool) -> anyhow::Result<()> {
    watch(async || Ok(Blocking(Arc::new(service))), every, stop)
}

struct Blocking<S>(Arc<S>);

impl<S: ObserveBlocking> Observe for Blocking<S> {
    async fn servers(&self) -> Vec<ServerView> {
        let ask = |at| {
            let service = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || service.server(at))
        };
        let asked: Vec<_> = (0..self.0.count()).map(ask).collect();
        let mut servers = Vec::new();
        for server in asked {
            servers.push(server.await.unwrap_or_default());
        }
        servers
    }

    async fn write(&self, _: usize) -> bool {
        let service = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || service.write()).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_writes_while_nothing_answers() {
        assert_eq!(under_way_max(Duration::from_millis(5)), 400);
        assert_eq!(under_way_max(Duration::from_millis(100)), 20);
        assert_eq!(under_way_max(Duration::ZERO), WRITES_MAX);
    }
}
