//! The node's core on disks in memory and a network of queues: time, loss and crashes as the test wishes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use conclave_proto::{
    Index, NodePath, ServerId, SessionId, Term,
    peer::{StateHash, peer_item::Item},
};
use conclave_server::{
    raft::{
        Answer, ChangeError, ConfirmError, Core, Member, MemberChange, Options, ProposeError, Publish, Role, Status,
        core::{Fatal, Outbound},
    },
    storage::{
        Membership, SnapshotInfo, StoreError,
        memory::{Image, Memory, Platter},
    },
};
use conclave_state::{Applied, Command, Entry, Machine, Op, Outcome, RequestId, Txn};
use parking_lot::Mutex;
use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};
use tokio::sync::{oneshot, watch};

const STEP_MS: u64 = 10;
const TICK_MS: u64 = 50;

/// Counts, and holds that indexes come without gaps.
#[derive(Default)]
struct Heard {
    last: u64,
    replaced: usize,
}

struct Ear(Arc<Mutex<Heard>>);

impl Publish for Ear {
    fn publish(&mut self, machine: &Machine, index: Index, _: &Applied) {
        let mut heard = self.0.lock();
        assert_eq!(machine.applied(), index, "the state is the one right after the entry");
        assert!(heard.last == 0 || index.0 == heard.last + 1, "published without gaps: {} {index}", heard.last);
        heard.last = index.0;
    }

    fn replaced(&mut self, machine: &Machine) {
        let mut heard = self.0.lock();
        heard.replaced += 1;
        heard.last = machine.applied().0;
    }
}

#[derive(Default)]
struct Sent {
    items: Vec<(ServerId, Item)>,
    fetches: Vec<Message>,
    members: Vec<Member>,
}

impl Outbound for Sent {
    fn send(&mut self, to: ServerId, item: Item) {
        self.items.push((to, item));
    }
    fn fetch_snapshot(&mut self, message: Message) {
        self.fetches.push(message);
    }
    fn probe(&mut self, _: ServerId) {}
    fn flush(&mut self) {}
    fn members(&mut self, members: &[Member]) {
        self.members = members.to_vec();
    }
}

type Taken = Arc<Mutex<Vec<Result<SnapshotInfo, StoreError>>>>;

struct Server {
    core: Core<Memory>,
    out: Sent,
    heard: Arc<Mutex<Heard>>,
    status: watch::Receiver<Arc<Status>>,
    taken: Taken,
    snapshots: Arc<Mutex<BTreeMap<String, Arc<Image>>>>,
    counts: u64,
    run: u64,
}

struct World {
    first: Vec<Member>,
    platters: BTreeMap<u64, Arc<Mutex<Platter>>>,
    servers: BTreeMap<u64, Server>,
    network: VecDeque<(u64, u64, Item)>,
    cut: BTreeSet<(u64, u64)>,
    /// Entries do not reach this server; everything else does.
    starved: Option<u64>,
    /// What a leader says of a change of membership is lost.
    unanswered: bool,
    now_ms: u64,
    runs: u64,
    change: fn(&mut Options),
}

/// What became of a proposal.
type Fate = Arc<Mutex<Option<Result<Outcome, ProposeError>>>>;

fn member(id: u64) -> Member {
    Member { id: ServerId(id), peer_address: format!("s{id}:1"), client_address: format!("s{id}:2"), learner: false }
}

impl World {
    fn new(size: u64) -> Self {
        Self::with(size, |_| {})
    }

    fn with(size: u64, change: fn(&mut Options)) -> Self {
        let mut world = Self {
            first: (1..=size).map(member).collect(),
            platters: BTreeMap::new(),
            servers: BTreeMap::new(),
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            starved: None,
            unanswered: false,
            now_ms: 0,
            runs: 0,
            change,
        };
        for id in 1..=size {
            world.boot(id);
        }
        world
    }

