//! The watch hub: every applied change, to everybody who watches it.
//!
//! Always true:
//! * [`Publisher`] never waits for anybody: what has no room in an outbox puts that stream's watches *behind*, which
//!   costs them nothing but the number of the next revision to tell;
//! * a watch that is behind catches up from the state's history in its own stream's task, chunk by chunk, and is live
//!   again without gap or repetition, or ends with `COMPACTED` and the revision to resume from;
//! * a watch is told all of one revision in one item, or ends with `LAGGING` if that item would be larger than
//!   [`REVISION_BYTES_MAX`];
//! * only a stream's own task opens, cancels and catches up its watches.
//!
//! Locks are taken in this order: the state, the hub, an outbox. The hub is told of changes while the state is locked
//! for writing, so under the state's read lock no change is under way.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::Arc,
};

use bytes::Bytes;
use conclave_faults::planted;
use conclave_proto::{
    Index as LogIndex, NodePath, Revision, SessionId,
    v1::{self, Scope, server_item::Item as Wire, session_ended, watch_ended},
};
use conclave_state::{Applied, Machine, RevisionChanges};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    index::Index,
    outbox::{Events, Full, Outbox, Payload, SlotId},
    queue::{Fired, Opened, QUEUE_GROUPS_MAX, Queues},
    wire,
};
use crate::raft::Publish;

/// Revisions looked at per chunk of catching up. The state is locked only to copy their references.
const CHUNK_REVISIONS: usize = 512;
/// A watch this close behind is brought up to date under the state's lock and goes live.
const SWITCH_REVISIONS: u64 = 256;

/// Most bytes of one revision's events for one watch: more would fit into no message. (One transaction is far smaller;
/// the removal of a whole subtree need not be.)
pub const REVISION_BYTES_MAX: usize = 16 << 20;

/// What a stream is told when another process took its session over.
const TAKEN_OVER: &str = "another process took the session over";

/// Names a stream; never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(u64);

/// See the module.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    watches_per_stream_max: usize,
}

#[derive(Debug)]
struct Inner {
    /// Ordered, as whoever looks at all of them must do so in the same order each time.
    streams: BTreeMap<StreamId, Stream>,
    last_stream: u64,
    sessions: HashMap<SessionId, StreamId>,
    watches: Slab<Watch>,
    index: Index<usize>,
    queues: Queues<QueueTag>,
    /// Who waits for a revision to be applied.
    waiting: BTreeMap<Revision, Vec<oneshot::Sender<()>>>,
    /// The last published revision.
    revision: Revision,
    scratch: Scratch,
    totals: Totals,
}

#[derive(Debug)]
struct Stream {
    outbox: Arc<Outbox>,
    /// What it speaks for, and the run of the process at its other end.
    session: Option<(SessionId, u64)>,
    /// By the client's names.
    watches: BTreeMap<u64, Ref>,
    /// Watches that are behind.
    behind: usize,
    /// The outbox holds replies from here on.
    hold: Option<Revision>,
}

#[derive(Clone, Copy, Debug)]
enum Ref {
    Watch(usize),
    Queue(u64),
}

#[derive(Debug)]
struct Watch {
    stream: StreamId,
    outbox: Arc<Outbox>,
    /// The client's name for it.
    name: u64,
    path: NodePath,
    scope: Scope,
    /// Its place in the index.
    place: usize,
    /// The first revision that may have to be told.
    next: Revision,
    behind: bool,
}

#[derive(Debug)]
struct QueueTag {
    stream: StreamId,
    outbox: Arc<Outbox>,
    name: u64,
    /// The call whose reply must come first.
    after: Option<SlotId>,
}

#[derive(Debug, Default)]
struct Scratch {
    /// (watch, position in the revision).
    hits: Vec<(usize, usize)>,
    encoded: Vec<Option<Bytes>>,
}

