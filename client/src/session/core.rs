//! What a session does, without I/O and without a clock: frames and moments in, frames and completions out.
//!
//! Always true:
//! * mutating calls are numbered from 1 without gaps, sent in order, and kept until answered. Whatever goes wrong
//!   (a lost connection, a lost leader, an overloaded server), all unanswered ones are sent again from the lowest; the servers
//!   apply each once and repeat its first answer;
//! * the deadline is counted from when the last *acknowledged* keep-alive was handed out to be sent, never from its
//!   acknowledgement. Every entry point looks at the clock first: a process that was stopped finds its session lost
//!   before it finds anything else;
//! * once lost, always lost, and everything that hung on it is over. What was never sent certainly did nothing; what
//!   was sent and not answered is unknown;
//! * a hold that nobody wants any more is given back, even if the answer that says where it stands comes later;
//! * a watch tells every revision once and in order, or ends with the reason; what a slow reader leaves lying is
//!   bounded in bytes, and nothing else waits for it.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use conclave_faults::planted;
use conclave_proto::{Revision, v1};
use tokio::sync::oneshot;
use v1::{client_item::Item as ClientItem, server_item::Item as ServerItem, session_ended::Reason as EndReason};

use super::{LostReason, SessionState, wire};
use crate::{
    BootTime, Effect, Error, ErrorKind, Result,
    watch::{compacted, ended_error},
};

/// Keep-alives are sent after TTL / this, unless [`KEEP_ALIVE_MAX_MS`] is less.
const KEEP_ALIVES_PER_TTL: u64 = 3;
/// Longest time between keep-alives, however long the TTL.
const KEEP_ALIVE_MAX_MS: u64 = 5_000;
/// An unanswered keep-alive is repeated after the period / this: a new leader knows nothing of the first.
const KEEP_ALIVE_REPEATS: u64 = 2;
/// Clocks may differ in speed by one part in this many.
const DRIFT_PARTS: u64 = 100;
/// And in resolution and rounding by this.
const DRIFT_FIXED_MS: u64 = 10;
/// A stream whose keep-alive goes unanswered for TTL / this (within the bounds below) is given up for another server.
const STUCK_PER_TTL: u64 = 3;
const STUCK_MIN_MS: u64 = 300;
const STUCK_MAX_MS: u64 = 3_000;
/// Calls in flight before the first welcome says how many there may be.
const IN_FLIGHT_DEFAULT: usize = 1024;
/// Numbers that may have to be filled because a server did not use them up.
const FILL_MAX: u64 = 1024;
/// Streams in a row that servers may refuse before the session is given up: what we send again is what they refuse.
const REFUSED_STREAMS_MAX: u32 = 3;
/// Waits before a refused call is sent again.
const RETRY_MIN: std::time::Duration = std::time::Duration::from_millis(10);
const RETRY_MAX: std::time::Duration = std::time::Duration::from_millis(500);

/// Ids of calls: reads count with the top bit set; numbered calls are `generation << 48 | number`, so that an answer tells
/// which sending of the call it answers.
const READ_BIT: u64 = 1 << 63;
const GENERATION_SHIFT: u32 = 48;
const GENERATION_MASK: u64 = (1 << 15) - 1;
const NUMBER_MASK: u64 = (1 << GENERATION_SHIFT) - 1;

/// What an answer is handed to.
pub(crate) type TxnWaiter = oneshot::Sender<Result<v1::TxnResult>>;
pub(crate) type ReadWaiter = oneshot::Sender<Result<v1::ReadResult>>;
/// The transaction's result, and whether the hold is granted already.
pub(crate) type AcquireWaiter = oneshot::Sender<Result<(v1::TxnResult, bool)>>;
pub(crate) type GrantWaiter = oneshot::Sender<Result<()>>;
pub(crate) type WatchWaiter = oneshot::Sender<Result<()>>;

/// Something to hand over once the core is unlocked.
pub(crate) enum Done {
    Txn(TxnWaiter, Result<v1::TxnResult>),
    Read(ReadWaiter, Result<v1::ReadResult>),
    Acquire(AcquireWaiter, Result<(v1::TxnResult, bool)>),
    Grant(GrantWaiter, Result<()>),
    Watch(WatchWaiter, Result<()>),
    Opened(oneshot::Sender<Result<()>>, Result<()>),
    Closed(oneshot::Sender<Result<()>>, Result<()>),
    Wake(Waker),
}

impl Done {
    /// Nobody may be there any more; whoever must act on that has a handle whose drop does.
    pub(crate) fn hand_over(self) {
        match self {
            Self::Txn(waiter, result) => drop(waiter.send(result)),
            Self::Read(waiter, result) => drop(waiter.send(result)),
            Self::Acquire(waiter, result) => drop(waiter.send(result)),
            Self::Grant(waiter, result)
            | Self::Watch(waiter, result)
            | Self::Opened(waiter, result)
            | Self::Closed(waiter, result) => drop(waiter.send(result)),
            Self::Wake(waker) => waker.wake(),
        }
    }
}

/// What the driver should do about the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Advice {
    /// Go on.
    Stay,
    /// This server cannot serve: try another.
    Move,
    /// The session is over: stop.
    Stop,
}

/// How a core begins.
pub(crate) enum Begin {
    Open { name: String, ttl_ms: u64 },
    Resume { session: u64, ttl_ms: u64 },
}

enum Completion {
    /// Nobody asks.
    None,
    Txn(TxnWaiter),
    /// The hold, and who wants to know.
    Acquire(u64, AcquireWaiter),
}

struct Call {
    body: Bytes,
    completion: Completion,
    /// Which sending is the latest.
    generation: u64,
    /// Sent in its generation.
    sent: bool,
    ever_sent: bool,
    answered: bool,
}

struct ReadCall {
    body: Bytes,
    waiter: ReadWaiter,
    sent: bool,
}

