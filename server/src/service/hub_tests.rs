//! The hub, fed by hand: a machine, and streams whose outboxes are read as a client would.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use conclave_proto::{
    NodePath, RequestNumber, Revision, SessionId, Term,
    v1::{self, server_item::Item as Wire, watch_ended},
};
use conclave_state::{By, Command, Entry, Kind, Machine, Op, OpResult, Outcome, RequestId, Txn};
use parking_lot::RwLock;
use prost::Message as _;

use super::{
    hub::{CatchUp, Hub, Publisher, StreamId},
    outbox::{Item, Outbox},
};
use crate::raft::Publish as _;

struct World {
    machine: RwLock<Machine>,
    hub: Arc<Hub>,
    publisher: Publisher,
}

struct Client {
    id: StreamId,
    outbox: Arc<Outbox>,
}

impl World {
    fn new() -> Self {
        let hub = Hub::new(100);
        Self { machine: RwLock::new(Machine::new()), publisher: hub.publisher(), hub }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let mut machine = self.machine.write();
        let index = machine.applied().next();
        let entry = Entry { request: RequestId { server: 1, run: 1, count: index.0 }, at_ms: 7, command };
        let applied = machine.apply(index, Term(1), Some(entry));
        self.publisher.publish(&machine, index, &applied);
        applied.outcome
    }

    fn ops(&mut self, ops: Vec<Op>) -> Outcome {
        let outcome = self.apply(Command::Txn { by: None, txn: Txn { then: ops, ..Txn::default() } });
        assert!(matches!(outcome, Outcome::Txn(_)), "{outcome:?}");
        outcome
    }

    fn put(&mut self, at: &str, data: &[u8]) {
        self.ops(vec![put(at, data)]);
    }

    fn delete(&mut self, at: &str) {
        self.ops(vec![Op::Delete { path: path(at), recursive: true }]);
    }

