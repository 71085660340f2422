//! Changes of membership, and of leadership on request.

use std::mem;

use conclave_faults::point;
use conclave_proto::{
    ServerId,
    peer::{ChangeMembers, MembersChanged, peer_item::Item},
};
use prost_raft::Message as _;
use raft::{
    StateRole,
    eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry},
};
use tokio::sync::oneshot;

use super::{Core, Fatal, millis};
use crate::{
    raft::{ChangeError, Member, MemberChange},
    storage::{Position, Store},
};

/// A learner at most this many entries behind counts as caught up.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// A change of membership is waited for this long.
const CHANGE_MS_MAX: u64 = 15_000;
/// Leading byte of what is sent and logged here.
const FORMAT: u8 = 1;

pub(super) enum ChangeReply {
    Here(oneshot::Sender<Result<String, ChangeError>>),
    There { server: u64, run: u64, number: u64 },
}

pub(super) struct Change {
    what: MemberChange,
    deadline_ms: u64,
    /// Asked of the leader under this number; none: this server does it.
    forwarded: Option<u64>,
    /// It was so already when it was asked for: only the leader can say what became of it.
    was_so: bool,
    pub(super) reply: ChangeReply,
}

pub(super) struct Transfer {
    from: u64,
    to: u64,
    deadline_ms: u64,
    pub(super) reply: oneshot::Sender<Result<ServerId, String>>,
}

impl<S: Store> Core<S> {
    fn member(&self, id: ServerId) -> Option<&Member> {
        self.membership.members.iter().find(|member| member.id == id)
    }

    /// Whether the members are as this change would have them.
    fn is_so(&self, what: &MemberChange) -> bool {
        match what {
            MemberChange::AddLearner(member) => self.member(member.id).is_some(),
            MemberChange::Promote(id) => self.member(*id).is_some_and(|member| !member.learner),
            MemberChange::Remove(id) => self.member(*id).is_none(),
        }
    }

    fn where_the_leader_is(&self) -> String {
        match self.leader().map(|id| (id, self.member(id))) {
            Some((id, Some(member))) => {
                format!("this server does not lead: ask server {id} at {}", member.client_address)
            }
            Some((id, None)) => format!("this server does not lead: ask server {id}"),
            None => "no leader is known: try again when one is elected".to_owned(),
        }
    }

    /// Changes the membership; answered when the change is applied and any joint configuration left. A follower asks
    /// the leader.
    pub fn change_members(&mut self, what: MemberChange, reply: oneshot::Sender<Result<String, ChangeError>>) {
        let deadline_ms = self.now_ms + CHANGE_MS_MAX;
        match self.leader() {
            Some(leader) if leader.0 != self.id => {
                let number = self.changes_asked;
                self.changes_asked += 1;
                let change = postcard::to_extend(&what, vec![FORMAT]).expect("writing to memory does not fail");
                let item = ChangeMembers { from: self.id, run: self.run, number, change: change.into() };
                self.outbox.push((leader, Item::ChangeMembers(item)));
                let (was_so, reply) = (self.is_so(&what), ChangeReply::Here(reply));
                self.changes.push(Change { what, deadline_ms, forwarded: Some(number), was_so, reply });
            }
            _ => self.begin_change(what, deadline_ms, ChangeReply::Here(reply)),
        }
    }

