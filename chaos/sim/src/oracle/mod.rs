//! What must always hold: one file for each invariant, numbered as everywhere (I1 to I19).
//!
//! The oracles hear of every entry that a replica applies, and of what clients sent and were told. They share no code
//! with what they judge beyond its public types.
//!
//! The entries applied by whichever replica is first are the *canon*: what the cluster did, once, in order. Every other
//! replica is compared with it, by the entry and by the hash of the state after it, also when it restarts and replays,
//! and when it installs a snapshot. So an invariant of the replicated state needs to be judged on the canon only.

pub mod canon;
mod i01_one_holder;
mod i02_tokens_rise;
mod i03_applied_once;
mod i04_acquired;
mod i05_fence;
mod i06_told_in_time;
mod i07_no_early_end;
mod i08_no_overlap;
mod i09_freed_once;
mod i10_queue_order;
mod i11_no_lost_wakeup;
mod i12_no_orphan;
mod i13_no_herd;
mod i15_comes_back;
mod i16_unknown;
mod i17_fresh_reads;
mod i17_linearizable;
mod i18_durable;
mod i19_watches;
mod leaders;
pub mod queues;

use std::collections::BTreeMap;

use conclave_proto::{Index, Revision, SessionId, Term};
use conclave_state::{Applied, Entry, Machine, Outcome};
use raft::eraftpb::{Entry as LogEntry, EntryType};
use xxhash_rust::xxh3::xxh3_64;

use crate::{client::seen::ClientSeen, time::Micros};
use queues::{QueueEvent, Queues};

/// A broken invariant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Its number as everybody calls it, `I7`; or what else is wrong.
    pub what: &'static str,
    /// When.
    pub at: Micros,
    /// In a sentence.
    pub why: String,
}

/// What the oracles hear of.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The canon has grown by an entry.
    Applied {
        /// Its place.
        index: Index,
        /// Its term.
        term: Term,
        /// What it asked for; none for empty entries and changes of membership.
        entry: Option<&'a Entry>,
        /// The state after it.
        machine: &'a Machine,
        /// What it did.
        applied: &'a Applied,
        /// When it was first to be written to a server's log: that of the leader that proposed it.
        logged: Micros,
    },
    /// Something happened in a queue of sequential ephemeral nodes: a lock, a semaphore, an election.
    Queue(&'a QueueEvent),
    /// A server applied an entry of the canon and woke so many queue watches, of nodes whose turn came by it.
    Woke {
        /// Watches.
        woken: u64,
        /// Grants in that entry, if this was the first replica to apply it.
        grants: Option<u64>,
    },
    /// A client's renewal was acknowledged.
    Renewed {
        /// Whose.
        session: SessionId,
        /// When the client sent it.
        sent: Micros,
    },
    /// A server was asked to renew a session.
    RenewalAsked {
        /// Which.
        session: SessionId,
    },
    /// A client was told the outcome of a numbered request.
    Acknowledged {
        /// Whose.
        session: SessionId,
        /// The number.
        number: u64,
        /// The outcome.
        outcome: &'a Outcome,
    },
    /// A linearizable read was answered.
    Read {
        /// By which server.
        server: u64,
        /// The revision that it shows.
        revision: Revision,
        /// The newest that anybody had been told of when it began.
        told: Revision,
    },
    /// A client fell silent for good: its last message left then.
    Silent {
        /// Its session.
        session: SessionId,
        /// Its TTL.
        ttl_ms: u64,
    },
    /// A server's monotonic clock leapt.
    Jumped {
        /// How far.
        by: Micros,
    },
    /// A server's clock runs wrong by so much.
    Drifts {
        /// In parts per million.
        ppm: i64,
    },
    /// A client of the library did or saw something.
    Client(&'a ClientSeen),
    /// Everything has been whole since then, and clients have let go of what they held since then, too.
    Settled {
        /// Since when.
        whole: Micros,
    },
    /// A server leads in a term.
    Leads {
        /// Which.
        server: u64,
        /// In which.
        term: u64,
    },
}

/// What is left when a run is over, everything having been healed a while ago.
#[derive(Debug)]
pub struct End<'a> {
    /// When it was healed.
    pub healed: Micros,
    /// When a leader was known after that.
    pub led: Option<Micros>,
    /// How long that may take.
    pub lead_within: Micros,
    /// The canon's length.
    pub canon: u64,
    /// Servers that should be back, and their state.
    pub machines: &'a BTreeMap<u64, &'a Machine>,
    /// Locks that were asked for at the end, and whether they were obtained.
    pub obtained: &'a [(String, bool)],
    /// How fast the fastest clock was, in parts per million too fast.
    pub drift_ppm: i64,
    /// Beyond TTL, for the end of a silent session.
    pub silence_slack: Micros,
}