/// Counts since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Items of events pushed to outboxes.
    pub events: u64,
    /// Times that a stream's watches fell behind.
    pub fell_behind: u64,
    /// Watches ended because history was compacted past them.
    pub compacted: u64,
    /// Queue watches that fired.
    pub queue_ready: u64,
}

/// Sizes now, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Streams, with and without a session.
    pub streams: usize,
    /// Sessions with a stream here.
    pub sessions: usize,
    /// Watches on nodes, children and subtrees.
    pub watches: usize,
    /// Of these, behind.
    pub behind: usize,
    /// Queue watches that wait.
    pub queue_watches: usize,
    /// Weight of everything unsent.
    pub outbox_bytes: usize,
    /// Weight of what is unsent on the fullest stream.
    pub outbox_bytes_largest: usize,
    /// Calls without a reply.
    pub calls: usize,
    /// Since the start.
    pub totals: Totals,
}

/// How far a stream's watches have come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CatchUp {
    /// All are live.
    Live,
    /// The outbox is full and will call for attention.
    Full,
    /// There is more to tell: call again.
    More,
}

impl Hub {
    /// `watches_per_stream_max` bounds the watches, queue watches included, of one stream.
    #[must_use]
    pub fn new(watches_per_stream_max: usize) -> Arc<Self> {
        let inner = Inner {
            streams: BTreeMap::new(),
            last_stream: 0,
            sessions: HashMap::new(),
            watches: Slab::default(),
            index: Index::default(),
            queues: Queues::default(),
            waiting: BTreeMap::new(),
            revision: Revision(0),
            scratch: Scratch::default(),
            totals: Totals::default(),
        };
        Arc::new(Self { inner: Mutex::new(inner), watches_per_stream_max })
    }

    /// For the node's thread.
    #[must_use]
    pub fn publisher(self: &Arc<Self>) -> Publisher {
        Publisher(self.clone())
    }

    /// A new stream.
    pub fn attach(&self, outbox: Arc<Outbox>) -> StreamId {
        let mut inner = self.inner.lock();
        inner.last_stream += 1;
        let id = StreamId(inner.last_stream);
        let stream = Stream { outbox, session: None, watches: BTreeMap::new(), behind: 0, hold: None };
        inner.streams.insert(id, stream);
        id
    }

    /// The stream is over; its watches go with it.
    pub fn detach(&self, id: StreamId) {
        let mut inner = self.inner.lock();
        let Some(stream) = inner.streams.remove(&id) else { return };
        if let Some((session, _)) = stream.session
            && inner.sessions.get(&session) == Some(&id)
        {
            inner.sessions.remove(&session);
        }
        for watch in stream.watches.into_values() {
            inner.forget(watch);
        }
    }

    /// The stream speaks for the session from now on, for the process with this run. One that did so before is told
    /// that it was replaced. Call it with the state locked, so that neither the session's end nor another process can
    /// slip in between.
    pub fn claim(&self, id: StreamId, session: SessionId, run: u64) {
        let mut inner = self.inner.lock();
        let Some(stream) = inner.streams.get_mut(&id) else { return };
        stream.session = Some((session, run));
        if let Some(former) = inner.sessions.insert(session, id)
            && let Some(former) = inner.streams.get(&former)
        {
            former.outbox.end(session_ended::Reason::Replaced, "the session was resumed on another stream");
        }
    }

