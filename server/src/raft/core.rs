//! The Raft node without threads, sockets and clocks: requests and messages in, effects out.
//!
//! [`Core::settle`] owns the order of things. For every Ready of raft-rs: a leader's messages go out; entries and
//! hard state are stored with one fsync; messages that promise what was stored go out; committed entries change the
//! state, are published and answered. What changed is stored a little later for many entries together, unsynced, with
//! the applied index and the commit index that covers it: a crash replays the rest from the log.
//!
//! Always true between two calls:
//! * every waiter belongs to a proposal that was handed to raft-rs under the current leader and term;
//! * applied ≤ committed, on the disk too;
//! * a round's renewals are told to the leader's duties only by the leader that received them, in the same term.

mod hashes;
mod members;

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use conclave_faults::{planted, point};
use conclave_proto::{
    Index, ServerId, SessionId, Term,
    peer::{Refused as RefusedItem, Renew, Renewed, peer_item::Item},
};
use conclave_state::{Command, Entry as Request, Machine, RequestId};
use parking_lot::RwLock;
use prost_raft::Message as _;
use raft::{
    Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{Entry, EntryType, HardState, Message, MessageType},
};

use super::{
    Answer, ChangeError, ConfirmError, Member, Options, ProposeError, Publish, Role, Status,
    confirm::{Barrier, BarrierReply, Confirm, RenewReply, Renewal, RenewedFrom},
    waiters::Waiters,
};
use crate::leader::{self, Duties};
use crate::storage::{AppliedWrite, Membership, Position, Recovered, SnapshotInfo, Store, StoreError, log::Log};

/// Most bytes of proposals handed over in one message, so that a forwarded one stays small.
const PROPOSALS_BYTES_MAX: usize = 1 << 20;
/// A leader waits this long for a follower to make progress with a snapshot before it offers one again. A follower that
/// is still busy with the first takes no notice.
const SNAPSHOT_MS_MAX: u64 = 5_000;
/// After a leader's process is gone: before the first campaign, so that the others have noticed too; between the
/// campaigns of two servers; and how often each tries.
const EARLY_PAUSE_MS: u64 = 20;
const EARLY_TURN_MS: u64 = 60;
const EARLY_TRIES: u32 = 10;
/// Entries after which the state is stored, at the latest; otherwise at each tick.
const STORE_ENTRIES_MAX: u64 = 1_024;
/// Compaction waits for followers that are behind until the log is this many times too long.
const LOG_STRETCH: u64 = 4;

/// Where the core's messages go. Nothing here may block; what cannot be sent is dropped.
pub trait Outbound {
    /// To one peer.
    fn send(&mut self, to: ServerId, item: Item);
    /// A snapshot must be fetched from the sender of this message before the message is stepped: see
    /// [`Core::fetched`].
    fn fetch_snapshot(&mut self, message: Message);
    /// A peer's stream to this server broke: finds out whether its process is gone, see [`Core::gone`].
    fn probe(&mut self, peer: ServerId);
    /// A peer says where it is reached. A server that was away while the membership changed knows of no other way to
    /// answer it.
    fn introduced(&mut self, _peer: ServerId, _address: String) {}
    /// What was sent so far is on its way when this returns.
    fn flush(&mut self);
    /// Those to be in touch with.
    fn members(&mut self, members: &[Member]);
}

/// Told of every snapshot taken, on any thread; hands it to [`Core::snapshot_taken`].
pub type SnapshotTaken = Arc<dyn Fn(Result<SnapshotInfo, StoreError>) + Send + Sync>;

/// Why the core cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// raft-rs.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// Another part of the server.
    #[error("{0} failed: a broken invariant")]
    Broken(&'static str),
    /// An entry that this version cannot read.
    #[error("log entry {index} cannot be read: {why}")]
    Entry {
        /// Where in the log.
        index: u64,
        /// In words.
        why: String,
    },
}

/// What is applied of another server's entry: all of it.
fn not_lost(request: Request) -> Option<Request> {
    point!("apply-entry", |_| None);
    Some(request)
}

struct Proposal {
    count: u64,
    data: Vec<u8>,
    answer: Answer,
}

/// Campaigns ahead of the election timeout.
struct Early {
    next_ms: u64,
    tries: u32,
}

struct Forwarded {
    batch: u64,
    renewals: Vec<(SessionId, u64, RenewReply)>,
}

/// See the module.
pub struct Core<S: Store> {
    id: u64,
    run: u64,
    options: Options,
    raw: RawNode<Log<S>>,
    machine: Arc<RwLock<Machine>>,
    publish: Box<dyn Publish>,
    membership: Membership,
    hard_state: HardState,
    /// The commit index moved and is not stored yet.
    hard_state_moved: bool,
    applied: Position,
    /// The state on the disk is as of this index.
    stored: u64,
    members_unstored: bool,
    snapshot_index: u64,
    snapshot_taking: bool,
    now_ms: u64,
    next_internal: u64,
    staged: Vec<Proposal>,
    waiters: Waiters,
    confirm: Confirm,
    /// A follower's renewals: to be sent, and under way to the leader.
    renewals: Vec<(SessionId, u64, RenewReply)>,
    forwarded: Vec<Forwarded>,
    /// Counts from a number drawn at the start: a late answer to a batch of this server's former run answers nothing.
    next_batch: u64,
    duties: Option<Duties>,
    /// Leader and term that the waiters count on.
    under: (u64, u64),
    /// Renewals that depend on an entry still to be applied.
    held: Vec<Renewal>,
    held_answers: Vec<(u64, Renewed)>,
    /// The duties have something to propose before the next tick.
    duties_due: bool,
    wall_ms: u64,
    early: Option<Early>,
    changes: Vec<members::Change>,
    changes_asked: u64,
    /// For peers, with the next settlement.
    outbox: Vec<(ServerId, Item)>,
    transfers: Vec<members::Transfer>,
    /// Leader: when to give up on a follower's snapshot.
    snapshots_sent: Vec<(u64, u64)>,
    fetching: Option<u64>,
    /// What was announced meanwhile, perhaps by another leader.
    offered: Option<Message>,
    /// When a peer was last heard. raft-rs forgets it whenever it checks its quorum.
    heard: BTreeMap<u64, u64>,
    diverged: bool,
    status: tokio::sync::watch::Sender<Arc<Status>>,
    members_changed: bool,
    status_due: bool,
    status_head: (u64, u64, Role),
    snapshot_done: SnapshotTaken,
    hashes: hashes::Hashes,
    /// Of nothing but election timeouts.
    random: fastrand::Rng,
}

