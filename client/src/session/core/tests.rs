//! Transcripts: what a server says, what the clock shows, and what the core sends and tells.

use std::collections::BTreeMap;

use prost::Message;
use v1::watch_ended::Reason;

use super::*;
use crate::{ErrorKind, Events};

const TTL: u64 = 3_000;
/// TTL less a hundredth and 10 ms.
const LIFE: u64 = 2_960;
const START: u64 = 1_000_000;

struct World {
    core: Core,
    now: BootTime,
    stream: u64,
    opened: oneshot::Receiver<Result<()>>,
    /// The id each number went out with last.
    ids: BTreeMap<u64, u64>,
    reads: Vec<u64>,
    /// Why the watch that was read last ended.
    end: Option<Error>,
}

impl World {
    fn new(begin: Begin) -> Self {
        let (waiter, opened) = oneshot::channel();
        let mut core = Core::new(begin, [7; 16], 4, 10_000, 1_000, waiter);
        let stream = core.connect();
        Self {
            core,
            now: BootTime::from_millis(START),
            stream,
            opened,
            ids: BTreeMap::new(),
            reads: Vec::new(),
            end: None,
        }
    }

    /// An open session 9, fresh.
    fn open() -> Self {
        let mut world = Self::new(Begin::Open { name: "test".to_owned(), ttl_ms: TTL });
        assert_eq!(world.sent(), "hello open ttl=3000 name=test");
        world.welcome(0);
        assert!(world.opened.try_recv().expect("told").is_ok());
        world
    }

    fn welcome(&mut self, last_number: u64) -> Advice {
        self.say(ServerItem::Welcome(v1::Welcome {
            session: 9,
            ttl_ms: TTL,
            revision: 5,
            fence_epoch: 2,
            server: 1,
            last_number,
            in_flight_max: 4,
            cluster: "c".to_owned(),
        }))
    }

    fn say(&mut self, item: ServerItem) -> Advice {
        let frame = v1::ServerFrame { items: vec![v1::ServerItem { item: Some(item) }] };
        let advice = self.core.on_frame(self.stream, self.now, frame);
        self.tell();
        advice
    }

    fn tell(&mut self) {
        for done in self.core.take_done() {
            done.hand_over();
        }
    }

    fn wait(&mut self, ms: u64) -> Advice {
        self.now = self.now.plus_ms(ms);
        let advice = self.core.on_time(self.now);
        self.tell();
        advice
    }

    fn reconnect(&mut self) {
        self.core.disconnect();
        self.stream = self.core.connect();
    }

    /// Everything the core sends now, an item a line.
    fn sent(&mut self) -> String {
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = self.core.poll_frame(self.stream, self.now, Waker::noop()) {
            for item in v1::ClientFrame::decode(frame).expect("a frame").items {
                lines.push(self.show(item.item.expect("an item")));
            }
        }
        self.tell();
        lines.join("\n")
    }

    fn show(&mut self, item: ClientItem) -> String {
        match item {
            ClientItem::Hello(h) if h.session == 0 => format!("hello open ttl={} name={}", h.ttl_ms, h.name),
            ClientItem::Hello(h) => {
                assert_eq!(h.run, 4);
                let how = if h.take_over { "take over" } else { "resume" };
                format!("hello {how} {} seen={}", h.session, h.seen_revision)
            }
            ClientItem::Call(call) if call.number == 0 => {
                self.reads.push(call.id);
                format!("read {}", self.reads.len())
            }
            ClientItem::Call(call) => {
                self.ids.insert(call.number, call.id);
                let queue = if call.queue.is_some() { " in line" } else { "" };
                let Some(v1::call::Body::Txn(txn)) = call.body else { panic!("a numbered read") };
                format!("{} ack={} {}{queue}", call.number, call.acknowledged, show_txn(&txn))
            }
            ClientItem::Watch(w) => format!("watch {} {} from={}", w.watch, w.path, w.from_revision),
            ClientItem::QueueWatch(w) => format!("queue watch {} {} {}", w.watch, w.path, w.blocking),
            ClientItem::Cancel(cancel) => format!("cancel {}", cancel.watch),
            ClientItem::KeepAlive(keep_alive) => format!("keep-alive {}", keep_alive.id),
            ClientItem::Close(_) => "close".to_owned(),
        }
    }

    fn put(&mut self, path: &str) -> oneshot::Receiver<Result<v1::TxnResult>> {
        let (waiter, answer) = oneshot::channel();
        self.core.apply(self.now, put_body(path, 1), waiter);
        self.tell();
        answer
    }

    fn get(&mut self) -> oneshot::Receiver<Result<v1::ReadResult>> {
        let (waiter, answer) = oneshot::channel();
        let read = v1::Call { body: Some(v1::call::Body::Read(v1::Read::default())), ..Default::default() };
        self.core.query(self.now, wire::call_body(&read), waiter);
        answer
    }

