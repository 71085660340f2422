//! What clients did, were told and believed, for the oracles.

use std::{collections::BTreeMap, sync::Arc};

use conclave_client::Effect;
use conclave_proto::{NodePath, SessionId};
use parking_lot::Mutex;

use crate::{
    exec::Sim,
    oracle::{Oracles, Seen},
    time::Micros,
};

/// What a watch covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The node.
    Node,
    /// Its children.
    Children,
    /// Node and everything below.
    Subtree,
}

/// One event that a watch told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Of which node.
    pub path: String,
    /// It was deleted.
    pub deleted: bool,
    /// Its last change of data; of what was deleted, none.
    pub modified: u64,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub enum Ended<T> {
    /// With a result.
    Ok(T),
    /// It failed: whether it can have happened all the same.
    Failed(Effect),
}

/// See the module. Operations, holds and watches are named by numbers of their own.
#[derive(Clone, Debug)]
pub enum ClientSeen {
    /// A client gets in line.
    Asked { hold: u64, session: SessionId, lock: NodePath },
    /// Its call returned with a guard. `alive`: the guard says held at this very moment.
    Acquired { hold: u64, token: u64, exclusive: bool, called: Micros, alive: bool },
    /// Its call returned without one, or was dropped.
    NotAcquired { hold: u64 },
    /// It believed to hold, from its return to this moment.
    Believed { session: SessionId, lock: NodePath, exclusive: bool, from: Micros, until: Micros },
    /// An administrator ends a session: its client learns of that late.
    Killed { session: SessionId },
    /// The hold is over, as the client sees it.
    Over { hold: u64 },
    /// A fenced resource was asked to take a write.
    Touched { resource: u8, token: u64, accepted: bool },
    /// Another process goes on with a session: what the former one held stays with it, unbeknownst to the new one.
    HandedOver { session: SessionId },
    /// A client thinks its session alive, and the latest that it may, both by its clock.
    Alive { session: SessionId, local_ms: u64, bound_ms: u64 },
    /// A client was told of its session's loss while its process ran, and the same bound.
    Lost { session: SessionId, local_ms: u64, bound_ms: u64 },
    /// An operation on keys is called: what it writes (none to delete), which happens or not even if nobody hears of it.
    Called { op: u64, writes: Vec<(String, Option<String>)> },
    /// A write of a value that is written once only.
    Wrote { op: u64, path: String, value: String, ended: Ended<u64> },
    /// A deletion, and the revision it was answered with.
    Deleted { op: u64, path: String, ended: Ended<u64> },
    /// A read: value and revision. Of a stale one, the least revision it may reflect.
    Read { op: u64, path: String, stale: Option<u64>, ended: Ended<(Option<String>, u64)> },
    /// A watch is open; the first revision it will tell of.
    WatchOpened { watch: u64, path: NodePath, scope: Scope, asked: Option<u64>, next: u64 },
    /// It told of a revision.
    WatchTold { watch: u64, revision: u64, events: Vec<Told> },
    /// A reply on its session reflected this revision, and it has nothing more to tell at this moment.
    WatchBeside { watch: u64, revision: u64 },
    /// It ended. Whether something may be left out after it.
    WatchEnded { watch: u64 },
    /// Everything is quiet; it is still open and has nothing more to tell.
    WatchQuiet { watch: u64 },
}

#[derive(Clone, Copy)]
struct Confirmed {
    sent_local_ms: u64,
    ttl_ms: u64,
}

/// Hears clients and tells the oracles. One per start of a client.
pub struct Listener {
    sim: Sim,
    oracles: Arc<Mutex<Oracles>>,
    confirmed: Mutex<BTreeMap<u64, Confirmed>>,
}

impl Listener {
    /// Of one start of a client.
    #[must_use]
    pub fn new(sim: &Sim, oracles: &Arc<Mutex<Oracles>>) -> Self {
        Self { sim: sim.clone(), oracles: oracles.clone(), confirmed: Mutex::default() }
    }

    /// Something was seen.
    pub fn tell(&self, seen: &ClientSeen) {
        self.oracles.lock().see(self.sim.now(), &Seen::Client(seen));
    }

    /// A keep-alive (or the opening hello) was acknowledged that was sent at this moment.
    pub fn confirmed(&self, session: u64, ttl_ms: u64, sent_local_ms: u64, sent: Micros) {
        let mut confirmed = self.confirmed.lock();
        let entry = confirmed.entry(session).or_insert(Confirmed { sent_local_ms, ttl_ms });
        entry.sent_local_ms = entry.sent_local_ms.max(sent_local_ms);
        drop(confirmed);
        let session = SessionId(session);
        self.oracles.lock().see(self.sim.now(), &Seen::Renewed { session, sent });
    }

    /// The latest moment, by the client's clock, at which it may believe in its session: the last acknowledged
    /// keep-alive's sending, TTL, less a hundredth for drift.
    #[must_use]
    pub fn bound_ms(&self, session: u64) -> Option<u64> {
        let confirmed = *self.confirmed.lock().get(&session)?;
        Some(confirmed.sent_local_ms + confirmed.ttl_ms - confirmed.ttl_ms / 100)
    }
}
