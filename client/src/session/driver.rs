//! Moves frames between the core and the servers, and keeps its time.

use std::{
    future::pending,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use conclave_proto::v1;
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    LostReason, SessionState,
    core::{Advice, Core},
};
use crate::{
    BootTime, Result,
    env::{Boxed, Env, Incoming, Opening},
};

/// Timers look at the clock at least this often: they do not count suspend by themselves.
const SUSPEND_NOTICE: Duration = Duration::from_secs(1);
/// How long the end of a lost session is offered to the servers.
const FAREWELL_MS: u64 = 1_000;
/// A server must welcome a resumed session within TTL / 3, within these bounds, or the next one is tried.
const RESUME_MIN_MS: u64 = 300;
const RESUME_MAX_MS: u64 = 3_000;
/// A server must welcome a new session within its TTL, within these bounds.
const OPEN_MIN_MS: u64 = 500;
const OPEN_MAX_MS: u64 = 5_000;
/// Waits after all endpoints have failed.
const ROUND_MIN: Duration = Duration::from_millis(50);
const ROUND_MAX: Duration = Duration::from_secs(1);

/// The deadline of a session that has none yet.
const NO_DEADLINE: u64 = u64::MAX;

/// A core, what it needs from outside, and who is to be told of what it does.
pub(crate) struct Shared {
    env: Arc<dyn Env>,
    core: Mutex<Core>,
    state: watch::Sender<SessionState>,
    /// In milliseconds of boot time, so that a guard looks at it without a lock; 0 once lost.
    deadline: AtomicU64,
    driver: Notify,
    /// What each endpoint said last, for people.
    failures: Mutex<Vec<Option<String>>>,
}

impl Shared {
    pub(crate) fn new(core: Core, env: Arc<dyn Env>) -> Self {
        let endpoints = env.endpoints().len();
        Self {
            env,
            core: Mutex::new(core),
            state: watch::Sender::new(SessionState::Connected),
            deadline: AtomicU64::new(NO_DEADLINE),
            driver: Notify::new(),
            failures: Mutex::new(vec![None; endpoints]),
        }
    }

    pub(crate) fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    /// The one way to the core: looks at the clock, does `work`, and hands over what came of it after unlocking.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Core, BootTime) -> T) -> T {
        let now = self.env.now();
        let mut core = self.core.lock();
        let _ = core.check(now);
        let out = work(&mut core, now);
        if let Some(state) = core.take_state(now) {
            self.state.send_replace(state);
        }
        let deadline = match (core.alive(now), core.deadline()) {
            (Err(_), _) => 0,
            (Ok(()), deadline) => deadline.map_or(NO_DEADLINE, BootTime::as_millis),
        };
        self.deadline.store(deadline, Ordering::Release);
        let done = core.take_done();
        let sender = core.take_sender();
        let nudge = core.take_nudge();
        drop(core);
        for done in done {
            done.hand_over();
        }
        if let Some(sender) = sender {
            sender.wake();
        }
        if nudge {
            self.driver.notify_one();
        }
        out
    }

    /// Alive at this moment, by the clock and by what servers said?
    pub(crate) fn check(&self) -> Result<(), LostReason> {
        if self.env.now() < self.deadline() {
            return Ok(());
        }
        self.with(|core, now| core.alive(now))
    }

    /// The deadline; the beginning of time once lost.
    pub(crate) fn deadline(&self) -> BootTime {
        BootTime::from_millis(self.deadline.load(Ordering::Acquire))
    }

    pub(crate) fn state(&self) -> watch::Receiver<SessionState> {
        self.state.subscribe()
    }

    pub(crate) fn failures(&self) -> Vec<Option<String>> {
        self.failures.lock().clone()
    }
}

/// What a session sends on one stream: encoded `ClientFrame`s.
pub struct Outgoing {
    shared: Arc<Shared>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.shared.with(|core, now| core.poll_frame(self.stream, now, context.waker())) {
            Ok(Some(frame)) => Poll::Ready(Some(frame)),
            Ok(None) => Poll::Pending,
            Err(()) => Poll::Ready(None),
        }
    }
}

/// Resolves at `moment`, or a little later or, for a look at the clock, before.
async fn sleep_until(env: &dyn Env, moment: Option<BootTime>) {
    match moment {
        Some(moment) => env.sleep(moment.since(env.now()).min(SUSPEND_NOTICE)).await,
        None => pending().await,
    }
}

enum Over {
    /// The session is.
    Session,
    /// The stream is: why, whether it had been welcomed, and whether the connection should not be used again.
    Stream { why: String, welcomed: bool, stuck: bool },
}

/// What the driver needs to know of the core, each time.
struct View {
    timer: Option<BootTime>,
    lost: bool,
    up: bool,
}

impl View {
    fn of(core: &Core, now: BootTime) -> Self {
        Self { timer: core.next_timer(now), lost: core.lost().is_some(), up: core.is_up() }
    }
}

/// Fails everything if the driver is dropped, as when its runtime ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.with(|core, _| core.abort());
    }
}