    fn lock(&mut self) -> (u64, oneshot::Receiver<Result<(v1::TxnResult, bool)>>) {
        let (waiter, answer) = oneshot::channel();
        let key = self.core.new_hold();
        let create = v1::op::Op::Create(v1::op::Create { path: "/l/lock-".to_owned(), ..Default::default() });
        let call = v1::Call {
            body: Some(v1::call::Body::Txn(v1::Txn { then: vec![v1::Op { op: Some(create) }], ..Default::default() })),
            queue: Some(v1::QueueWatch { watch: key, ..Default::default() }),
            ..Default::default()
        };
        self.core.acquire(self.now, key, wire::call_body(&call), 0, 1, "", waiter);
        self.tell();
        (key, answer)
    }

    fn grant(&mut self, key: u64) -> oneshot::Receiver<Result<()>> {
        let (waiter, answer) = oneshot::channel();
        self.core.await_grant(self.now, key, waiter);
        self.tell();
        answer
    }

    fn drop_hold(&mut self, key: u64) {
        self.core.release(self.now, key, None);
        self.tell();
    }

    fn reply(&mut self, id: u64, body: v1::reply::Body, queue_ready: bool) -> Advice {
        self.say(ServerItem::Reply(v1::Reply { id, revision: 6, body: Some(body), queue_ready }))
    }

    fn ok(&mut self, number: u64) -> Advice {
        let result = v1::TxnResult { succeeded: true, revision: 100 + number, ..Default::default() };
        self.reply(self.ids[&number], v1::reply::Body::Txn(result), false)
    }

    fn fail(&mut self, number: u64, code: v1::Code, expected: u64) -> Advice {
        let error = v1::Error { code: code.into(), message: format!("{code:?}"), expected, ..Default::default() };
        self.reply(self.ids[&number], v1::reply::Body::Error(error), false)
    }

    /// The lock node of call `number` was made, as the 40th of its parent, at revision 50.
    fn in_line(&mut self, number: u64, ready: bool) -> Advice {
        let created = v1::op_result::Created { path: "/l/lock-0000000040".to_owned(), sequence: Some(40) };
        let result = v1::OpResult { result: Some(v1::op_result::Result::Created(created)) };
        let result = v1::TxnResult { succeeded: true, results: vec![result], revision: 50, ..Default::default() };
        self.reply(self.ids[&number], v1::reply::Body::Txn(result), ready)
    }

    fn ack(&mut self, id: u64) {
        self.say(ServerItem::KeepAlive(v1::KeepAliveAck { id, told_revision: 0 }));
    }

    fn watch(&mut self, from: u64) -> (u64, oneshot::Receiver<Result<()>>) {
        let (waiter, opened) = oneshot::channel();
        let open = v1::WatchOpen { path: "/a".to_owned(), from_revision: from, ..Default::default() };
        (self.core.watch(self.now, open, waiter), opened)
    }

    fn events(&mut self, wire: u64, revision: u64, bytes: usize) {
        let node = v1::Node { path: "/a".to_owned(), data: vec![0; bytes].into(), ..Default::default() };
        let events = vec![v1::Event { kind: 0, node: Some(node) }];
        self.say(ServerItem::Events(v1::Events { watch: wire, revision, events, at_ms: 0 }));
    }

    fn started(&mut self, wire: u64, from: u64) {
        self.say(ServerItem::WatchStarted(v1::WatchStarted { watch: wire, from_revision: from }));
    }

    fn watch_ended(&mut self, wire: u64, reason: Reason, resume: u64) {
        let ended =
            v1::WatchEnded { watch: wire, reason: reason.into(), resume_revision: resume, message: String::new() };
        self.say(ServerItem::WatchEnded(ended));
    }

    /// The revisions a reader gets now.
    fn read(&mut self, key: u64) -> Vec<u64> {
        let mut revisions = Vec::new();
        loop {
            match self.core.poll_watch(key, Waker::noop()) {
                Polled::Events(events) => revisions.push(Events::from(events).revision.0),
                Polled::End(error) => self.end = Some(error),
                Polled::Over | Polled::Pending => return revisions,
            }
        }
    }

    fn life(&self) -> u64 {
        self.core.deadline().expect("confirmed").since(self.now).as_millis().try_into().expect("small")
    }
}

fn put_body(path: &str, bytes: usize) -> Bytes {
    let put = v1::op::Put { path: path.to_owned(), data: vec![0; bytes].into(), create_parents: false };
    let txn = v1::Txn { then: vec![v1::Op { op: Some(v1::op::Op::Put(put)) }], ..Default::default() };
    wire::call_body(&v1::Call { body: Some(v1::call::Body::Txn(txn)), ..Default::default() })
}

fn show_txn(txn: &v1::Txn) -> String {
    let held = txn.compare.iter().filter_map(|compare| match &compare.test {
        Some(v1::compare::Test::HeldSince(revision)) => Some(format!("if held since {revision} ")),
        _ => None,
    });
    let ops = txn.then.iter().filter_map(|op| match op.op.as_ref()? {
        v1::op::Op::Put(put) => Some(format!("put {}", put.path)),
        v1::op::Op::Create(create) => Some(format!("create {}", create.path)),
        v1::op::Op::Delete(delete) => Some(format!("delete {}", delete.path)),
        _ => None,
    });
    let text: String = held.chain(ops).collect();
    if text.is_empty() { "nothing".to_owned() } else { text }
}