    fn boot(&mut self, id: u64) {
        self.runs += 1;
        let mut options = Options::new(ServerId(id), "sim", "", self.first.clone());
        (self.change)(&mut options);
        let platter = Arc::clone(self.platters.entry(id).or_default());
        let conf = ConfState { voters: self.first.iter().map(|member| member.id.0).collect(), ..ConfState::default() };
        let bootstrap =
            self.first.iter().any(|member| member.id.0 == id).then(|| Membership { conf, members: self.first.clone() });
        let (store, recovered) = Memory::open(platter, bootstrap.as_ref()).expect("the disk makes sense");
        let snapshots = store.snapshots();
        let (sender, status) = watch::channel(Arc::default());
        let heard = Arc::new(Mutex::new(Heard::default()));
        let taken = Taken::default();
        let told = Arc::clone(&taken);
        let mut core = Core::new(
            options,
            self.runs,
            store,
            recovered,
            Box::new(Ear(Arc::clone(&heard))),
            sender,
            Arc::new(move |result| told.lock().push(result)),
        )
        .expect("starts");
        core.at(self.now_ms, 0);
        let out = Sent::default();
        let server = Server { core, out, heard, status, taken, snapshots, counts: 0, run: self.runs };
        self.servers.insert(id, server);
    }

    /// The power fails at one server: of its unsynced writes the first `kept` survive.
    fn crash(&mut self, id: u64, kept: usize) {
        self.servers.remove(&id).expect("running");
        let mut platter = self.platters[&id].lock();
        platter.crash(kept);
        self.network.retain(|(from, to, _)| *from != id && *to != id);
    }

    fn settle(&mut self, id: u64) -> Result<(), Fatal> {
        let Some(server) = self.servers.get_mut(&id) else { return Ok(()) };
        for result in server.taken.lock().drain(..) {
            server.core.snapshot_taken(result);
        }
        server.core.settle(&mut server.out)?;
        for (to, item) in server.out.items.drain(..) {
            self.network.push_back((id, to.0, item));
        }
        let fetches = std::mem::take(&mut server.out.fetches);
        for message in fetches {
            self.fetch(id, message)?;
        }
        Ok(())
    }

    fn fetch(&mut self, id: u64, message: Message) -> Result<(), Fatal> {
        let from = message.from;
        let name = String::from_utf8(message.get_snapshot().data.clone()).unwrap();
        let image = match self.servers.get(&from) {
            Some(sender) if !self.is_cut(from, id) => sender.snapshots.lock().get(&name).cloned(),
            _ => None,
        };
        let server = self.servers.get_mut(&id).expect("running");
        match image {
            None => server.core.fetch_failed(&message),
            Some(image) => {
                let machine = image.machine().expect("the snapshot makes sense");
                server.core.fetched(message, machine, image, &mut server.out)?;
                for (to, item) in server.out.items.drain(..) {
                    self.network.push_back((id, to.0, item));
                }
            }
        }
        Ok(())
    }

