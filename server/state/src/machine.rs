//! The machine: the state, and what applying an entry does to it.

use std::{collections::BTreeMap, fmt, ops::Bound, sync::Arc};

use conclave_faults::planted;
use conclave_proto::{FencingToken, Index, NodePath, RequestNumber, Revision, SessionId, Term};

use crate::{
    By, Command, EndReason, Entry, Limits, Node, Outcome, ReadError, Refusal, RestoreError, RevisionChanges, Txn,
    TxnResult,
    history::History,
    records::{self, HistoryRecord, Key, MetaRecord, ProgressRecord, digest, encode},
    sessions::{Admission, Sessions},
    tree::{Moment, Tree},
    txn::{Budget, Run},
};

/// Hash of every record of the state, independent of the order in which they came to be: the sum, modulo 2^128, of
/// the XXH3 of each stored record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StateHash(pub u128);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Records to store in one atomic batch: key, and value or none for a removal; one per key, in key order.
pub type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What applying one entry gave.
#[derive(Clone, Debug)]
pub struct Applied {
    /// For whoever waits for the entry.
    pub outcome: Outcome,
    /// For watchers; none if no revision was made.
    pub changes: Option<Arc<RevisionChanges>>,
    /// Sessions this entry ended.
    pub ended: Vec<(SessionId, EndReason)>,
    /// The session that another process speaks for since this entry, and that process's run.
    pub taken_over: Option<(SessionId, u64)>,
    /// The checkpoint this entry was.
    pub checkpoint: Option<Checkpoint>,
}

/// A checkpoint of sessions as it was applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Of the leader that proposed it.
    pub term: Term,
    /// As given by that leader.
    pub serial: u64,
    /// Sessions still open, and the milliseconds each was set to.
    pub remaining_ms: Vec<(SessionId, u64)>,
}

/// A session, as replicated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Shown to resume it.
    pub secret: [u8; 16],
    /// The process that speaks for it.
    pub run: u64,
    /// Milliseconds of silence it survives.
    pub ttl_ms: u64,
    /// What a new leader grants it: the TTL, or less if a checkpoint said so.
    pub remaining_ms: u64,
    /// For people.
    pub name: String,
    /// The store's revision when it was opened.
    pub opened_revision: Revision,
    /// For people.
    pub opened_ms: u64,
    /// Numbers up to here were applied.
    pub last_number: RequestNumber,
}

/// A sequential node's place among its siblings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueuePlace {
    /// Fewer than the asked-for number of blocking siblings stand before it.
    Ready,
    /// Not yet.
    Waiting,
    /// There is no such sequential node (any more).
    Gone,
}

/// Sizes, for metrics and limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Nodes, the root included.
    pub nodes: u64,
    /// Bytes of all nodes' data and paths.
    pub store_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Ephemeral nodes.
    pub ephemerals: u64,
    /// Parents with sequential children: locks, semaphores and elections that somebody holds or waits for.
    pub queues: u64,
    /// Those children: holders and waiters.
    pub queue_entries: u64,
    /// Revisions of history.
    pub history_revisions: u64,
    /// Bytes of history.
    pub history_bytes: u64,
    /// Answers kept for retries.
    pub answers: u64,
}

