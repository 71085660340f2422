//! Queues of sequential ephemeral nodes as the canon's changes tell of them: locks, read/write locks, semaphores and
//! elections. An own account of who holds and who waits, which the machine's is compared with.

use std::collections::BTreeMap;

use conclave_proto::{Index, NodePath, SessionId};
use conclave_state::{Machine, Node, QueuePlace, RevisionChanges};

/// Something happened to a node in a queue.
#[derive(Clone, Debug)]
pub struct QueueEvent {
    /// The lock.
    pub lock: NodePath,
    /// The node in its queue.
    pub node: NodePath,
    /// The fencing token that it stands for.
    pub token: u64,
    /// Whose it is.
    pub owner: SessionId,
    /// What.
    pub kind: Kind,
}

/// What.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It got in line.
    Enqueued,
    /// Its turn came.
    Granted {
        /// Somebody got in line before it, and still waits, though the two exclude each other.
        overtook: bool,
        /// What it claims.
        claim: Claim,
    },
    /// It went.
    Left {
        /// It had been granted.
        held: bool,
    },
    /// The account and the machine disagree about it.
    Misplaced,
}

#[cfg(test)]
impl QueueEvent {
    /// For tests of oracles.
    pub fn granted(lock: &str, token: u64, overtook: bool) -> Self {
        Self {
            lock: NodePath::parse(lock).expect("a path"),
            node: NodePath::parse(&format!("{lock}/lock-{token:010}")).expect("a path"),
            token,
            owner: SessionId(1),
            kind: Kind::Granted { overtook, claim: Claim::Exclusive },
        }
    }
}

/// What a node in a queue claims.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Nobody else.
    Exclusive,
    /// No exclusive one beside it.
    Shared,
    /// At most so many at once.
    Permit(u32),
}

impl Claim {
    /// By the recipes' names.
    fn of(name: &str, lock: Option<&Node>) -> Option<Self> {
        if name.starts_with("lock-") || name.starts_with("candidate-") {
            Some(Self::Exclusive)
        } else if name.starts_with("read-") {
            Some(Self::Shared)
        } else if name.starts_with("permit-") {
            let data = lock.map(|node| String::from_utf8_lossy(&node.data).into_owned()).unwrap_or_default();
            let digits: String = data.chars().filter(char::is_ascii_digit).collect();
            Some(Self::Permit(digits.parse().unwrap_or(1)))
        } else {
            None
        }
    }

    fn permits(self) -> usize {
        match self {
            Self::Exclusive | Self::Shared => 1,
            Self::Permit(permits) => permits as usize,
        }
    }

    /// What the production recipes say blocks such a node.
    fn blocking(self) -> &'static str {
        match self {
            Self::Exclusive => "",
            Self::Shared => "lock-",
            Self::Permit(_) => "permit-",
        }
    }

    /// Whether `other`, before it in line, stands in its way.
    fn is_blocked_by(self, other: Self) -> bool {
        match self {
            Self::Exclusive => true,
            Self::Shared => other == Self::Exclusive,
            Self::Permit(_) => matches!(other, Self::Permit(_)),
        }
    }
}

#[derive(Clone, Debug)]
struct Place {
    path: NodePath,
    claim: Claim,
    owner: SessionId,
    token: u64,
    enqueued: Index,
    granted: bool,
}

/// All queues there are.
#[derive(Debug, Default)]
pub struct Queues {
    queues: BTreeMap<NodePath, BTreeMap<u64, Place>>,
    /// Longest queue seen.
    pub longest: usize,
    /// Nodes that left from the middle of a queue.
    pub left_middle: u64,
    /// Grants, by how many stood in line then: 1, 2, 3 to 4, 5 to 8, more.
    pub grants_by_length: [u64; 5],
}

impl Queues {
    /// One revision of the canon.
    pub fn changed(
        &mut self,
        index: Index,
        machine: &Machine,
        changes: &RevisionChanges,
        events: &mut Vec<QueueEvent>,
    ) {
        let mut touched: Vec<NodePath> = Vec::new();
        for change in &changes.changes {
            let sequence = |node: &Node| node.owner.and(node.sequence);
            let before = change.before.as_deref().and_then(sequence);
            let after = change.after.as_deref().and_then(sequence);
            let reborn = match (&change.before, &change.after) {
                (Some(before), Some(after)) => before.create_revision != after.create_revision,
                _ => true,
            };
            if (before.is_none() && after.is_none()) || !reborn {
                continue;
            }
            let lock = change.path.parent().expect("the root is not sequential");
            if let Some(sequence) = before {
                self.left(&lock, sequence, events);
            }
            if let (Some(sequence), Some(node)) = (after, &change.after)
                && let Some(claim) = Claim::of(change.path.name(), machine.get(&lock).map(AsRef::as_ref))
            {
                let token = machine.fence_epoch() << 48 | node.create_revision.0;
                let owner = node.owner.expect("ephemeral");
                let place = Place { path: change.path.clone(), claim, owner, token, enqueued: index, granted: false };
                events.push(event(&lock, &place, Kind::Enqueued));
                let queue = self.queues.entry(lock.clone()).or_default();
                queue.insert(sequence, place);
                self.longest = self.longest.max(queue.len());
            }
            if touched.last() != Some(&lock) && !touched.contains(&lock) {
                touched.push(lock);
            }
        }
        for lock in touched {
            self.grant(&lock, machine, events);
        }
    }

    fn left(&mut self, lock: &NodePath, sequence: u64, events: &mut Vec<QueueEvent>) {
        let Some(queue) = self.queues.get_mut(lock) else { return };
        let Some(place) = queue.remove(&sequence) else { return };
        events.push(event(lock, &place, Kind::Left { held: place.granted }));
        self.left_middle += u64::from(!place.granted && queue.range(sequence..).next().is_some());
        if queue.is_empty() {
            self.queues.remove(lock);
        }
    }

    fn grant(&mut self, lock: &NodePath, machine: &Machine, events: &mut Vec<QueueEvent>) {
        let Some(queue) = self.queues.get_mut(lock) else { return };
        let all: Vec<(Claim, bool, Index)> =
            queue.values().map(|place| (place.claim, place.granted, place.enqueued)).collect();
        let length = all.len();
        for (at, place) in queue.values_mut().enumerate() {
            let blockers = all[..at].iter().filter(|(other, ..)| place.claim.is_blocked_by(*other)).count();
            let ready = blockers < place.claim.permits();
            let theirs = machine.queue_place(
                &place.path,
                u32::try_from(place.claim.permits()).expect("few"),
                place.claim.blocking(),
            );
            if (theirs == QueuePlace::Ready) != ready || (place.granted && !ready) {
                events.push(event(lock, place, Kind::Misplaced));
            }
            if ready && !place.granted {
                place.granted = true;
                let overtook = all.iter().any(|&(other, granted, enqueued)| {
                    !granted && enqueued < place.enqueued && place.claim.is_blocked_by(other)
                }) && place.claim.permits() == 1;
                events.push(event(lock, place, Kind::Granted { overtook, claim: place.claim }));
                let class = match length {
                    1 => 0,
                    2 => 1,
                    3..=4 => 2,
                    5..=8 => 3,
                    _ => 4,
                };
                self.grants_by_length[class] += 1;
            }
        }
    }

    /// Locks that somebody holds or waits for.
    pub fn locks(&self) -> impl Iterator<Item = &NodePath> {
        self.queues.keys()
    }
}

fn event(lock: &NodePath, place: &Place, kind: Kind) -> QueueEvent {
    QueueEvent { lock: lock.clone(), node: place.path.clone(), token: place.token, owner: place.owner, kind }
}