    fn is_cut(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&(a, b))
    }

    fn isolate(&mut self, id: u64) {
        for other in self.platters.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
    }

    /// Delivers until all is quiet.
    fn deliver(&mut self) {
        for id in self.servers.keys().copied().collect::<Vec<_>>() {
            self.settle(id).expect("goes on");
        }
        let mut delivered = 0;
        while let Some((from, to, item)) = self.network.pop_front() {
            delivered += 1;
            assert!(delivered < 1_000_000, "the network never falls silent");
            if self.is_cut(from, to) {
                continue;
            }
            let Some(server) = self.servers.get_mut(&to) else { continue };
            match item {
                Item::Raft(bytes) => {
                    let message = Message::decode(&bytes[..]).unwrap();
                    if self.starved == Some(to) && message.msg_type() == MessageType::MsgAppend {
                        continue;
                    }
                    server.core.step_raft(message, &mut server.out).expect("goes on");
                }
                Item::MembersChanged(_) if self.unanswered => {}
                item => server.core.step(item).expect("goes on"),
            }
            self.settle(to).expect("goes on");
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        self.deliver();
        while self.now_ms < end {
            self.now_ms += STEP_MS;
            for server in self.servers.values_mut() {
                server.core.at(self.now_ms, 0);
                if self.now_ms.is_multiple_of(TICK_MS) {
                    server.core.tick().expect("goes on");
                }
            }
            self.deliver();
        }
    }

    /// Passes time until something is so.
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = self.now_ms + 60_000;
        while !so(self) {
            assert!(self.now_ms < end, "in vain: {what}");
            self.pass(STEP_MS);
        }
    }

    fn leader_among(&self, ids: &[u64]) -> Option<u64> {
        let leaders: Vec<u64> = ids.iter().copied().filter(|id| self.servers[id].core.is_leader()).collect();
        let leader = *leaders.first()?;
        let known = |id: &u64| self.servers[id].core.leader() == Some(ServerId(leader));
        (leaders.len() == 1 && ids.iter().all(known)).then_some(leader)
    }

    fn elect(&mut self) -> u64 {
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        self.elect_among(&ids)
    }

    fn elect_among(&mut self, ids: &[u64]) -> u64 {
        self.until("a leader", |world| world.leader_among(ids).is_some());
        self.leader_among(ids).expect("just seen")
    }

    fn propose(&mut self, id: u64, command: Command) -> Fate {
        let server = self.servers.get_mut(&id).expect("running");
        let fate = Fate::default();
        let told = Arc::clone(&fate);
        let answer: Answer = Box::new(move |result| {
            let before = told.lock().replace(result.map(|(_, applied)| applied.outcome.clone()));
            assert!(before.is_none(), "answered once");
        });
        let request = RequestId { server: id, run: server.run, count: server.counts };
        server.counts += 1;
        let data = Entry { request, at_ms: 0, command }.encode();
        server.core.propose(request.count, data, answer);
        fate
    }

    fn put(&mut self, id: u64, path: &str, data: &[u8]) -> Fate {
        let op = Op::Put { path: NodePath::parse(path).unwrap(), data: data.to_vec().into(), create_parents: true };
        self.propose(id, Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } })
    }

    fn get(&self, id: u64, path: &str) -> Option<Vec<u8>> {
        let machine = self.servers[&id].core.machine().read();
        machine.get(&NodePath::parse(path).unwrap()).map(|node| node.data.to_vec())
    }

    fn barrier(&mut self, id: u64, within_ms: u64) -> oneshot::Receiver<Result<Index, ConfirmError>> {
        let (reply, receiver) = oneshot::channel();
        let deadline_ms = self.now_ms + within_ms;
        self.servers.get_mut(&id).expect("running").core.barrier(deadline_ms, reply);
        receiver
    }

    fn renew(&mut self, id: u64, session: SessionId) -> oneshot::Receiver<Result<(), ConfirmError>> {
        let (reply, receiver) = oneshot::channel();
        let deadline_ms = self.now_ms + 5_000;
        self.servers.get_mut(&id).expect("running").core.renew(session, deadline_ms, reply);
        receiver
    }

    fn change_members(&mut self, what: MemberChange) -> Result<String, ChangeError> {
        let (reply, mut receiver) = oneshot::channel();
        let leader = self.elect_with_quorum();
        self.servers.get_mut(&leader).expect("running").core.change_members(what, reply);
        let mut answer = None;
        self.until("an answer to a change of members", |_| {
            answer = receiver.try_recv().ok();
            answer.is_some()
        });
        answer.expect("just seen")
    }

    fn elect_with_quorum(&mut self) -> u64 {
        self.until("a leader", |world| world.servers.values().any(|server| server.core.is_leader()));
        *self.servers.iter().find(|(_, server)| server.core.is_leader()).expect("just seen").0
    }

    fn assert_same_state(&mut self) {
        self.until("all have applied the same", |world| {
            let applied: BTreeSet<_> =
                world.servers.values().map(|server| server.core.machine().read().applied()).collect();
            applied.len() == 1
        });
        let hashes: BTreeSet<_> = self.servers.values().map(|server| server.core.machine().read().hash().0).collect();
        assert_eq!(hashes.len(), 1, "the same entries give the same state");
    }
}

fn fate(fate: &Fate) -> Option<Result<Outcome, ProposeError>> {
    fate.lock().clone()
}

fn is_done(it: &Fate) -> bool {
    matches!(fate(it), Some(Ok(Outcome::Txn(_))))
}

#[test]
fn three_and_five_elect_and_every_server_takes_proposals() {
    for size in [1, 3, 5] {
        let mut world = World::new(size);
        world.elect();
        let fates: Vec<Fate> = (1..=size).map(|id| world.put(id, &format!("/by-{id}"), b"x")).collect();
        world.pass(1_000);
        assert!(fates.iter().all(is_done), "of {size}: {fates:?}");
        world.assert_same_state();
        assert_eq!(world.get(size, "/by-1").as_deref(), Some(&b"x"[..]));
    }
}

#[test]
fn without_a_leader_a_proposal_is_refused_at_once_and_for_certain() {
    let mut world = World::new(3);
    let it = world.put(1, "/a", b"x");
    world.deliver();
    assert_eq!(fate(&it), Some(Err(ProposeError::NoLeader)));
    let mut barrier = world.barrier(1, 1_000);
    world.deliver();
    assert_eq!(barrier.try_recv().unwrap(), Err(ConfirmError::NoLeader));
}