/// One invariant.
pub trait Oracle: Send {
    /// `I7`.
    fn name(&self) -> &'static str;
    /// Judges what is seen.
    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found);
    /// Judges what is left.
    fn finish(&mut self, _at: Micros, _end: &End<'_>, _found: &mut Found) {}
    /// How often it could have been broken. 0: this run says nothing about it.
    fn exercised(&self) -> u64;
}

/// Collects violations.
#[derive(Debug, Default)]
pub struct Found(pub Vec<Violation>);

impl Found {
    /// An invariant is broken.
    pub fn push(&mut self, what: &'static str, at: Micros, why: impl Into<String>) {
        // The first tells the story; thousands more would only hide it.
        if self.0.len() < 16 {
            self.0.push(Violation { what, at, why: why.into() });
        }
    }
}

struct Canonical {
    term: u64,
    data: u64,
    hash: u128,
}

/// All of them.
pub struct Oracles {
    oracles: Vec<Box<dyn Oracle>>,
    canon: Vec<Canonical>,
    /// By index and term, beyond the canon: see [`Seen::Applied`].
    logged: BTreeMap<(u64, u64), Micros>,
    queues: Queues,
    found: Found,
    compared: u64,
}

/// The drift that the clocks of a run keep within, for those that reckon with time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In parts per million, both ways.
    pub drift_ppm: i64,
}