    /// A persistent sequential node: the queue does not ask who owns it.
    fn enter(&mut self, prefix: &str) -> String {
        let create = Op::Create {
            path: path(prefix),
            data: Bytes::new(),
            kind: Kind::Persistent,
            sequential: true,
            create_parents: Some(Kind::Persistent),
        };
        match self.ops(vec![create]) {
            Outcome::Txn(result) => match &result.results[0] {
                OpResult::Created { path, .. } => path.to_string(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn client(&self, event_bytes_max: usize) -> Client {
        let outbox = Outbox::new(event_bytes_max);
        Client { id: self.hub.attach(outbox.clone()), outbox }
    }

    fn watch(&self, client: &Client, watch: u64, at: &str, scope: v1::Scope, from_revision: u64) {
        let open = v1::WatchOpen { watch, path: at.into(), scope: scope.into(), from_revision };
        self.hub.open(client.id, &self.machine.read(), &open).expect("a fresh name");
    }

    /// True if it stands at the front already.
    fn queue(&self, client: &Client, watch: u64, at: &str, permits: u32, blocking: &str) -> bool {
        let open = v1::QueueWatch { watch, path: at.into(), permits, blocking: blocking.into() };
        self.hub.open_queue(client.id, &self.machine.read(), &open, at, None).expect("a fresh name")
    }

    fn catch_up(&self, client: &Client) -> CatchUp {
        self.hub.catch_up(client.id, || self.machine.read())
    }

    /// Reads and catches up until there is nothing more.
    fn read_all(&self, client: &Client) -> String {
        let mut told = Vec::new();
        for _ in 0..10_000 {
            let more = self.catch_up(client);
            let words = client.read();
            let quiet = words.is_empty();
            if !quiet {
                told.push(words);
            }
            if quiet && more == CatchUp::Live {
                return told.join(" ");
            }
        }
        panic!("it never catches up: {told:?}");
    }
}

impl Client {
    /// `1@7:/a+/b` is watch 1 told of revision 7: `+` created, `~` changed, `-` deleted.
    fn read(&self) -> String {
        let mut words = Vec::new();
        loop {
            let mut items = VecDeque::new();
            self.outbox.take(&mut items);
            if items.is_empty() {
                return words.join(" ");
            }
            words.extend(items.into_iter().map(|item| match item {
                Item::Events(events) => {
                    let told: String = events
                        .events
                        .as_slice()
                        .iter()
                        .map(|bytes| v1::Event::decode(bytes.clone()).expect("an event"))
                        .map(|event| {
                            let sign = match event.kind() {
                                v1::EventKind::Created => '+',
                                v1::EventKind::Changed => '~',
                                v1::EventKind::Deleted => '-',
                            };
                            format!("{}{sign}", event.node.expect("a node").path)
                        })
                        .collect();
                    format!("{}@{}:{told}", events.watch, events.revision)
                }
                Item::Notice(Wire::WatchStarted(started)) => {
                    format!("{} from {}", started.watch, started.from_revision)
                }
                Item::Notice(Wire::WatchEnded(ended)) => match ended.reason() {
                    watch_ended::Reason::Compacted => {
                        format!("{} compacted to {}", ended.watch, ended.resume_revision)
                    }
                    reason => format!("{} {}", ended.watch, reason.as_str_name().to_lowercase()),
                },
                Item::Notice(Wire::QueueReady(ready)) => format!("{} ready", ready.watch),
                Item::Notice(Wire::Ended(ended)) => {
                    format!("ended {}", ended.reason().as_str_name().to_lowercase())
                }
                Item::Notice(Wire::Reply(reply)) => format!("reply {}", reply.id),
                Item::Notice(other) => panic!("unexpected {other:?}"),
            }));
        }
    }
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

fn put(at: &str, data: &[u8]) -> Op {
    Op::Put { path: path(at), data: Bytes::copy_from_slice(data), create_parents: true }
}

use v1::Scope::{Children, Node, Subtree};

#[test]
fn each_watch_hears_of_what_it_covers_all_of_a_revision_together() {
    let mut world = World::new();
    let client = world.client(1 << 20);
    world.watch(&client, 1, "/a", Node, 0);
    world.watch(&client, 2, "/a", Children, 0);
    world.watch(&client, 3, "/", Subtree, 0);
    assert_eq!(client.read(), "1 from 1 2 from 1 3 from 1");
    world.ops(vec![put("/a", b"1"), put("/a/b", b"1"), put("/z", b"1")]);
    assert_eq!(client.read(), "1@1:/a+ 2@1:/a/b+ 3@1:/a+/a/b+/z+");
    world.put("/a/b", b"2");
    assert_eq!(client.read(), "2@2:/a/b~ 3@2:/a/b~");
    world.hub.cancel(client.id, 3);
    world.delete("/a");
    assert_eq!(client.read(), "3 cancelled 1@3:/a- 2@3:/a/b-");
    world.hub.cancel(client.id, 3);
    assert_eq!(client.read(), "", "what has ended is not ended again");
}

#[test]
fn a_watch_from_the_past_catches_up_and_goes_on() {
    let mut world = World::new();
    for n in 0..1500 {
        world.put(if n % 3 == 0 { "/a" } else { "/b" }, b"x");
    }
    let client = world.client(1 << 20);
    world.watch(&client, 1, "/a", Node, 1300);
    assert_eq!(client.read(), "1 from 1300");
    world.put("/a", b"while it is behind");
    assert_eq!(client.read(), "");
    let told = world.read_all(&client);
    let expected: Vec<String> = (1300..=1500)
        .filter(|revision| (revision - 1) % 3 == 0)
        .chain([1501])
        .map(|revision| format!("1@{revision}:/a~"))
        .collect();
    assert_eq!(told, expected.join(" "));
    world.put("/a", b"live");
    assert_eq!(client.read(), "1@1502:/a~");
    world.watch(&client, 2, "/a", Node, 1505);
    assert_eq!(client.read(), "2 from 1505");
    for _ in 0..3 {
        world.put("/a", b"not before it was asked to");
    }
    assert_eq!(client.read(), "1@1503:/a~ 1@1504:/a~ 1@1505:/a~ 2@1505:/a~");
}

#[test]
fn a_slow_reader_costs_its_bound_and_misses_nothing() {
    let mut world = World::new();
    let slow = world.client(64 << 10);
    let other = world.client(1 << 20);
    world.watch(&slow, 1, "/", Subtree, 0);
    world.watch(&slow, 2, "/n/7", Node, 0);
    world.watch(&other, 1, "/n/7", Node, 0);
    slow.read();
    other.read();
    for n in 0..4000 {
        world.put(&format!("/n/{}", n % 10), &[0; 100]);
        let backlog = slow.outbox.backlog();
        assert!(backlog.bytes <= 64 << 10, "{backlog:?}");
    }
    assert_eq!(other.read().split(' ').count(), 400, "others are told at once");
    assert_eq!(world.hub.sizes().behind, 2);
    assert_eq!(world.hub.sizes().totals.fell_behind, 1);
    let told = world.read_all(&slow);
    let of = |watch: &str| -> Vec<u64> {
        told.split(' ')
            .filter_map(|word| word.strip_prefix(watch)?.strip_prefix('@')?.split(':').next()?.parse().ok())
            .collect()
    };
    assert_eq!(of("1"), (1..=4000).collect::<Vec<_>>());
    assert_eq!(of("2"), (0..400).map(|n| n * 10 + 8).collect::<Vec<_>>());
    assert_eq!(world.hub.sizes().behind, 0);
    world.put("/n/7", b"live again");
    let told = slow.read();
    let mut told: Vec<&str> = told.split(' ').collect();
    told.sort_unstable(); // which of a revision's watches is told first is not promised
    assert_eq!(told, ["1@4001:/n/7~", "2@4001:/n/7~"]);
}

#[test]
fn a_revision_larger_than_the_bound_is_told_alone() {
    let mut world = World::new();
    let client = world.client(64 << 10);
    world.watch(&client, 1, "/", Subtree, 0);
    client.read();
    for n in 0..4 {
        world.ops((0..10).map(|m| put(&format!("/{n}/{m}"), &[0; 10_000])).collect());
    }
    let told = world.read_all(&client);
    assert_eq!(told.split(' ').map(|word| &word[..3]).collect::<Vec<_>>(), ["1@1", "1@2", "1@3", "1@4"]);
    assert_eq!(told.matches('+').count(), 4 * 11);
}

#[test]
fn no_reply_overtakes_the_events_of_a_watch_that_is_behind() {
    let mut world = World::new();
    let client = world.client(64 << 10);
    world.watch(&client, 1, "/", Subtree, 0);
    client.read();
    for _ in 0..20 {
        world.put("/big", &[0; 10_000]);
    }
    let slot = client.outbox.open_slot().0;
    client.outbox.complete(slot, v1::Reply { id: 5, revision: 20, ..Default::default() }, None);
    let told = world.read_all(&client);
    assert!(told.ends_with("1@20:/big~ reply 5"), "{told}");
}

#[test]
fn history_that_was_compacted_ends_a_watch_with_where_to_resume() {
    let mut world = World::new();
    let client = world.client(64 << 10);
    world.watch(&client, 1, "/a", Node, 0);
    client.read();
    for _ in 0..20 {
        world.put("/a", &[0; 10_000]);
    }
    assert_eq!(world.hub.sizes().behind, 1);
    world.apply(Command::Compact { term: Term(1), through: Revision(15) });
    let told = world.read_all(&client);
    assert!(told.ends_with("1 compacted to 16"), "{told}");
    world.watch(&client, 2, "/a", Node, 15);
    world.watch(&client, 3, "/a", Node, 16);
    assert_eq!(client.read(), "2 compacted to 16 3 from 16");
    assert!(world.read_all(&client).starts_with("3@16:/a~ 3@17:/a~"));
    assert_eq!(world.hub.sizes().watches, 1);
}

#[test]
fn a_quiet_watch_that_fell_behind_with_its_stream_is_not_compacted_away() {
    let mut world = World::new();
    let client = world.client(64 << 10);
    world.watch(&client, 1, "/loud", Node, 0);
    world.watch(&client, 2, "/quiet", Node, 0);
    client.read();
    for _ in 0..10 {
        world.put("/loud", b"");
        client.read();
    }
    for _ in 0..20 {
        world.put("/loud", &[0; 10_000]);
    }
    assert_eq!(world.hub.sizes().behind, 2);
    world.apply(Command::Compact { term: Term(1), through: Revision(10) });
    assert!(!world.read_all(&client).contains("compacted"), "both had been told of all that is compacted");
    world.put("/quiet", b"");
    assert_eq!(client.read(), "2@31:/quiet+");
}

#[test]
fn a_revision_that_no_message_holds_ends_the_watch_with_where_to_resume() {
    let mut world = World::new();
    let (live, late) = (world.client(64 << 20), world.client(64 << 20));
    for n in 0..20 {
        world.put(&format!("/d/{n}"), &vec![0; 1 << 20]);
    }
    world.watch(&live, 1, "/", Subtree, 0);
    world.watch(&live, 2, "/d/3", Node, 0);
    live.read();
    world.delete("/d");
    let told = live.read();
    assert!(told.contains("1 lagging") && told.contains("2@21:/d/3-"), "{told}");
    world.watch(&late, 1, "/d", Subtree, 21);
    world.watch(&late, 2, "/d/3", Node, 21);
    let told = world.read_all(&late);
    assert!(told.contains("1 lagging") && told.contains("2@21:/d/3-"), "{told}");
    world.put("/d/3", b"");
    assert_eq!((&*live.read(), &*late.read()), ("2@22:/d/3+", "2@22:/d/3+"));
    assert_eq!(world.hub.sizes().watches, 2);
}

#[tokio::test]
async fn whoever_gives_up_waiting_for_a_revision_leaves_nothing() {
    let mut world = World::new();
    let state = || world.machine.read();
    let never = world.hub.applied(state, Revision(u64::MAX));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), never).await.is_err());
    assert_eq!(world.hub.waiting(), 0);
    let hub = world.hub.clone();
    let mut soon = Box::pin(hub.applied(|| world.machine.read(), Revision(1)));
    assert!(futures_util::poll!(&mut soon).is_pending());
    drop(soon);
    world.put("/a", b"");
    hub.applied(|| world.machine.read(), Revision(1)).await;
}

#[test]
fn a_release_wakes_the_next_and_leaving_wakes_nobody() {
    let mut world = World::new();
    let client = world.client(1 << 20);
    let nodes: Vec<String> = (0..6).map(|_| world.enter("/l/lock-")).collect();
    let ready: Vec<bool> =
        nodes.iter().enumerate().map(|(n, node)| world.queue(&client, n as u64, node, 1, "lock-")).collect();
    assert_eq!(ready, [true, false, false, false, false, false]);
    world.delete(&nodes[3]);
    assert_eq!(client.read(), "3 gone", "its owner hears of it, nobody else does");
    world.hub.cancel(client.id, 2);
    assert_eq!(client.read(), "2 cancelled");
    world.delete(&nodes[0]);
    assert_eq!(client.read(), "1 ready");
    world.delete(&nodes[2]);
    assert_eq!(client.read(), "", "4 waits for 1 still");
    world.delete(&nodes[1]);
    assert_eq!(client.read(), "4 ready");
    world.delete("/l");
    assert_eq!(client.read(), "5 gone");
    assert_eq!(world.hub.sizes().queue_watches, 0);
}

#[test]
fn readers_wait_for_writers_only_and_permits_are_counted() {
    let mut world = World::new();
    let client = world.client(1 << 20);
    let writer = world.enter("/l/lock-");
    let readers: Vec<String> = (0..3).map(|_| world.enter("/l/read-")).collect();
    let last = world.enter("/l/lock-");
    assert!(world.queue(&client, 0, &writer, 1, ""));
    for (n, reader) in readers.iter().enumerate() {
        assert!(!world.queue(&client, 1 + n as u64, reader, 1, "lock-"));
    }
    assert!(!world.queue(&client, 9, &last, 1, ""));
    world.delete(&writer);
    assert_eq!(client.read(), "1 ready 2 ready 3 ready");
    for reader in &readers[..2] {
        world.delete(reader);
        assert_eq!(client.read(), "");
    }
    world.delete(&readers[2]);
    assert_eq!(client.read(), "9 ready");

    let permits: Vec<String> = (0..5).map(|_| world.enter("/s/permit-")).collect();
    for (n, node) in permits.iter().enumerate() {
        assert_eq!(world.queue(&client, n as u64, node, 2, "permit-"), n < 2);
    }
    world.delete(&permits[1]);
    assert_eq!(client.read(), "2 ready");
    world.ops(vec![
        Op::Delete { path: path(&permits[0]), recursive: false },
        Op::Delete { path: path(&permits[2]), recursive: false },
    ]);
    assert_eq!(client.read(), "3 ready 4 ready");
}

#[test]
fn bad_watches_are_told_why() {
    let mut world = World::new();
    let client = world.client(1 << 20);
    let node = world.enter("/q/n-");
    let front = world.enter("/q/n-");
    let message = |client: &Client| {
        let mut items = VecDeque::new();
        client.outbox.take(&mut items);
        match items.pop_front() {
            Some(Item::Notice(Wire::WatchEnded(ended))) => ended.message,
            other => panic!("{other:?}"),
        }
    };
    for (at, permits, words) in [
        ("q", 1, "must begin with '/'"),
        ("/", 1, "the root"),
        ("/q/none", 1, "no such sequential node"),
        (&*front, 0, "permits is 0"),
    ] {
        assert!(!world.queue(&client, 1, at, permits, ""));
        let message = message(&client);
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    // Seventeen in the queue, each with another idea of how many may pass.
    let crowd: Vec<String> = (0..40).map(|_| world.enter("/q/n-")).collect();
    for permits in 1..=16 {
        assert!(!world.queue(&client, 10 + u64::from(permits), &crowd[39], permits, ""));
    }
    assert!(!world.queue(&client, 50, &crowd[39], 17, ""));
    assert!(message(&client).contains("the limit is 16"));
    world.watch(&client, 99, "a", Node, 0);
    assert!(message(&client).contains("must begin with '/'"));
    world.watch(&client, 99, "/a", Node, 0);
    client.read();
    let again = v1::WatchOpen { watch: 99, path: "/a".into(), ..Default::default() };
    let error = world.hub.open(client.id, &world.machine.read(), &again).expect_err("in use");
    assert_eq!(error.to_string(), "watch 99 is open on this stream already");
    for n in 0..200 {
        world.watch(&client, 1000 + n, "/a", Node, 0);
    }
    let told = client.read();
    assert_eq!(told.matches("invalid").count(), 200 - (100 - 17), "watches_per_stream_max bounds a stream: {told}");
    drop(node);
}

#[test]
fn ten_thousand_waiters_that_leave_leave_nothing() {
    let mut world = World::new();
    let holder = world.enter("/l/lock-");
    let nodes: Vec<String> = (0..10_000).map(|_| world.enter("/l/lock-")).collect();
    let clients: Vec<Client> = (0..100).map(|_| world.client(1 << 20)).collect();
    for (n, node) in nodes.iter().enumerate() {
        assert!(!world.queue(&clients[n % 100], n as u64, node, 1, "lock-"));
    }
    assert_eq!(world.hub.sizes().queue_watches, 10_000);
    for (n, node) in nodes.iter().enumerate() {
        match n % 3 {
            0 => world.hub.cancel(clients[n % 100].id, n as u64),
            1 => world.delete(node),
            _ => {}
        }
    }
    for client in &clients {
        assert_eq!(client.read().matches("ready").count(), 0);
        world.hub.detach(client.id);
    }
    assert_eq!(world.hub.sizes(), super::hub::Sizes { totals: world.hub.sizes().totals, ..Default::default() });
    assert_eq!(world.hub.sizes().totals.queue_ready, 0);
    world.delete(&holder);
}

/// Random queues of two kinds, random leaving: after every step whoever waits is not ready, and whoever became ready was
/// told exactly once.
#[test]
fn queue_watches_agree_with_counting() {
    use proptest::{prelude::*, test_runner::TestRunner};
    let step = (0_usize..6, any::<prop::sample::Index>());
    TestRunner::default()
        .run(&prop::collection::vec(step, 1..120), |steps| {
            let mut world = World::new();
            let client = world.client(1 << 20);
            // (name of the watch, node, told that it is ready)
            let mut here: Vec<(u64, String, bool)> = Vec::new();
            let mut names = 0;
            for (what, whom) in steps {
                match what {
                    0..=2 => {
                        let prefix = if what == 0 { "/l/read-" } else { "/l/lock-" };
                        let node = world.enter(prefix);
                        names += 1;
                        let blocking = if what == 0 { "lock-" } else { "" };
                        let ready = world.queue(&client, names, &node, 1, blocking);
                        here.push((names, node, ready));
                    }
                    _ if here.is_empty() => {}
                    _ => {
                        let (name, node, ready) = here.remove(whom.index(here.len()));
                        world.delete(&node);
                        let told = client.read();
                        let gone = format!("{name} gone");
                        let mut words: Vec<&str> = Vec::new();
                        let split: Vec<&str> = told.split(' ').collect();
                        let pairs: Vec<String> =
                            split.chunks(2).filter(|c| c.len() == 2).map(|c| c.join(" ")).collect();
                        for pair in &pairs {
                            if *pair == gone {
                                prop_assert!(!ready, "a node at the front has no watch left");
                            } else {
                                words.push(pair);
                            }
                        }
                        for word in words {
                            let name: u64 = word.strip_suffix(" ready").expect(word).parse().expect("a name");
                            let waiter = here.iter_mut().find(|(other, ..)| *other == name).expect("it is here");
                            prop_assert!(!waiter.2, "told twice: {word}");
                            waiter.2 = true;
                        }
                    }
                }
                for (at, (_, node, told)) in here.iter().enumerate() {
                    let reader = node.contains("read-");
                    let before = here[..at].iter().filter(|(_, other, _)| !reader || other.contains("lock-")).count();
                    prop_assert_eq!(*told, before == 0, "{} of {:?}", node, here);
                }
            }
            Ok(())
        })
        .expect("queue watches agree with counting");
}

#[test]
fn a_session_ends_on_its_stream_and_a_newer_stream_replaces_it() {
    let mut world = World::new();
    let open = Command::OpenSession { secret: [7; 16], run: 1, ttl_ms: 5_000, name: "one".into() };
    let Outcome::Opened { session } = world.apply(open) else { panic!("not opened") };
    let (old, new) = (world.client(1 << 20), world.client(1 << 20));
    world.hub.claim(old.id, session, 1);
    world.hub.claim(new.id, session, 1);
    assert_eq!((&*old.read(), &*new.read()), ("ended replaced", ""));
    world.hub.detach(old.id);
    world.apply(Command::ExpireSessions { term: Term(1), sessions: vec![SessionId(session.0 + 1), session] });
    assert_eq!(new.read(), "ended expired");
    let by = By { session, run: 1, number: RequestNumber(1), acknowledged: RequestNumber(0) };
    let outcome = world.apply(Command::Txn { by: Some(by), txn: Txn { then: vec![put("/a", b"")], ..Txn::default() } });
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert_eq!(world.hub.sizes().sessions, 0);
}

#[test]
fn a_snapshot_sends_watches_to_history_and_looks_at_queues_anew() {
    let mut world = World::new();
    let client = world.client(1 << 20);
    let (first, second) = (world.enter("/l/lock-"), world.enter("/l/lock-"));
    let third = world.enter("/l/lock-");
    world.watch(&client, 1, "/a", Node, 0);
    assert!(!world.queue(&client, 2, &second, 1, ""));
    assert!(!world.queue(&client, 3, &third, 1, ""));
    world.put("/a", b"told");
    assert_eq!(client.read(), "1 from 4 1@4:/a+");
    // Elsewhere the log goes on; here a snapshot brings what it came to.
    let mut elsewhere = World::new();
    for prefix in ["/l/lock-"; 3] {
        elsewhere.enter(prefix);
    }
    elsewhere.put("/a", b"told");
    elsewhere.put("/a", b"missed");
    elsewhere.delete(&first);
    elsewhere.delete(&third);
    world.machine = elsewhere.machine;
    {
        let machine = world.machine.read();
        world.publisher.replaced(&machine);
    }
    assert_eq!(client.read(), "3 gone 2 ready");
    assert_eq!(world.read_all(&client), "1@5:/a~");
    world.put("/a", b"live");
    assert_eq!(client.read(), "1@8:/a~");
}