#[test]
fn a_leader_cut_off_answers_unknown_and_the_others_go_on() {
    let mut world = World::new(3);
    let old = world.elect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    world.isolate(old);
    let it = world.put(old, "/lost", b"x");
    let mut read = world.barrier(old, 10_000);
    world.deliver();
    assert_eq!(fate(&it), None, "nobody knows yet");
    let new = world.elect_among(&others);
    world.until("the old leader notices", |world| !world.servers[&old].core.is_leader());
    world.pass(100);
    assert_eq!(fate(&it), Some(Err(ProposeError::LeadershipLost)));
    assert_eq!(read.try_recv().unwrap(), Err(ConfirmError::NoLeader), "a deposed leader confirms nothing");
    let next = world.put(new, "/kept", b"y");
    world.pass(200);
    assert!(is_done(&next));
    world.heal();
    world.elect();
    world.assert_same_state();
    assert_eq!(world.get(old, "/lost"), None, "it was never committed");
    assert_eq!(world.get(old, "/kept").as_deref(), Some(&b"y"[..]));
}

#[test]
fn a_followers_read_waits_for_what_was_committed_before_it() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    world.isolate(follower);
    let it = world.put(leader, "/a", b"new");
    world.pass(300);
    assert!(is_done(&it));
    assert_eq!(world.get(follower, "/a"), None);
    // Nobody answers a read that cannot be confirmed.
    let mut read = world.barrier(follower, 400);
    world.pass(500);
    assert_eq!(read.try_recv().unwrap(), Err(ConfirmError::Timeout));
    world.heal();
    world.elect();
    let mut reads: Vec<_> = (0..5).map(|_| world.barrier(follower, 5_000)).collect();
    world.until("the read is confirmed", |_| match reads[0].try_recv() {
        Ok(confirmed) => {
            confirmed.expect("confirmed");
            true
        }
        Err(_) => false,
    });
    assert_eq!(world.get(follower, "/a").as_deref(), Some(&b"new"[..]));
    for mut read in reads.drain(1..) {
        assert!(read.try_recv().unwrap().is_ok(), "those that came together share a round");
    }
}

#[test]
fn a_confirmed_read_still_waits_until_it_is_applied_here() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    world.starved = Some(follower);
    let it = world.put(leader, "/a", b"new");
    world.pass(300);
    assert!(is_done(&it));
    // The leader answers the round; the entries are what is missing.
    let mut read = world.barrier(follower, 10_000);
    world.pass(600);
    assert_eq!(world.get(follower, "/a"), None);
    assert!(read.try_recv().is_err(), "not answered before it is applied");
    world.starved = None;
    world.until("the read is answered", |_| read.try_recv().is_ok_and(|answer| answer.is_ok()));
    assert_eq!(world.get(follower, "/a").as_deref(), Some(&b"new"[..]));
}

#[test]
fn the_log_waits_for_a_follower_in_touch_but_not_for_ever() {
    let mut world = World::with(3, |options| {
        options.log_entries_max = 60;
        options.log_entries_keep = 10;
    });
    let leader = world.elect();
    let slow = 1 + leader % 3;
    world.starved = Some(slow);
    let needed = world.servers[&slow].core.machine().read().applied().0;
    let puts = |world: &mut World, count: u64| {
        for _ in 0..count {
            let it = world.put(leader, "/a", b"x");
            world.pass(STEP_MS);
            assert!(is_done(&it));
        }
    };
    puts(&mut world, 100);
    assert!(world.servers[&leader].core.compacted().index <= needed, "it is in touch and needs the rest");
    puts(&mut world, 200);
    assert!(world.servers[&leader].core.compacted().index > needed, "four times too long is too long");
}

#[test]
fn a_leader_says_at_any_moment_whom_it_hears() {
    let mut world = World::new(3);
    let leader = world.elect();
    let heard = |world: &World| -> Vec<bool> {
        world.servers[&leader].status.borrow().progress.iter().map(|(_, _, active)| *active).collect()
    };
    world.pass(2_000);
    // Through several of the leader's checks of its quorum, at which raft-rs forgets whom it has heard.
    for _ in 0..300 {
        world.pass(STEP_MS);
        assert_eq!(heard(&world), [true; 3]);
    }
    world.isolate(1 + leader % 3);
    world.pass(2_000);
    assert_eq!(heard(&world).iter().filter(|active| **active).count(), 2);
}