    /// Opens a watch and tells the stream how that went. `machine` is the state, locked.
    ///
    /// # Errors
    /// The name is in use on this stream: its client has lost count.
    pub fn open(&self, id: StreamId, machine: &Machine, open: &v1::WatchOpen) -> Result<(), NameInUse> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(stream) = inner.streams.get_mut(&id) else { return Ok(()) };
        if stream.watches.contains_key(&open.watch) {
            return Err(NameInUse(open.watch));
        }
        let ended = |reason, resume: Revision, message| ended(open.watch, reason, resume, message);
        let asked = |scope: i32| -> Result<(NodePath, Scope), String> {
            let scope = Scope::try_from(scope)
                .map_err(|_| format!("scope {scope} is none of NODE, CHILDREN, SUBTREE (0 to 2)"))?;
            Ok((NodePath::parse(&open.path).map_err(|error| error.to_string())?, scope))
        };
        let (path, scope) = match asked(open.scope) {
            Ok(asked) => asked,
            Err(message) => {
                stream.outbox.notice(ended(watch_ended::Reason::Invalid, Revision(0), message));
                return Ok(());
            }
        };
        if stream.watches.len() >= self.watches_per_stream_max {
            let message = too_many(self.watches_per_stream_max);
            stream.outbox.notice(ended(watch_ended::Reason::Invalid, Revision(0), message));
            return Ok(());
        }
        let newest = machine.revision();
        let from = if open.from_revision == 0 { newest.next() } else { Revision(open.from_revision) };
        let behind = from <= newest;
        let asked = from;
        let from = if planted!(CompactedNotTold) { from.max(machine.oldest_revision()) } else { from };
        if behind && from < machine.oldest_revision() {
            inner.totals.compacted += 1;
            stream.outbox.notice(compacted(open.watch, from, machine.oldest_revision()));
            return Ok(());
        }
        stream.outbox.notice(Wire::WatchStarted(v1::WatchStarted { watch: open.watch, from_revision: asked.0 }));
        let outbox = stream.outbox.clone();
        if behind {
            stream.behind += 1;
            stream.lower_hold(from);
        }
        let from = if planted!(WatchGap) && behind { from.next() } else { from };
        let key = inner.watches.next_key();
        let place = inner.index.add(&path, scope, key);
        stream.watches.insert(open.watch, Ref::Watch(key));
        inner.watches.insert(Watch { stream: id, outbox, name: open.watch, path, scope, place, next: from, behind });
        Ok(())
    }

    /// Watches a place in a queue. True if the node stands at the front already, in which case nothing is kept and
    /// nothing was pushed; in every other case the stream is told. `machine` is the state, locked; `after` names the
    /// call whose reply must come first.
    ///
    /// # Errors
    /// The name is in use on this stream.
    pub fn open_queue(
        &self,
        id: StreamId,
        machine: &Machine,
        open: &v1::QueueWatch,
        path: &str,
        after: Option<SlotId>,
    ) -> Result<bool, NameInUse> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(stream) = inner.streams.get_mut(&id) else { return Ok(false) };
        if stream.watches.contains_key(&open.watch) {
            return Err(NameInUse(open.watch));
        }
        let refuse = |reason, message: String| {
            stream.outbox.notice_after(after, ended(open.watch, reason, Revision(0), message));
            Ok(false)
        };
        let path = match NodePath::parse(path) {
            Ok(path) if !path.is_root() => path,
            Ok(_) => return refuse(watch_ended::Reason::Invalid, "the root stands in no queue".into()),
            Err(error) => return refuse(watch_ended::Reason::Invalid, error.to_string()),
        };
        if open.permits == 0 {
            return refuse(watch_ended::Reason::Invalid, "permits is 0: nobody would ever be ready".into());
        }
        if stream.watches.len() >= self.watches_per_stream_max {
            return refuse(watch_ended::Reason::Invalid, too_many(self.watches_per_stream_max));
        }
        let tag = QueueTag { stream: id, outbox: stream.outbox.clone(), name: open.watch, after };
        match inner.queues.open(machine, &path, open.permits, &open.blocking, tag) {
            Opened::Ready => {
                inner.totals.queue_ready += 1;
                Ok(true)
            }
            Opened::Waiting(key) => {
                stream.watches.insert(open.watch, Ref::Queue(key));
                Ok(false)
            }
            Opened::Gone => refuse(watch_ended::Reason::Gone, format!("no such sequential node: path={path}")),
            Opened::TooManyKinds => refuse(
                watch_ended::Reason::Invalid,
                format!(
                    "the queue watches below one node differ in permits or blocking in too many ways: the limit is \
                     {QUEUE_GROUPS_MAX}"
                ),
            ),
        }
    }

    /// Ends a watch at its owner's wish; one that is not there has ended already.
    pub fn cancel(&self, id: StreamId, name: u64) {
        let mut inner = self.inner.lock();
        let Some(stream) = inner.streams.get_mut(&id) else { return };
        let Some(watch) = stream.watches.remove(&name) else { return };
        let outbox = stream.outbox.clone();
        let was_behind = inner.forget(watch);
        if was_behind {
            outbox.attention.notify_one(); // what was held for it may go
        }
        outbox.notice(ended(name, watch_ended::Reason::Cancelled, Revision(0), String::new()));
    }

    /// All watches of the stream have been told of everything up to this revision, in what was pushed before now; 0 if
    /// one of them is behind. `machine` is the state, locked.
    pub fn told_through(&self, id: StreamId, machine: &Machine) -> Revision {
        match self.inner.lock().streams.get(&id) {
            Some(stream) if stream.behind == 0 => machine.revision(),
            _ => Revision(0),
        }
    }

    /// Resolves once `revision` is applied here.
    pub async fn applied<G: Deref<Target = Machine>>(&self, state: impl Fn() -> G, revision: Revision) {
        let wait = {
            let state = state();
            if state.revision() >= revision {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            self.inner.lock().waiting.entry(revision).or_default().push(sender);
            receiver
        };
        let forget = Forget { hub: self, revision };
        wait.await.expect("a waiter is told before it is dropped");
        drop(forget);
    }

    /// Brings the stream's watches nearer to the present; see [`CatchUp`]. Call it from the stream's own task.
    pub fn catch_up<G: Deref<Target = Machine>>(&self, id: StreamId, state: impl Fn() -> G) -> CatchUp {
        let Some((outbox, mut behind)) = self.behind(id) else { return CatchUp::Live };
        // Copy references to a chunk of history; end what it does not reach back to.
        let (chunk, head) = {
            let machine = state();
            let oldest = machine.oldest_revision();
            behind.retain(|watch| {
                let known = watch.next >= oldest;
                if !known {
                    self.end_compacted(id, watch, oldest, &outbox);
                }
                known
            });
            let Some(start) = behind.iter().map(|watch| watch.next).min() else { return CatchUp::More };
            let history = machine.history(start).expect("not compacted: just compared");
            (history.take(CHUNK_REVISIONS).cloned().collect::<Vec<_>>(), machine.revision())
        };
        let mut index = Index::default();
        for (n, watch) in behind.iter().enumerate() {
            index.add(&watch.path, watch.scope, n);
        }
        let mut scratch = Scratch::default();
        let mut full = None;
        let mut reached = Revision(0);
        let mut events = 0;
        for changes in &chunk {
            full = tell(&index, &mut behind, changes, &outbox, &mut scratch, &mut events);
            if full.is_some() {
                reached = changes.revision;
                break;
            }
            reached = changes.revision.next();
        }
        if full.is_none() && chunk.len() < CHUNK_REVISIONS {
            reached = head.next(); // nothing more was there
        }
        let at_head = full.is_none() && reached > head;
        // Near enough: finish where no new change can come in between.
        let machine = at_head.then(&state);
        let mut live = false;
        if let Some(machine) = &machine
            && machine.revision().0 - head.0 <= SWITCH_REVISIONS
            && let Ok(rest) = machine.history(head.next())
        {
            for changes in rest {
                full = tell(&index, &mut behind, changes, &outbox, &mut scratch, &mut events);
                if full.is_some() {
                    reached = changes.revision;
                    break;
                }
            }
            live = full.is_none();
            if live {
                reached = machine.revision().next();
            }
        }
        let more = self.told(id, &behind, reached, live, events);
        drop(machine);
        match full {
            Some(weight) => {
                let max = outbox.event_bytes_max();
                outbox.wish(if weight > max { 0 } else { (max / 2).min(max - weight) });
                CatchUp::Full
            }
            None if more => CatchUp::More,
            None => CatchUp::Live,
        }
    }

    /// The watches that are behind; none if there are none.
    fn behind(&self, id: StreamId) -> Option<(Arc<Outbox>, Vec<Behind>)> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let stream = inner.streams.get_mut(&id)?;
        if stream.behind == 0 {
            stream.set_hold(None);
            return None;
        }
        let watches = &inner.watches;
        let behind = stream
            .watches
            .values()
            .filter_map(|watch| match watch {
                Ref::Watch(key) => Some(*key),
                Ref::Queue(_) => None,
            })
            .filter(|&key| watches[key].behind)
            .map(|key| {
                let Watch { name, path, scope, next, .. } = &watches[key];
                Behind { key, name: *name, path: path.clone(), scope: *scope, next: *next, too_large: None }
            })
            .collect();
        Some((stream.outbox.clone(), behind))
    }

    fn end_compacted(&self, id: StreamId, watch: &Behind, oldest: Revision, outbox: &Outbox) {
        let mut inner = self.inner.lock();
        if let Some(stream) = inner.streams.get_mut(&id)
            && let Some(found) = stream.watches.remove(&watch.name)
        {
            inner.forget(found);
            inner.totals.compacted += 1;
            outbox.notice(compacted(watch.name, watch.next, oldest));
        }
    }

    /// Notes how far the watches have come; true if some are still behind.
    fn told(&self, id: StreamId, behind: &[Behind], reached: Revision, live: bool, events: u64) -> bool {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.totals.events += events;
        for told in behind {
            if let Some((revision, bytes)) = told.too_large {
                inner.end_too_large(id, told.name, revision, bytes);
            }
        }
        let Some(stream) = inner.streams.get_mut(&id) else { return false };
        for told in behind.iter().filter(|told| told.too_large.is_none()) {
            let watch = &mut inner.watches[told.key];
            watch.next = told.next.max(reached);
            if live {
                watch.behind = false;
                stream.behind -= 1;
            }
        }
        // Others may have fallen behind meanwhile.
        let watches = &inner.watches;
        let hold = if stream.behind == 0 {
            None
        } else {
            let behind = stream.watches.values().filter_map(|watch| match watch {
                Ref::Watch(key) if watches[*key].behind => Some(watches[*key].next),
                _ => None,
            });
            behind.min()
        };
        stream.set_hold(hold);
        hold.is_some()
    }

    /// Ends all streams that speak for a session.
    pub fn end_all(&self, reason: session_ended::Reason, message: &str) {
        let inner = self.inner.lock();
        for stream in inner.streams.values() {
            stream.outbox.end(reason, message);
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Counts since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.inner.lock().totals
    }

    /// Sizes now. Looks at every stream.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let inner = self.inner.lock();
        let mut sizes = Sizes {
            streams: inner.streams.len(),
            sessions: inner.sessions.len(),
            watches: inner.watches.len(),
            queue_watches: inner.queues.len(),
            totals: inner.totals,
            ..Sizes::default()
        };
        for stream in inner.streams.values() {
            let backlog = stream.outbox.backlog();
            sizes.behind += stream.behind;
            sizes.outbox_bytes += backlog.bytes;
            sizes.outbox_bytes_largest = sizes.outbox_bytes_largest.max(backlog.bytes);
            sizes.calls += backlog.calls;
        }
        sizes
    }
}