fn effect_of<T: std::fmt::Debug>(answer: &mut oneshot::Receiver<Result<T>>) -> (ErrorKind, Effect) {
    let error = answer.try_recv().expect("told").expect_err("a failure");
    (error.kind(), error.effect())
}

#[test]
fn the_deadline_counts_from_when_an_acknowledged_keep_alive_was_sent() {
    let mut world = World::open();
    assert_eq!(world.life(), LIFE, "from the hello that opened it");
    assert_eq!(world.wait(999), Advice::Stay);
    assert_eq!(world.sent(), "");
    world.wait(1);
    assert_eq!(world.sent(), "keep-alive 1");
    assert_eq!(world.life(), LIFE - 1000, "sent is not confirmed");
    world.wait(200);
    world.ack(1);
    assert_eq!(world.life(), LIFE - 200, "confirmed as of when it was sent");
    world.wait(800);
    assert_eq!(world.sent(), "keep-alive 2");
    world.ack(1);
    world.ack(7);
    assert_eq!(world.life(), LIFE - 1000, "neither a repeated nor an invented acknowledgement confirms anything");
}

#[test]
fn keep_alives_that_go_unanswered_end_the_stream_then_the_session() {
    let mut world = World::open();
    assert_eq!(world.core.take_state(world.now), Some(SessionState::Connected));
    world.wait(1000);
    assert_eq!(world.sent(), "keep-alive 1");
    world.wait(500);
    assert_eq!(world.sent(), "keep-alive 2", "a new leader knows nothing of the first");
    assert_eq!(world.wait(500), Advice::Move, "stuck for TTL / 3");
    let deadline = BootTime::from_millis(START + LIFE);
    assert_eq!(world.core.take_state(world.now), Some(SessionState::Jeopardy { deadline }));
    world.reconnect();
    assert_eq!(world.sent(), "hello resume 9 seen=5");
    let mut sent = world.put("/a");
    world.wait(LIFE - 2001);
    assert!(world.core.lost().is_none(), "the last millisecond");
    world.wait(1);
    assert_eq!(world.core.lost(), Some(&LostReason::DeadlinePassed));
    assert_eq!(effect_of(&mut sent), (ErrorKind::SessionLost, Effect::None), "it was never sent");
    assert_eq!(world.core.take_state(world.now), Some(SessionState::Lost { reason: LostReason::DeadlinePassed }));
    assert!(world.core.is_over());
}