#[test]
fn an_overloaded_or_resigning_leader_tells_the_follower_for_certain() {
    let mut world =
        World::with(3, |options| (options.uncommitted_bytes_max, options.append_bytes_max) = (10_000, 5_000));
    let leader = world.elect();
    let (follower, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
    // Nothing commits, so the uncommitted tail grows.
    world.isolate(third);
    world.servers.remove(&third);
    let stuck: Vec<Fate> = (0..8)
        .map(|n| {
            let it = world.put(leader, &format!("/{n}"), &[0; 2_000]);
            // Only the leader settles: the follower hears nothing yet.
            world.settle(leader).unwrap();
            it
        })
        .collect();
    let refused: Vec<_> = stuck.iter().filter(|it| fate(it) == Some(Err(ProposeError::Overloaded))).collect();
    assert!(!refused.is_empty(), "{stuck:?}");
    let forwarded = world.put(follower, "/forwarded", &[0; 9_000]);
    world.settle(follower).unwrap();
    // The forwarded proposal overtakes the acknowledgements.
    let at = world.network.iter().position(|(from, _, _)| *from == follower).unwrap();
    let (_, _, item) = world.network.remove(at).unwrap();
    let Item::Raft(bytes) = item else { panic!("a raft message") };
    let server = world.servers.get_mut(&leader).unwrap();
    server.core.step_raft(Message::decode(&bytes[..]).unwrap(), &mut server.out).unwrap();
    world.pass(100);
    assert_eq!(fate(&forwarded), Some(Err(ProposeError::Overloaded)));
}

#[test]
fn a_lost_forwarded_proposal_is_unknown_after_its_time() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    world.cut.insert((follower, leader));
    let it = world.put(follower, "/lost", b"x");
    world.pass(900);
    assert_eq!(fate(&it), None);
    world.heal();
    world.pass(10_000);
    assert!(matches!(fate(&it), Some(Err(ProposeError::Timeout | ProposeError::LeadershipLost))), "{it:?}");
}

#[test]
fn a_follower_away_past_compaction_comes_back_by_snapshot() {
    let mut world = World::with(3, |options| {
        options.log_entries_max = 60;
        options.log_entries_keep = 10;
    });
    let leader = world.elect();
    let away = 1 + leader % 3;
    world.isolate(away);
    let applied = world.servers[&away].core.machine().read().applied().0;
    for round in 0..300 {
        let it = world.put(leader, &format!("/{}", round % 20), &[1; 100]);
        world.pass(STEP_MS);
        assert!(is_done(&it));
    }
    assert!(world.servers[&leader].core.compacted().index > applied, "what it needs is gone");
    world.heal();
    world.until("it has caught up", |world| {
        let at = |id: u64| world.servers[&id].core.machine().read().applied();
        at(away) == at(leader)
    });
    assert_eq!(world.servers[&away].heard.lock().replaced, 1, "by snapshot");
    // And it takes part again, also after a crash right behind the installation.
    world.crash(away, 0);
    world.boot(away);
    world.elect();
    let it = world.put(away, "/back", b"x");
    world.pass(500);
    assert!(is_done(&it));
    world.assert_same_state();
}

#[test]
fn a_newcomer_learns_is_promoted_and_outvotes() {
    let mut world = World::new(3);
    let leader = world.elect();
    let it = world.put(leader, "/before", b"x");
    world.pass(100);
    assert!(is_done(&it));
    world.boot(4);
    assert_eq!(world.servers[&4].status.borrow().role, Role::Learner);
    let error = world.change_members(MemberChange::Promote(ServerId(4))).unwrap_err();
    assert!(matches!(&error, ChangeError::Refused(why) if why.contains("not a member")), "{error:?}");
    world.change_members(MemberChange::AddLearner(member(4))).unwrap();
    let error = world.change_members(MemberChange::AddLearner(member(4))).unwrap_err();
    assert!(matches!(&error, ChangeError::Refused(why) if why.contains("a member already")), "{error:?}");
    world.until("it has learned", |world| world.get(4, "/before").is_some());
    world.pass(300);
    world.change_members(MemberChange::Promote(ServerId(4))).unwrap();
    world.pass(300);
    let status = world.servers[&4].status.borrow().clone();
    assert_eq!(status.role, Role::Follower);
    assert_eq!(status.members.len(), 4);
    assert!(status.members.iter().all(|member| !member.learner), "{status:?}");
    // Two of the first three are gone for good: with the fourth, two are no majority of four.
    let gone = 1 + leader % 3;
    world.crash(gone, 0);
    world.change_members(MemberChange::Remove(ServerId(gone))).unwrap();
    let leader = world.elect();
    let it = world.put(4, "/after", b"y");
    world.pass(500);
    assert!(is_done(&it));
    assert_eq!(world.servers[&leader].status.borrow().members.len(), 3);
    // The members survive a crash.
    world.crash(4, 0);
    world.boot(4);
    assert_eq!(world.servers[&4].status.borrow().members.len(), 3);
    world.pass(3_000);
    world.assert_same_state();
}