    pub(super) fn change_members_for(&mut self, asked: ChangeMembers) {
        let reply = ChangeReply::There { server: asked.from, run: asked.run, number: asked.number };
        let what = match asked.change.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|error| error.to_string()),
            _ => Err("its format is not known here".to_owned()),
        };
        match what {
            Ok(what) => self.begin_change(what, self.now_ms + CHANGE_MS_MAX, reply),
            Err(why) => {
                let why = format!("the leader cannot read the change: {why}");
                self.answer_change(reply, Err(ChangeError::Refused(why)));
            }
        }
    }

    pub(super) fn members_changed_there(&mut self, changed: MembersChanged) {
        if changed.run != self.run {
            return;
        }
        let asked: Vec<Change> =
            self.changes.extract_if(.., |change| change.forwarded == Some(changed.number)).collect();
        for change in asked {
            let text = changed.text.clone();
            let answer = match (changed.done, changed.unknown) {
                (true, _) => Ok(text),
                (false, true) => Err(ChangeError::Unknown(text)),
                (false, false) => Err(ChangeError::Refused(text)),
            };
            self.answer_change(change.reply, answer);
        }
    }

    /// Whoever was asked for these leads no more, or cannot be reached: nobody will answer.
    pub(super) fn give_up_forwarded_changes(&mut self) {
        let asked: Vec<Change> = self.changes.extract_if(.., |change| change.forwarded.is_some()).collect();
        for change in asked {
            let why = "leadership changed hands before the answer: look at the members before trying again";
            self.answer_change(change.reply, Err(ChangeError::Unknown(why.to_owned())));
        }
    }

    fn answer_change(&mut self, reply: ChangeReply, answer: Result<String, ChangeError>) {
        match reply {
            ChangeReply::Here(reply) => {
                let _ = reply.send(answer);
            }
            ChangeReply::There { server, run, number } => {
                let (done, unknown) = (answer.is_ok(), matches!(answer, Err(ChangeError::Unknown(_))));
                let text = answer.unwrap_or_else(|error| error.to_string());
                let item = Item::MembersChanged(MembersChanged { run, number, done, text, unknown });
                self.outbox.push((ServerId(server), item));
            }
        }
    }

    fn begin_change(&mut self, what: MemberChange, deadline_ms: u64, reply: ChangeReply) {
        match self.try_change(&what) {
            Ok(()) => self.changes.push(Change { what, deadline_ms, forwarded: None, was_so: false, reply }),
            Err(why) => self.answer_change(reply, Err(ChangeError::Refused(why))),
        }
    }

    fn try_change(&mut self, what: &MemberChange) -> Result<(), String> {
        if !self.is_leader() {
            return Err(self.where_the_leader_is());
        }
        if self.raw.raft.has_pending_conf() || !self.membership.conf.voters_outgoing.is_empty() {
            return Err("another change of membership is under way: try again when it is done".to_owned());
        }
        let mut context = Vec::new();
        let mut transition = ConfChangeTransition::Implicit;
        let (id, change_type) = match what {
            MemberChange::AddLearner(member) => {
                if member.id.0 == 0 {
                    return Err("server id 0 is not allowed: ids begin with 1".to_owned());
                }
                if let Some(known) = self.member(member.id) {
                    return Err(format!("server {} is a member already, at {}", known.id, known.peer_address));
                }
                let address = |known: &&Member| known.peer_address == member.peer_address;
                if let Some(known) = self.membership.members.iter().find(address) {
                    return Err(format!("{} is the address of server {}", known.peer_address, known.id));
                }
                context.push(Member { learner: true, ..member.clone() });
                transition = ConfChangeTransition::Auto;
                (member.id, ConfChangeType::AddLearnerNode)
            }
            MemberChange::Promote(id) => {
                let member = self.member(*id).ok_or_else(|| format!("server {id} is not a member"))?;
                if !member.learner {
                    return Err(format!("server {id} is a voter already"));
                }
                let last = self.raw.raft.raft_log.last_index();
                let progress = self.raw.raft.prs().get(id.0).ok_or_else(|| format!("server {id} is not a member"))?;
                let behind = last.saturating_sub(progress.matched);
                // A newcomer counts as active for a while before it is heard of at all.
                let answers = self.in_touch(id.0) && progress.matched > 0;
                if behind > CAUGHT_UP_ENTRIES || !answers {
                    return Err(format!(
                        "server {id} has not caught up: it is {behind} entries behind{}",
                        if answers { "" } else { " and does not answer" }
                    ));
                }
                (*id, ConfChangeType::AddNode)
            }
            MemberChange::Remove(id) => {
                let member = self.member(*id).ok_or_else(|| format!("server {id} is not a member"))?;
                if !member.learner && self.membership.conf.voters.len() == 1 {
                    return Err(format!("server {id} is the only voter: a cluster needs one"));
                }
                (*id, ConfChangeType::RemoveNode)
            }
        };
        let mut change = ConfChangeV2 { context: encode_members(&context), ..ConfChangeV2::default() };
        change.set_transition(transition);
        let mut single = ConfChangeSingle { node_id: id.0, ..ConfChangeSingle::default() };
        single.set_change_type(change_type);
        change.changes.push(single);
        self.raw
            .propose_conf_change(Vec::new(), change)
            .map_err(|error| format!("the change was not accepted: {error}: try again"))
    }

    pub(super) fn apply_membership(&mut self, entry: &Entry) -> Result<(), Fatal> {
        point!("members-apply");
        let bad = |why: String| Fatal::Entry { index: entry.index, why };
        let change = ConfChangeV2::decode(&entry.data[..]).map_err(|error| bad(error.to_string()))?;
        let upserts = decode_members(&change.context).map_err(bad)?;
        let conf = self.raw.apply_conf_change(&change)?;
        let members = &mut self.membership.members;
        for member in upserts {
            members.retain(|known| known.id != member.id);
            members.push(member);
        }
        members.retain(|member| {
            let id = member.id.0;
            [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next]
                .iter()
                .any(|ids| ids.contains(&id))
        });
        for member in members.iter_mut() {
            member.learner = !conf.voters.contains(&member.id.0);
        }
        members.sort_by_key(|member| member.id);
        tracing::info!(index = entry.index, ?conf, "the membership changed");
        self.heard.retain(|id, _| self.membership.members.iter().any(|member| member.id.0 == *id));
        self.membership.conf = conf;
        self.members_changed = true;
        self.status_due = true;
        self.answer_changes();
        if self.is_leader() && !self.raw.raft.promotable() && self.membership.conf.voters_outgoing.is_empty() {
            tracing::info!("this server is no voter any more and steps down");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        Ok(())
    }

    fn answer_changes(&mut self) {
        if !self.membership.conf.voters_outgoing.is_empty() {
            return;
        }
        // What this server asked of the leader too: a server that is removed may not hear from it any more.
        let (done, rest): (Vec<Change>, _) =
            mem::take(&mut self.changes).into_iter().partition(|change| !change.was_so && self.is_so(&change.what));
        self.changes = rest;
        for change in done {
            let text = match &change.what {
                MemberChange::AddLearner(member) => {
                    format!("server {} is a learner; promote it when it has caught up", member.id)
                }
                MemberChange::Promote(id) => format!("server {id} is a voter"),
                MemberChange::Remove(id) => format!("server {id} was removed"),
            };
            self.answer_change(change.reply, Ok(text));
        }
    }

    /// Hands leadership to `to`, or with 0 to whoever is most up to date.
    pub fn transfer(&mut self, to: ServerId, reply: oneshot::Sender<Result<ServerId, String>>) {
        match self.try_transfer(to) {
            Err(why) => {
                let _ = reply.send(Err(why));
            }
            Ok((from, to)) if from == to => {
                let _ = reply.send(Ok(ServerId(to)));
            }
            Ok((from, to)) => {
                let ticks = u64::try_from(self.options.election_ticks).unwrap_or(u64::MAX);
                let deadline_ms = self.now_ms + 2 * ticks * millis(self.options.tick);
                self.transfers.push(Transfer { from, to, deadline_ms, reply });
            }
        }
    }

    fn try_transfer(&mut self, to: ServerId) -> Result<(u64, u64), String> {
        let leader = self.leader().ok_or_else(|| self.where_the_leader_is())?.0;
        let to = match to {
            ServerId(0) => self.best_successor(leader).ok_or("there is no other voter in touch")?,
            given => {
                let member = self.member(given).ok_or_else(|| format!("server {given} is not a member"))?;
                if member.learner {
                    return Err(format!("server {given} is a learner: promote it first"));
                }
                given.0
            }
        };
        if to != leader {
            self.raw.transfer_leader(to);
        }
        Ok((leader, to))
    }

    fn best_successor(&self, leader: u64) -> Option<u64> {
        if !self.is_leader() {
            return self.raw.raft.promotable().then_some(self.id);
        }
        let progress = self.raw.raft.prs();
        let voters = self.membership.conf.voters.iter().copied().filter(|id| *id != leader);
        voters
            .filter_map(|id| progress.get(id).map(|progress| (progress, id)))
            .filter(|(_, id)| self.in_touch(*id))
            .max_by_key(|(progress, id)| (progress.matched, std::cmp::Reverse(*id)))
            .map(|(_, id)| id)
    }

    /// Before a stop: begins to hand leadership over. False if there is nothing (more) to wait for.
    pub fn resign(&mut self) -> bool {
        if self.raw.raft.state != StateRole::Leader {
            return false;
        }
        match self.best_successor(self.id) {
            Some(to) => {
                if self.raw.raft.lead_transferee.is_none() {
                    self.raw.transfer_leader(to);
                }
                true
            }
            None => false,
        }
    }

    pub(super) fn expire_requests(&mut self) {
        let now_ms = self.now_ms;
        let expired: Vec<Change> = self.changes.extract_if(.., |change| change.deadline_ms <= now_ms).collect();
        for change in expired {
            let why = "the change was not seen applied in time: look at the members before trying again";
            self.answer_change(change.reply, Err(ChangeError::Unknown(why.to_owned())));
        }
        for transfer in self.transfers.extract_if(.., |transfer| transfer.deadline_ms <= now_ms) {
            let why = format!("server {} did not take over from server {} in time", transfer.to, transfer.from);
            let _ = transfer.reply.send(Err(why));
        }
    }

    pub(super) fn answer_transfers(&mut self) {
        let leader = self.raw.raft.leader_id;
        if leader == 0 {
            return;
        }
        for transfer in self.transfers.extract_if(.., |transfer| transfer.from != leader) {
            let _ = transfer.reply.send(match transfer.to == leader {
                true => Ok(ServerId(leader)),
                false => Err(format!("server {leader} was elected instead of server {}", transfer.to)),
            });
        }
    }

    /// Of the log's beginning, for tests.
    pub fn compacted(&self) -> Position {
        self.raw.store().compacted()
    }
}

fn encode_members(members: &[Member]) -> Vec<u8> {
    postcard::to_extend(members, vec![FORMAT]).expect("writing to memory does not fail")
}

fn decode_members(bytes: &[u8]) -> Result<Vec<Member>, String> {
    match bytes.split_first() {
        // Leaving a joint configuration: raft-rs writes that entry itself.
        None => Ok(Vec::new()),
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|error| error.to_string()),
        Some((format, _)) => Err(format!("members in format {format}")),
    }
}
