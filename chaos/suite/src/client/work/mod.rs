//! What clients of Conclave do beyond one lock: a file for each workload, written as a user of the client library would.

pub mod bank;
mod election;
mod expiry;
mod hold;
mod kv;
mod list_append;
mod queue;
mod register;
mod rwlock;
mod seat;
mod semaphore;
mod txn;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conclave_client::Session;

use self::seat::Seat;
pub use self::watch::change;
use super::{Happened, Spec, Workload, conclave::runtime, tell};

/// After a service that cannot be reached.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// One of a client's threads of work.
trait Work: Send + 'static {
    /// So many a client has, each with a session of its own.
    const TASKS: u32 = 1;

    /// Between two turns, milliseconds at the most.
    const REST_MS: u64 = 20;

    fn new(seat: &Seat) -> Self;

    /// Once more.
    fn turn(&mut self, seat: &mut Seat, session: &Session) -> impl Future<Output = ()> + Send;

    /// When it is told to stop.
    fn end(&mut self, _: &mut Seat) -> impl Future<Output = ()> + Send {
        async {}
    }
}

pub fn run(spec: &Spec, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    match spec.workload {
        Workload::Lock | Workload::Fenced | Workload::FencedPostgres | Workload::Unfenced => {
            unreachable!("those are for any lock")
        }
        Workload::Register => drive::<register::Register>(spec, stop),
        Workload::Kv => drive::<kv::Kv>(spec, stop),
        Workload::ListAppend => drive::<list_append::ListAppend>(spec, stop),
        Workload::Txn => drive::<txn::Txn>(spec, stop),
        Workload::Watch => drive::<watch::Watcher>(spec, stop),
        Workload::Expiry => drive::<expiry::Expiry>(spec, stop),
        Workload::RwLock => drive::<rwlock::RwLock>(spec, stop),
        Workload::Semaphore => drive::<semaphore::Semaphore>(spec, stop),
        Workload::Election => drive::<election::Candidate>(spec, stop),
        Workload::Queue => drive::<queue::Waiter>(spec, stop),
        Workload::Bank => drive::<bank::Teller>(spec, stop),
    }
}

fn drive<W: Work>(spec: &Spec, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..W::TASKS {
            let seat = Seat::new(spec, task)?;
            tasks.spawn(work::<W>(seat, stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    })
}

async fn work<W: Work>(mut seat: Seat, stop: Arc<AtomicBool>) {
    let mut work = W::new(&seat);
    let mut ready = seat.task > 0;
    while !stop.load(Ordering::Relaxed) {
        let session = match seat.session().await {
            Ok(session) => session,
            Err(error) => {
                tell(Happened::Trouble { error: format!("{error:#}") });
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        if !ready {
            tell(Happened::Ready);
            ready = true;
        }
        work.turn(&mut seat, &session).await;
        let rest = seat.random.u64(0..W::REST_MS);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    work.end(&mut seat).await;
    seat.leave().await;
}