#[test]
fn a_newcomer_is_offered_no_snapshot_from_before_its_time() {
    let mut world = World::new(3);
    let leader = world.elect();
    let it = world.put(leader, "/before", b"x");
    world.pass(100);
    assert!(is_done(&it));
    // The log begins later than a newcomer does: the first one is sent a snapshot. The second must not get the same.
    for id in [4, 5] {
        world.boot(id);
        world.change_members(MemberChange::AddLearner(member(id))).unwrap();
        world.until("it has learned", |world| world.get(id, "/before").is_some());
    }
    world.assert_same_state();
}

#[test]
fn a_snapshot_offered_while_another_is_fetched_has_its_turn_if_that_fails() {
    let mut world = World::new(3);
    world.elect();
    let offer = |from, term| {
        let metadata = SnapshotMetadata { index: 500, term, ..SnapshotMetadata::default() };
        let snapshot = Snapshot { data: Vec::new(), metadata: Some(metadata) };
        let mut message = Message { from, to: 3, term, snapshot: Some(snapshot), ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message
    };
    let core = &mut world.servers.get_mut(&3).expect("running").core;
    let mut out = Sent::default();
    let from = |out: &Sent| out.fetches.iter().map(|message| message.from).collect::<Vec<_>>();
    core.step_raft(offer(1, 50), &mut out).unwrap();
    core.step_raft(offer(2, 51), &mut out).unwrap();
    core.settle(&mut out).unwrap();
    assert_eq!(from(&out), [1], "one at a time");
    core.fetch_failed(&out.fetches[0]);
    core.settle(&mut out).unwrap();
    assert_eq!(from(&out), [1, 2]);
}

#[test]
fn a_follower_passes_a_change_of_members_on_and_its_answer_back() {
    let mut world = World::new(3);
    let leader = world.elect();
    let (follower, gone) = (1 + leader % 3, 1 + (leader + 1) % 3);
    let mut ask = |what: MemberChange| {
        let (reply, mut receiver) = oneshot::channel();
        world.servers.get_mut(&follower).expect("running").core.change_members(what, reply);
        let mut answer = None;
        world.until("an answer", |_| {
            answer = receiver.try_recv().ok();
            answer.is_some()
        });
        answer.expect("just seen")
    };
    let error = ask(MemberChange::Promote(ServerId(9))).unwrap_err();
    assert!(matches!(&error, ChangeError::Refused(why) if why.contains("server 9 is not a member")), "{error:?}");
    assert_eq!(ask(MemberChange::Remove(ServerId(gone))).unwrap(), format!("server {gone} was removed"));
    world.pass(200);
    assert_eq!(world.servers[&follower].status.borrow().members.len(), 2);
}

#[test]
fn a_server_that_asked_for_its_own_removal_sees_it_by_itself() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    world.unanswered = true;
    let (reply, mut receiver) = oneshot::channel();
    let asked = MemberChange::Remove(ServerId(follower));
    world.servers.get_mut(&follower).expect("running").core.change_members(asked, reply);
    let mut answer = None;
    world.until("an answer", |_| {
        answer = receiver.try_recv().ok();
        answer.is_some()
    });
    assert_eq!(answer.expect("just seen").unwrap(), format!("server {follower} was removed"));
    // What was so before is for the leader alone to answer: here, that it is no member.
    let other = 1 + (leader + 1) % 3;
    let (reply, mut receiver) = oneshot::channel();
    let asked = MemberChange::Remove(ServerId(follower));
    world.servers.get_mut(&other).expect("running").core.change_members(asked, reply);
    world.pass(500);
    world.change_members(MemberChange::AddLearner(member(9))).unwrap();
    world.pass(500);
    assert!(receiver.try_recv().is_err(), "its answer is lost, and no other change gives one");
}