impl Oracles {
    /// For one run.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let mut machine = Machine::new();
        machine.apply(Index(1), Term(1), None);
        let canon = canon::Canon::default();
        let first = Canonical { term: 1, data: 0, hash: machine.hash().0 };
        Self {
            oracles: vec![
                Box::new(i01_one_holder::OneHolder::default()),
                Box::new(i02_tokens_rise::TokensRise::default()),
                Box::new(i03_applied_once::AppliedOnce::default()),
                Box::new(i04_acquired::Acquired::default()),
                Box::new(i05_fence::Fence::default()),
                Box::new(i06_told_in_time::ToldInTime::default()),
                Box::new(i07_no_early_end::NoEarlyEnd::new(bounds)),
                Box::new(i08_no_overlap::NoOverlap::default()),
                Box::new(i09_freed_once::FreedOnce::default()),
                Box::new(i10_queue_order::QueueOrder::default()),
                Box::new(i11_no_lost_wakeup::NoLostWakeup::default()),
                Box::new(i11_no_lost_wakeup::PredecessorVanishes::default()),
                Box::new(i12_no_orphan::NoOrphan::default()),
                Box::new(i13_no_herd::NoHerd::default()),
                Box::new(i15_comes_back::ComesBack::default()),
                Box::new(i17_fresh_reads::FreshReads::default()),
                Box::new(i16_unknown::Unknown::new(canon.clone())),
                Box::new(i17_linearizable::Linearizable::new(canon.clone())),
                Box::new(i18_durable::Durable::default()),
                Box::new(i19_watches::Watches::new(canon)),
                Box::new(leaders::OneLeader::default()),
            ],
            canon: vec![first],
            logged: BTreeMap::new(),
            queues: Queues::default(),
            found: Found::default(),
            compared: 0,
        }
    }

    /// The newest entry applied anywhere.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.canon.len() as u64
    }

    /// Entries are about to be written to a server's log.
    pub fn logged(&mut self, at: Micros, entries: &[LogEntry]) {
        let newest = self.newest();
        for entry in entries.iter().filter(|entry| entry.index > newest) {
            self.logged.entry((entry.index, entry.term)).or_insert(at);
        }
    }

    /// A replica applied an entry.
    pub fn applied(
        &mut self,
        at: Micros,
        server: u64,
        entry: &LogEntry,
        machine: &Machine,
        applied: &Applied,
        woken: u64,
    ) {
        let ours = Canonical { term: entry.term, data: xxh3_64(&entry.data), hash: machine.hash().0 };
        let newest = self.newest();
        if entry.index <= newest {
            self.compare(at, server, entry.index, Some((ours.term, ours.data)), ours.hash);
            self.see(at, &Seen::Woke { woken, grants: None });
            return;
        }
        if entry.index > newest + 1 {
            let why = format!("server {server} applies entry {}, nobody applied entry {}", entry.index, newest + 1);
            self.found.push("I18", at, why);
            return;
        }
        self.canon.push(ours);
        let command = match entry.entry_type() {
            EntryType::EntryNormal if !entry.data.is_empty() => match Entry::decode(&entry.data) {
                Ok(command) => Some(command),
                Err(why) => {
                    self.found.push("I18", at, format!("entry {} cannot be read: {why}", entry.index));
                    None
                }
            },
            _ => None,
        };
        let (index, term) = (Index(entry.index), Term(entry.term));
        let logged = self.logged.get(&(entry.index, entry.term)).copied().unwrap_or(at);
        self.logged = self.logged.split_off(&(entry.index + 1, 0));
        self.see(at, &Seen::Applied { index, term, entry: command.as_ref(), machine, applied, logged });
        let mut grants = 0;
        let mut events = Vec::new();
        if let Some(changes) = &applied.changes {
            self.queues.changed(index, machine, changes, &mut events);
        }
        for event in &events {
            grants += u64::from(matches!(event.kind, queues::Kind::Granted { .. }));
            self.see(at, &Seen::Queue(event));
        }
        self.see(at, &Seen::Woke { woken, grants: Some(grants) });
    }

    /// A replica's state was replaced by a snapshot's.
    pub fn replaced(&mut self, at: Micros, server: u64, machine: &Machine) {
        self.restored(at, server, machine);
    }

    /// A server started with this state.
    pub fn restored(&mut self, at: Micros, server: u64, machine: &Machine) {
        let index = machine.applied().0;
        if index > self.newest() {
            let why = format!("server {server} has the state of entry {index}, which nobody applied");
            self.found.push("I18", at, why);
        } else if index > 0 {
            self.compare(at, server, index, None, machine.hash().0);
        }
    }

    fn compare(&mut self, at: Micros, server: u64, index: u64, entry: Option<(u64, u64)>, hash: u128) {
        self.compared += 1;
        let canon = &self.canon[usize::try_from(index - 1).expect("an index into memory")];
        if entry.is_some_and(|entry| entry != (canon.term, canon.data)) {
            let (term, data) = entry.unwrap_or_default();
            let why = format!(
                "entry {index} was applied as one of term {}, server {server} applies one of term {term} in its place \
                 ({})",
                canon.term,
                if data == canon.data { "the same command" } else { "another command" }
            );
            self.found.push("I18", at, why);
        } else if hash != canon.hash {
            let why = format!("server {server} has another state than the first to apply entry {index}");
            self.found.push("replicas", at, why);
        }
    }

    /// Tells all of them.
    pub fn see(&mut self, at: Micros, seen: &Seen<'_>) {
        for oracle in &mut self.oracles {
            oracle.see(at, seen, &mut self.found);
        }
    }

    /// The run is over.
    pub fn finish(&mut self, at: Micros, end: &End<'_>) {
        for oracle in &mut self.oracles {
            oracle.finish(at, end, &mut self.found);
        }
    }

    /// Adds a violation that somebody else found.
    pub fn broken(&mut self, what: &'static str, at: Micros, why: impl Into<String>) {
        self.found.push(what, at, why);
    }

    /// The first violation, if any.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.found.0
    }

    /// How often each invariant could have been broken.
    #[must_use]
    pub fn exercised(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        for oracle in &self.oracles {
            *all.entry(oracle.name()).or_default() += oracle.exercised();
        }
        all.insert("replicas", self.compared);
        all
    }

    /// What shapes queues had.
    #[must_use]
    pub fn queues(&self) -> &Queues {
        &self.queues
    }
}
