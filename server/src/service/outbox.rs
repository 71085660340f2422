//! What waits to be sent on one stream.
//!
//! Always true:
//! * nobody who pushes waits: replies and notices always have room (their number is bounded by what the client may
//!   have in flight), events have `event_bytes_max`, and a push beyond it says [`Full`];
//! * replies leave in the order of their calls, whatever the order in which they were completed;
//! * while watches of the stream are behind (`hold`), no reply leaves that reflects a revision they have not been
//!   told of, so that a change is never visible in a reply before its event;
//! * one wake-up per drain, however many items were pushed meanwhile.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use conclave_faults::point;
use conclave_proto::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tonic::Status;

/// About this many bytes go into one frame; one item may be larger.
pub const FRAME_BYTES: usize = 64 << 10;
/// What an item weighs besides its data.
const ITEM_BYTES: usize = 64;

/// All a watch is told of one revision. The events are encoded once for all watchers.
#[derive(Clone, Debug)]
pub struct Events {
    /// The client's name for the watch.
    pub watch: u64,
    /// Which revision.
    pub revision: u64,
    /// For people.
    pub at_ms: u64,
    /// Encoded [`v1::Event`]s.
    pub events: Payload,
}

/// Encoded [`v1::Event`]s.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The common case.
    One(Bytes),
    /// In path order.
    Many(Arc<[Bytes]>),
}

impl Payload {
    /// The single events.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::One(event) => std::slice::from_ref(event),
            Self::Many(events) => events,
        }
    }
}

impl Events {
    /// What it takes of a stream's room.
    #[must_use]
    pub fn weight(&self) -> usize {
        ITEM_BYTES + self.events.as_slice().iter().map(|event| event.len() + 8).sum::<usize>()
    }
}

/// One item on its way out.
#[derive(Debug)]
pub enum Item {
    /// A watch's events.
    Events(Events),
    /// Anything else.
    Notice(v1::server_item::Item),
}

/// There is no room for more events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

/// A call's place in the order of replies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SlotId(u64);

/// A read that may be evaluated once it is at the front.
#[derive(Debug)]
pub struct ReadJob {
    /// The client's name for the call.
    pub call: u64,
    /// What is asked.
    pub read: v1::Read,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    /// Confirmed; evaluated by the stream's task when everything before it has been answered.
    Read(ReadJob),
    Done(Box<v1::Reply>),
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    out: Mutex<Out>,
    /// Wakes the stream's own task: room for behind watches, a read at the front, or nobody listens any more.
    pub attention: Notify,
    event_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Out {
    queue: VecDeque<Item>,
    /// Weight of the events in `queue`.
    event_bytes: usize,
    /// Weight of everything in `queue` and `held`.
    bytes: usize,
    /// Items in `queue` and `held` that are no events.
    notices: usize,
    slots: VecDeque<(Slot, Vec<Item>)>,
    /// The slot at the front.
    first: u64,
    /// Replies from this revision on wait for the watches that are behind.
    hold: Option<u64>,
    held: VecDeque<Item>,
    /// Call for attention once `event_bytes` is no more than this.
    wish: Option<usize>,
    waker: Option<Waker>,
    /// Call for attention once no call is without a reply.
    tell_idle: bool,
    /// The last item was pushed.
    ended: bool,
    /// The client is gone: nothing is kept.
    gone: bool,
}

/// How much waits, for metrics and bounds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Backlog {
    /// Weight of everything unsent.
    pub bytes: usize,
    /// Weight of unsent events.
    pub event_bytes: usize,
    /// Unsent items that are no events.
    pub notices: usize,
    /// Calls without a reply.
    pub calls: usize,
}