#[test]
fn a_change_asked_of_a_leader_that_is_gone_is_unknown() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    world.isolate(leader);
    let (reply, mut receiver) = oneshot::channel();
    let asked = MemberChange::Remove(ServerId(leader));
    world.servers.get_mut(&follower).expect("running").core.change_members(asked, reply);
    let mut answer = None;
    world.until("an answer", |_| {
        answer = receiver.try_recv().ok();
        answer.is_some()
    });
    let answer = answer.expect("just seen");
    // Not only when the time for it is over.
    assert!(matches!(&answer, Err(ChangeError::Unknown(why)) if why.contains("leadership")), "{answer:?}");
}

#[test]
fn a_leader_that_is_removed_steps_down() {
    let mut world = World::new(3);
    let old = world.elect();
    world.change_members(MemberChange::Remove(ServerId(old))).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    world.elect_among(&others);
    assert!(!world.servers[&old].core.is_leader());
    let it = world.put(others[0], "/a", b"x");
    world.pass(500);
    assert!(is_done(&it));
    world.pass(10_000);
    assert!(world.leader_among(&others).is_some(), "a removed server disturbs nobody");
}

#[test]
fn leadership_goes_where_it_is_told_to() {
    let mut world = World::new(3);
    let leader = world.elect();
    for asked in [leader, 1 + leader % 3] {
        let before = world.elect();
        let to = 1 + before % 3;
        let (reply, mut receiver) = oneshot::channel();
        world.servers.get_mut(&asked).unwrap().core.transfer(ServerId(to), reply);
        let mut answer = None;
        world.until("an answer", |_| {
            answer = receiver.try_recv().ok();
            answer.is_some()
        });
        assert_eq!(answer, Some(Ok(ServerId(to))));
        assert_eq!(world.elect(), to);
    }
}

#[test]
fn a_leader_whose_process_is_gone_is_not_waited_for() {
    for size in [3, 5] {
        let mut world = World::new(size);
        let leader = world.elect();
        world.pass(500);
        world.crash(leader, 0);
        for server in world.servers.values_mut() {
            server.core.gone(ServerId(leader));
        }
        let began = world.now_ms;
        world.elect();
        let took = world.now_ms - began;
        assert!(took < 500, "of {size}: took {took} ms, an election timeout is 1,000 at least");
    }
}

#[test]
fn sessions_are_renewed_through_any_server_and_end_in_silence() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    let open = |world: &mut World, id: u64| {
        let it =
            world.propose(id, Command::OpenSession { secret: [7; 16], run: 0, ttl_ms: 2_000, name: "test".to_owned() });
        world.pass(200);
        match fate(&it) {
            Some(Ok(Outcome::Opened { session })) => session,
            other => panic!("{other:?}"),
        }
    };
    let (here, there, silent) = (open(&mut world, leader), open(&mut world, follower), open(&mut world, follower));
    for _ in 0..20 {
        let mut renewals = [world.renew(leader, here), world.renew(follower, there)];
        world.pass(500);
        for renewal in &mut renewals {
            assert_eq!(renewal.try_recv().unwrap(), Ok(()));
        }
    }
    let machine = Arc::clone(world.servers[&follower].core.machine());
    assert!(machine.read().session(here).is_some() && machine.read().session(there).is_some());
    assert!(machine.read().session(silent).is_none(), "nobody renewed it");
    let mut late = [world.renew(leader, silent), world.renew(follower, silent)];
    world.pass(500);
    for renewal in &mut late {
        assert_eq!(renewal.try_recv().unwrap(), Err(ConfirmError::NoSession));
    }
    // A deposed leader renews nothing.
    world.isolate(leader);
    let mut renewal = world.renew(leader, here);
    world.pass(5_500);
    assert!(matches!(renewal.try_recv().unwrap(), Err(ConfirmError::NoLeader | ConfirmError::Timeout)));
}

