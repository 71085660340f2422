//! I11: no lost wake-up: a free lock with a live waiter is granted within B of the later of "freed" and "healed"; and no
//! place in line stays behind when its client no longer wants it and its session lives on.
//!
//! I14 is judged with it, as it breaks in the same way: a predecessor that vanishes between enqueue and watch still wakes
//! its successor.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::{NodePath, SessionId};

use super::{
    Found, Oracle, Seen,
    queues::{Kind, QueueEvent},
};
use crate::{
    client::seen::ClientSeen,
    time::{MS, Micros, SECOND},
};

/// B: a reconnection, and a round trip.
const WITHIN: Micros = 8 * SECOND;
/// From a client's call to its answer, where nothing is in the way: what happens to the predecessor meanwhile happens
/// between enqueue and watch.
const BETWEEN: Micros = 400;

struct Place {
    session: SessionId,
    lock: NodePath,
    enqueued: Micros,
    granted: Option<Micros>,
    /// A predecessor left right after it had come.
    raced: bool,
}

/// See the module.
#[derive(Default)]
pub struct NoLostWakeup {
    /// By token, those in line.
    places: BTreeMap<u64, Place>,
    /// Calls that have not returned.
    asking: BTreeMap<u64, (SessionId, NodePath)>,
    /// Tokens of guards that are not let go.
    held: BTreeMap<u64, u64>,
    /// Sessions of the library's clients.
    sessions: BTreeSet<SessionId>,
    /// Those that another process goes on with, which knows nothing of places in line.
    handed_over: BTreeSet<SessionId>,
    waited: u64,
}

impl NoLostWakeup {
    fn queue(&mut self, at: Micros, event: &QueueEvent) {
        match event.kind {
            Kind::Enqueued => {
                let (session, lock) = (event.owner, event.lock.clone());
                self.places.insert(event.token, Place { session, lock, enqueued: at, granted: None, raced: false });
            }
            Kind::Granted { .. } => {
                if let Some(place) = self.places.get_mut(&event.token) {
                    place.granted = Some(at);
                    self.waited += u64::from(place.enqueued < at);
                }
            }
            Kind::Left { .. } => {
                self.places.remove(&event.token);
                for place in self.places.values_mut() {
                    if place.lock == event.lock && place.enqueued + BETWEEN > at {
                        place.raced = true;
                    }
                }
            }
            Kind::Misplaced => {}
        }
    }

    fn settled(&self, at: Micros, whole: Micros, found: &mut Found) {
        for (token, place) in &self.places {
            let Some(granted) = place.granted else { continue };
            let since = granted.max(whole);
            if self.handed_over.contains(&place.session) {
                continue;
            }
            if !self.sessions.contains(&place.session) || self.held.contains_key(token) || since + WITHIN > at {
                continue;
            }
            let asks = self.asking.values().any(|(session, lock)| (session, lock) == (&place.session, &place.lock));
            let (lock, session, waits) = (&place.lock, place.session, (at - since) / MS);
            let why = if asks {
                format!("session {session:x} stands at the front of {lock} for {waits} ms and was not told")
            } else {
                format!("session {session:x} stands at the front of {lock} for {waits} ms and wants it no more")
            };
            found.push(if place.raced { "I14" } else { "I11" }, at, why);
        }
    }
}

impl Oracle for NoLostWakeup {
    fn name(&self) -> &'static str {
        "I11"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Queue(event) => self.queue(at, event),
            Seen::Settled { whole } => self.settled(at, *whole, found),
            Seen::Client(ClientSeen::Asked { hold, session, lock }) => {
                self.sessions.insert(*session);
                self.asking.insert(*hold, (*session, lock.clone()));
            }
            Seen::Client(ClientSeen::Acquired { hold, token, .. }) => {
                self.asking.remove(hold);
                self.held.insert(*token, *hold);
            }
            Seen::Client(ClientSeen::HandedOver { session }) => drop(self.handed_over.insert(*session)),
            Seen::Client(ClientSeen::NotAcquired { hold }) => drop(self.asking.remove(hold)),
            Seen::Client(ClientSeen::Over { hold }) => self.held.retain(|_, other| other != hold),
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.waited
    }
}

/// See the module: counts what puts it to the test.
#[derive(Default)]
pub struct PredecessorVanishes {
    enqueued: BTreeMap<NodePath, Vec<(u64, Micros)>>,
    raced: u64,
}

impl Oracle for PredecessorVanishes {
    fn name(&self) -> &'static str {
        "I14"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, _: &mut Found) {
        let Seen::Queue(event) = seen else { return };
        match event.kind {
            Kind::Enqueued => self.enqueued.entry(event.lock.clone()).or_default().push((event.token, at)),
            Kind::Left { .. } => {
                let Some(line) = self.enqueued.get_mut(&event.lock) else { return };
                line.retain(|(token, _)| *token != event.token);
                let raced = |(token, since): &&(u64, Micros)| *token > event.token && since + BETWEEN > at;
                self.raced += line.iter().filter(raced).count() as u64;
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.raced
    }
}