#[derive(Clone, Copy)]
enum Key {
    Numbered(u64),
    Read(u64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Down,
    /// A stream is open; the hello has gone out at this moment, if it has.
    Opening(Option<BootTime>),
    Up,
}

#[derive(Debug, Eq, PartialEq)]
enum HoldState {
    /// Asked for; the server may have put it in line already. True once it has told of the grant, ahead of the reply.
    Creating(bool),
    /// As `Creating`, but nobody wants it any more.
    Abandoned,
    Waiting,
    Held,
}

struct Hold {
    state: HoldState,
    /// Of its node, once known.
    path: String,
    revision: u64,
    queue_op: usize,
    permits: u32,
    blocking: &'static str,
    waiter: Option<GrantWaiter>,
    /// The server does not watch its place, and why; it stands in line nevertheless.
    refused: Option<Error>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WatchState {
    /// To be opened, or opened and not yet confirmed.
    Opening,
    Live,
    /// Its reader is slow; cancelled at the server until it has caught up.
    Paused,
    /// Nothing more will come.
    Ended,
}

struct WatchSlot {
    path: String,
    scope: i32,
    state: WatchState,
    /// Its id on the present stream.
    wire: u64,
    /// The first revision not yet told; 0 before the server has said where it begins.
    next: u64,
    buffer: VecDeque<v1::Events>,
    bytes: usize,
    end: Option<Error>,
    opened: Option<WatchWaiter>,
    reader: Option<Waker>,
}

/// What is next in a watch's buffer.
pub(crate) enum Polled {
    Events(v1::Events),
    End(Error),
    Over,
    Pending,
}

pub(crate) struct Core {
    secret: [u8; 16],
    /// Of all processes that know the secret, this one.
    run: u64,
    begin: Begin,
    session: u64,
    ttl_ms: u64,
    welcomed: bool,
    cluster: String,
    fence_epoch: u64,
    server: u64,
    seen: u64,
    watch_buffer_bytes: usize,
    calls_max: usize,

    /// Counts streams; what an earlier one brings is ignored.
    stream: u64,
    link: Link,
    sender: Option<Waker>,

    deadline: Option<BootTime>,
    /// When the last acknowledged keep-alive was sent.
    confirmed: BootTime,
    keep_alives: VecDeque<(u64, BootTime)>,
    keep_alive_id: u64,
    keep_alive_at: Option<BootTime>,
    keep_alive_due: bool,
    lost: Option<LostReason>,
    told_state: Option<SessionState>,
    opened: Option<oneshot::Sender<Result<()>>>,
    closing: bool,
    close_sent: bool,
    closed: Vec<oneshot::Sender<Result<()>>>,

    /// The number of `calls[0]`; all before it are answered.
    base: u64,
    calls: VecDeque<Call>,
    generation: u64,
    reads: BTreeMap<u64, ReadCall>,
    read_id: u64,
    queue: VecDeque<Key>,
    control: VecDeque<ClientItem>,
    in_flight: usize,
    in_flight_max: usize,
    retry_at: Option<BootTime>,
    /// A numbered call was refused: all go again.
    go_back: bool,
    backoff: Option<ExponentialBackoff>,
    refused_streams: u32,

    ids: u64,
    holds: BTreeMap<u64, Hold>,
    watches: BTreeMap<u64, WatchSlot>,
    /// From the id on the present stream to the slot.
    wires: BTreeMap<u64, u64>,

    done: Vec<Done>,
    nudge: bool,
}

impl Core {
    pub(crate) fn new(
        begin: Begin,
        secret: [u8; 16],
        run: u64,
        watch_buffer_bytes: usize,
        calls_max: usize,
        opened: oneshot::Sender<Result<()>>,
    ) -> Self {
        let (session, ttl_ms) = match begin {
            Begin::Open { ttl_ms, .. } => (0, ttl_ms),
            Begin::Resume { session, ttl_ms } => (session, ttl_ms),
        };
        Self {
            secret,
            run,
            begin,
            session,
            ttl_ms,
            welcomed: false,
            cluster: String::new(),
            fence_epoch: 0,
            server: 0,
            seen: 0,
            watch_buffer_bytes,
            calls_max,
            stream: 0,
            link: Link::Down,
            sender: None,
            deadline: None,
            confirmed: BootTime::default(),
            keep_alives: VecDeque::new(),
            keep_alive_id: 0,
            keep_alive_at: None,
            keep_alive_due: false,
            lost: None,
            told_state: None,
            opened: Some(opened),
            closing: false,
            close_sent: false,
            closed: Vec::new(),
            base: 1,
            calls: VecDeque::new(),
            generation: 0,
            reads: BTreeMap::new(),
            read_id: 0,
            queue: VecDeque::new(),
            control: VecDeque::new(),
            in_flight: 0,
            in_flight_max: IN_FLIGHT_DEFAULT,
            retry_at: None,
            go_back: false,
            backoff: None,
            refused_streams: 0,
            ids: 0,
            holds: BTreeMap::new(),
            watches: BTreeMap::new(),
            wires: BTreeMap::new(),
            done: Vec::new(),
            nudge: false,
        }
    }

    // ------------------------------------------------------------------------------------ what it knows

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    pub(crate) fn secret(&self) -> [u8; 16] {
        self.secret
    }

    pub(crate) fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    pub(crate) fn fence_epoch(&self) -> u64 {
        self.fence_epoch
    }

    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    pub(crate) fn seen(&self) -> Revision {
        Revision(self.seen)
    }