#[test]
fn a_stopped_process_finds_its_session_lost_before_anything_else() {
    let mut world = World::open();
    let mut sent = world.put("/a");
    let mut read = world.get();
    assert_eq!(world.sent(), "1 ack=0 put /a\nread 1");
    let mut unsent = world.put("/b");
    let (key, mut lock) = world.lock();
    // The machine sleeps; the answers have been waiting in the socket.
    world.now = world.now.plus_ms(60_000);
    world.ok(1);
    assert_eq!(effect_of(&mut sent), (ErrorKind::SessionLost, Effect::Unknown));
    assert_eq!(effect_of(&mut read), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(effect_of(&mut unsent), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(effect_of(&mut lock), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(effect_of(&mut world.grant(key)), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(effect_of(&mut world.put("/c")), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(world.sent(), "close", "others need not wait for the TTL");
    world.ack(1);
    assert_eq!(world.core.lost(), Some(&LostReason::DeadlinePassed), "once lost, always lost");
    assert!(!world.core.is_over(), "the servers are still to hear of it");
    let ended = v1::SessionEnded { reason: EndReason::Closed.into(), message: String::new() };
    assert_eq!(world.say(ServerItem::Ended(ended)), Advice::Stop);
}

#[test]
fn a_new_stream_gets_everything_unanswered_again_in_order() {
    let mut world = World::open();
    let mut answers: Vec<_> = ["/a", "/b", "/c"].map(|path| world.put(path)).into();
    let mut read = world.get();
    assert_eq!(world.sent(), "1 ack=0 put /a\n2 ack=0 put /b\n3 ack=0 put /c\nread 1");
    world.ok(1);
    assert_eq!(answers[0].try_recv().expect("told").expect("done").revision, 101);
    world.wait(100);
    world.reconnect();
    answers.push(world.put("/d"));
    assert_eq!(world.sent(), "hello resume 9 seen=6", "calls wait for the welcome");
    let old = world.ids[&2];
    world.welcome(2);
    assert_eq!(world.life(), LIFE - 100, "a resumption is not a renewal");
    assert_eq!(world.sent(), "keep-alive 1\n2 ack=1 put /b\n3 ack=1 put /c\n4 ack=1 put /d\nread 2");
    assert_ne!(world.ids[&2], old, "so that its answer can be told from one to the first sending");
    for number in 2..=4 {
        world.ok(number);
        assert_eq!(answers[number as usize - 1].try_recv().expect("told").expect("done").revision, 100 + number);
    }
    world.reply(world.reads[1], v1::reply::Body::Read(v1::ReadResult::default()), false);
    assert!(read.try_recv().expect("told").is_ok());
    let _next = world.put("/e");
    assert_eq!(world.sent(), "5 ack=4 put /e");
}

#[test]
fn what_a_resumed_stream_brings_late_is_ignored() {
    let mut world = World::open();
    let mut answer = world.put("/a");
    world.sent();
    let old = world.stream;
    world.reconnect();
    let result = v1::Reply { id: world.ids[&1], ..Default::default() };
    let frame = v1::ServerFrame { items: vec![v1::ServerItem { item: Some(ServerItem::Reply(result)) }] };
    world.core.on_frame(old, world.now, frame);
    world.tell();
    assert!(answer.try_recv().is_err(), "not answered");
    assert!(world.core.poll_frame(old, world.now, Waker::noop()).is_err(), "and nothing more goes there");
}

#[test]
fn after_a_refusal_all_go_again_from_the_lowest() {
    let mut world = World::open();
    let mut answers = ["/a", "/b", "/c"].map(|path| world.put(path));
    world.sent();
    world.ok(1);
    world.fail(2, v1::Code::LeadershipLost, 0);
    let stale = world.ids[&3];
    world.fail(3, v1::Code::OutOfOrder, 2);
    let _later = world.put("/d");
    assert_eq!(world.sent(), "", "not at once");
    world.wait(10);
    assert_eq!(world.sent(), "2 ack=1 put /b\n3 ack=1 put /c\n4 ack=1 put /d");
    // A refusal of the first sending comes late: the second is under way.
    let error = v1::Error { code: v1::Code::OutOfOrder.into(), expected: 2, ..Default::default() };
    world.reply(stale, v1::reply::Body::Error(error), false);
    world.wait(500);
    assert_eq!(world.sent(), "", "not a third time");
    world.ok(2);
    world.ok(3);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().expect("told").is_ok()));
}

#[test]
fn an_answer_to_an_earlier_sending_is_an_answer() {
    let mut world = World::open();
    let mut answers = ["/a", "/b"].map(|path| world.put(path));
    world.sent();
    let first = world.ids[&2];
    world.fail(1, v1::Code::Timeout, 0);
    world.wait(10);
    assert_eq!(world.sent(), "1 ack=0 put /a\n2 ack=0 put /b");
    world.ok(1);
    world.reply(first, v1::reply::Body::Txn(v1::TxnResult::default()), false);
    assert!(answers[1].try_recv().expect("told").is_ok());
    world.ok(2);
    assert!(answers[0].try_recv().expect("told").is_ok());
    let _next = world.put("/c");
    assert_eq!(world.sent(), "3 ack=2 put /c");
}

#[test]
fn refusals_in_a_row_wait_longer_and_success_forgives() {
    let mut world = World::open();
    let _answer = world.put("/a");
    world.sent();
    for wait in [10, 20, 40, 80] {
        world.fail(1, v1::Code::Overloaded, 0);
        world.wait(wait - 1);
        assert_eq!(world.sent(), "");
        world.wait(1);
        assert_eq!(world.sent(), "1 ack=0 put /a");
    }
    world.ok(1);
    let _answer = world.put("/b");
    world.sent();
    world.fail(2, v1::Code::NoLeader, 0);
    world.wait(10);
    assert_eq!(world.sent(), "2 ack=1 put /b");
}

#[test]
fn a_final_refusal_is_the_answer_and_the_next_call_goes_on() {
    let mut world = World::open();
    let mut answers = ["/a", "/b"].map(|path| world.put(path));
    world.sent();
    world.fail(1, v1::Code::Limit, 0);
    assert_eq!(effect_of(&mut answers[0]), (ErrorKind::Limit, Effect::None));
    world.ok(2);
    assert!(answers[1].try_recv().expect("told").is_ok());
}

#[test]
fn a_number_that_a_server_did_not_use_up_is_filled() {
    let mut world = World::open();
    let mut first = world.put("/a");
    world.sent();
    world.fail(1, v1::Code::Internal, 0);
    assert!(first.try_recv().expect("told").is_err());
    let mut second = world.put("/b");
    assert_eq!(world.sent(), "2 ack=1 put /b");
    world.fail(2, v1::Code::OutOfOrder, 1);
    world.wait(10);
    assert_eq!(world.sent(), "1 ack=0 nothing\n2 ack=0 put /b");
    world.ok(1);
    world.ok(2);
    assert!(second.try_recv().expect("told").is_ok());
}

#[test]
fn no_more_in_flight_than_the_server_takes_and_frames_of_bounded_size() {
    let mut world = World::open();
    for path in ["/a", "/b", "/c", "/d", "/e", "/f"] {
        drop(world.put(path));
    }
    assert_eq!(world.sent().lines().count(), 4);
    world.ok(1);
    assert_eq!(world.sent(), "5 ack=1 put /e");
    for number in 2..=5 {
        world.ok(number);
    }
    assert_eq!(world.sent(), "6 ack=5 put /f");
    world.ok(6);
    for bytes in [40_000, 40_000, 200_000] {
        world.core.apply(world.now, put_body("/x", bytes), oneshot::channel().0);
    }
    for size in [40_000, 40_000, 200_000] {
        let frame = world.core.poll_frame(world.stream, world.now, Waker::noop()).expect("open").expect("a frame");
        assert!((size..size + 100).contains(&frame.len()), "{size}: {}", frame.len());
    }
    let (waiter, mut answer) = oneshot::channel();
    world.core.apply(world.now, put_body("/x", wire::CALL_BYTES_MAX), waiter);
    world.tell();
    assert_eq!(effect_of(&mut answer), (ErrorKind::TooLarge, Effect::None));
}

#[test]
fn calls_beyond_the_bound_are_refused() {
    let mut world = World::open();
    for _ in 0..1_000 {
        drop(world.put("/a"));
    }
    assert_eq!(effect_of(&mut world.put("/a")), (ErrorKind::Overloaded, Effect::None));
}

#[test]
fn a_lock_that_is_free_is_one_call() {
    let mut world = World::open();
    let (key, mut lock) = world.lock();
    assert_eq!(world.sent(), "1 ack=0 create /l/lock- in line");
    world.in_line(1, true);
    let (result, granted) = lock.try_recv().expect("told").expect("made");
    assert!(granted && result.revision == 50);
    world.drop_hold(key);
    assert_eq!(world.sent(), "2 ack=1 if held since 50 delete /l/lock-0000000040");
    world.ok(2);
    world.drop_hold(key);
    assert_eq!(world.sent(), "", "once is enough");
}

#[test]
fn a_lock_that_is_not_free_waits_for_one_event() {
    let mut world = World::open();
    let (key, mut lock) = world.lock();
    world.sent();
    world.in_line(1, false);
    assert!(!lock.try_recv().expect("told").expect("made").1);
    let mut grant = world.grant(key);
    assert!(grant.try_recv().is_err());
    world.say(ServerItem::QueueReady(v1::QueueReady { watch: key, revision: 60 }));
    assert!(grant.try_recv().expect("told").is_ok());
    assert_eq!(world.core.seen(), Revision(60));
}

#[test]
fn a_grant_may_overtake_the_reply() {
    let mut world = World::open();
    let (key, mut lock) = world.lock();
    world.sent();
    world.say(ServerItem::QueueReady(v1::QueueReady { watch: key, revision: 60 }));
    world.in_line(1, false);
    assert!(lock.try_recv().expect("told").expect("made").1);
}

#[test]
fn a_waiter_takes_its_place_again_on_a_new_stream() {
    let mut world = World::open();
    let (key, _lock) = world.lock();
    world.sent();
    world.in_line(1, false);
    let mut grant = world.grant(key);
    world.reconnect();
    world.sent();
    world.welcome(1);
    assert_eq!(world.sent(), format!("keep-alive 1\nqueue watch {key} /l/lock-0000000040 "));
    world.watch_ended(key, Reason::Lagging, 0);
    assert_eq!(world.sent(), format!("queue watch {key} /l/lock-0000000040 "));
    world.say(ServerItem::QueueReady(v1::QueueReady { watch: key, revision: 60 }));
    assert!(grant.try_recv().expect("told").is_ok());
}

#[test]
fn a_grant_of_an_old_stream_does_not_count_on_the_new_one() {
    let mut world = World::open();
    let (key, mut lock) = world.lock();
    world.sent();
    world.say(ServerItem::QueueReady(v1::QueueReady { watch: key, revision: 60 }));
    world.reconnect();
    world.sent();
    world.welcome(1);
    assert_eq!(world.sent(), "keep-alive 1\n1 ack=0 create /l/lock- in line");
    world.in_line(1, false);
    assert!(!lock.try_recv().expect("told").expect("made").1, "the server's word is the newest");
}

#[test]
fn a_waiter_whose_node_is_deleted_is_told() {
    let mut world = World::open();
    let (key, _lock) = world.lock();
    world.sent();
    world.in_line(1, false);
    let mut grant = world.grant(key);
    world.watch_ended(key, Reason::Gone, 0);
    assert_eq!(effect_of(&mut grant), (ErrorKind::LockLost, Effect::None));
    assert_eq!(effect_of(&mut world.grant(key)), (ErrorKind::LockLost, Effect::None));
}

#[test]
fn a_waiter_whose_place_is_not_watched_fails_and_leaves_the_line() {
    for told_first in [true, false] {
        let mut world = World::open();
        let (key, _lock) = world.lock();
        world.sent();
        world.in_line(1, false);
        let mut grant = if told_first {
            world.watch_ended(key, Reason::Invalid, 0);
            world.grant(key)
        } else {
            let grant = world.grant(key);
            world.watch_ended(key, Reason::Invalid, 0);
            grant
        };
        assert_eq!(effect_of(&mut grant), (ErrorKind::Limit, Effect::None));
        world.drop_hold(key);
        assert_eq!(world.sent(), "2 ack=1 if held since 50 delete /l/lock-0000000040");
    }
}

#[test]
fn a_read_that_is_refused_goes_again_alone() {
    let mut world = World::open();
    let _put = world.put("/a");
    let _read = world.get();
    assert_eq!(world.sent(), "1 ack=0 put /a\nread 1");
    let error = v1::Error { code: v1::Code::NoLeader.into(), ..Default::default() };
    world.reply(world.reads[0], v1::reply::Body::Error(error), false);
    assert_eq!(world.sent(), "");
    world.wait(10);
    assert_eq!(world.sent(), "read 2");
}

#[test]
fn an_acquire_dropped_before_its_answer_leaves_no_orphan() {
    let mut world = World::open();
    let (key, lock) = world.lock();
    world.sent();
    drop(lock);
    world.drop_hold(key);
    assert_eq!(world.sent(), "");
    world.reconnect();
    world.sent();
    world.welcome(0);
    assert_eq!(world.sent(), "keep-alive 1\n1 ack=0 create /l/lock- in line", "its number must be used up");
    world.say(ServerItem::QueueReady(v1::QueueReady { watch: key, revision: 60 }));
    world.in_line(1, false);
    assert_eq!(world.sent(), "2 ack=1 if held since 50 delete /l/lock-0000000040");
}

#[test]
fn a_waiter_that_leaves_deletes_its_node_at_once() {
    let mut world = World::open();
    let (key, _lock) = world.lock();
    world.sent();
    world.in_line(1, false);
    let grant = world.grant(key);
    drop(grant);
    world.drop_hold(key);
    assert_eq!(world.sent(), "2 ack=1 if held since 50 delete /l/lock-0000000040");
    world.watch_ended(key, Reason::Gone, 0);
    world.ok(2);
    assert_eq!(world.sent(), "");
}

#[test]
fn an_acquire_that_was_refused_leaves_nothing() {
    let mut world = World::open();
    let (key, mut lock) = world.lock();
    world.sent();
    world.fail(1, v1::Code::InvalidArgument, 0);
    assert_eq!(effect_of(&mut lock), (ErrorKind::InvalidArgument, Effect::None));
    world.drop_hold(key);
    assert_eq!(world.sent(), "");
}

#[test]
fn a_watch_goes_on_where_it_was_on_a_new_stream() {
    let mut world = World::open();
    let (key, mut opened) = world.watch(0);
    assert_eq!(world.sent(), "watch 2 /a from=0");
    world.started(2, 10);
    assert!(opened.try_recv().expect("told").is_ok());
    world.events(2, 10, 1);
    world.events(2, 14, 1);
    assert_eq!(world.read(key), [10, 14]);
    world.reconnect();
    world.sent();
    world.welcome(0);
    assert_eq!(world.sent(), "keep-alive 1\nwatch 3 /a from=15");
    world.events(2, 20, 1);
    world.started(3, 15);
    world.events(3, 14, 1);
    world.events(3, 15, 1);
    assert_eq!(world.read(key), [15], "nothing of the old stream, nothing twice");
    world.core.drop_watch(key);
    assert_eq!(world.sent(), "cancel 3");
}

#[test]
fn a_quiet_watch_does_not_fall_behind_history() {
    let mut world = World::open();
    let (_key, _opened) = world.watch(0);
    world.sent();
    world.started(2, 10);
    world.say(ServerItem::KeepAlive(v1::KeepAliveAck { id: 0, told_revision: 5_000 }));
    world.reconnect();
    world.sent();
    world.welcome(0);
    assert_eq!(world.sent(), "keep-alive 1\nwatch 3 /a from=5001");
}

#[test]
fn a_watch_that_cannot_go_on_ends_with_the_reason() {
    let mut world = World::open();
    let (key, _opened) = world.watch(0);
    world.sent();
    world.started(2, 10);
    world.events(2, 10, 1);
    world.watch_ended(2, Reason::Compacted, 77);
    assert_eq!(world.read(key), [10], "what was told before is read first");
    let error = world.end.take().expect("an end");
    assert_eq!((error.kind(), error.resume_revision()), (ErrorKind::Compacted, Some(Revision(77))));
    assert!(matches!(world.core.poll_watch(key, Waker::noop()), Polled::Over));

    // Thrown out without a loss it goes on by itself; with a loss it says so.
    let (key, _opened) = world.watch(3);
    assert_eq!(world.sent(), "watch 4 /a from=3");
    world.started(4, 3);
    world.watch_ended(4, Reason::Lagging, 3);
    assert_eq!(world.sent(), "watch 5 /a from=3");
    world.started(5, 3);
    world.watch_ended(5, Reason::Lagging, 9);
    assert_eq!(world.sent(), "");
    assert!(world.read(key).is_empty());
    let error = world.end.take().expect("an end");
    assert_eq!((error.kind(), error.resume_revision()), (ErrorKind::Lagging, Some(Revision(9))));

    let (_key, mut opened) = world.watch(3);
    assert_eq!(world.sent(), "watch 7 /a from=3");
    world.watch_ended(7, Reason::Compacted, 77);
    assert_eq!(effect_of(&mut opened), (ErrorKind::Compacted, Effect::None));
}

#[test]
fn a_slow_reader_keeps_a_bounded_number_of_bytes_and_misses_nothing() {
    let mut world = World::open();
    let (key, _opened) = world.watch(0);
    world.sent();
    world.started(2, 10);
    for revision in 10..20 {
        world.events(2, revision, 4_000);
    }
    assert_eq!(world.sent(), "cancel 2", "three items are more than 10,000 bytes");
    let mut answer = world.put("/b");
    assert_eq!(world.sent(), "1 ack=0 put /b", "nothing else waits");
    world.ok(1);
    assert!(answer.try_recv().expect("told").is_ok());
    assert_eq!(world.read(key), [10, 11, 12]);
    assert_eq!(world.sent(), "watch 3 /a from=13");
    world.events(2, 19, 1);
    world.started(3, 13);
    world.events(3, 13, 1);
    assert_eq!(world.read(key), [13]);
}

#[test]
fn a_resumption_is_confirmed_by_a_keep_alive_and_goes_on_with_the_numbers() {
    let mut world = World::new(Begin::Resume { session: 9, ttl_ms: 1 });
    assert_eq!(world.sent(), "hello take over 9 seen=0");
    world.wait(50);
    world.welcome(41);
    assert!(world.opened.try_recv().is_err(), "a resumption is not a renewal");
    assert_eq!(world.core.deadline(), None);
    assert_eq!(world.sent(), "keep-alive 1");
    world.wait(50);
    world.ack(1);
    assert!(world.opened.try_recv().expect("told").is_ok());
    assert_eq!(world.life(), LIFE - 50);
    let _answer = world.put("/a");
    assert_eq!(world.sent(), "42 ack=41 put /a");
}

#[test]
fn a_session_is_taken_over_once_and_resumed_from_then_on() {
    let mut world = World::new(Begin::Resume { session: 9, ttl_ms: TTL });
    assert_eq!(world.sent(), "hello take over 9 seen=0");
    // Without a welcome it asks for the same again.
    world.reconnect();
    assert_eq!(world.sent(), "hello take over 9 seen=0");
    world.welcome(41);
    world.sent();
    world.reconnect();
    assert_eq!(world.sent(), "hello resume 9 seen=5");
}

#[test]
fn who_was_taken_over_from_says_nothing_more() {
    let taken = || {
        let (code, message) = (v1::Code::SessionTakenOver.into(), "taken over".to_owned());
        v1::reply::Body::Error(v1::Error { code, message, ..Default::default() })
    };
    let mut world = World::open();
    let mut answer = world.put("/a");
    world.sent();
    assert_eq!(world.reply(world.ids[&1], taken(), false), Advice::Stop);
    assert_eq!(world.core.lost(), Some(&LostReason::Replaced));
    assert_eq!(effect_of(&mut answer), (ErrorKind::SessionLost, Effect::Unknown));
    assert_eq!(world.sent(), "", "no close: the session is another's");
}

#[test]
fn ends_that_servers_tell() {
    for (reason, lost, advice) in [
        (EndReason::Expired, Some(LostReason::Expired), Advice::Stop),
        (EndReason::Killed, Some(LostReason::Killed), Advice::Stop),
        (EndReason::Replaced, Some(LostReason::Replaced), Advice::Stop),
        (EndReason::WrongSecret, Some(LostReason::Unknown), Advice::Stop),
        (EndReason::NoSession, Some(LostReason::Expired), Advice::Stop),
        (EndReason::GoingAway, None, Advice::Move),
        (EndReason::Refused, None, Advice::Move),
    ] {
        let mut world = World::open();
        let mut sent = world.put("/a");
        world.sent();
        let ended = v1::SessionEnded { reason: reason.into(), message: String::new() };
        assert_eq!(world.say(ServerItem::Ended(ended)), advice, "{reason:?}");
        assert_eq!(world.core.lost(), lost.as_ref(), "{reason:?}");
        match lost {
            Some(_) => assert_eq!(effect_of(&mut sent), (ErrorKind::SessionLost, Effect::Unknown)),
            None => assert!(sent.try_recv().is_err(), "{reason:?}: it goes on elsewhere"),
        }
    }
    let mut world = World::open();
    assert_eq!(world.get().try_recv().ok().map(drop), None);
    world.sent();
    let error = v1::Error { code: v1::Code::Diverged.into(), ..Default::default() };
    assert_eq!(world.reply(world.reads[0], v1::reply::Body::Error(error), false), Advice::Move);
}

#[test]
fn a_refused_opening_fails() {
    let mut world = World::new(Begin::Open { name: String::new(), ttl_ms: 1 });
    world.sent();
    let message = "session_ttl_min is 500ms, asked for 1ms".to_owned();
    let ended = v1::SessionEnded { reason: EndReason::Refused.into(), message };
    assert_eq!(world.say(ServerItem::Ended(ended)), Advice::Stop);
    let error = world.opened.try_recv().expect("told").expect_err("refused");
    assert!(error.to_string().contains("session_ttl_min"), "{error}");
}

#[test]
fn closing_comes_after_what_was_asked_before() {
    let mut world = World::open();
    let mut put = world.put("/a");
    let (waiter, mut closed) = oneshot::channel();
    world.core.close(world.now, Some(waiter));
    assert_eq!(world.core.alive(world.now), Err(LostReason::Closed), "for holders it is over at once");
    assert_eq!(world.core.take_state(world.now), Some(SessionState::Lost { reason: LostReason::Closed }));
    assert_eq!(effect_of(&mut world.put("/b")), (ErrorKind::SessionLost, Effect::None));
    assert_eq!(world.sent(), "1 ack=0 put /a");
    world.ok(1);
    assert!(put.try_recv().expect("told").is_ok());
    assert_eq!(world.sent(), "close");
    world.reconnect();
    world.sent();
    world.welcome(1);
    assert_eq!(world.sent(), "keep-alive 1\nclose", "again, for the answer may be lost");
    let ended = v1::SessionEnded { reason: EndReason::Closed.into(), message: String::new() };
    assert_eq!(world.say(ServerItem::Ended(ended)), Advice::Stop);
    assert!(closed.try_recv().expect("told").is_ok());
    assert!(world.core.is_over());
}

#[test]
fn a_detached_session_is_not_ended() {
    let mut world = World::open();
    world.core.detach();
    assert_eq!(world.sent(), "");
    assert!(world.core.is_over());
}

#[test]
fn another_cluster_is_not_ours() {
    let mut world = World::open();
    world.reconnect();
    world.sent();
    let welcome = v1::Welcome { session: 9, cluster: "other".to_owned(), ttl_ms: TTL, ..Default::default() };
    assert_eq!(world.say(ServerItem::Welcome(welcome)), Advice::Move);
}

/// Numbers, answers and refusals as the servers keep them: one step at a time, with everything that can go wrong in
/// between, drawn from a seed.
#[test]
fn whatever_goes_wrong_each_call_is_applied_once_and_in_order() {
    for seed in 1..=300_u64 {
        run(seed);
    }
}

fn run(seed: u64) {
    const CALLS: u64 = 60;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut world = World::open();
    let mut applied: Vec<String> = Vec::new();
    // What the servers remember for repetitions.
    let mut remembered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut answers = Vec::new();
    let mut on_the_way: VecDeque<ServerItem> = VecDeque::new();
    let mut steps = 0;
    let mut done = 0;
    while done < CALLS {
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: no progress");
        if (answers.len() as u64) < CALLS && draw(3) == 0 {
            let path = format!("/{}", answers.len());
            let answer = world.put(&path);
            answers.push((answer, false));
        }
        while let Ok(Some(frame)) = world.core.poll_frame(world.stream, world.now, Waker::noop()) {
            for item in v1::ClientFrame::decode(frame).expect("a frame").items {
                match item.item.expect("an item") {
                    ClientItem::Hello(_) => on_the_way.push_back(ServerItem::Welcome(v1::Welcome {
                        session: 9,
                        ttl_ms: TTL,
                        last_number: applied.len() as u64,
                        in_flight_max: 5,
                        cluster: "c".to_owned(),
                        ..Default::default()
                    })),
                    ClientItem::KeepAlive(keep_alive) => on_the_way
                        .push_back(ServerItem::KeepAlive(v1::KeepAliveAck { id: keep_alive.id, told_revision: 0 })),
                    ClientItem::Call(call) => {
                        let mut reply = v1::Reply { id: call.id, ..Default::default() };
                        let Some(v1::call::Body::Txn(txn)) = call.body else { panic!("seed {seed}: a read") };
                        let next = applied.len() as u64 + 1;
                        remembered.retain(|&number, _| number > call.acknowledged);
                        let fault = draw(12);
                        let refuse = |code: v1::Code, expected| {
                            let error = v1::Error { code: code.into(), expected, ..Default::default() };
                            Some(v1::reply::Body::Error(error))
                        };
                        reply.body = if fault == 0 {
                            refuse(v1::Code::Overloaded, 0) // not applied
                        } else if call.number > next {
                            refuse(v1::Code::OutOfOrder, next)
                        } else {
                            if call.number == next {
                                applied.push(show_txn(&txn));
                                remembered.insert(next, next);
                            }
                            match remembered.get(&call.number) {
                                _ if fault == 1 => refuse(v1::Code::LeadershipLost, 0), // applied, but who knows
                                Some(&revision) => Some(v1::reply::Body::Txn(v1::TxnResult {
                                    succeeded: true,
                                    revision,
                                    ..Default::default()
                                })),
                                None => refuse(v1::Code::AnswerForgotten, 0),
                            }
                        };
                        on_the_way.push_back(ServerItem::Reply(reply));
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
        world.tell();
        match draw(40) {
            0 => {
                // Everything on the way is lost.
                world.reconnect();
                on_the_way.clear();
            }
            1 => {
                if world.wait(draw(400)) == Advice::Move {
                    world.reconnect();
                    on_the_way.clear();
                }
            }
            _ => {
                world.wait(1);
                if let Some(item) = on_the_way.pop_front() {
                    world.say(item);
                }
            }
        }
        assert_eq!(world.core.lost(), None, "seed {seed}");
        for (at, (answer, told)) in answers.iter_mut().enumerate() {
            if !*told && let Ok(result) = answer.try_recv() {
                assert_eq!(result.expect("applied").revision, at as u64 + 1, "seed {seed}: its own answer");
                *told = true;
                done += 1;
            }
        }
    }
    let expected: Vec<_> = (0..CALLS).map(|at| format!("put /{at}")).collect();
    assert_eq!(applied, expected, "seed {seed}");
}