/// Runs a session until it is over.
pub(crate) async fn drive(shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    let env = shared.env.clone();
    let names = env.endpoints();
    let mut at = env.first().await;
    let mut failed = 0;
    let mut backoff = None;
    loop {
        let (connection, over) = run_stream(&shared, at).await;
        shared.with(|core, _| core.disconnect());
        let (why, welcomed, stuck) = match over {
            Over::Session => return,
            Over::Stream { why, welcomed, stuck } => (why, welcomed, stuck),
        };
        tracing::debug!(endpoint = names[at], %why, "session stream is over");
        shared.failures.lock()[at] = Some(why);
        if stuck {
            env.discard(at, connection);
        }
        if welcomed {
            failed = 0;
            backoff = None;
        }
        failed += 1;
        if failed % names.len() == 0 {
            let rounds = backoff.get_or_insert_with(|| {
                ExponentialBuilder::new()
                    .with_min_delay(ROUND_MIN)
                    .with_max_delay(ROUND_MAX)
                    .with_jitter()
                    .with_jitter_seed(env.random())
                    .without_max_times()
                    .build()
            });
            let wait = rounds.next().unwrap_or(ROUND_MAX);
            if !pause(&shared, wait).await {
                return;
            }
        }
        at = env.after(at).await;
        if shared.with(|core, _| core.is_over()) {
            return;
        }
    }
}

/// Waits; false if the session is over.
async fn pause(shared: &Shared, wait: Duration) -> bool {
    let env = &*shared.env;
    let mut sleep = env.sleep(wait);
    loop {
        let timer = shared.with(|core, now| core.next_timer(now));
        tokio::select! {
            biased;
            () = &mut sleep => return true,
            () = sleep_until(env, timer) => {}
            () = shared.driver.notified() => {}
        }
        if shared.with(|core, _| core.is_over()) {
            return false;
        }
    }
}

async fn next_frame(incoming: &mut Option<Incoming>) -> Option<Result<v1::ServerFrame, String>> {
    match incoming {
        Some(incoming) => incoming.next().await,
        None => pending().await,
    }
}

/// Runs one stream to an endpoint until it is over; and which connection it was on.
async fn run_stream(shared: &Arc<Shared>, at: usize) -> (usize, Over) {
    let stream = shared.with(|core, _| core.connect());
    let Opening { connection, incoming } = shared.env.open(at, Outgoing { shared: shared.clone(), stream });
    (connection, converse(shared, stream, incoming).await)
}

async fn converse(shared: &Arc<Shared>, stream: u64, opening: Boxed<Result<Incoming, String>>) -> Over {
    let env = &*shared.env;
    let (confirmed, ttl_ms) = shared.with(|core, _| (core.deadline().is_some(), core.ttl_ms()));
    let patience = if confirmed {
        (ttl_ms / 3).clamp(RESUME_MIN_MS, RESUME_MAX_MS)
    } else {
        ttl_ms.clamp(OPEN_MIN_MS, OPEN_MAX_MS)
    };
    let mut welcome_by = Some(env.now().plus_ms(patience));
    let mut welcomed = false;
    let mut farewell: Option<BootTime> = None;

    let mut opening = opening;
    let mut incoming: Option<Incoming> = None;
    // Re-armed only when the moment changes: most frames change none.
    let mut target: Option<BootTime> = None;
    let mut timer = pin!(sleep_until(env, None));
    let mut core_timer = shared.with(|core, now| core.next_timer(now));
    loop {
        let next = [core_timer, welcome_by, farewell].into_iter().flatten().min();
        if next != target {
            target = next;
            timer.set(sleep_until(env, next));
        }
        let lost = |why: String, stuck| Over::Stream { why, welcomed, stuck };
        let waiting = incoming.is_none();
        let (advice, view) = tokio::select! {
            biased;
            message = next_frame(&mut incoming) => match message {
                Some(Ok(frame)) => shared.with(|core, now| {
                    let advice = core.on_frame(stream, now, frame);
                    if core.is_up() {
                        welcomed = true;
                        welcome_by = None;
                    }
                    (advice, View::of(core, now))
                }),
                None => return lost("the server closed the stream".to_owned(), false),
                Some(Err(why)) => return lost(why, false),
            },
            opened = &mut opening, if waiting => match opened {
                Ok(stream) => {
                    incoming = Some(stream);
                    continue;
                }
                Err(why) => return lost(why, false),
            },
            () = &mut timer => {
                target = None;
                let (advice, view) = shared.with(|core, now| (core.on_time(now), View::of(core, now)));
                if welcome_by.is_some_and(|by| env.now() >= by) {
                    return lost(format!("no welcome within {patience} ms"), true);
                }
                if farewell.is_some_and(|by| env.now() >= by) {
                    return Over::Session;
                }
                if advice == Advice::Move {
                    return lost("keep-alives went unanswered".to_owned(), true);
                }
                (advice, view)
            }
            () = shared.driver.notified() => shared.with(|core, now| (core.on_time(now), View::of(core, now))),
        };
        match advice {
            Advice::Stay => {}
            Advice::Move => return Over::Stream { why: "the server cannot serve".to_owned(), welcomed, stuck: false },
            Advice::Stop => return Over::Session,
        }
        core_timer = view.timer;
        if view.lost {
            if !view.up {
                return Over::Session;
            }
            farewell.get_or_insert_with(|| env.now().plus_ms(FAREWELL_MS));
        }
    }
}