    pub(crate) fn lost(&self) -> Option<&LostReason> {
        self.lost.as_ref()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Nothing more is to be done for this session.
    pub(crate) fn is_over(&self) -> bool {
        self.lost.is_some() && self.link != Link::Up
    }

    /// None before the session is confirmed for the first time.
    pub(crate) fn deadline(&self) -> Option<BootTime> {
        self.deadline
    }

    /// For holders: from the moment its end is asked for, others may get what hangs on it.
    pub(crate) fn alive(&mut self, now: BootTime) -> Result<(), LostReason> {
        self.check(now)?;
        if self.closing { Err(LostReason::Closed) } else { Ok(()) }
    }

    /// The state, if it is another than when this was last asked.
    pub(crate) fn take_state(&mut self, now: BootTime) -> Option<SessionState> {
        if matches!(self.told_state, Some(SessionState::Lost { .. })) {
            return None;
        }
        let state = match (&self.lost, self.deadline) {
            (Some(reason), _) => SessionState::Lost { reason: reason.clone() },
            (None, _) if self.closing => SessionState::Lost { reason: LostReason::Closed },
            (None, Some(deadline)) if self.link != Link::Up || now >= self.jeopardy_at() => {
                SessionState::Jeopardy { deadline }
            }
            _ => SessionState::Connected,
        };
        if self.told_state.as_ref() == Some(&state) {
            return None;
        }
        self.told_state = Some(state.clone());
        Some(state)
    }

    fn period_ms(&self) -> u64 {
        (self.ttl_ms / KEEP_ALIVES_PER_TTL).clamp(1, KEEP_ALIVE_MAX_MS)
    }

    fn stuck_ms(&self) -> u64 {
        (self.ttl_ms / STUCK_PER_TTL).clamp(STUCK_MIN_MS, STUCK_MAX_MS)
    }

    fn jeopardy_at(&self) -> BootTime {
        self.confirmed.plus_ms(2 * self.period_ms())
    }

    fn deadline_after(&self, sent: BootTime) -> BootTime {
        let margin = if planted!(NoDriftAllowance) { 0 } else { self.ttl_ms / DRIFT_PARTS + DRIFT_FIXED_MS };
        sent.plus_ms(self.ttl_ms.saturating_sub(margin))
    }

    pub(crate) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// True if the driver should look at timers and state again.
    pub(crate) fn take_nudge(&mut self) -> bool {
        std::mem::take(&mut self.nudge)
    }

    /// The sending side's waker, if there is something to send and it waits for that.
    pub(crate) fn take_sender(&mut self) -> Option<Waker> {
        if self.sender.is_some() && self.has_output() { self.sender.take() } else { None }
    }

    // ------------------------------------------------------------------------------------ time

    /// The next moment at which [`Core::on_time`] has something to do.
    pub(crate) fn next_timer(&self, now: BootTime) -> Option<BootTime> {
        if self.lost.is_some() {
            return None;
        }
        let mut next = self.deadline;
        let mut at = |moment: BootTime| next = Some(next.map_or(moment, |other| other.min(moment)));
        if self.link == Link::Up {
            if let Some(moment) = self.keep_alive_at.filter(|_| !self.keep_alive_due) {
                at(moment);
            }
            if let Some(&(_, sent)) = self.keep_alives.front() {
                at(sent.plus_ms(self.stuck_ms()));
            }
            if let Some(moment) = self.retry_at {
                at(moment);
            }
            if self.jeopardy_at() > now {
                at(self.jeopardy_at());
            }
        }
        next
    }

    /// Looks at the clock: loss first, then whatever is due.
    pub(crate) fn on_time(&mut self, now: BootTime) -> Advice {
        if self.check(now).is_err() {
            return if self.is_over() { Advice::Stop } else { Advice::Stay };
        }
        if self.link != Link::Up {
            return Advice::Stay;
        }
        if self.keep_alives.front().is_some_and(|&(_, sent)| now >= sent.plus_ms(self.stuck_ms())) {
            return Advice::Move;
        }
        if self.keep_alive_at.is_some_and(|at| now >= at) {
            self.keep_alive_due = true;
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            if std::mem::take(&mut self.go_back) {
                self.resend(false);
            }
        }
        Advice::Stay
    }

    /// Lost, by what the servers said or by the clock?
    pub(crate) fn check(&mut self, now: BootTime) -> Result<(), LostReason> {
        if self.lost.is_none() && self.deadline.is_some_and(|deadline| now >= deadline) {
            self.lose(LostReason::DeadlinePassed);
        }
        self.lost.clone().map_or(Ok(()), Err)
    }

    // ------------------------------------------------------------------------------------ calls of users

    /// Queues a numbered call.
    pub(crate) fn apply(&mut self, now: BootTime, body: Bytes, waiter: TxnWaiter) {
        match self.admit(now, &body) {
            Ok(()) => drop(self.push(body, Completion::Txn(waiter))),
            Err(error) => self.done.push(Done::Txn(waiter, Err(error))),
        }
    }

    /// Queues a read.
    pub(crate) fn query(&mut self, now: BootTime, body: Bytes, waiter: ReadWaiter) {
        match self.admit(now, &body) {
            Ok(()) => {
                self.read_id += 1;
                let id = READ_BIT | self.read_id;
                self.reads.insert(id, ReadCall { body, waiter, sent: false });
                self.queue.push_back(Key::Read(id));
            }
            Err(error) => self.done.push(Done::Read(waiter, Err(error))),
        }
    }

    fn admit(&mut self, now: BootTime, body: &Bytes) -> Result<()> {
        if let Err(reason) = self.check(now) {
            return Err(Error::session_lost(&reason, Effect::None));
        }
        if self.closing {
            return Err(Error::session_lost(&LostReason::Closed, Effect::None));
        }
        if body.len() > wire::CALL_BYTES_MAX {
            let (size, max) = (body.len(), wire::CALL_BYTES_MAX);
            return Err(Error::new(ErrorKind::TooLarge, format!("request is {size} bytes large, the limit is {max}")));
        }
        if self.calls.len() + self.reads.len() >= self.calls_max {
            let message = format!("{} calls of this session are unanswered, calls_max allows no more", self.calls_max);
            return Err(Error::new(ErrorKind::Overloaded, message).with_retry());
        }
        Ok(())
    }

    fn push(&mut self, body: Bytes, completion: Completion) -> u64 {
        let number = self.base + self.calls.len() as u64;
        self.calls.push_back(Call {
            body,
            completion,
            generation: self.generation,
            sent: false,
            ever_sent: false,
            answered: false,
        });
        self.queue.push_back(Key::Numbered(number));
        number
    }

    /// Asks to end the session; `waiter` is told.
    pub(crate) fn close(&mut self, now: BootTime, waiter: Option<oneshot::Sender<Result<()>>>) {
        if self.deadline.is_none() {
            // Never confirmed: there is nothing of ours to end.
            self.lose(LostReason::Closed);
        }
        let lost = self.check(now);
        if let Some(waiter) = waiter {
            match lost {
                Ok(()) => self.closed.push(waiter),
                Err(LostReason::Closed) => self.done.push(Done::Closed(waiter, Ok(()))),
                Err(reason) => {
                    self.done.push(Done::Closed(waiter, Err(Error::session_lost(&reason, Effect::None))));
                }
            }
        }
        self.closing = true;
        self.nudge = true;
    }

    /// Whoever moves frames is gone: nothing can be done any more.
    pub(crate) fn abort(&mut self) {
        self.link = Link::Down;
        self.lose(LostReason::Closed);
    }

    /// Stops using the session without ending it.
    pub(crate) fn detach(&mut self) {
        if self.lost.is_none() {
            self.lose(LostReason::Closed);
        }
        // The stream simply ends: no close.
        self.link = Link::Down;
        self.stream += 1;
    }

    // ------------------------------------------------------------------------------------ holds

    /// An id for a hold, which its queue watch goes by.
    pub(crate) fn new_hold(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Gets in line: `body` is a call whose operation `queue_op` creates the node and whose queue watch has the id `key`.
    pub(crate) fn acquire(
        &mut self,
        now: BootTime,
        key: u64,
        body: Bytes,
        queue_op: usize,
        permits: u32,
        blocking: &'static str,
        waiter: AcquireWaiter,
    ) {
        if let Err(error) = self.admit(now, &body) {
            self.done.push(Done::Acquire(waiter, Err(error)));
            return;
        }
        let state = HoldState::Creating(false);
        let hold =
            Hold { state, path: String::new(), revision: 0, queue_op, permits, blocking, waiter: None, refused: None };
        self.holds.insert(key, hold);
        self.push(body, Completion::Acquire(key, waiter));
    }

    /// Waits for the grant of a hold that is in line.
    pub(crate) fn await_grant(&mut self, now: BootTime, key: u64, waiter: GrantWaiter) {
        if let Err(reason) = self.check(now) {
            self.done.push(Done::Grant(waiter, Err(Error::session_lost(&reason, Effect::None))));
            return;
        }
        match self.holds.get_mut(&key) {
            Some(hold) if hold.state == HoldState::Held => self.done.push(Done::Grant(waiter, Ok(()))),
            Some(hold) => match hold.refused.take() {
                Some(error) => self.done.push(Done::Grant(waiter, Err(error))),
                None => hold.waiter = Some(waiter),
            },
            None => self.done.push(Done::Grant(waiter, Err(Error::lock_lost("", "its node is gone")))),
        }
    }

    /// Gives a hold back, or leaves the line: only ever this incarnation of its node. Safe in any state; `waiter` is told
    /// by a result whose comparison failed if it was held no more.
    pub(crate) fn release(&mut self, now: BootTime, key: u64, waiter: Option<TxnWaiter>) {
        let lost = self.check(now).err();
        let hold = self.holds.get_mut(&key);
        match (hold, waiter) {
            (_, Some(waiter)) if lost.is_some() => {
                let reason = lost.unwrap_or(LostReason::Closed);
                self.done.push(Done::Txn(waiter, Err(Error::session_lost(&reason, Effect::None))));
            }
            (Some(hold), waiter) if matches!(hold.state, HoldState::Waiting | HoldState::Held) => {
                let body = release_body(std::mem::take(&mut hold.path), hold.revision);
                self.holds.remove(&key);
                self.push(body, waiter.map_or(Completion::None, Completion::Txn));
            }
            (Some(hold), None) => hold.state = HoldState::Abandoned,
            (None, None) => {}
            (_, Some(waiter)) => {
                let gone = v1::TxnResult { failed_compare: Some(0), ..Default::default() };
                self.done.push(Done::Txn(waiter, Ok(gone)));
            }
        }
    }

    // ------------------------------------------------------------------------------------ watches

    /// Opens a watch; the id is for [`Core::poll_watch`] and [`Core::drop_watch`].
    pub(crate) fn watch(&mut self, now: BootTime, open: v1::WatchOpen, waiter: WatchWaiter) -> u64 {
        self.ids += 1;
        let key = self.ids;
        if let Err(reason) = self.check(now) {
            self.done.push(Done::Watch(waiter, Err(Error::session_lost(&reason, Effect::None))));
            return key;
        }
        let slot = WatchSlot {
            path: open.path,
            scope: open.scope,
            state: WatchState::Opening,
            wire: 0,
            next: open.from_revision,
            buffer: VecDeque::new(),
            bytes: 0,
            end: None,
            opened: Some(waiter),
            reader: None,
        };
        self.watches.insert(key, slot);
        if self.link == Link::Up {
            self.send_watch(key);
        }
        key
    }

    fn send_watch(&mut self, key: u64) {
        self.ids += 1;
        let wire = self.ids;
        let Some(slot) = self.watches.get_mut(&key) else { return };
        if planted!(WatchResumesLate) && slot.wire != 0 {
            slot.next += 1;
        }
        let again = u64::from(planted!(WatchDuplicate) && slot.wire != 0 && slot.next > 1);
        slot.state = WatchState::Opening;
        slot.wire = wire;
        self.wires.insert(wire, key);
        self.control.push_back(ClientItem::Watch(v1::WatchOpen {
            watch: wire,
            path: slot.path.clone(),
            scope: slot.scope,
            from_revision: slot.next - again,
        }));
    }

    /// The next events of a watch; `waker` is woken when there are any.
    pub(crate) fn poll_watch(&mut self, key: u64, waker: &Waker) -> Polled {
        let link = self.link;
        let Some(slot) = self.watches.get_mut(&key) else { return Polled::Over };
        let Some(events) = slot.buffer.pop_front() else {
            if slot.state == WatchState::Ended {
                return slot.end.take().map_or(Polled::Over, Polled::End);
            }
            if !slot.reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
                slot.reader = Some(waker.clone());
            }
            return Polled::Pending;
        };
        slot.bytes -= bytes_of(&events);
        if slot.state == WatchState::Paused && slot.bytes <= self.watch_buffer_bytes / 2 && link == Link::Up {
            self.send_watch(key);
        }
        Polled::Events(events)
    }

    /// Every change before this revision has been read; 0 while not known.
    pub(crate) fn watch_next(&self, key: u64) -> u64 {
        self.watches.get(&key).map_or(0, |slot| slot.buffer.front().map_or(slot.next, |events| events.revision))
    }

    /// Ends a watch because its reader went away.
    pub(crate) fn drop_watch(&mut self, key: u64) {
        let Some(slot) = self.watches.remove(&key) else { return };
        if self.wires.remove(&slot.wire).is_some() && self.link == Link::Up {
            self.control.push_back(ClientItem::Cancel(v1::WatchCancel { watch: slot.wire }));
        }
    }

    fn end_watch(&mut self, key: u64, error: Error) {
        let Some(slot) = self.watches.get_mut(&key) else { return };
        self.wires.remove(&slot.wire);
        slot.state = WatchState::Ended;
        match slot.opened.take() {
            Some(waiter) => {
                self.done.push(Done::Watch(waiter, Err(error)));
                self.watches.remove(&key);
            }
            None => {
                slot.end = Some(error);
                self.done.extend(slot.reader.take().map(Done::Wake));
            }
        }
    }

    // ------------------------------------------------------------------------------------ the connection

    /// A new stream is about to be opened; its number goes with everything it brings.
    pub(crate) fn connect(&mut self) -> u64 {
        self.disconnect();
        self.stream += 1;
        self.link = Link::Opening(None);
        self.stream
    }

    /// The stream is over.
    pub(crate) fn disconnect(&mut self) {
        self.link = Link::Down;
        self.sender = None;
        self.control.clear();
        self.wires.clear();
        self.keep_alives.clear();
        self.keep_alive_due = false;
        self.keep_alive_at = None;
        self.close_sent = false;
        self.retry_at = None;
        self.go_back = false;
        for hold in self.holds.values_mut() {
            if let HoldState::Creating(granted) = &mut hold.state {
                // The call will be sent again, and its answer says how things stand then.
                *granted = false;
            }
        }
    }

    fn has_output(&self) -> bool {
        match self.link {
            Link::Down => true, // so that the sending side of an old stream notices
            Link::Opening(sent) => sent.is_none(),
            Link::Up => {
                self.keep_alive_due
                    || !self.control.is_empty()
                    || (self.retry_at.is_none() && self.in_flight < self.in_flight_max && !self.queue.is_empty())
                    || self.wants_close()
            }
        }
    }

    fn wants_close(&self) -> bool {
        // Behind everything else, so that what was asked before still happens.
        self.closing && !self.close_sent && (self.lost.is_some() || (self.calls.is_empty() && self.reads.is_empty()))
    }

    /// The next frame of stream `stream`. `Ok(None)`: nothing now, `waker` is woken when there is. `Err`: that stream is over.
    pub(crate) fn poll_frame(&mut self, stream: u64, now: BootTime, waker: &Waker) -> Result<Option<Bytes>, ()> {
        if stream != self.stream || self.link == Link::Down {
            return Err(());
        }
        let _ = self.check(now);
        if let Link::Opening(None) = self.link {
            self.link = Link::Opening(Some(now));
            let mut frame = BytesMut::new();
            wire::put_item(&mut frame, ClientItem::Hello(self.hello()));
            return Ok(Some(frame.freeze()));
        }
        if !self.has_output() {
            if !self.sender.as_ref().is_some_and(|known| known.will_wake(waker)) {
                self.sender = Some(waker.clone());
            }
            return Ok(None);
        }
        let mut frame = BytesMut::new();
        if std::mem::take(&mut self.keep_alive_due) {
            self.keep_alive_id += 1;
            self.keep_alives.push_back((self.keep_alive_id, now));
            self.keep_alive_at = Some(now.plus_ms((self.period_ms() / KEEP_ALIVE_REPEATS).max(1)));
            self.nudge = true;
            wire::put_item(&mut frame, ClientItem::KeepAlive(v1::KeepAlive { id: self.keep_alive_id }));
        }
        while frame.len() < wire::FRAME_BYTES_MAX {
            let Some(item) = self.control.pop_front() else { break };
            wire::put_item(&mut frame, item);
        }
        if self.retry_at.is_none() {
            self.put_calls(&mut frame);
        }
        if self.wants_close() {
            self.close_sent = true;
            wire::put_item(&mut frame, ClientItem::Close(v1::Close {}));
        }
        Ok(Some(frame.freeze()))
    }

    fn put_calls(&mut self, frame: &mut BytesMut) {
        while self.in_flight < self.in_flight_max && frame.len() < wire::FRAME_BYTES_MAX {
            let Some(&key) = self.queue.front() else { break };
            let size = match key {
                Key::Numbered(number) => self.call(number).map_or(0, |call| call.body.len()),
                Key::Read(id) => self.reads.get(&id).map_or(0, |read| read.body.len()),
            };
            if !frame.is_empty() && frame.len() + size > wire::FRAME_BYTES_MAX {
                break;
            }
            self.queue.pop_front();
            match key {
                Key::Numbered(number) => {
                    let (generation, acknowledged) = (self.generation, self.base - 1);
                    let Some(call) = self.call(number).filter(|call| !call.sent && !call.answered) else { continue };
                    call.sent = true;
                    call.ever_sent = true;
                    call.generation = generation;
                    let id = (generation & GENERATION_MASK) << GENERATION_SHIFT | number;
                    wire::put_call(frame, id, number, acknowledged, &call.body);
                }
                Key::Read(id) => {
                    let Some(read) = self.reads.get_mut(&id).filter(|read| !read.sent) else { continue };
                    read.sent = true;
                    wire::put_call(frame, id, 0, self.base - 1, &read.body);
                }
            }
            self.in_flight += 1;
        }
    }

    fn call(&mut self, number: u64) -> Option<&mut Call> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.calls.get_mut(at)
    }