/// The replicated state. See the crate's documentation for what is always true of it.
#[derive(Clone, Debug)]
pub struct Machine {
    applied: Index,
    fence_epoch: u64,
    limits: Limits,
    tree: Tree,
    sessions: Sessions,
    history: History,
    /// Something was applied since the last `take_writes`.
    unsaved: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// The empty store: a root node, revision 0, index 0, default limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            applied: Index(0),
            fence_epoch: 0,
            limits: Limits::default(),
            tree: Tree::new(),
            sessions: Sessions::default(),
            history: History::default(),
            unsaved: true,
        }
    }

    // ------------------------------------------------------------------------------------------ applying

    /// Applies the entry at `index`, which must follow the last one; `term` is the log entry's own. `None` is an entry
    /// without a command (empty, or membership).
    ///
    /// # Panics
    /// On a gap in the log and on a broken invariant: the node must stop.
    pub fn apply(&mut self, index: Index, term: Term, entry: Option<Entry>) -> Applied {
        assert_eq!(index, self.applied.next(), "the log has no gaps");
        self.applied = index;
        self.unsaved = true;
        let mut applied =
            Applied { outcome: Outcome::Done, changes: None, ended: Vec::new(), taken_over: None, checkpoint: None };
        if let Some(Entry { request: _, at_ms, command }) = entry {
            let at = Moment { revision: self.revision().next(), at_ms };
            applied.outcome = self.command(index, term, at, command, &mut applied);
            applied.changes = self.commit(at);
        }
        applied
    }

    fn command(&mut self, index: Index, term: Term, at: Moment, command: Command, applied: &mut Applied) -> Outcome {
        if let Some(claimed) = command.term()
            && claimed != term
            && !planted!(StaleTermExpires)
        {
            return Outcome::Refused(Refusal::StaleTerm);
        }
        match command {
            Command::Txn { by, txn } => self.txn(by, txn, at),
            Command::Refused { by, refusal } => self.refused(&by, refusal),
            Command::OpenSession { secret, run, ttl_ms, name } => {
                self.open_session(index, at, secret, run, ttl_ms, name)
            }
            Command::TakeOver { session, run } => match self.sessions.take_over(session, run) {
                None => Outcome::Refused(Refusal::NoSession { session }),
                Some(taken) => {
                    applied.taken_over = taken.then_some((session, run));
                    Outcome::Done
                }
            },
            Command::EndSession { session, run, reason } => {
                if run.is_some_and(|run| self.sessions.get(session).is_some_and(|session| session.run != run)) {
                    return Outcome::Refused(Refusal::TakenOver { session });
                }
                if reason == EndReason::Expired {
                    let what = "a session expires by ExpireSessions only".to_owned();
                    return Outcome::Refused(Refusal::Invalid { what, op: None });
                }
                if self.end_session(session, at) {
                    applied.ended.push((session, reason));
                    Outcome::Done
                } else {
                    Outcome::Refused(Refusal::NoSession { session })
                }
            }
            Command::ExpireSessions { sessions, .. } => {
                for session in sessions {
                    if self.end_session(session, at) {
                        applied.ended.push((session, EndReason::Expired));
                    }
                }
                Outcome::Done
            }
            Command::CheckpointSessions { term, serial, mut remaining_ms } => {
                remaining_ms.retain_mut(|(session, remaining_ms)| {
                    let set = self.sessions.checkpoint(*session, *remaining_ms);
                    *remaining_ms = set.unwrap_or_default();
                    set.is_some()
                });
                applied.checkpoint = Some(Checkpoint { term, serial, remaining_ms });
                Outcome::Done
            }
            Command::Reap { nodes, .. } => {
                for (path, modify_revision, children_revision) in nodes {
                    let unchanged = self.tree.get(&path).is_some_and(|node| {
                        node.is_mortal()
                            && (node.modify_revision, node.children_revision) == (modify_revision, children_revision)
                    });
                    if unchanged {
                        self.tree.delete(&path, at);
                    }
                }
                Outcome::Done
            }
            Command::Compact { through, .. } => {
                if through > self.revision() {
                    let what = format!("revision {through} is not yet, the newest is {}", self.revision());
                    return Outcome::Refused(Refusal::Invalid { what, op: None });
                }
                self.history.compact(through);
                Outcome::Done
            }
            Command::Configure { limits, .. } => {
                self.limits = limits;
                self.history.compact_to_bounds(self.limits.history_revisions_max, self.limits.history_bytes_max);
                Outcome::Done
            }
            Command::RaiseFenceEpoch { epoch } => {
                if epoch <= self.fence_epoch || epoch > FencingToken::EPOCH_MAX {
                    let what = format!(
                        "fence epoch must rise, to {} at most: present={} asked={epoch}",
                        FencingToken::EPOCH_MAX,
                        self.fence_epoch
                    );
                    return Outcome::Refused(Refusal::Invalid { what, op: None });
                }
                self.fence_epoch = epoch;
                Outcome::Done
            }
        }
    }

    fn txn(&mut self, by: Option<By>, txn: Txn, at: Moment) -> Outcome {
        let budget = match by {
            None => Budget::of_one(&self.limits),
            Some(by) => match self.sessions.admit(&by, &self.limits) {
                Admission::Answered(outcome) => return outcome,
                Admission::Fresh { budget } => budget,
            },
        };
        let session = by.map(|by| by.session);
        let run = Run { tree: &mut self.tree, limits: &self.limits, session, at, budget };
        let outcome = match run.txn(txn) {
            Ok((failed_compare, results)) => {
                let revision = if self.tree.is_touched() { at.revision } else { self.revision() };
                Outcome::Txn(TxnResult { failed_compare, results, revision })
            }
            Err(refusal) => {
                if !planted!(NoRollback) {
                    self.tree.roll_back();
                }
                Outcome::Refused(refusal)
            }
        };
        if let Some(by) = by {
            self.sessions.record(&by, &outcome);
        }
        outcome
    }

    fn refused(&mut self, by: &By, refusal: Refusal) -> Outcome {
        match self.sessions.admit(by, &self.limits) {
            Admission::Answered(outcome) => outcome,
            Admission::Fresh { .. } => {
                let outcome = Outcome::Refused(refusal);
                self.sessions.record(by, &outcome);
                outcome
            }
        }
    }

    fn open_session(
        &mut self,
        index: Index,
        at: Moment,
        secret: [u8; 16],
        run: u64,
        ttl_ms: u64,
        name: String,
    ) -> Outcome {
        let limits = &self.limits;
        let name_bytes = name.len() as u64;
        let refused = |limit: &str, max: u64, asked: u64| {
            Outcome::Refused(Refusal::Limit { limit: limit.to_owned(), max, asked, op: None })
        };
        if ttl_ms < limits.session_ttl_min_ms {
            return refused("session_ttl_min_ms", limits.session_ttl_min_ms, ttl_ms);
        }
        if ttl_ms > limits.session_ttl_max_ms {
            return refused("session_ttl_max_ms", limits.session_ttl_max_ms, ttl_ms);
        }
        if name_bytes > u64::from(limits.session_name_bytes_max) {
            return refused("session_name_bytes_max", limits.session_name_bytes_max.into(), name_bytes);
        }
        if self.sessions.len() >= limits.sessions_max {
            return refused("sessions_max", limits.sessions_max, self.sessions.len() + 1);
        }
        let id = SessionId(index.0);
        self.sessions.open(Session {
            id,
            secret,
            run,
            ttl_ms,
            remaining_ms: ttl_ms,
            name,
            opened_revision: self.revision(),
            opened_ms: at.at_ms,
            last_number: RequestNumber(0),
        });
        Outcome::Opened { session: id }
    }

    /// Ends a session and removes its nodes. False if there is none.
    fn end_session(&mut self, session: SessionId, at: Moment) -> bool {
        if !self.sessions.end(session) {
            return false;
        }
        let owned: Vec<NodePath> = self.tree.owned(session).cloned().collect();
        for path in owned.into_iter().skip(usize::from(planted!(EphemeralOutlives))) {
            self.tree.delete(&path, at);
        }
        true
    }

    /// Makes what the command did to the tree one revision, if it did anything.
    fn commit(&mut self, at: Moment) -> Option<Arc<RevisionChanges>> {
        if !self.tree.is_touched() {
            return None;
        }
        let Moment { revision, at_ms } = at;
        let changes = Arc::new(RevisionChanges { revision, at_ms, changes: self.tree.commit() });
        assert!(!changes.changes.is_empty(), "whatever happens to a node shows in its parent");
        self.history.push(changes.clone());
        self.history.compact_to_bounds(self.limits.history_revisions_max, self.limits.history_bytes_max);
        Some(changes)
    }

    // ------------------------------------------------------------------------------------------ storing

    /// The records that changed since this was last called. Includes the applied index and the hash, so that stored
    /// together they are a state.
    pub fn take_writes(&mut self) -> Writes {
        let mut writes = Writes::new();
        if !std::mem::take(&mut self.unsaved) {
            return writes;
        }
        self.history.save(&mut writes);
        self.tree.save(&mut writes);
        self.sessions.save(&mut writes);
        writes.push((Key::Meta.encode(), Some(encode(&self.meta(), Vec::with_capacity(128)))));
        // Each part is nearly in order; no key is in two.
        writes.sort_by(|a, b| a.0.cmp(&b.0));
        writes
    }

    /// After the last applied entry. Costs an encoding of what changed since the last `take_writes`.
    #[must_use]
    pub fn hash(&self) -> StateHash {
        let value = encode(&self.meta(), Vec::with_capacity(128));
        StateHash(digest(&Key::Meta.encode(), &value))
    }

    fn meta(&self) -> MetaRecord {
        MetaRecord {
            applied: self.applied,
            revision: self.revision(),
            compacted: self.history.compacted(),
            fence_epoch: self.fence_epoch,
            limits: self.limits.clone(),
            sum: self.tree.sum().wrapping_add(self.sessions.sum()).wrapping_add(self.history.sum()),
        }
    }

    /// From the records once handed out by [`Machine::take_writes`], in any order; checks them against their hash, and
    /// what they make against every invariant.
    ///
    /// # Errors
    /// Records that cannot be read or contradict each other.
    pub fn restore<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, RestoreError> {
        fn read<T: serde::de::DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, RestoreError> {
            records::decode(value).map_err(|why| RestoreError::Record { key: records::printable(key), why })
        }
        let inconsistent = RestoreError::Inconsistent;

        let mut meta: Option<MetaRecord> = None;
        let mut tree = Tree::empty();
        let mut sessions = Sessions::default();
        let mut progress: Vec<(SessionId, ProgressRecord, u128)> = Vec::new();
        let mut answers: BTreeMap<(SessionId, RequestNumber), Vec<u8>> = BTreeMap::new();
        let mut past: BTreeMap<Revision, (HistoryRecord, u128)> = BTreeMap::new();
        for (key, value) in records {
            let (key, value) = (key.as_ref(), value.as_ref());
            match Key::decode(key)? {
                Key::Meta => meta = Some(read(key, value)?),
                Key::Node(path) => {
                    if tree.get(&path).is_some() {
                        return Err(inconsistent(format!("two records of one node: {path}")));
                    }
                    tree.restore(path, read(key, value)?, digest(key, value))?;
                }
                Key::Session(id) => sessions.restore(id, read(key, value)?, digest(key, value)),
                Key::Progress(id) => progress.push((id, read(key, value)?, digest(key, value))),
                Key::Answer(id, number) => drop(answers.insert((id, number), value.to_vec())),
                Key::History(revision) => drop(past.insert(revision, (read(key, value)?, digest(key, value)))),
            }
        }
        let meta = meta.ok_or_else(|| inconsistent("there is no meta record".to_owned()))?;
        for (id, record, digest) in progress {
            sessions.restore_progress(id, record, digest, &mut answers).map_err(inconsistent)?;
        }
        if let Some((session, number)) = answers.keys().next() {
            return Err(inconsistent(format!("answer {number} of {session:x} belongs to nothing")));
        }
        let history = History::from_records(meta.compacted, past, &tree).map_err(inconsistent)?;
        if history.newest() != meta.revision {
            return Err(inconsistent(format!(
                "history ends at {}, the revision is {}",
                history.newest(),
                meta.revision
            )));
        }
        let machine = Self {
            applied: meta.applied,
            fence_epoch: meta.fence_epoch,
            limits: meta.limits.clone(),
            tree,
            sessions,
            history,
            unsaved: false,
        };
        let found = machine.meta();
        if found.sum != meta.sum {
            let [stored, found] = [meta.sum, found.sum].map(|sum| StateHash(sum).to_string());
            return Err(RestoreError::Hash { stored, found });
        }
        machine.check().map_err(inconsistent)?;
        Ok(machine)
    }

    /// Checks every invariant that the crate's documentation names, and everything derived against what it is derived
    /// from. Costs a walk over the whole state: for tests and for restoring.
    ///
    /// # Errors
    /// The first one that is broken, in words.
    pub fn check(&self) -> Result<(), String> {
        self.tree.check()?;
        self.sessions.check()?;
        self.history.check(|path| self.tree.get(path))?;
        for (path, node) in self.tree.range(Bound::Unbounded) {
            if let Some(owner) = node.owner
                && self.sessions.get(owner).is_none()
            {
                return Err(format!("the owner of {path} is no open session: {owner:x}"));
            }
            let newest = node.modify_revision.max(node.children_revision).max(node.create_revision);
            if newest > self.revision() {
                return Err(format!("{path} is of revision {newest}, which is not yet"));
            }
        }
        for session in self.sessions.iter() {
            if session.id.0 == 0 || session.id.0 > self.applied.0 {
                return Err(format!("session {:x} has no index of the log", session.id));
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ reading

    /// The last applied index.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.history.newest()
    }

    /// The oldest revision that can be read, and that a watch can start from: the one after the compacted ones.
    #[must_use]
    pub fn oldest_revision(&self) -> Revision {
        self.history.oldest()
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The upper bits of every fencing token.
    #[must_use]
    pub fn fence_epoch(&self) -> u64 {
        self.fence_epoch
    }

    /// Sizes.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (queues, queue_entries) = self.tree.queues().sizes();
        Counts {
            nodes: self.tree.len(),
            store_bytes: self.tree.bytes(),
            sessions: self.sessions.len(),
            ephemerals: self.tree.ephemerals(),
            queues,
            queue_entries,
            history_revisions: self.history.len(),
            history_bytes: self.history.bytes(),
            answers: self.sessions.answers(),
        }
    }

    /// A node as it is now.
    #[must_use]
    pub fn get(&self, path: &NodePath) -> Option<&Arc<Node>> {
        self.tree.get(path)
    }

    /// A node as it was right after revision `at`.
    ///
    /// # Errors
    /// `at` is compacted or in the future.
    pub fn get_at(&self, path: &NodePath, at: Revision) -> Result<Option<Arc<Node>>, ReadError> {
        self.history.admit(at)?;
        Ok(self.at(path, at).cloned())
    }

    fn at(&self, path: &NodePath, at: Revision) -> Option<&Arc<Node>> {
        match self.history.before(path, at) {
            Some(before) => before.as_ref(),
            None => self.tree.get(path),
        }
    }

    /// Nodes below `path` in path order, starting after `after`, at most `limit`, `depth` levels deep (0 or 1: children),
    /// now or as of a past revision; and whether there are more. Nodes deeper than that cost one search for each of
    /// their ancestors at the last level.
    ///
    /// # Errors
    /// `at` is compacted or in the future.
    pub fn list(
        &self,
        path: &NodePath,
        depth: u32,
        after: Option<&NodePath>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<(Vec<(NodePath, Arc<Node>)>, bool), ReadError> {
        if let Some(at) = at {
            self.history.admit(at)?;
        }
        let at = at.filter(|at| *at != self.revision());
        let below = path.below_prefix();
        let levels = depth.max(1) as usize;
        let mut found: Vec<(NodePath, Arc<Node>)> = Vec::new();
        let mut start = Bound::Excluded(match after {
            Some(after) if after.as_str() > below.as_str() => after.to_string(),
            _ => below.clone(),
        });
        // Each turn begins where the last one had to leap over what lies too deep.
        loop {
            let from = start.as_ref().map(String::as_str);
            let past = at.map(|_| self.history.paths(from)).into_iter().flatten();
            let mut leap = None;
            for candidate in merge(self.tree.range(from).map(|(path, _)| path), past) {
                let Some(rest) = candidate.as_str().strip_prefix(below.as_str()) else { break };
                if let Some((slash, _)) = rest.match_indices('/').nth(levels - 1) {
                    // '0' is the byte after '/'.
                    leap = Some(format!("{below}{}0", &rest[..slash]));
                    break;
                }
                let node = match at {
                    Some(at) => self.at(candidate, at),
                    None => self.tree.get(candidate),
                };
                let Some(node) = node else { continue };
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push((candidate.clone(), node.clone()));
            }
            match leap {
                Some(next) => start = Bound::Included(next),
                None => break,
            }
        }
        Ok((found, false))
    }

    /// Changes from revision `from` on, oldest first. Cheap to start and to stop: take what you have room for.
    ///
    /// # Errors
    /// `from` is compacted. (From beyond the newest revision there is nothing, which is no error.)
    pub fn history(&self, from: Revision) -> Result<impl Iterator<Item = &Arc<RevisionChanges>>, ReadError> {
        self.history.from(from)
    }

    /// Where a sequential node stands: ready once fewer than `permits` siblings with smaller numbers precede it whose
    /// name, without its number, begins with `blocking` (empty: any). Costs O((permits + distinct blocking names) ·
    /// log n).
    #[must_use]
    pub fn queue_place(&self, path: &NodePath, permits: u32, blocking: &str) -> QueuePlace {
        let Some(sequence) = self.tree.get(path).and_then(|node| node.sequence) else { return QueuePlace::Gone };
        let parent = path.parent().expect("the root is not sequential");
        if self.tree.queues().is_ready(&parent, sequence, permits, blocking) {
            QueuePlace::Ready
        } else {
            QueuePlace::Waiting
        }
    }

    /// Parents with sequential children at or below `prefix`, in path order, starting after `after`, at most `limit`;
    /// each with those children in the order of their numbers; and whether there are more.
    #[must_use]
    pub fn queues(
        &self,
        prefix: &NodePath,
        after: Option<&NodePath>,
        limit: usize,
    ) -> (Vec<(NodePath, Vec<NodePath>)>, bool) {
        let mut queues = self.tree.queues().range(prefix, after);
        let found = queues.by_ref().take(limit).map(|(path, queue)| (path.clone(), queue.cloned().collect())).collect();
        (found, queues.next().is_some())
    }

    /// One session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter()
    }

    /// The ephemeral nodes of a session, in path order.
    pub fn owned(&self, id: SessionId) -> impl Iterator<Item = &NodePath> {
        self.tree.owned(id)
    }

    /// Containers that lost their last child and TTL nodes without children, for the leader's clock, in path order.
    pub fn mortal(&self) -> impl Iterator<Item = (&NodePath, &Arc<Node>)> {
        self.tree.mortal()
    }
}

/// Two ordered runs of paths as one, without repetition.
fn merge<'a>(
    one: impl Iterator<Item = &'a NodePath>,
    other: impl Iterator<Item = &'a NodePath>,
) -> impl Iterator<Item = &'a NodePath> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) if a == b => {
            other.next();
            one.next()
        }
        (Some(a), Some(b)) if a > b => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}