/// Whoever gives up waiting for a revision leaves nothing behind.
struct Forget<'a> {
    hub: &'a Hub,
    revision: Revision,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        if let Some(waiters) = inner.waiting.get_mut(&self.revision) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                inner.waiting.remove(&self.revision);
            }
        }
    }
}

/// The stream has a watch of this name already.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("watch {0} is open on this stream already")]
pub struct NameInUse(pub u64);

/// What catching up needs of a watch.
struct Behind {
    key: usize,
    name: u64,
    path: NodePath,
    scope: Scope,
    next: Revision,
    /// A revision had more to tell than can be told.
    too_large: Option<(Revision, usize)>,
}

/// Tells the watches of one stream of a revision. The weight of what had no room, if it had none.
fn tell(
    index: &Index<usize>,
    behind: &mut [Behind],
    changes: &RevisionChanges,
    outbox: &Outbox,
    scratch: &mut Scratch,
    events: &mut u64,
) -> Option<usize> {
    find(index, changes, scratch);
    let Scratch { hits, encoded } = scratch;
    for group in hits.chunk_by(|a, b| a.0 == b.0) {
        let watch = &mut behind[group[0].0];
        if changes.revision < watch.next || watch.too_large.is_some() {
            continue;
        }
        let bytes = bytes_of(group, changes);
        if bytes > REVISION_BYTES_MAX {
            watch.too_large = Some((changes.revision, bytes));
            continue;
        }
        let item = events_of(watch.name, group, changes, encoded);
        let weight = item.weight();
        if outbox.events(item) == Err(Full) {
            return Some(weight);
        }
        *events += 1;
        watch.next = changes.revision.next();
    }
    None
}