    fn hello(&self) -> v1::Hello {
        let name = match &self.begin {
            Begin::Open { name, .. } => name.clone(),
            Begin::Resume { .. } => String::new(),
        };
        v1::Hello {
            session: self.session,
            secret: self.secret.to_vec().into(),
            ttl_ms: self.ttl_ms,
            name,
            seen_revision: self.seen,
            run: self.run,
            take_over: self.session != 0 && !self.welcomed,
        }
    }

    /// Puts everything unanswered in line again, numbered calls first and in order. On the same stream, reads that were sent
    /// will still be answered.
    fn resend(&mut self, new_stream: bool) {
        self.generation += 1;
        self.queue.clear();
        self.in_flight = 0;
        for (at, call) in self.calls.iter_mut().enumerate() {
            if !call.answered {
                call.sent = false;
                self.queue.push_back(Key::Numbered(self.base + at as u64));
            }
        }
        for (&id, read) in &mut self.reads {
            if new_stream || !read.sent {
                read.sent = false;
                self.queue.push_back(Key::Read(id));
            } else {
                self.in_flight += 1;
            }
        }
    }

    // ------------------------------------------------------------------------------------ what servers say

    /// Takes a frame of stream `stream`.
    pub(crate) fn on_frame(&mut self, stream: u64, now: BootTime, frame: v1::ServerFrame) -> Advice {
        let mut advice = Advice::Stay;
        // Nodes go with their session: its end is the better news for those who wait.
        let ends = frame.items.iter().any(|item| matches!(item.item, Some(ServerItem::Ended(_))));
        for item in frame.items {
            if stream != self.stream {
                break;
            }
            let Some(item) = item.item else { continue };
            if self.check(now).is_err() {
                // Nothing counts any more but that the servers know of the end.
                if matches!(item, ServerItem::Ended(_)) {
                    self.link = Link::Down;
                }
                continue;
            }
            advice = match item {
                ServerItem::Welcome(welcome) => self.on_welcome(now, welcome),
                ServerItem::Reply(reply) => self.on_reply(now, reply),
                ServerItem::WatchStarted(started) => self.on_watch_started(&started),
                ServerItem::Events(events) => self.on_events(events),
                ServerItem::WatchEnded(_) if ends => Advice::Stay,
                ServerItem::WatchEnded(ended) => self.on_watch_ended(ended),
                ServerItem::QueueReady(ready) => self.on_queue_ready(&ready),
                ServerItem::KeepAlive(ack) => self.on_keep_alive(now, ack),
                ServerItem::Ended(ended) => self.on_ended(&ended),
            };
            if advice != Advice::Stay {
                break;
            }
        }
        if self.is_over() { Advice::Stop } else { advice }
    }