impl Outbox {
    /// `event_bytes_max`: most weight of unsent events.
    #[must_use]
    pub fn new(event_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { out: Mutex::default(), attention: Notify::new(), event_bytes_max })
    }

    /// Bound of unsent events.
    #[must_use]
    pub fn event_bytes_max(&self) -> usize {
        self.event_bytes_max
    }

    /// How much waits.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let out = self.out.lock();
        Backlog { bytes: out.bytes, event_bytes: out.event_bytes, notices: out.notices, calls: out.slots.len() }
    }

    /// True once the client is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.out.lock().gone
    }

    /// True once the last item was pushed.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.out.lock().ended
    }

    /// True if no call is without a reply; otherwise it calls for attention when the last reply comes.
    pub fn is_idle_or_tells(&self) -> bool {
        let mut out = self.out.lock();
        out.tell_idle = !out.slots.is_empty();
        out.slots.is_empty()
    }

    /// Pushes a notice: it bypasses the order of replies.
    pub fn notice(&self, item: v1::server_item::Item) {
        let wake = {
            let mut out = self.out.lock();
            out.push(Item::Notice(item));
            out.wake()
        };
        wake_up(wake);
    }

    /// The last item. Later pushes are dropped.
    pub fn end(&self, reason: v1::session_ended::Reason, message: impl Into<String>) {
        let item = v1::server_item::Item::Ended(v1::SessionEnded { reason: reason.into(), message: message.into() });
        let wake = {
            let mut out = self.out.lock();
            // Held replies are answers: they go out before the end, as nothing is told after it.
            out.hold = None;
            out.release();
            out.push(Item::Notice(item));
            out.ended = true;
            out.slots.clear();
            out.wake()
        };
        wake_up(wake);
        self.attention.notify_one();
    }

    /// The end of a stream that has no last word.
    pub fn close(&self) {
        let wake = {
            let mut out = self.out.lock();
            out.ended = true;
            out.wake()
        };
        wake_up(wake);
    }

    /// Pushes a watch's events.
    ///
    /// # Errors
    /// [`Full`]: not pushed. A revision larger than the bound still has room when nothing else waits.
    pub fn events(&self, events: Events) -> Result<(), Full> {
        let weight = events.weight();
        let wake = {
            let mut out = self.out.lock();
            if out.gone || out.ended {
                return Ok(());
            }
            if out.event_bytes > 0 && out.event_bytes + weight > self.event_bytes_max {
                return Err(Full);
            }
            out.push(Item::Events(events));
            out.wake()
        };
        wake_up(wake);
        Ok(())
    }

    /// A place in the order of replies, and how many calls are without a reply now.
    pub fn open_slot(&self) -> (SlotId, usize) {
        let mut out = self.out.lock();
        out.slots.push_back((Slot::Waiting, Vec::new()));
        (SlotId(out.first + out.slots.len() as u64 - 1), out.slots.len())
    }

    /// The reply to a call; it leaves once all before it have. `then` follows right after it.
    pub fn complete(&self, slot: SlotId, reply: v1::Reply, then: Option<v1::server_item::Item>) {
        let (wake, attention) = {
            let mut out = self.out.lock();
            if out.ended || out.gone {
                return;
            }
            if slot.0 == out.first {
                let (_, more) = out.slots.pop_front().expect("the slot is open");
                out.first += 1;
                out.reply(reply);
                for item in more.into_iter().chain(then.map(Item::Notice)) {
                    out.push(item);
                }
                out.flush();
            } else {
                let at = slot.0.checked_sub(out.first).expect("a slot is completed once") as usize;
                let place = &mut out.slots[at];
                place.0 = Slot::Done(Box::new(reply));
                place.1.extend(then.map(Item::Notice));
            }
            let read_in_front = matches!(out.slots.front(), Some((Slot::Read(_), _)));
            let idle = out.tell_idle && out.slots.is_empty();
            (out.wake(), read_in_front || idle)
        };
        wake_up(wake);
        if attention {
            self.attention.notify_one();
        }
    }

    /// A notice that must not overtake the reply of `slot`.
    pub fn notice_after(&self, slot: Option<SlotId>, item: v1::server_item::Item) {
        let wake = {
            let mut out = self.out.lock();
            match slot.and_then(|slot| slot.0.checked_sub(out.first)) {
                Some(at) if !out.ended && (at as usize) < out.slots.len() => {
                    out.slots[at as usize].1.push(Item::Notice(item));
                    None
                }
                _ => {
                    out.push(Item::Notice(item));
                    out.wake()
                }
            }
        };
        wake_up(wake);
    }

    /// A confirmed read, to be taken with [`Outbox::take_read`] when its turn has come.
    pub fn park_read(&self, slot: SlotId, job: ReadJob) {
        let mut out = self.out.lock();
        if out.ended || out.gone {
            return;
        }
        let at = slot.0.checked_sub(out.first).expect("a slot is completed once") as usize;
        out.slots[at].0 = Slot::Read(job);
    }

    /// The read at the front, if one is and there is room for its answer. Complete its slot next.
    pub fn take_read(&self) -> Option<(SlotId, ReadJob)> {
        let mut out = self.out.lock();
        if out.bytes >= self.event_bytes_max {
            if matches!(out.slots.front(), Some((Slot::Read(_), _))) {
                out.wish = Some(out.wish.unwrap_or(0).max(self.event_bytes_max / 2));
            }
            return None;
        }
        let first = SlotId(out.first);
        match out.slots.front_mut() {
            Some((slot @ Slot::Read(_), _)) => match std::mem::replace(slot, Slot::Waiting) {
                Slot::Read(job) => Some((first, job)),
                _ => unreachable!("just matched"),
            },
            _ => None,
        }
    }

    /// Replies from `revision` on wait; `None` releases all.
    pub fn hold_from(&self, revision: Option<u64>) {
        let wake = {
            let mut out = self.out.lock();
            out.hold = revision;
            out.release();
            out.wake()
        };
        wake_up(wake);
    }

    /// Calls for [`Outbox::attention`] once no more than `event_bytes` of events wait, which may be now.
    pub fn wish(&self, event_bytes: usize) {
        {
            let mut out = self.out.lock();
            if out.event_bytes > event_bytes && !out.gone {
                out.wish = Some(event_bytes);
                return;
            }
        }
        self.attention.notify_one();
    }

    /// Moves about [`FRAME_BYTES`] of items into `into`, which must be empty.
    pub fn take(&self, into: &mut VecDeque<Item>) {
        let attention = {
            let mut out = self.out.lock();
            if out.bytes <= FRAME_BYTES && out.held.is_empty() {
                std::mem::swap(&mut out.queue, into);
                (out.bytes, out.event_bytes, out.notices) = (0, 0, 0);
            } else {
                let mut taken = 0;
                while taken < FRAME_BYTES {
                    let Some(item) = out.queue.pop_front() else { break };
                    let weight = weight(&item);
                    taken += weight;
                    out.bytes -= weight;
                    match &item {
                        Item::Events(_) => out.event_bytes -= weight,
                        Item::Notice(_) => out.notices -= 1,
                    }
                    into.push_back(item);
                }
            }
            match out.wish {
                Some(wish) if out.event_bytes <= wish && out.bytes <= self.event_bytes_max => {
                    out.wish = None;
                    true
                }
                _ => false,
            }
        };
        if attention {
            self.attention.notify_one();
        }
    }

    /// Ready once there is something to take; `false` at the end.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut out = self.out.lock();
        if !out.queue.is_empty() {
            return Poll::Ready(true);
        }
        if out.ended {
            return Poll::Ready(false);
        }
        match &mut out.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Nobody listens any more.
    fn gone(&self) {
        {
            let mut out = self.out.lock();
            *out = Out { gone: true, ended: true, first: out.first, ..Out::default() };
        }
        self.attention.notify_one();
    }
}