impl<S: Store> Core<S> {
    /// A node over what was found on the disk. `run` is drawn at random for this start; election timeouts are drawn
    /// from it.
    ///
    /// # Errors
    /// raft-rs does not accept it.
    pub fn new(
        options: Options,
        run: u64,
        store: S,
        recovered: Recovered,
        publish: Box<dyn Publish>,
        status: tokio::sync::watch::Sender<Arc<Status>>,
        snapshot_done: SnapshotTaken,
    ) -> Result<Self, Fatal> {
        let id = options.id.0;
        let Recovered { hard_state, membership, compacted, last, applied, machine } = recovered;
        let log =
            Log::new(store, compacted, last, hard_state.clone(), membership.conf.clone(), options.log_cache_bytes_max);
        let config = Config {
            id,
            election_tick: options.election_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            applied: applied.index,
            max_size_per_msg: options.append_bytes_max,
            max_inflight_msgs: options.appends_in_flight_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: options.uncommitted_bytes_max,
            max_committed_size_per_ready: options.apply_bytes_max,
            ..Config::default()
        };
        let logger = slog::Logger::root(tracing_slog::TracingSlogDrain, slog::o!());
        let raw = RawNode::new(&config, log, &logger)?;
        let under = (raw.raft.leader_id, raw.raft.term);
        let mut core = Self {
            id,
            run,
            options,
            raw,
            machine: Arc::new(RwLock::new(machine)),
            publish,
            membership,
            hard_state,
            hard_state_moved: false,
            applied,
            stored: applied.index,
            members_unstored: false,
            snapshot_index: 0,
            snapshot_taking: false,
            now_ms: 0,
            next_internal: 0,
            staged: Vec::new(),
            waiters: Waiters::default(),
            confirm: Confirm::default(),
            renewals: Vec::new(),
            forwarded: Vec::new(),
            next_batch: run,
            duties: None,
            under,
            held: Vec::new(),
            held_answers: Vec::new(),
            duties_due: false,
            wall_ms: 0,
            early: None,
            changes: Vec::new(),
            changes_asked: 0,
            outbox: Vec::new(),
            transfers: Vec::new(),
            snapshots_sent: Vec::new(),
            fetching: None,
            offered: None,
            heard: BTreeMap::new(),
            diverged: false,
            status,
            members_changed: true,
            status_due: true,
            status_head: (0, 0, Role::default()),
            snapshot_done,
            hashes: hashes::Hashes::default(),
            random: fastrand::Rng::with_seed(run ^ id.rotate_left(32)),
        };
        let only_voter = core.membership.conf.voters == [id] && core.membership.conf.voters_outgoing.is_empty();
        if only_voter {
            core.raw.campaign()?;
        }
        core.tell_status();
        Ok(core)
    }

    /// The state, shared with readers.
    #[must_use]
    pub fn machine(&self) -> &Arc<RwLock<Machine>> {
        &self.machine
    }

    /// The store, for tests.
    pub fn store(&mut self) -> &mut S {
        self.raw.mut_store().store()
    }

    /// Time, in milliseconds of a monotonic clock, never backwards; and of the wall clock, which decides nothing.
    pub fn at(&mut self, now_ms: u64, wall_ms: u64) {
        assert!(now_ms >= self.now_ms, "time does not run backwards");
        self.now_ms = now_ms;
        self.wall_ms = wall_ms;
    }

    /// Whether this server leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader known here.
    #[must_use]
    pub fn leader(&self) -> Option<ServerId> {
        (self.raw.raft.leader_id != 0).then_some(ServerId(self.raw.raft.leader_id))
    }

    /// Takes part in the next batch of proposals. `data` is an encoded [`Request`], `count` from its request id.
    pub fn propose(&mut self, count: u64, data: Vec<u8>, answer: Answer) {
        if self.diverged {
            answer(Err(ProposeError::Diverged));
        } else if self.waiters.len() + self.staged.len() >= self.options.waiters_max {
            answer(Err(ProposeError::Overloaded));
        } else {
            self.staged.push(Proposal { count, data, answer });
        }
    }

    /// Answered once everything committed before is applied here.
    pub fn barrier(&mut self, deadline_ms: u64, reply: BarrierReply) {
        if self.diverged {
            let _ = reply.send(Err(ConfirmError::Diverged));
        } else if self.confirm.len() >= self.options.confirmations_max {
            let _ = reply.send(Err(ConfirmError::Timeout));
        } else {
            self.confirm.barrier(Barrier { deadline_ms, reply });
        }
    }

    /// Renews a session with the leader.
    pub fn renew(&mut self, session: SessionId, deadline_ms: u64, reply: RenewReply) {
        if self.diverged {
            let _ = reply.send(Err(ConfirmError::Diverged));
        } else if self.confirm.len() + self.renewals.len() >= self.options.confirmations_max {
            let _ = reply.send(Err(ConfirmError::Timeout));
        } else if self.is_leader() {
            self.received(session, deadline_ms, RenewedFrom::Here(reply));
        } else {
            self.renewals.push((session, deadline_ms, reply));
        }
    }

    /// Time left to each session, if this server leads.
    #[must_use]
    pub fn remaining(&self) -> Option<Vec<(SessionId, u64)>> {
        self.duties.as_ref().map(Duties::remaining)
    }