    fn on_welcome(&mut self, now: BootTime, welcome: v1::Welcome) -> Advice {
        let Link::Opening(Some(hello)) = self.link else {
            self.lose(LostReason::Protocol("a second welcome".to_owned()));
            return Advice::Stop;
        };
        if self.welcomed && self.cluster != welcome.cluster {
            tracing::error!(expected = %self.cluster, found = %welcome.cluster, "an endpoint belongs to another cluster");
            return Advice::Move;
        }
        let last = welcome.last_number;
        if self.session == 0 {
            self.session = welcome.session;
            self.base = last + 1;
            self.ttl_ms = welcome.ttl_ms;
            self.confirmed = hello;
            self.deadline = Some(self.deadline_after(hello));
            self.keep_alive_at = Some(hello.plus_ms(self.period_ms()));
            self.done.extend(self.opened.take().map(|waiter| Done::Opened(waiter, Ok(()))));
        } else {
            // A resumption is not a renewal: the first keep-alive is. The first welcome after a resumption by
            // credentials says where the numbers stand.
            if !self.welcomed {
                self.base = last + 1;
                self.ttl_ms = welcome.ttl_ms;
            } else if last >= self.base + self.calls.len() as u64 {
                self.lose(LostReason::Replaced);
                return Advice::Stop;
            }
            if planted!(NewNumbersOnReconnect) {
                self.base = last + 1;
            }
            self.keep_alive_due = true;
        }
        self.welcomed = true;
        self.cluster = welcome.cluster;
        self.fence_epoch = welcome.fence_epoch;
        self.server = welcome.server;
        self.seen = self.seen.max(welcome.revision);
        self.in_flight_max = (welcome.in_flight_max as usize).max(1);
        self.link = Link::Up;
        self.backoff = None;
        for key in self.watches.keys().copied().collect::<Vec<_>>() {
            match self.watches[&key].state {
                WatchState::Opening | WatchState::Live => self.send_watch(key),
                WatchState::Paused if self.watches[&key].bytes <= self.watch_buffer_bytes / 2 => self.send_watch(key),
                WatchState::Paused | WatchState::Ended => {}
            }
        }
        for key in self.holds.keys().copied().collect::<Vec<_>>() {
            if self.holds[&key].state == HoldState::Waiting && !planted!(WaitForgottenOnReconnect) {
                self.send_queue_watch(key);
            }
        }
        self.resend(true);
        self.check(now).map_or(Advice::Stop, |()| Advice::Stay)
    }