fn wake_up(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn weight(item: &Item) -> usize {
    match item {
        Item::Events(events) => events.weight(),
        Item::Notice(v1::server_item::Item::Reply(reply)) => ITEM_BYTES + reply.encoded_len(),
        Item::Notice(_) => ITEM_BYTES,
    }
}

impl Out {
    fn wake(&mut self) -> Option<Waker> {
        if self.queue.is_empty() && !self.ended { None } else { self.waker.take() }
    }

    fn count(&mut self, item: &Item) {
        let weight = weight(item);
        self.bytes += weight;
        match item {
            Item::Events(_) => self.event_bytes += weight,
            Item::Notice(_) => self.notices += 1,
        }
    }

    fn push(&mut self, item: Item) {
        if self.ended || self.gone {
            return;
        }
        self.count(&item);
        self.queue.push_back(item);
    }

    fn reply(&mut self, reply: v1::Reply) {
        let revision = reply.revision;
        let item = Item::Notice(v1::server_item::Item::Reply(reply));
        if self.held.is_empty() && self.hold.is_none_or(|hold| revision < hold) {
            self.push(item);
        } else {
            self.count(&item);
            self.held.push_back(item);
        }
    }

    /// Moves what is complete at the front of the slots to the queue.
    fn flush(&mut self) {
        while let Some((Slot::Done(_), _)) = self.slots.front() {
            let Some((Slot::Done(reply), then)) = self.slots.pop_front() else { unreachable!("just matched") };
            self.first += 1;
            self.reply(*reply);
            for item in then {
                self.push(item);
            }
        }
    }

    fn release(&mut self) {
        while let Some(Item::Notice(v1::server_item::Item::Reply(reply))) = self.held.front() {
            if self.hold.is_some_and(|hold| reply.revision >= hold) {
                break;
            }
            let item = self.held.pop_front().expect("just seen");
            self.queue.push_back(item); // already counted
        }
    }
}

/// The sending side of a stream, as tonic wants it: yields the outbox whenever it has something to take. The encoder
/// then takes it, so that nothing is copied or allocated on the way.
#[derive(Debug)]
pub struct Drain(pub Arc<Outbox>);

impl futures_util::Stream for Drain {
    type Item = Result<Arc<Outbox>, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        point!("session-drain", |error| Poll::Ready(Some(Err(Status::unavailable(error.to_string())))));
        self.0.poll_ready(context).map(|more| more.then(|| Ok(self.0.clone())))
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.0.gone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u64, revision: u64) -> v1::Reply {
        v1::Reply { id, revision, ..Default::default() }
    }

    fn events(revision: u64, bytes: usize) -> Events {
        Events { watch: 1, revision, at_ms: 0, events: Payload::One(Bytes::from(vec![0; bytes])) }
    }

    fn ready(watch: u64) -> v1::server_item::Item {
        v1::server_item::Item::QueueReady(v1::QueueReady { watch, revision: 0 })
    }

    /// What would be sent: `r1` a reply, `e7` events of revision 7, `q3` a queue watch, `k1` an ack, `end`.
    fn drain(outbox: &Outbox) -> String {
        let mut words = Vec::new();
        loop {
            let mut items = VecDeque::new();
            outbox.take(&mut items);
            if items.is_empty() {
                return words.join(" ");
            }
            words.extend(items.into_iter().map(|item| match item {
                Item::Events(events) => format!("e{}", events.revision),
                Item::Notice(v1::server_item::Item::Reply(reply)) => format!("r{}", reply.id),
                Item::Notice(v1::server_item::Item::QueueReady(ready)) => format!("q{}", ready.watch),
                Item::Notice(v1::server_item::Item::KeepAlive(ack)) => format!("k{}", ack.id),
                Item::Notice(v1::server_item::Item::Ended(_)) => "end".to_owned(),
                Item::Notice(other) => panic!("unexpected {other:?}"),
            }));
        }
    }

    #[test]
    fn replies_leave_in_the_order_of_their_calls() {
        let outbox = Outbox::new(1000);
        let [a, b, c] = [(); 3].map(|()| outbox.open_slot().0);
        outbox.complete(c, reply(3, 0), Some(ready(9)));
        outbox.complete(b, reply(2, 0), None);
        outbox.notice(v1::server_item::Item::KeepAlive(v1::KeepAliveAck { id: 7, told_revision: 0 }));
        assert_eq!(drain(&outbox), "k7", "acks do not wait for replies");
        outbox.notice_after(Some(b), ready(8));
        outbox.complete(a, reply(1, 0), None);
        assert_eq!(drain(&outbox), "r1 r2 q8 r3 q9");
        outbox.notice_after(Some(b), ready(10));
        assert_eq!(drain(&outbox), "q10");
        assert_eq!(outbox.backlog(), Backlog::default());
    }

    #[test]
    fn a_read_waits_for_the_calls_before_it() {
        let outbox = Outbox::new(1000);
        let [write, read, last] = [(); 3].map(|()| outbox.open_slot().0);
        outbox.park_read(read, ReadJob { call: 2, read: v1::Read::default() });
        outbox.complete(last, reply(3, 0), None);
        assert!(outbox.take_read().is_none());
        outbox.complete(write, reply(1, 0), None);
        let (slot, job) = outbox.take_read().expect("its turn");
        assert_eq!((slot, job.call), (read, 2));
        assert_eq!(drain(&outbox), "r1");
        outbox.complete(slot, reply(2, 0), None);
        assert_eq!(drain(&outbox), "r2 r3");
    }

    #[test]
    fn events_have_a_bound_and_replies_have_not() {
        let outbox = Outbox::new(1000);
        outbox.events(events(1, 5000)).expect("alone even a giant has room");
        assert_eq!(outbox.events(events(2, 1)), Err(Full));
        let slot = outbox.open_slot().0;
        outbox.complete(slot, reply(1, 9), None);
        assert_eq!(drain(&outbox), "e1 r1");
        outbox.events(events(2, 400)).expect("room");
        outbox.events(events(3, 300)).expect("room");
        assert_eq!(outbox.events(events(4, 200)), Err(Full));
        assert_eq!(outbox.backlog().event_bytes, 2 * (ITEM_BYTES + 8) + 700);
    }

    #[test]
    fn a_reply_never_overtakes_the_events_of_a_watch_that_is_behind() {
        let outbox = Outbox::new(1000);
        outbox.hold_from(Some(5));
        for (id, revision) in [(1, 4), (2, 6), (3, 7)] {
            let slot = outbox.open_slot().0;
            outbox.complete(slot, reply(id, revision), None);
        }
        assert_eq!(drain(&outbox), "r1");
        outbox.events(events(5, 1)).expect("room");
        outbox.events(events(6, 1)).expect("room");
        outbox.hold_from(Some(7));
        assert_eq!(drain(&outbox), "e5 e6 r2");
        outbox.hold_from(None);
        assert_eq!(drain(&outbox), "r3");
        assert_eq!(outbox.backlog(), Backlog::default());
    }

    #[tokio::test]
    async fn attention_is_called_for_when_there_is_room_again() {
        let outbox = Outbox::new(100_000);
        for revision in 1..=4 {
            outbox.events(events(revision, 20_000)).expect("room");
        }
        outbox.wish(50_000);
        let mut items = VecDeque::new();
        outbox.take(&mut items);
        assert_eq!(items.len(), 4, "a frame is filled until it is over {FRAME_BYTES}");
        outbox.attention.notified().await;
        outbox.wish(50_000);
        outbox.attention.notified().await;
    }

    #[test]
    fn nothing_follows_the_end() {
        let outbox = Outbox::new(1000);
        outbox.hold_from(Some(1));
        let [a, b] = [(); 2].map(|()| outbox.open_slot().0);
        outbox.complete(a, reply(1, 1), None);
        outbox.end(v1::session_ended::Reason::Expired, "late");
        outbox.complete(b, reply(2, 1), None);
        outbox.events(events(1, 1)).expect("swallowed");
        assert_eq!(drain(&outbox), "r1 end");
    }
}