/// Finds the watches that a revision concerns, grouped by watch.
fn find(index: &Index<usize>, changes: &RevisionChanges, scratch: &mut Scratch) {
    scratch.hits.clear();
    for (at, change) in changes.changes.iter().enumerate() {
        index.matches(change, |key| scratch.hits.push((key, at)));
    }
    if changes.changes.len() > 1 {
        scratch.hits.sort_unstable();
    }
    scratch.encoded.clear();
    scratch.encoded.resize(changes.changes.len(), None);
}

/// About how large one watch's events of a revision will be.
fn bytes_of(group: &[(usize, usize)], changes: &RevisionChanges) -> usize {
    if let [_] = group {
        return 0; // one node always fits
    }
    let of = |&(_, at): &(usize, usize)| {
        let change = &changes.changes[at];
        let node = change.after.as_ref().or(change.before.as_ref());
        // Numbers and stamps of a node take about so many bytes.
        100 + change.path.as_str().len() + node.map_or(0, |node| node.data.len())
    };
    group.iter().map(of).sum()
}

/// One watch's events of a revision; each change is encoded once, for the first who wants it.
fn events_of(name: u64, group: &[(usize, usize)], changes: &RevisionChanges, encoded: &mut [Option<Bytes>]) -> Events {
    let mut one = |at: usize| encoded[at].get_or_insert_with(|| wire::event_bytes(&changes.changes[at])).clone();
    let events = match group {
        [(_, at)] => Payload::One(one(*at)),
        many => Payload::Many(many.iter().map(|(_, at)| one(*at)).collect()),
    };
    Events { watch: name, revision: changes.revision.0, at_ms: changes.at_ms, events }
}