    fn send_queue_watch(&mut self, key: u64) {
        let Some(hold) = self.holds.get(&key) else { return };
        self.control.push_back(ClientItem::QueueWatch(v1::QueueWatch {
            watch: key,
            path: hold.path.clone(),
            permits: hold.permits,
            blocking: hold.blocking.to_owned(),
        }));
    }

    fn on_keep_alive(&mut self, now: BootTime, ack: v1::KeepAliveAck) -> Advice {
        while let Some(&(id, sent)) = self.keep_alives.front() {
            if id > ack.id {
                break;
            }
            self.keep_alives.pop_front();
            if id == ack.id {
                let sent = if planted!(DeadlineFromAcknowledgement) { now } else { sent };
                self.confirmed = self.confirmed.max(sent);
                self.deadline = self.deadline.max(Some(self.deadline_after(sent)));
                self.keep_alive_at = Some(sent.plus_ms(self.period_ms()));
                self.done.extend(self.opened.take().map(|waiter| Done::Opened(waiter, Ok(()))));
            }
        }
        if ack.told_revision > 0 {
            self.seen = self.seen.max(ack.told_revision);
            for slot in self.watches.values_mut() {
                if slot.state == WatchState::Live {
                    slot.next = slot.next.max(ack.told_revision + 1);
                }
            }
        }
        Advice::Stay
    }

    fn on_reply(&mut self, now: BootTime, reply: v1::Reply) -> Advice {
        use v1::reply::Body;
        self.seen = self.seen.max(reply.revision);
        if reply.id & READ_BIT != 0 {
            return self.on_read_reply(now, reply);
        }
        let number = reply.id & NUMBER_MASK;
        let generation = reply.id >> GENERATION_SHIFT;
        let present = self.generation & GENERATION_MASK;
        let Some(call) = self.call(number).filter(|call| !call.answered) else { return Advice::Stay };
        let counted = call.generation & GENERATION_MASK == generation && generation == present && call.sent;
        let result = match reply.body {
            Some(Body::Txn(result)) => Ok(result),
            Some(Body::Error(error)) => match verdict(error.code()) {
                Verdict::Answer => Err(Error::from_wire(error)),
                Verdict::NoSession => return self.gone(),
                Verdict::TakenOver => return self.taken_over(),
                // An answer to an earlier sending: the present one will be answered too.
                Verdict::Again | Verdict::Elsewhere if !counted => return Advice::Stay,
                Verdict::Elsewhere => return Advice::Move,
                Verdict::Again => {
                    if error.code() == v1::Code::OutOfOrder && error.expected > 0 && error.expected < self.base {
                        self.fill(error.expected);
                    }
                    self.go_back = true;
                    self.retry_later(now);
                    return Advice::Stay;
                }
            },
            Some(Body::Read(_)) | None => Err(Error::internal("the server answered a transaction without its result")),
        };
        let Some(call) = self.call(number) else { return Advice::Stay };
        call.answered = true;
        call.body = Bytes::new();
        let completion = std::mem::replace(&mut call.completion, Completion::None);
        if counted {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if result.is_ok() {
            self.backoff = None;
            self.refused_streams = 0;
        }
        while self.calls.front().is_some_and(|call| call.answered) {
            self.calls.pop_front();
            self.base += 1;
        }
        match completion {
            Completion::None => {}
            Completion::Txn(waiter) => self.done.push(Done::Txn(waiter, result)),
            Completion::Acquire(key, waiter) => self.on_acquired(key, waiter, result, reply.queue_ready),
        }
        Advice::Stay
    }

    fn on_acquired(&mut self, key: u64, waiter: AcquireWaiter, result: Result<v1::TxnResult>, ready: bool) {
        let Some(hold) = self.holds.get_mut(&key) else { return };
        let made = result.as_ref().ok().filter(|result| result.succeeded).and_then(|result| {
            match &result.results.get(hold.queue_op)?.result {
                Some(v1::op_result::Result::Created(created)) => Some((created.path.clone(), result.revision)),
                _ => None,
            }
        });
        let Some((path, revision)) = made else {
            self.holds.remove(&key);
            self.done.push(Done::Acquire(waiter, result.map(|result| (result, false))));
            return;
        };
        if hold.state == HoldState::Abandoned {
            self.holds.remove(&key);
            if !planted!(AbandonedHoldKept) {
                self.push(release_body(path, revision), Completion::None);
            }
            return;
        }
        let granted = ready || hold.state == HoldState::Creating(true);
        hold.path = path;
        hold.revision = revision;
        hold.state = if granted { HoldState::Held } else { HoldState::Waiting };
        self.done.push(Done::Acquire(waiter, result.map(|result| (result, granted))));
    }

    fn on_read_reply(&mut self, now: BootTime, reply: v1::Reply) -> Advice {
        use v1::reply::Body;
        let Some(read) = self.reads.get_mut(&reply.id).filter(|read| read.sent) else { return Advice::Stay };
        let result = match reply.body {
            Some(Body::Read(result)) => Ok(result),
            Some(Body::Error(error)) => match verdict(error.code()) {
                Verdict::Answer => Err(Error::from_wire(error)),
                Verdict::NoSession => return self.gone(),
                Verdict::TakenOver => return self.taken_over(),
                Verdict::Elsewhere => return Advice::Move,
                Verdict::Again => {
                    read.sent = false;
                    self.queue.push_back(Key::Read(reply.id));
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.retry_later(now);
                    return Advice::Stay;
                }
            },
            Some(Body::Txn(_)) | None => Err(Error::internal("the server answered a read without its result")),
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(read) = self.reads.remove(&reply.id) {
            self.done.push(Done::Read(read.waiter, result));
        }
        Advice::Stay
    }

    /// After a while, what was refused is sent again.
    fn retry_later(&mut self, now: BootTime) {
        if self.retry_at.is_some() {
            return;
        }
        let backoff = self.backoff.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(RETRY_MIN)
                .with_max_delay(RETRY_MAX)
                .with_factor(2.0)
                .without_max_times()
                .build()
        });
        let wait = backoff.next().unwrap_or(RETRY_MAX);
        self.retry_at = Some(now.plus_ms(u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)));
    }