    /// Something came from a peer.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn step(&mut self, item: Item) -> Result<(), Fatal> {
        if self.diverged {
            return Ok(());
        }
        match item {
            Item::Hello(_) | Item::Raft(_) => Ok(()),
            Item::Renew(renew) => {
                self.renew_for(renew);
                Ok(())
            }
            Item::Renewed(renewed) => {
                self.renewed(renewed);
                Ok(())
            }
            Item::Refused(refused) => {
                if refused.run == self.run {
                    let error = if refused.overloaded { ProposeError::Overloaded } else { ProposeError::NoLeader };
                    for count in refused.counts {
                        self.waiters.fail(count, error);
                    }
                }
                Ok(())
            }
            Item::ChangeMembers(asked) => {
                self.change_members_for(asked);
                Ok(())
            }
            Item::MembersChanged(changed) => {
                self.members_changed_there(changed);
                Ok(())
            }
            Item::StateHash(hash) => {
                self.compare_hash(&hash);
                Ok(())
            }
        }
    }

    /// A message of raft-rs came from a peer.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn step_raft(&mut self, message: Message, out: &mut impl Outbound) -> Result<(), Fatal> {
        if self.diverged || message.to != self.id {
            return Ok(());
        }
        self.heard.insert(message.from, self.now_ms);
        match message.msg_type() {
            MessageType::MsgSnapshot => {
                let index = message.get_snapshot().get_metadata().index;
                if message.term < self.raw.raft.term || index <= self.raw.raft.raft_log.committed {
                    // Stale: raft-rs says so to the sender.
                    return self.step_checked(message);
                }
                if self.fetching.is_none() {
                    self.fetching = Some(index);
                    out.fetch_snapshot(message);
                } else {
                    self.offered = Some(message);
                }
                // Its sender leads, which is news enough for now.
                Ok(())
            }
            MessageType::MsgPropose => {
                let from = message.from;
                let ids: Vec<RequestId> =
                    message.entries.iter().filter_map(|entry| Request::request(&entry.data)).collect();
                match self.raw.step(message) {
                    Err(raft::Error::ProposalDropped) => {
                        let overloaded = self.is_leader() && self.raw.raft.lead_transferee.is_none();
                        for chunk in ids.chunk_by(|a, b| a.run == b.run && a.server == b.server) {
                            let item = RefusedItem {
                                run: chunk[0].run,
                                counts: chunk.iter().map(|id| id.count).collect(),
                                overloaded,
                            };
                            debug_assert!(chunk[0].server == from || chunk[0].server != self.id);
                            out.send(ServerId(chunk[0].server), Item::Refused(item));
                        }
                        Ok(())
                    }
                    other => Ok(ignorable(other)?),
                }
            }
            _ => self.step_checked(message),
        }
    }

    fn step_checked(&mut self, message: Message) -> Result<(), Fatal> {
        Ok(ignorable(self.raw.step(message))?)
    }

    /// A snapshot was fetched and checked: `machine` is its state.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn fetched(
        &mut self,
        message: Message,
        machine: Machine,
        incoming: S::Incoming,
        out: &mut impl Outbound,
    ) -> Result<(), Fatal> {
        self.fetching = None;
        let offered = self.offered.take();
        let metadata = message.get_snapshot().get_metadata().clone();
        self.step_checked(message)?;
        let wanted = self.raw.raft.raft_log.unstable_snapshot().as_ref().is_some_and(|snapshot| {
            let ours = snapshot.get_metadata();
            (ours.index, ours.term) == (metadata.index, metadata.term)
        });
        if !wanted {
            self.raw.mut_store().store().discard(incoming);
            // Its sender leads no more, and the next leader would wait for long before it said this again.
            return offered.map_or(Ok(()), |message| self.step_raft(message, out));
        }
        assert_eq!(machine.applied().0, metadata.index, "the state is the snapshot's");
        self.settle_snapshot(machine, incoming, out)
    }

    /// The snapshot announced by this message could not be had.
    pub fn fetch_failed(&mut self, message: &Message) {
        if self.fetching == Some(message.get_snapshot().get_metadata().index) {
            self.fetching = None;
        }
    }

    /// A follower took (a part of) a snapshot from here, or failed to.
    pub fn snapshot_served(&mut self, to: ServerId, ok: bool) {
        if ok {
            let deadline = self.now_ms + SNAPSHOT_MS_MAX;
            if let Some(sent) = self.snapshots_sent.iter_mut().find(|sent| sent.0 == to.0) {
                sent.1 = deadline;
            }
        }
    }

    /// The outcome of a snapshot taken here.
    pub fn snapshot_taken(&mut self, result: Result<SnapshotInfo, StoreError>) {
        self.snapshot_taking = false;
        match result {
            Ok(info) => {
                self.options.timings.snapshots_taken.fetch_add(1, Relaxed);
                tracing::info!(index = info.at.index, term = info.at.term, "took a snapshot");
                self.snapshot_index = self.snapshot_index.max(info.at.index);
                self.raw.mut_store().set_snapshot(info);
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "could not take a snapshot"),
        }
    }

    /// A peer cannot be reached, or the connection to it broke.
    pub fn unreachable(&mut self, peer: ServerId) {
        self.raw.report_unreachable(peer.0);
        // If it was to fetch a snapshot, its process may be gone; and if not, it takes no second one meanwhile.
        if self.snapshots_sent.iter().any(|sent| sent.0 == peer.0) {
            self.snapshots_sent.retain(|sent| sent.0 != peer.0);
            self.raw.report_snapshot(peer.0, SnapshotStatus::Failure);
        }
        if self.raw.raft.leader_id == peer.0 {
            // Forwarded proposals may be lost with the connection; nobody else would notice before their deadline.
            self.leader_gone(ProposeError::LeadershipLost);
        }
    }

    /// For whoever counts on an answer of that leader, or on its leading.
    fn leader_gone(&mut self, proposals: ProposeError) {
        self.waiters.fail_all(proposals);
        self.give_up_forwarded_changes();
        self.reclaim_forwarded();
    }

    /// A peer's process is provably gone: its port refuses connections.
    ///
    /// If it led, this server stops believing in it instead of waiting for the election timeout. That is safe: Raft's
    /// promises never depend on time, and nothing here does on anybody's belief in a leader (reads and renewals ask
    /// the quorum each time). At worst a port was closed and opened again, and a live leader is replaced.
    pub fn gone(&mut self, peer: ServerId) {
        let raft = &mut self.raw.raft;
        if !self.options.early_elections || raft.state != StateRole::Follower || raft.leader_id != peer.0 {
            return;
        }
        tracing::info!(leader = %peer, "the leader's process is gone");
        let term = raft.term;
        raft.become_follower(term, 0);
        if !raft.promotable() {
            return;
        }
        // One after the other, so that they do not take each other's votes; again, because the others may not have
        // noticed yet and still refuse.
        let before = self.membership.conf.voters.iter().filter(|id| **id < self.id && **id != peer.0).count();
        let turn = EARLY_TURN_MS * u64::try_from(before).unwrap_or(u64::MAX);
        self.early = Some(Early { next_ms: self.now_ms + EARLY_PAUSE_MS + turn, tries: EARLY_TRIES });
    }

    fn campaign_early(&mut self) {
        let Some(early) = &mut self.early else { return };
        if early.next_ms > self.now_ms {
            return;
        }
        let raft = &self.raw.raft;
        let undecided = matches!(raft.state, StateRole::Follower | StateRole::PreCandidate);
        if raft.leader_id != 0 || !undecided || early.tries == 0 {
            self.early = None;
            return;
        }
        early.tries -= 1;
        let others = u64::try_from(self.membership.conf.voters.len()).unwrap_or(u64::MAX);
        early.next_ms = self.now_ms + EARLY_TURN_MS * others;
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(%error, "cannot campaign");
        }
    }

    /// The time given last.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// When [`Core::settle`] has something to do even if nothing comes, before the next tick.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        self.early.as_ref().map(|early| early.next_ms)
    }

    /// Time passes.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn tick(&mut self) -> Result<(), Fatal> {
        self.status_due = true;
        if !self.diverged {
            self.draw_election_timeout();
            self.raw.tick();
        }
        self.waiters.expire(self.now_ms);
        self.confirm.tick(self.now_ms);
        self.expire_renewals();
        self.expire_requests();
        self.give_up_snapshots();
        self.campaign_early();
        self.do_duties();
        self.store_state()
    }

    /// An election timeout between one and one and a half times `election_ticks`: Raft paper section 5.2, whose section 9.3
    /// shows that little randomness suffices, and all of it is added to every loss of a leader. raft-rs draws from a
    /// generator of the thread's when it begins to count; so that one seed is one course of events, another timeout is put
    /// in its place before the count is looked at.
    fn draw_election_timeout(&mut self) {
        if self.raw.raft.election_elapsed == 0 {
            let least = self.options.election_ticks;
            // Ticks are coarse: a few of them have to be left to chance, however short the timeout.
            let spread = (least / 2).max(4);
            self.raw.raft.set_randomized_election_timeout(self.random.usize(least..least + spread));
        }
    }

    fn do_duties(&mut self) {
        self.duties_due = false;
        if let Some(duties) = &mut self.duties {
            let commands = duties.tick(self.now_ms, &self.machine.read());
            for command in commands {
                self.propose_internal(command);
            }
            self.answer_held();
        }
    }

    fn propose_internal(&mut self, command: Command) {
        let request = RequestId { server: self.id, run: 0, count: self.next_internal };
        self.next_internal += 1;
        let data = Request { request, at_ms: self.wall_ms, command }.encode();
        // What is dropped here is proposed again by the duties.
        if let Err(error) = self.raw.propose(Vec::new(), data) {
            tracing::debug!(%error, "a housekeeping proposal was dropped");
        }
    }

    /// Brings everything that was asked and received to its effects. See the module.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn settle(&mut self, out: &mut impl Outbound) -> Result<(), Fatal> {
        if !self.diverged {
            if self.fetching.is_none()
                && let Some(message) = self.offered.take()
            {
                // What was fetched before it could not be had.
                self.step_raft(message, out)?;
            }
            self.campaign_early();
            self.notice_leadership();
            self.flush_proposals();
            self.flush_renewals(out);
            self.start_round();
            while self.raw.has_ready() {
                self.settle_ready(out)?;
                self.notice_leadership();
                if self.duties_due {
                    self.do_duties();
                }
                self.start_round();
            }
            self.maintain_log()?;
        }
        self.empty_outbox(out);
        if mem::take(&mut self.members_changed) {
            // A newcomer knows from its configuration whom to answer, until it is sent the members.
            let known = &self.membership.members;
            out.members(if known.is_empty() { &self.options.members } else { known });
        }
        out.flush();
        self.tell_status();
        Ok(())
    }

    fn settle_ready(&mut self, out: &mut impl Outbound) -> Result<(), Fatal> {
        let mut ready = self.raw.ready();
        assert!(ready.snapshot().is_empty(), "snapshots are settled where they are stepped");
        point!("turn-send");
        self.send(ready.take_messages(), out);
        if let Some(hard_state) = ready.hs() {
            self.hard_state = hard_state.clone();
            self.hard_state_moved = true;
        }
        let entries = ready.take_entries();
        if ready.must_sync() {
            // Followers store while we do.
            out.flush();
            if planted!(AnswerBeforeCommit) {
                self.answer_before_commit(&entries);
            }
            let unvoted = planted!(VoteNotPersisted).then(|| HardState { vote: 0, ..self.hard_state.clone() });
            let hard_state = unvoted.as_ref().unwrap_or(&self.hard_state);
            let hard_state = mem::take(&mut self.hard_state_moved).then_some(hard_state);
            let (begun, stored) = (Instant::now(), entries.len() as u64);
            self.raw.mut_store().append(entries, hard_state, !planted!(ReplyBeforeFsync))?;
            self.options.timings.log_sync.since(begun);
            self.options.timings.log_entries.fetch_add(stored, Relaxed);
        } else {
            assert!(entries.is_empty(), "entries are always synced");
        }
        point!("turn-promise");
        self.send(ready.take_persisted_messages(), out);
        let read_states = ready.take_read_states();
        let committed = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.hard_state.commit = commit;
            self.hard_state_moved = true;
        }
        self.send(light.take_messages(), out);
        out.flush();
        self.apply(committed, out)?;
        self.apply(light.take_committed_entries(), out)?;
        self.raw.advance_apply_to(self.applied.index);
        for state in read_states {
            self.round_confirmed(&state.request_ctx, state.index, out);
        }
        self.confirm.applied(self.applied.index);
        Ok(())
    }

    /// A planted bug.
    fn answer_before_commit(&mut self, entries: &[Entry]) {
        let mut machine = Machine::clone(&self.machine.read());
        for entry in entries {
            let request = Request::decode(&entry.data).ok();
            let ours = request.as_ref().map(|request| request.request);
            let next = machine.applied().next();
            let applied = machine.apply(next, Term(entry.term), request);
            if let Some(ours) = ours.filter(|ours| ours.server == self.id && ours.run == self.run) {
                self.waiters.applied(ours.count, &machine, &applied);
            }
        }
    }

    fn settle_snapshot(
        &mut self,
        machine: Machine,
        incoming: S::Incoming,
        out: &mut impl Outbound,
    ) -> Result<(), Fatal> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages(), out);
        if let Some(hard_state) = ready.hs() {
            self.hard_state = hard_state.clone();
        }
        let metadata = ready.snapshot().get_metadata();
        let at = Position { index: metadata.index, term: metadata.term };
        assert!(at.index > self.applied.index, "a snapshot only goes forwards");
        assert_eq!(self.hard_state.commit, at.index, "what a snapshot holds is committed");
        self.membership = self.raw.mut_store().store().install(incoming, at, &self.hard_state)?;
        point!("install-done");
        self.members_changed = true;
        self.raw.mut_store().replaced(at, &self.hard_state);
        self.hard_state_moved = false;
        let entries = ready.take_entries();
        if !entries.is_empty() {
            self.raw.mut_store().append(entries, None, true)?;
        }
        {
            let mut state = self.machine.write();
            *state = machine;
            self.publish.replaced(&state);
        }
        self.applied = at;
        self.stored = at.index;
        self.members_unstored = false;
        self.snapshot_index = at.index;
        self.options.timings.snapshots_installed.fetch_add(1, Relaxed);
        tracing::info!(index = at.index, term = at.term, "installed a snapshot");
        // Answers of proposals it covers are not to be had.
        self.waiters.fail_all(ProposeError::LeadershipLost);
        self.send(ready.take_persisted_messages(), out);
        let committed = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.hard_state.commit = commit;
            self.hard_state_moved = true;
        }
        self.send(light.take_messages(), out);
        self.apply(committed, out)?;
        self.apply(light.take_committed_entries(), out)?;
        self.raw.advance_apply_to(self.applied.index);
        self.confirm.applied(self.applied.index);
        Ok(())
    }

    fn empty_outbox(&mut self, out: &mut impl Outbound) {
        for (server, answer) in self.held_answers.drain(..) {
            out.send(ServerId(server), Item::Renewed(answer));
        }
        for (server, item) in self.outbox.drain(..) {
            out.send(server, item);
        }
    }

    fn send(&mut self, messages: Vec<Message>, out: &mut impl Outbound) {
        for message in messages {
            let to = message.to;
            if message.msg_type() == MessageType::MsgSnapshot {
                self.snapshots_sent.retain(|sent| sent.0 != to);
                self.snapshots_sent.push((to, self.now_ms + SNAPSHOT_MS_MAX));
            }
            out.send(ServerId(to), Item::Raft(message.encode_to_vec().into()));
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut impl Outbound) -> Result<(), Fatal> {
        let Some(last) = entries.last() else { return Ok(()) };
        let last = Position { index: last.index, term: last.term };
        point!("turn-apply");
        let mut membership_changed = false;
        let (begun, before) = (Instant::now(), self.applied.index);
        let shared = Arc::clone(&self.machine);
        let mut machine = shared.write();
        for entry in entries {
            assert!(entry.index == self.applied.index + 1, "entries are applied one after the other");
            let (index, term) = (Index(entry.index), Term(entry.term));
            let mut answer_to = None;
            let command = match entry.entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => None,
                EntryType::EntryNormal => {
                    let mut request =
                        Request::decode(&entry.data).map_err(|why| Fatal::Entry { index: entry.index, why })?;
                    let RequestId { server, run, count } = request.request;
                    if server == self.id && (run == self.run || planted!(AnswerOfAnotherRun)) {
                        answer_to = Some(count);
                    }
                    if planted!(ApplyByOwnClock) {
                        request.at_ms = self.wall_ms;
                    }
                    // Whoever waits for it here would wait for an outcome that it does not have.
                    if answer_to.is_none() { not_lost(request) } else { Some(request) }
                }
                EntryType::EntryConfChangeV2 => {
                    self.apply_membership(&entry)?;
                    membership_changed = true;
                    None
                }
                EntryType::EntryConfChange => {
                    return Err(Fatal::Entry { index: entry.index, why: "its type is not used here".to_owned() });
                }
            };
            let applied = machine.apply(index, term, command);
            point!("turn-publish");
            if !planted!(EventAfterReply) {
                self.publish.publish(&machine, index, &applied);
            }
            if let Some(duties) = &mut self.duties {
                duties.on_applied(self.now_ms, &machine, &applied);
            }
            if let Some(count) = answer_to {
                point!("turn-answer");
                self.waiters.applied(count, &machine, &applied);
            }
            if planted!(EventAfterReply) {
                self.publish.publish(&machine, index, &applied);
            }
            self.applied = Position { index: entry.index, term: entry.term };
            self.tell_hash(&machine, out);
        }
        if self.duties.is_none() && self.raw.raft.state == StateRole::Leader && last.term == self.raw.raft.term {
            let options = leader::Options {
                container_grace_ms: millis(self.options.container_grace),
                history_age_ms: millis(self.options.history_age),
                limits: self.options.limits.clone(),
            };
            self.duties = Some(Duties::new(options, Term(last.term), self.now_ms, &machine));
        }
        drop(machine);
        self.options.timings.apply.since(begun);
        self.options.timings.applied.fetch_add(self.applied.index - before, Relaxed);
        self.answer_held();
        assert!(self.applied == last && self.applied.index <= self.hard_state.commit, "only committed entries");
        // Members are always stored with the state they belong to.
        self.members_unstored |= membership_changed;
        if membership_changed || self.applied.index - self.stored >= STORE_ENTRIES_MAX {
            self.store_state()?;
        }
        Ok(())
    }

    /// Stores what changed since the last time. The log holds it too, so this is done for many entries together:
    /// records that change with every entry are written once, and a crash replays a little.
    ///
    /// # Errors
    /// The node cannot go on.
    pub fn store_state(&mut self) -> Result<(), Fatal> {
        if self.applied.index == self.stored {
            return Ok(());
        }
        let records = self.machine.write().take_writes();
        let hard_state = mem::take(&mut self.hard_state_moved).then_some(&self.hard_state);
        let membership = mem::take(&mut self.members_unstored).then_some(&self.membership);
        let hard_state = if planted!(CommitBehindState) { None } else { hard_state };
        let mut applied = self.applied;
        applied.index -= u64::from(planted!(AppliedBehind));
        let write = AppliedWrite { records, applied, hard_state, membership };
        self.raw.mut_store().store().write_applied(write)?;
        self.stored = self.applied.index;
        Ok(())
    }

    /// Leader or term changed: whoever counted on the old ones is told.
    fn notice_leadership(&mut self) {
        let now = (self.raw.raft.leader_id, self.raw.raft.term);
        if now == self.under {
            return;
        }
        tracing::info!(leader = now.0, term = now.1, role = ?self.raw.raft.state, "leadership changed");
        self.under = now;
        let lost = match planted!(LostLeadershipIsFailure) {
            true => ProposeError::NoLeader,
            false => ProposeError::LeadershipLost,
        };
        self.leader_gone(lost);
        let renewals = self.confirm.restart();
        let held = mem::take(&mut self.held);
        self.duties = None;
        if now.0 != 0 {
            self.early = None;
        }
        if self.is_leader() {
            for (session, deadline_ms, reply) in mem::take(&mut self.renewals) {
                self.received(session, deadline_ms, RenewedFrom::Here(reply));
            }
        }
        for renewal in renewals.into_iter().chain(held) {
            // Those of other servers are sent again by them.
            if let RenewedFrom::Here(reply) = renewal.from {
                self.renew(renewal.session, renewal.deadline_ms, reply);
            }
        }
        self.answer_transfers();
    }

    fn flush_proposals(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let staged = mem::take(&mut self.staged);
        if self.raw.raft.leader_id == 0 {
            for proposal in staged {
                (proposal.answer)(Err(ProposeError::NoLeader));
            }
            return;
        }
        if !self.is_leader() {
            point!("turn-forward");
        }
        let deadline_ms = self.now_ms + millis(self.options.proposal_timeout);
        let mut staged = staged.into_iter().peekable();
        let mut answers = Vec::new();
        while staged.peek().is_some() {
            let mut bytes = 0;
            let mut message = Message { from: self.id, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            while let Some(proposal) =
                staged.next_if(|next| bytes == 0 || bytes + next.data.len() <= PROPOSALS_BYTES_MAX)
            {
                bytes += proposal.data.len();
                message.entries.push(Entry { data: proposal.data, ..Entry::default() });
                answers.push((proposal.count, proposal.answer));
            }
            match self.raw.raft.step(message) {
                Ok(()) => {
                    for (count, answer) in answers.drain(..) {
                        self.waiters.insert(count, deadline_ms, answer);
                    }
                }
                Err(error) => {
                    // raft-rs appended and sent nothing: definite.
                    let full = self.is_leader() && self.raw.raft.lead_transferee.is_none();
                    let why = if full { ProposeError::Overloaded } else { ProposeError::NoLeader };
                    tracing::debug!(%error, "proposals were dropped");
                    for (_, answer) in answers.drain(..) {
                        answer(Err(why));
                    }
                }
            }
        }
    }

    fn start_round(&mut self) {
        if self.raw.raft.leader_id == 0 {
            self.confirm.fail_waiting(ConfirmError::NoLeader);
            return;
        }
        if self.is_leader() && self.duties.is_none() {
            // Nothing of this term is applied yet, and raft-rs would drop it. Soon there is.
            return;
        }
        if let Some(number) = self.confirm.start_round(self.now_ms) {
            if planted!(ReadWithoutQuorum) && self.is_leader() {
                self.confirm.confirmed(number, 0);
                self.confirm.applied(self.applied.index);
                return;
            }
            let mut context = Vec::with_capacity(24);
            context.extend_from_slice(&self.id.to_be_bytes());
            context.extend_from_slice(&self.run.to_be_bytes());
            context.extend_from_slice(&number.to_be_bytes());
            self.raw.read_index(context);
        }
    }

    fn round_confirmed(&mut self, context: &[u8], index: u64, out: &mut impl Outbound) {
        let Some((head, number)) = context.split_last_chunk::<8>() else { return };
        if head[..8] != self.id.to_be_bytes() || head[8..] != self.run.to_be_bytes() {
            return;
        }
        let number = match planted!(ReadContextReused) {
            true => self.confirm.latest(),
            false => u64::from_be_bytes(*number),
        };
        let index = if planted!(ReadBeforeApply) { 0 } else { index };
        let renewals = self.confirm.confirmed(number, index);
        if renewals.is_empty() {
            return;
        }
        let Some(duties) = &mut self.duties else {
            // Their servers ask the next leader; ours are told.
            for renewal in renewals {
                if let RenewedFrom::Here(reply) = renewal.from {
                    let _ = reply.send(Err(ConfirmError::NoLeader));
                }
            }
            return;
        };
        let mut answers: Vec<(u64, Renewed)> = Vec::new();
        for renewal in renewals {
            let renewed = match duties.renew(renewal.received_ms, renewal.session) {
                leader::Renewal::Granted => true,
                leader::Renewal::NoSession => false,
                leader::Renewal::Held => {
                    self.held.push(renewal);
                    self.duties_due = true;
                    continue;
                }
            };
            answer_renewal(renewal, renewed, &mut answers);
        }
        for (server, answer) in answers {
            out.send(ServerId(server), Item::Renewed(answer));
        }
    }

    /// Answers what the duties have decided about renewals that were held.
    fn answer_held(&mut self) {
        let Some(duties) = &mut self.duties else { return };
        let settled = duties.settled();
        if settled.is_empty() {
            return;
        }
        let verdict: BTreeMap<SessionId, bool> = settled.into_iter().collect();
        let held = self.held.extract_if(.., |renewal| verdict.contains_key(&renewal.session));
        for renewal in held {
            let renewed = verdict[&renewal.session];
            answer_renewal(renewal, renewed, &mut self.held_answers);
        }
    }

    fn flush_renewals(&mut self, out: &mut impl Outbound) {
        if self.renewals.is_empty() || self.is_leader() {
            return;
        }
        let Some(leader) = self.leader() else {
            for (_, _, reply) in self.renewals.drain(..) {
                let _ = reply.send(Err(ConfirmError::NoLeader));
            }
            return;
        };
        let batch = self.next_batch;
        self.next_batch = self.next_batch.wrapping_add(1);
        let renewals = mem::take(&mut self.renewals);
        let sessions = renewals.iter().map(|(session, _, _)| session.0).collect();
        out.send(leader, Item::Renew(Renew { from: self.id, batch, sessions }));
        self.forwarded.push(Forwarded { batch, renewals });
    }

    fn renew_for(&mut self, renew: Renew) {
        if !self.is_leader() {
            // It will notice who leads, and send them again.
            return;
        }
        let deadline_ms = self.now_ms + millis(self.options.proposal_timeout);
        for session in renew.sessions {
            if self.confirm.len() >= self.options.confirmations_max {
                return;
            }
            let from = RenewedFrom::There { server: renew.from, batch: renew.batch };
            self.received(SessionId(session), deadline_ms, from);
        }
    }

    /// A renewal reached the leader; its quorum is to be confirmed.
    fn received(&mut self, session: SessionId, deadline_ms: u64, from: RenewedFrom) {
        if let Some(duties) = &mut self.duties {
            duties.received(self.now_ms, session);
        }
        let renewal = Renewal { session, received_ms: self.now_ms, deadline_ms, from };
        if planted!(RenewWithoutQuorum)
            && let Some(duties) = &mut self.duties
        {
            let renewed = duties.renew(self.now_ms, session) == leader::Renewal::Granted;
            answer_renewal(renewal, renewed, &mut self.held_answers);
            return;
        }
        self.confirm.renewal(renewal);
    }

    fn renewed(&mut self, renewed: Renewed) {
        let Some(at) = self.forwarded.iter().position(|forwarded| forwarded.batch == renewed.batch) else { return };
        let forwarded = &mut self.forwarded[at];
        let sorted = |mut sessions: Vec<u64>| {
            sessions.sort_unstable();
            sessions
        };
        let (known, unknown) = (sorted(renewed.sessions), sorted(renewed.unknown));
        for (session, deadline_ms, reply) in mem::take(&mut forwarded.renewals) {
            if known.binary_search(&session.0).is_ok() {
                let _ = reply.send(Ok(()));
            } else if unknown.binary_search(&session.0).is_ok() {
                let _ = reply.send(Err(ConfirmError::NoSession));
            } else {
                forwarded.renewals.push((session, deadline_ms, reply));
            }
        }
        if forwarded.renewals.is_empty() {
            self.forwarded.swap_remove(at);
        }
    }

    /// Renewals under way to a leader that is none any more are sent to the next.
    fn reclaim_forwarded(&mut self) {
        for forwarded in self.forwarded.drain(..) {
            self.renewals.extend(forwarded.renewals);
        }
    }

    fn expire_renewals(&mut self) {
        let now_ms = self.now_ms;
        let expired = |renewals: &mut Vec<(SessionId, u64, RenewReply)>| {
            for (_, _, reply) in renewals.extract_if(.., |(_, deadline_ms, _)| *deadline_ms <= now_ms) {
                let _ = reply.send(Err(ConfirmError::Timeout));
            }
        };
        expired(&mut self.renewals);
        for renewal in self.held.extract_if(.., |renewal| renewal.deadline_ms <= now_ms) {
            if let RenewedFrom::Here(reply) = renewal.from {
                let _ = reply.send(Err(ConfirmError::Timeout));
            }
        }
        for forwarded in &mut self.forwarded {
            expired(&mut forwarded.renewals);
        }
        self.forwarded.retain(|forwarded| !forwarded.renewals.is_empty());
    }

    fn maintain_log(&mut self) -> Result<(), Fatal> {
        self.raw.mut_store().readable()?;
        if self.raw.store().take_snapshot_wanted() && !self.snapshot_taking {
            self.store_state()?;
            self.take_snapshot();
        }
        let log = self.raw.store();
        let length = self.applied.index - log.compacted().index;
        let (entries_max, bytes_max) = (self.options.log_entries_max, self.options.log_bytes_max);
        if length <= entries_max && log.bytes() <= bytes_max {
            return Ok(());
        }
        let mut through = self.applied.index.saturating_sub(self.options.log_entries_keep.min(length / 2));
        if self.is_leader() && length <= entries_max * LOG_STRETCH && log.bytes() <= bytes_max * LOG_STRETCH {
            through = through.min(self.needed_after());
        }
        if through > log.compacted().index {
            // What the state on the disk lacks is replayed from the log.
            if !planted!(CompactBeforeStore) {
                self.store_state()?;
            }
            self.raw.mut_store().compact(through)?;
            tracing::debug!(through, "compacted the log");
        }
        Ok(())
    }

    /// Followers in touch need the log after this index: compacted, it would only have to be followed by another
    /// snapshot.
    fn needed_after(&self) -> u64 {
        let followers = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.id);
        let needed = followers.filter_map(|(id, progress)| {
            let fetches = self.snapshots_sent.iter().any(|sent| sent.0 == *id);
            match progress.state {
                ProgressState::Snapshot => fetches.then_some(progress.pending_snapshot),
                _ => self.in_touch(*id).then_some(progress.matched),
            }
        });
        needed.min().unwrap_or(u64::MAX)
    }

    /// Heard within the shortest election timeout. raft-rs's own mark is gone for a moment after each check of its quorum.
    fn in_touch(&self, id: u64) -> bool {
        let ticks = u64::try_from(self.options.election_ticks).unwrap_or(u64::MAX);
        let patience_ms = millis(self.options.tick).saturating_mul(ticks);
        id == self.id || self.heard.get(&id).is_some_and(|at| at.saturating_add(patience_ms) > self.now_ms)
    }

    fn take_snapshot(&mut self) {
        self.snapshot_taking = true;
        let taken = Arc::clone(&self.snapshot_done);
        self.raw.mut_store().store().start_snapshot(Box::new(move |result| taken(result)));
    }

    /// A follower that neither takes its snapshot nor says so is offered one again.
    fn give_up_snapshots(&mut self) {
        let now_ms = self.now_ms;
        let raw = &mut self.raw;
        self.snapshots_sent.retain(|&(to, deadline_ms)| {
            let waits = raw.raft.state == StateRole::Leader
                && raw.raft.prs().get(to).is_some_and(|progress| progress.state == ProgressState::Snapshot);
            if waits && deadline_ms <= now_ms {
                raw.report_snapshot(to, SnapshotStatus::Failure);
            }
            waits && deadline_ms > now_ms
        });
    }

    /// Answers everything that still waits. Nothing is asked of the core afterwards.
    pub fn end(&mut self) {
        for proposal in mem::take(&mut self.staged) {
            (proposal.answer)(Err(ProposeError::NoLeader));
        }
        self.fail_everything(ProposeError::Stopping, ConfirmError::Stopping);
        for change in self.changes.drain(..) {
            // Those of other servers find out by themselves.
            if let members::ChangeReply::Here(reply) = change.reply {
                let _ = reply.send(Err(ChangeError::stopping()));
            }
        }
        for transfer in self.transfers.drain(..) {
            let _ = transfer.reply.send(Err("the server is stopping".to_owned()));
        }
        self.raw.raft.state = StateRole::Follower;
        self.raw.raft.leader_id = 0;
        self.status_due = true;
        self.tell_status();
    }

    fn fail_everything(&mut self, propose: ProposeError, confirm: ConfirmError) {
        self.waiters.fail_all(propose);
        self.confirm.fail_all(confirm);
        self.reclaim_forwarded();
        for (_, _, reply) in self.renewals.drain(..) {
            let _ = reply.send(Err(confirm));
        }
        for renewal in self.held.drain(..) {
            if let RenewedFrom::Here(reply) = renewal.from {
                let _ = reply.send(Err(confirm));
            }
        }
    }

    fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.raw.raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        }
    }

    fn tell_status(&mut self) {
        let head = (self.raw.raft.leader_id, self.raw.raft.term, self.role());
        if !mem::take(&mut self.status_due) && head == self.status_head {
            return;
        }
        self.status_head = head;
        let progress = match self.is_leader() {
            true => {
                let all = self.raw.raft.prs().iter();
                let mut all: Vec<_> =
                    all.map(|(id, progress)| (ServerId(*id), Index(progress.matched), self.in_touch(*id))).collect();
                all.sort_unstable();
                all
            }
            false => Vec::new(),
        };
        let status = Status {
            id: ServerId(self.id),
            leader: ServerId(head.0),
            role: head.2,
            term: Term(head.1),
            committed: Index(self.raw.raft.raft_log.committed),
            applied: Index(self.applied.index),
            last: Index(self.raw.raft.raft_log.last_index()),
            compacted: Index(self.raw.store().compacted().index),
            snapshot: Index(self.snapshot_index),
            members: self.membership.members.clone(),
            progress,
            diverged: self.diverged,
            revision: self.machine.read().revision(),
        };
        self.status.send_replace(Arc::new(status));
    }
}

fn answer_renewal(renewal: Renewal, renewed: bool, remote: &mut Vec<(u64, Renewed)>) {
    match renewal.from {
        RenewedFrom::Here(reply) => {
            let _ = reply.send(if renewed { Ok(()) } else { Err(ConfirmError::NoSession) });
        }
        RenewedFrom::There { server, batch } => {
            let known = remote.iter().position(|(to, answer)| *to == server && answer.batch == batch);
            let at = known.unwrap_or_else(|| {
                remote.push((server, Renewed { batch, ..Renewed::default() }));
                remote.len() - 1
            });
            let answer = &mut remote[at].1;
            let list = if renewed { &mut answer.sessions } else { &mut answer.unknown };
            list.push(renewal.session.0);
        }
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a message from a peer may do wrong without harm.
fn ignorable(result: raft::Result<()>) -> raft::Result<()> {
    match result {
        Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped | raft::Error::StepLocalMsg) => Ok(()),
        other => other,
    }
}