fn ended(watch: u64, reason: watch_ended::Reason, resume: Revision, message: String) -> Wire {
    Wire::WatchEnded(v1::WatchEnded { watch, reason: reason.into(), resume_revision: resume.0, message })
}

fn compacted(watch: u64, asked: Revision, oldest: Revision) -> Wire {
    let message =
        format!("revision {asked} is compacted, the oldest known is {oldest}: read anew and watch from there");
    ended(watch, watch_ended::Reason::Compacted, oldest, message)
}

fn too_many(max: usize) -> String {
    format!("limit reached: watches_per_stream_max is {max}")
}

impl Stream {
    fn set_hold(&mut self, hold: Option<Revision>) {
        if self.hold != hold {
            self.hold = hold;
            self.outbox.hold_from(hold.map(|revision| revision.0));
        }
    }

    fn lower_hold(&mut self, revision: Revision) {
        self.set_hold(Some(self.hold.map_or(revision, |hold| hold.min(revision))));
    }
}

impl Inner {
    /// Removes a watch that its stream has given up; true if it was behind.
    fn forget(&mut self, watch: Ref) -> bool {
        match watch {
            Ref::Queue(key) => {
                self.queues.cancel(key);
                false
            }
            Ref::Watch(key) => {
                let watch = self.watches.remove(key);
                if let Some(moved) = self.index.remove(&watch.path, watch.scope, watch.place) {
                    self.watches[moved].place = watch.place;
                }
                if watch.behind
                    && let Some(stream) = self.streams.get_mut(&watch.stream)
                {
                    stream.behind -= 1;
                }
                watch.behind
            }
        }
    }