    /// The servers wait for numbers that we believe answered: a refusal did not use them up. Empty transactions do.
    fn fill(&mut self, expected: u64) {
        if self.base - expected > FILL_MAX {
            self.lose(LostReason::Protocol(format!("the servers expect request {expected}, long answered")));
            return;
        }
        let txn = v1::Call { body: Some(v1::call::Body::Txn(v1::Txn::default())), ..Default::default() };
        let body = wire::call_body(&txn);
        while self.base > expected {
            self.base -= 1;
            self.calls.push_front(Call {
                body: body.clone(),
                completion: Completion::None,
                generation: self.generation,
                sent: false,
                ever_sent: false,
                answered: false,
            });
        }
    }

    fn on_queue_ready(&mut self, ready: &v1::QueueReady) -> Advice {
        self.seen = self.seen.max(ready.revision);
        if let Some(hold) = self.holds.get_mut(&ready.watch) {
            match &mut hold.state {
                HoldState::Creating(granted) => *granted = true,
                HoldState::Waiting => {
                    hold.state = HoldState::Held;
                    self.done.extend(hold.waiter.take().map(|waiter| Done::Grant(waiter, Ok(()))));
                }
                HoldState::Abandoned | HoldState::Held => {}
            }
        }
        Advice::Stay
    }

    fn on_watch_started(&mut self, started: &v1::WatchStarted) -> Advice {
        let Some(&key) = self.wires.get(&started.watch) else { return Advice::Stay };
        let Some(slot) = self.watches.get_mut(&key) else { return Advice::Stay };
        if slot.next != 0 && started.from_revision > slot.next {
            let error = compacted("history was forgotten before the watch came back", started.from_revision);
            self.end_watch(key, error);
            return Advice::Stay;
        }
        if slot.next == 0 {
            slot.next = started.from_revision;
        }
        slot.state = WatchState::Live;
        self.done.extend(slot.opened.take().map(|waiter| Done::Watch(waiter, Ok(()))));
        Advice::Stay
    }

    fn on_events(&mut self, events: v1::Events) -> Advice {
        self.seen = self.seen.max(events.revision);
        let Some(&key) = self.wires.get(&events.watch) else { return Advice::Stay };
        let Some(slot) = self.watches.get_mut(&key) else { return Advice::Stay };
        if events.revision < slot.next && !planted!(WatchDuplicate) {
            return Advice::Stay;
        }
        slot.next = events.revision + 1;
        slot.bytes += bytes_of(&events);
        slot.buffer.push_back(events);
        self.done.extend(slot.reader.take().map(Done::Wake));
        if slot.bytes > self.watch_buffer_bytes {
            slot.state = WatchState::Paused;
            let wire = slot.wire;
            self.wires.remove(&wire);
            self.control.push_back(ClientItem::Cancel(v1::WatchCancel { watch: wire }));
        }
        Advice::Stay
    }

    fn on_watch_ended(&mut self, ended: v1::WatchEnded) -> Advice {
        use v1::watch_ended::Reason;
        let reason = ended.reason();
        if self.holds.contains_key(&ended.watch) {
            return self.on_queue_watch_ended(ended, reason);
        }
        let Some(&key) = self.wires.get(&ended.watch) else { return Advice::Stay };
        match reason {
            // Nothing was left out: go on from where we are.
            Reason::Lagging | Reason::Cancelled if ended.resume_revision <= self.watches[&key].next => {
                self.wires.remove(&ended.watch);
                self.send_watch(key);
            }
            _ => self.end_watch(key, ended_error(ended)),
        }
        Advice::Stay
    }