#[test]
fn a_replica_whose_state_differs_from_a_majority_stops_serving() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = 1 + leader % 3;
    for n in 0..1_100 {
        world.put(leader, &format!("/{}", n % 10), b"x");
        if n % 50 == 0 {
            world.pass(STEP_MS);
        }
    }
    world.pass(500);
    let told = |from: u64| Item::StateHash(StateHash { from, index: 1024, hash: vec![9; 16].into() });
    let others: Vec<u64> = (1..=3).filter(|id| *id != follower).collect();
    let server = world.servers.get_mut(&follower).unwrap();
    server.core.step(told(others[0])).unwrap();
    world.pass(100);
    assert!(!world.servers[&follower].status.borrow().diverged, "one against one decides nothing");
    world.servers.get_mut(&follower).unwrap().core.step(told(others[1])).unwrap();
    world.pass(100);
    assert!(world.servers[&follower].status.borrow().diverged);
    let it = world.put(follower, "/a", b"x");
    let mut read = world.barrier(follower, 1_000);
    world.pass(100);
    assert_eq!(fate(&it), Some(Err(ProposeError::Diverged)));
    assert_eq!(read.try_recv().unwrap(), Err(ConfirmError::Diverged));
    let it = world.put(leader, "/still", b"x");
    world.pass(500);
    assert!(is_done(&it), "the others go on");
}

#[test]
fn a_failing_disk_stops_the_node() {
    let mut world = World::new(3);
    let leader = world.elect();
    world.platters[&leader].lock().failing = true;
    world.put(leader, "/a", b"x");
    let error = world.settle(leader).unwrap_err();
    assert!(matches!(error, Fatal::Store(StoreError::Io { .. })), "{error}");
}

/// A generator of numbers that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn power_failures_lose_nothing_that_was_acknowledged() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let mut world = World::with(3, |options| {
            options.log_entries_max = 40;
            options.log_entries_keep = 5;
        });
        let mut pending: Vec<(u64, Fate)> = Vec::new();
        let mut acknowledged: BTreeMap<u64, ()> = BTreeMap::new();
        let mut refused: Vec<u64> = Vec::new();
        for number in 0..400 {
            let ids: Vec<u64> = world.servers.keys().copied().collect();
            if !ids.is_empty() {
                let at = ids[usize::try_from(dice.below(ids.len() as u64)).unwrap()];
                let it = world.put(at, &format!("/n/{number}"), b"x");
                pending.push((number, it));
            }
            match dice.below(40) {
                0 if !ids.is_empty() => {
                    let id = ids[usize::try_from(dice.below(ids.len() as u64)).unwrap()];
                    let unsynced = world.platters[&id].lock().unsynced() as u64;
                    world.crash(id, usize::try_from(dice.below(unsynced + 1)).unwrap());
                }
                1 => {
                    for id in ids {
                        let unsynced = world.platters[&id].lock().unsynced() as u64;
                        world.crash(id, usize::try_from(dice.below(unsynced + 1)).unwrap());
                    }
                }
                2 => world.isolate(1 + dice.below(3)),
                3 | 4 => world.heal(),
                _ => {}
            }
            if dice.below(6) == 0 {
                for id in 1..=3 {
                    if !world.servers.contains_key(&id) {
                        world.boot(id);
                    }
                }
            }
            world.pass(STEP_MS * (1 + dice.below(20)));
            pending.retain(|(number, it)| match fate(it) {
                None => true,
                Some(Ok(_)) => {
                    acknowledged.insert(*number, ());
                    false
                }
                Some(Err(error)) => {
                    if !error.is_indefinite() {
                        refused.push(*number);
                    }
                    false
                }
            });
        }
        world.heal();
        for id in 1..=3 {
            if !world.servers.contains_key(&id) {
                world.boot(id);
            }
        }
        world.elect();
        world.pass(1_000);
        world.assert_same_state();
        for id in 1..=3 {
            for number in acknowledged.keys() {
                assert!(world.get(id, &format!("/n/{number}")).is_some(), "seed {seed}: server {id} lost {number}");
            }
            for number in &refused {
                assert!(world.get(id, &format!("/n/{number}")).is_none(), "seed {seed}: {number} was refused");
            }
        }
        assert!(acknowledged.len() > 20, "seed {seed}: something was going on: {}", acknowledged.len());
    }
}

#[test]
fn terms_never_go_back() {
    let mut world = World::new(3);
    world.elect();
    let mut last = Term(0);
    for _ in 0..5 {
        let leader = world.elect();
        let term = world.servers[&leader].status.borrow().term;
        assert!(term >= last);
        last = term;
        world.crash(leader, 0);
        world.boot(leader);
        world.pass(3_000);
    }
}