    fn publish(&mut self, machine: &Machine, changes: &RevisionChanges) {
        self.revision = changes.revision;
        if !self.index.is_empty() {
            self.deliver(changes);
        }
        if !self.queues.is_empty() {
            let fired = self.queues.settle(machine, &changes.changes);
            self.fire(fired, changes.revision);
        }
        self.wake_waiting();
    }

    fn deliver(&mut self, changes: &RevisionChanges) {
        let mut scratch = std::mem::take(&mut self.scratch);
        find(&self.index, changes, &mut scratch);
        let Scratch { hits, encoded } = &mut scratch;
        for group in hits.chunk_by(|a, b| a.0 == b.0) {
            let watch = &mut self.watches[group[0].0];
            if watch.behind || changes.revision < watch.next {
                continue;
            }
            let bytes = bytes_of(group, changes);
            if bytes > REVISION_BYTES_MAX {
                let (stream, name) = (watch.stream, watch.name);
                self.end_too_large(stream, name, changes.revision, bytes);
                continue;
            }
            let (first, rest) = group.split_at(group.len() - 1);
            let group = match first {
                [_, ..] if planted!(WatchTorn) => {
                    let _ = watch.outbox.events(events_of(watch.name, first, changes, encoded));
                    rest
                }
                _ => group,
            };
            match watch.outbox.events(events_of(watch.name, group, changes, encoded)) {
                Ok(()) => {
                    self.totals.events += 1;
                    watch.next = changes.revision.next();
                }
                Err(Full) => {
                    let (stream, outbox) = (watch.stream, watch.outbox.clone());
                    self.fall_behind(stream, changes.revision);
                    outbox.wish(outbox.event_bytes_max() / 2);
                }
            }
        }
        hits.clear();
        encoded.clear();
        self.scratch = scratch;
    }

    /// Ends a watch that cannot be told of a revision.
    fn end_too_large(&mut self, id: StreamId, name: u64, revision: Revision, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let outbox = stream.outbox.clone();
        if let Some(watch) = stream.watches.remove(&name) {
            self.forget(watch);
            let message = format!(
                "revision {revision} changed about {bytes} bytes of what is watched, more than one item can tell \
                 ({REVISION_BYTES_MAX}): read anew and watch from the next one"
            );
            outbox.notice(ended(name, watch_ended::Reason::Lagging, revision.next(), message));
        }
    }

    /// All watches of a stream will have to catch up from `revision` on, or from what they were told last.
    fn fall_behind(&mut self, id: StreamId, revision: Revision) {
        self.totals.fell_behind += 1;
        let stream = self.streams.get_mut(&id).expect("a watch has a stream");
        for watch in stream.watches.values() {
            let Ref::Watch(key) = watch else { continue };
            let watch = &mut self.watches[*key];
            if !watch.behind {
                watch.behind = true;
                watch.next = watch.next.max(revision);
                stream.behind += 1;
            }
        }
        stream.lower_hold(revision);
    }