    fn on_queue_watch_ended(&mut self, ended: v1::WatchEnded, reason: v1::watch_ended::Reason) -> Advice {
        use v1::watch_ended::Reason;
        let key = ended.watch;
        let Some(hold) = self.holds.get_mut(&key) else { return Advice::Stay };
        match (&hold.state, reason) {
            (HoldState::Waiting, Reason::Lagging | Reason::Cancelled | Reason::Compacted) => self.send_queue_watch(key),
            (HoldState::Waiting, Reason::Gone) => {
                let error = Error::lock_lost(&hold.path, "its node was deleted while it waited");
                self.done.extend(hold.waiter.take().map(|waiter| Done::Grant(waiter, Err(error))));
                self.holds.remove(&key);
            }
            (HoldState::Waiting, Reason::Invalid | Reason::Denied) => {
                // It stands in line all the same, and leaves by being dropped.
                let error = Error::new(ErrorKind::Limit, format!("path={}: {}", hold.path, ended.message));
                match hold.waiter.take() {
                    Some(waiter) => self.done.push(Done::Grant(waiter, Err(error))),
                    None => hold.refused = Some(error),
                }
            }
            // The reply is still to come and says where the node stands (or stood).
            (HoldState::Creating(_) | HoldState::Abandoned | HoldState::Held, _) => {}
        }
        Advice::Stay
    }

    fn on_ended(&mut self, ended: &v1::SessionEnded) -> Advice {
        let reason = match ended.reason() {
            EndReason::GoingAway => return Advice::Move,
            // A session that lives is not refused, a stream is; but if every stream ends so, something we send does it.
            EndReason::Refused | EndReason::Protocol
                if self.deadline.is_some() && self.refused_streams < REFUSED_STREAMS_MAX =>
            {
                tracing::warn!(
                    session = self.session,
                    message = ended.message,
                    "a server refused the session's stream"
                );
                self.refused_streams += 1;
                return Advice::Move;
            }
            EndReason::Refused | EndReason::Protocol => {
                let error = Error::new(ErrorKind::Limit, format!("the session was refused: {}", ended.message));
                self.done.extend(self.opened.take().map(|waiter| Done::Opened(waiter, Err(error))));
                LostReason::Protocol(ended.message.clone())
            }
            EndReason::Closed => LostReason::Closed,
            EndReason::Expired => LostReason::Expired,
            EndReason::Killed => LostReason::Killed,
            EndReason::Replaced => LostReason::Replaced,
            // We asked for its end, and the answer to that was lost.
            EndReason::NoSession if self.closing => LostReason::Closed,
            EndReason::NoSession if self.deadline.is_some() => LostReason::Expired,
            EndReason::NoSession | EndReason::WrongSecret => LostReason::Unknown,
        };
        self.link = Link::Down;
        self.lose(reason);
        Advice::Stop
    }

    // ------------------------------------------------------------------------------------ the end

    /// The servers do not know the session any more.
    fn gone(&mut self) -> Advice {
        self.lose(if self.closing { LostReason::Closed } else { LostReason::Expired });
        Advice::Stop
    }

    /// It is another process's; nothing more is said for it.
    fn taken_over(&mut self) -> Advice {
        self.link = Link::Down;
        self.lose(LostReason::Replaced);
        Advice::Stop
    }

    fn lose(&mut self, reason: LostReason) {
        if self.lost.is_some() {
            return;
        }
        tracing::debug!(session = self.session, %reason, "session lost");
        for call in self.calls.drain(..).filter(|call| !call.answered) {
            let unknown = call.ever_sent && !planted!(UnknownIsFailure);
            let effect = if unknown { Effect::Unknown } else { Effect::None };
            let error = Error::session_lost(&reason, effect);
            match call.completion {
                Completion::None => {}
                Completion::Txn(waiter) => self.done.push(Done::Txn(waiter, Err(error))),
                Completion::Acquire(_, waiter) => self.done.push(Done::Acquire(waiter, Err(error))),
            }
        }
        let error = Error::session_lost(&reason, Effect::None);
        for read in std::mem::take(&mut self.reads).into_values() {
            self.done.push(Done::Read(read.waiter, Err(error.clone())));
        }
        for hold in std::mem::take(&mut self.holds).into_values() {
            self.done.extend(hold.waiter.map(|waiter| Done::Grant(waiter, Err(error.clone()))));
        }
        for key in self.watches.keys().copied().collect::<Vec<_>>() {
            if self.watches[&key].state != WatchState::Ended {
                self.end_watch(key, error.clone());
            }
        }
        self.done.extend(self.opened.take().map(|waiter| Done::Opened(waiter, Err(error.clone()))));
        for waiter in self.closed.drain(..) {
            // The servers may have ended it and the news been lost, or they may not.
            let unknown = || Error::session_lost(&reason, Effect::Unknown);
            self.done.push(Done::Closed(waiter, if reason == LostReason::Closed { Ok(()) } else { Err(unknown()) }));
        }
        self.queue.clear();
        self.control.clear();
        self.keep_alive_due = false;
        // If the servers still believe in it, others need not wait for its TTL.
        self.closing = true;
        self.lost = Some(reason);
        self.nudge = true;
    }
}

fn release_body(path: String, revision: u64) -> Bytes {
    let txn = v1::Txn {
        compare: vec![v1::Compare { path: path.clone(), test: Some(v1::compare::Test::HeldSince(revision)) }],
        then: vec![v1::Op { op: Some(v1::op::Op::Delete(v1::op::Delete { path, recursive: false })) }],
        otherwise: Vec::new(),
    };
    wire::call_body(&v1::Call { body: Some(v1::call::Body::Txn(txn)), ..Default::default() })
}

/// Bytes that events occupy in a buffer, about.
fn bytes_of(events: &v1::Events) -> usize {
    const OVERHEAD: usize = 200;
    let of = |node: &v1::Node| node.path.len() + node.data.len() + OVERHEAD;
    OVERHEAD + events.events.iter().map(|event| event.node.as_ref().map_or(OVERHEAD, of)).sum::<usize>()
}

enum Verdict {
    /// It is the answer.
    Answer,
    /// Send it again, after a while.
    Again,
    /// Send it again, to another server.
    Elsewhere,
    NoSession,
    /// The session is another process's.
    TakenOver,
}

fn verdict(code: v1::Code) -> Verdict {
    use v1::Code;
    match code {
        Code::NoSession | Code::SessionExpired => Verdict::NoSession,
        Code::SessionTakenOver => Verdict::TakenOver,
        Code::NoLeader | Code::Overloaded | Code::Timeout | Code::LeadershipLost | Code::OutOfOrder => Verdict::Again,
        Code::Unavailable | Code::Diverged => Verdict::Elsewhere,
        Code::Internal
        | Code::InvalidArgument
        | Code::TooLarge
        | Code::Denied
        | Code::NoNode
        | Code::NodeExists
        | Code::NoParent
        | Code::NotEmpty
        | Code::EphemeralParent
        | Code::Compacted
        | Code::FutureRevision
        | Code::AnswerForgotten
        | Code::Limit
        | Code::Membership => Verdict::Answer,
    }
}

#[cfg(test)]
mod tests;
