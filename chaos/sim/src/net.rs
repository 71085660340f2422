//! The network between servers: one connection each way between any two, as the production peers keep them.
//!
//! What travels on one connection arrives in order, or not at all because the connection broke: then both ends are told,
//! sooner or later. A blocked link loses nothing by itself: what was sent stalls, and arrives late if the block ends before
//! the ends give up. Beyond that, single messages are lost, doubled or overtaken where a fault says so; Raft bears that.

use std::collections::{BTreeMap, VecDeque};

use conclave_proto::peer::peer_item::Item;

use crate::time::{MS, Micros};

/// Messages that wait while there is no connection.
const WAITING_MAX: usize = 64;

/// Weather of one link. Several faults may hold at once: the worst of each counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Weather {
    /// Beside the usual, up to so much longer.
    pub jitter_us: Micros,
    /// Of a thousand messages so many are lost.
    pub loss: u32,
    /// Of a thousand Raft messages so many arrive twice.
    pub doubled: u32,
    /// Of a thousand Raft messages so many are overtaken by later ones.
    pub overtaken: u32,
}

impl Weather {
    fn worse(self, other: Self) -> Self {
        Self {
            jitter_us: self.jitter_us.max(other.jitter_us),
            loss: self.loss.max(other.loss),
            doubled: self.doubled.max(other.doubled),
            overtaken: self.overtaken.max(other.overtaken),
        }
    }
}

/// One server's connection to another.
#[derive(Debug, Default)]
pub struct Link {
    /// There is a connection.
    pub up: bool,
    /// The sender wants one.
    pub wanted: bool,
    /// Because the receiver introduced itself, whether or not it is a member.
    pub introduced: bool,
    /// Counts connections and attempts.
    pub connection: u64,
    /// Which start of the receiver it leads to.
    pub receiver: u64,
    /// Faults that block it.
    pub blocked: u32,
    /// What is sent when there is a connection.
    pub waiting: VecDeque<Item>,
    /// What arrives when the block ends.
    pub stalled: VecDeque<Vec<Item>>,
    /// Of the last frame.
    pub last_arrival: Micros,
    /// Until the next attempt.
    pub backoff_us: Micros,
    weather: Vec<(usize, Weather)>,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Frames that arrived.
    pub frames: u64,
    /// Messages in them.
    pub messages: u64,
    /// Messages lost one by one.
    pub lost: u64,
    /// Messages that arrived twice.
    pub doubled: u64,
    /// Messages overtaken by later ones.
    pub overtaken: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Frames that waited for the end of a block.
    pub stalled: u64,
}

/// When something arrives, relative to now, and what.
pub struct Arrival {
    /// When.
    pub at: Micros,
    /// In order.
    pub items: Vec<Item>,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<(u64, u64), Link>,
    rng: fastrand::Rng,
    /// See [`Counts`].
    pub counts: Counts,
}

impl Network {
    /// Without links; they come as they are asked for.
    #[must_use]
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { links: BTreeMap::new(), rng, counts: Counts::default() }
    }

    /// One of them.
    pub fn link(&mut self, from: u64, to: u64) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// Whether what `from` sends reaches `to`.
    #[must_use]
    pub fn open(&self, from: u64, to: u64) -> bool {
        self.links.get(&(from, to)).is_none_or(|link| link.blocked == 0)
    }

    /// All there are, in order.
    #[must_use]
    pub fn pairs(&self) -> Vec<(u64, u64)> {
        self.links.keys().copied().collect()
    }

    /// Weather by one fault, named by its place in the plan.
    pub fn set_weather(&mut self, from: u64, to: u64, fault: usize, weather: Option<Weather>) {
        let list = &mut self.link(from, to).weather;
        list.retain(|(by, _)| *by != fault);
        list.extend(weather.map(|weather| (fault, weather)));
    }

    /// How long something takes from one server to another, now.
    pub fn delay(&mut self, from: u64, to: u64) -> Micros {
        let weather = self.weather(from, to);
        let usual = 40 + self.rng.u64(..120);
        if weather.jitter_us > 0 { usual + self.rng.u64(..weather.jitter_us) } else { usual }
    }

    fn weather(&mut self, from: u64, to: u64) -> Weather {
        let all = &self.link(from, to).weather;
        all.iter().fold(Weather::default(), |worst, (_, weather)| worst.worse(*weather))
    }

    /// Items leave; what arrives of them, and when. None while there is no connection: then they wait, for a while.
    pub fn send(&mut self, now: Micros, from: u64, to: u64, items: Vec<Item>) -> Vec<Arrival> {
        let weather = self.weather(from, to);
        let delay = self.delay(from, to);
        let rng = &mut self.rng;
        let Some(link) = self.links.get_mut(&(from, to)) else { return Vec::new() };
        if !link.up {
            if link.wanted {
                link.waiting.extend(items);
                while link.waiting.len() > WAITING_MAX {
                    link.waiting.pop_front();
                }
            }
            return Vec::new();
        }
        let at = (now + delay).max(link.last_arrival);
        link.last_arrival = at;
        if weather.loss == 0 && weather.doubled == 0 && weather.overtaken == 0 {
            return vec![Arrival { at, items }];
        }
        let mut strike = |of_thousand: u32| of_thousand > 0 && rng.u32(..1000) < of_thousand;
        let mut arrivals = Vec::new();
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            // A client's proposal is never sent twice by a stream; Raft's own messages bear it.
            let raft = matches!(&item, Item::Raft(bytes) if !is_proposal(bytes));
            if strike(weather.loss) {
                self.counts.lost += 1;
                continue;
            }
            if raft && strike(weather.doubled) {
                self.counts.doubled += 1;
                arrivals.push((at + MS, vec![item.clone()]));
            }
            if raft && strike(weather.overtaken) {
                self.counts.overtaken += 1;
                arrivals.push((at + 5 * MS, vec![item]));
                continue;
            }
            kept.push(item);
        }
        let mut all: Vec<Arrival> = Vec::new();
        if !kept.is_empty() {
            all.push(Arrival { at, items: kept });
        }
        for (earliest, items) in arrivals {
            all.push(Arrival { at: earliest + self.rng.u64(..100 * MS), items });
        }
        all
    }
}

fn is_proposal(bytes: &[u8]) -> bool {
    use prost_raft::Message as _;
    use raft::eraftpb::{Message, MessageType};
    // Decoded only in bad weather.
    Message::decode(bytes)
        .is_ok_and(|message| matches!(message.msg_type(), MessageType::MsgPropose | MessageType::MsgTransferLeader))
}
