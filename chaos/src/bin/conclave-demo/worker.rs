//! One worker: a process that takes deliveries from its standard input, one at a time, and tells on its standard output
//! what it did with them.

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use conclave_client::{Client, FencingToken, Session, SessionOptions};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    naive::NaiveLock,
    orders::Change,
    shop::{Shop, ShopError},
};

/// How long a worker waits for one lock before it hands the delivery back.
const LOCK_WITHIN: Duration = Duration::from_secs(20);

/// One delivery of one change.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    /// Unique; a change delivered twice has two.
    pub delivery: i64,
    /// See [`Change`].
    pub order: i64,
    /// See [`Change`].
    pub change: u32,
    /// See [`Change`].
    pub amount_cents: i64,
    /// How long the work between reading and writing takes (asking the payment provider).
    pub work_ms: u64,
}

/// What a worker tells.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Connected, its session open.
    Ready,
    /// It holds the order's lock and has read the order; now it works.
    Entered {
        delivery: i64,
        /// None with the naive lock.
        token: Option<u64>,
        waited_us: u64,
        /// The change is in the order already: there is nothing to write.
        duplicate: bool,
    },
    /// It is done with the delivery.
    Done {
        delivery: i64,
        outcome: Outcome,
        /// From holding the lock to having written, on the machine's monotonic clock.
        inside_ns: Option<(u64, u64)>,
        /// When the lock service answered.
        answers_ns: Vec<u64>,
        /// What the guard said after the work, where it said that it is lost.
        lost: Option<String>,
    },
}

/// What became of a delivery.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Written.
    Applied,
    /// It had been written before.
    Duplicate,
    /// The database refused the token.
    Stale(String),
    /// Nothing was written; deliver it again.
    Failed(String),
}

/// Which lock, and where.
pub enum Lock {
    Conclave { endpoints: Vec<String>, ttl: Duration },
    Naive { address: SocketAddr, ttl: Duration },
}

/// Takes deliveries until its input ends.
///
/// # Errors
/// If it cannot begin, or its input or output fails. A delivery that fails is told and is no error.
pub async fn run(name: String, db: PathBuf, lock: Lock) -> anyhow::Result<()> {
    let mut shop = Shop::open(&db)?;
    let mut door = Door::open(&name, &lock).await?;
    tell(&Report::Ready)?;
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line.context("standard input")?).context("a delivery")?;
        let report = door.handle(&mut shop, &name, &job).await;
        tell(&report)?;
    }
    door.close().await;
    Ok(())
}

fn tell(report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report).context("a report")?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("standard output")
}

/// The machine's monotonic clock: the same in all processes.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("centuries")
}

enum Door {
    Conclave { client: Client, session: Session, options: SessionOptions },
    Naive { lock: NaiveLock, ttl: Duration },
}

impl Door {
    async fn open(name: &str, lock: &Lock) -> anyhow::Result<Self> {
        Ok(match lock {
            Lock::Conclave { endpoints, ttl } => {
                let client = Client::connect(endpoints.clone()).await?;
                let options = SessionOptions::new().ttl(*ttl).name(name);
                let session = client.session(options.clone()).await?;
                Self::Conclave { client, session, options }
            }
            Lock::Naive { address, ttl } => Self::Naive { lock: NaiveLock::connect(*address)?, ttl: *ttl },
        })
    }

    async fn close(self) {
        if let Self::Conclave { session, .. } = self {
            // Nothing hangs on it any more; if it fails the session ends by its TTL.
            let _ = session.close().await;
        }
    }

    async fn handle(&mut self, shop: &mut Shop, name: &str, job: &Job) -> Report {
        let mut done = Done::default();
        let outcome = match self {
            Self::Conclave { client, session, options } => {
                with_conclave(client, session, options, shop, name, job, &mut done).await
            }
            Self::Naive { lock, ttl } => with_naive(lock, *ttl, shop, name, job, &mut done),
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        Report::Done {
            delivery: job.delivery,
            outcome,
            inside_ns: done.inside_ns,
            answers_ns: done.answers_ns,
            lost: done.lost,
        }
    }
}

#[derive(Default)]
struct Done {
    inside_ns: Option<(u64, u64)>,
    answers_ns: Vec<u64>,
    lost: Option<String>,
}

async fn with_conclave(
    client: &Client,
    session: &mut Session,
    options: &SessionOptions,
    shop: &mut Shop,
    name: &str,
    job: &Job,
    done: &mut Done,
) -> anyhow::Result<Outcome> {
    if !session.is_alive() {
        *session = client.session(options.clone()).await?;
    }
    let asked = now_ns();
    let guard = session
        .lock(format!("/locks/orders/{}", job.order))
        .label(format!("change {} of order {}", job.change, job.order))
        .wait(LOCK_WITHIN)
        .acquire()
        .await?;
    let entered = now_ns();
    done.answers_ns.push(entered);
    let token = guard.token();
    // Blocking on purpose, as a library call that no cancellation reaches: `guard.run` would drop the work at an await
    // after a pause, and then there were no late write to refuse.
    let outcome = tokio::task::block_in_place(|| update(shop, name, job, Some(token), (entered - asked) / 1_000));
    done.inside_ns = Some((entered, now_ns()));
    if !guard.is_held() {
        done.lost = Some(guard.lost().await.to_string());
    }
    match guard.release().await {
        Ok(()) => done.answers_ns.push(now_ns()),
        Err(error) => done.lost = done.lost.take().or(Some(error.to_string())),
    }
    outcome
}

fn with_naive(
    lock: &mut NaiveLock,
    ttl: Duration,
    shop: &mut Shop,
    name: &str,
    job: &Job,
    done: &mut Done,
) -> anyhow::Result<Outcome> {
    let key = format!("locks:orders:{}", job.order);
    let asked = now_ns();
    if !lock.lock(&key, ttl, LOCK_WITHIN)? {
        return Ok(Outcome::Failed("the lock was not free".into()));
    }
    let entered = now_ns();
    done.answers_ns.push(entered);
    let outcome = update(shop, name, job, None, (entered - asked) / 1_000);
    done.inside_ns = Some((entered, now_ns()));
    lock.unlock(&key)?;
    done.answers_ns.push(now_ns());
    outcome
}

/// What the lock is there for: read, work, write what follows from what was read.
fn update(
    shop: &mut Shop,
    name: &str,
    job: &Job,
    token: Option<FencingToken>,
    waited_us: u64,
) -> anyhow::Result<Outcome> {
    let change = Change {
        at: Duration::ZERO,
        order: job.order,
        change: job.change,
        item: String::new(),
        amount_cents: job.amount_cents,
    };
    let order = match shop.read(job.order, token) {
        Ok(order) => order,
        Err(error) => return refused(error),
    };
    let duplicate = order.has(job.change);
    tell(&Report::Entered { delivery: job.delivery, token: token.map(FencingToken::get), waited_us, duplicate })?;
    if duplicate {
        return Ok(Outcome::Duplicate);
    }
    thread::sleep(Duration::from_millis(job.work_ms));
    match shop.write(job.delivery, &change, order.with(&change), name, token) {
        Ok(()) => Ok(Outcome::Applied),
        Err(error) => refused(error),
    }
}

fn refused(error: ShopError) -> anyhow::Result<Outcome> {
    if error.is_stale() { Ok(Outcome::Stale(error.to_string())) } else { Err(error.into()) }
}