    fn fire(&mut self, fired: Vec<Fired<QueueTag>>, revision: Revision) {
        for fired in fired {
            let (tag, item) = match fired {
                Fired::Ready(tag) => {
                    self.totals.queue_ready += 1;
                    let ready = v1::QueueReady { watch: tag.name, revision: revision.0 };
                    (tag, Wire::QueueReady(ready))
                }
                Fired::Gone(tag) => {
                    let message = "the node is gone".to_owned();
                    let gone = ended(tag.name, watch_ended::Reason::Gone, Revision(0), message);
                    (tag, gone)
                }
            };
            if let Some(stream) = self.streams.get_mut(&tag.stream) {
                stream.watches.remove(&tag.name);
            }
            tag.outbox.notice_after(tag.after, item);
        }
    }

    fn wake_waiting(&mut self) {
        while let Some(first) = self.waiting.first_entry()
            && *first.key() <= self.revision
        {
            for waiter in first.remove() {
                let _ = waiter.send(()); // it may have given up
            }
        }
    }

    fn replaced(&mut self, machine: &Machine) {
        let resume = self.revision.next();
        self.revision = machine.revision();
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in streams {
            let stream = &self.streams[&id];
            let known =
                stream.session.map(|(session, run)| (session, machine.session(session).map(|it| it.run == run)));
            if let Some((session, Some(false))) = known {
                stream.outbox.end(session_ended::Reason::Replaced, TAKEN_OVER);
                self.sessions.remove(&session);
            } else if let Some((session, None)) = known {
                let message = "the session ended while this server was away";
                stream.outbox.end(session_ended::Reason::NoSession, message);
                self.sessions.remove(&session);
            } else if stream.watches.values().any(|watch| matches!(watch, Ref::Watch(_))) {
                let outbox = stream.outbox.clone();
                self.fall_behind(id, resume);
                outbox.attention.notify_one();
            }
        }
        let fired = self.queues.settle_all(machine);
        self.fire(fired, machine.revision());
        self.wake_waiting();
    }
}

/// What the node's thread tells the hub.
pub struct Publisher(Arc<Hub>);

impl Publish for Publisher {
    fn publish(&mut self, machine: &Machine, _: LogIndex, applied: &Applied) {
        if applied.changes.is_none() && applied.ended.is_empty() && applied.taken_over.is_none() {
            return;
        }
        let mut inner = self.0.inner.lock();
        if let Some(changes) = &applied.changes {
            inner.publish(machine, changes);
        }
        if let Some((session, run)) = applied.taken_over
            && let Some(stream) = inner.sessions.get(&session).and_then(|id| inner.streams.get(id))
            && stream.session.is_some_and(|(_, other)| other != run)
        {
            stream.outbox.end(session_ended::Reason::Replaced, TAKEN_OVER);
            inner.sessions.remove(&session);
        }
        for (session, reason) in &applied.ended {
            if let Some(id) = inner.sessions.remove(session)
                && let Some(stream) = inner.streams.get(&id)
            {
                let (reason, message) = wire::end_reason(*reason);
                stream.outbox.end(reason, message);
            }
        }
    }

    fn replaced(&mut self, machine: &Machine) {
        self.0.inner.lock().replaced(machine);
    }
}

/// Values under small keys that are used again.
#[derive(Debug)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The key of the next value inserted.
    fn next_key(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    fn insert(&mut self, value: T) {
        match self.free.pop() {
            Some(key) => self.places[key] = Some(value),
            None => self.places.push(Some(value)),
        }
    }

    fn remove(&mut self, key: usize) -> T {
        let value = self.places[key].take().expect("the key names a value");
        self.free.push(key);
        if self.free.len() == self.places.len() {
            // Empty: give the memory back, so that a burst of watches leaves nothing behind.
            *self = Self::default();
        }
        value
    }
}

impl<T> std::ops::Index<usize> for Slab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.places[key].as_ref().expect("the key names a value")
    }
}

impl<T> std::ops::IndexMut<usize> for Slab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.places[key].as_mut().expect("the key names a value")
    }
}
