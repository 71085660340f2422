//! Who holds, who waits, and since when: read off a lock's queue and its history.
//!
//! A queue's members are sequential children of the lock's path; their names begin with what they are. The order of
//! their creation is the order of the queue.

use std::collections::{BTreeMap, BTreeSet};

use conclave_client::{EventKind, Events, Node, Revision, SessionId};
use conclave_proto::SEQUENCE_DIGITS;
use serde::Serialize;

/// What a member of a queue wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With others that share.
    Shared,
    /// One of several permits.
    Permit,
    /// To lead.
    Leader,
}

impl Mode {
    /// By the name of a sequential child; none for a queue of somebody else's making.
    pub fn of(name: &str) -> Option<Self> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if name.len() - stem.len() < SEQUENCE_DIGITS {
            return None;
        }
        Some(match stem {
            "lock-" => Self::Exclusive,
            "read-" => Self::Shared,
            "permit-" => Self::Permit,
            "candidate-" => Self::Leader,
            _ => return None,
        })
    }

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
            Self::Permit => "permit",
            Self::Leader => "leader",
        }
    }
}

/// One who holds or waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its node.
    pub path: String,
    /// What it wants.
    pub mode: Mode,
    /// The session it hangs on.
    pub owner: Option<SessionId>,
    /// What it is doing, in its own words.
    pub label: Vec<u8>,
    /// The node's revision: its token, its place in the queue.
    pub create_revision: Revision,
    /// Tells members made by one transaction apart.
    pub sequence: u64,
    /// When it got in line.
    pub created_ms: u64,
}

impl Member {
    /// If the node is a direct child of `lock` and a member of its queue.
    pub fn of(lock: &str, node: &Node) -> Option<Self> {
        let parent = node.path.rsplit_once('/').map(|(parent, _)| if parent.is_empty() { "/" } else { parent })?;
        if parent != lock {
            return None;
        }
        Some(Self {
            mode: Mode::of(node.name())?,
            sequence: node.sequence?,
            path: node.path.clone(),
            owner: node.owner,
            label: node.data.to_vec(),
            create_revision: node.create_revision,
            created_ms: node.created_ms,
        })
    }

    fn place(&self) -> Place {
        (self.create_revision, self.sequence)
    }
}

type Place = (Revision, u64);

/// How many of the first `members` (in order) hold.
pub fn holders<'a>(members: impl Iterator<Item = &'a Member>, permits: usize) -> usize {
    let mut holding = 0;
    for member in members {
        let holds = match member.mode {
            Mode::Exclusive | Mode::Leader => holding == 0,
            // Every one before it shares: an exclusive one would have ended the row.
            Mode::Shared => true,
            Mode::Permit => holding < permits,
        };
        if !holds {
            break;
        }
        holding += 1;
        if matches!(member.mode, Mode::Exclusive | Mode::Leader) {
            break;
        }
    }
    holding
}

/// Permits of a semaphore, from its parent's data; 1 where there are none.
pub fn permits(data: &[u8]) -> usize {
    serde_json::from_slice::<serde_json::Value>(data)
        .ok()
        .and_then(|value| value.get("permits")?.as_u64())
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1)
}

/// One hold of a lock, from the grant to the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Who.
    pub member: Member,
    /// Since when (wall clock): exactly, or unknown because older history is forgotten.
    pub from: Option<Moment>,
    /// Until when; none while it lasts.
    pub until: Option<Moment>,
}

/// A revision, and the wall clock's word for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// The revision.
    pub revision: Revision,
    /// Milliseconds since the Unix epoch; for people.
    pub at_ms: u64,
}

/// Replays the history of `lock`, which is complete from revision `from` on, and tells who held when, in the order of
/// the grants. `live` are the members that are there now.
pub fn holds(lock: &str, history: &[Events], live: &[Member], from: Revision, permits: usize) -> Vec<Hold> {
    let mut queue: BTreeMap<Place, Member> = BTreeMap::new();
    let events = || history.iter().flat_map(|events| &events.events);
    // Who was in line before the history begins: who leaves it later, or is there still, without having come.
    let before = events().filter_map(|event| Member::of(lock, &event.node)).chain(live.iter().cloned());
    queue.extend(before.filter(|member| member.create_revision < from).map(|member| (member.place(), member)));

    let mut holds: Vec<Hold> = Vec::new();
    let mut holding: BTreeMap<Place, usize> = BTreeMap::new();
    let mut settle = |queue: &BTreeMap<Place, Member>, now: Option<Moment>| {
        let count = self::holders(queue.values(), permits);
        let current: BTreeSet<Place> = queue.keys().take(count).copied().collect();
        holding.retain(|place, at| {
            let still = current.contains(place);
            if !still {
                holds[*at].until = now;
            }
            still
        });
        for place in current {
            holding.entry(place).or_insert_with(|| {
                holds.push(Hold { member: queue[&place].clone(), from: now, until: None });
                holds.len() - 1
            });
        }
    };
    settle(&queue, None);
    for events in history {
        let mut touched = false;
        for event in &events.events {
            let Some(member) = Member::of(lock, &event.node) else { continue };
            match event.kind {
                EventKind::Deleted => touched |= queue.remove(&member.place()).is_some(),
                EventKind::Created => touched |= queue.insert(member.place(), member).is_none(),
                EventKind::Changed => {
                    if let Some(known) = queue.get_mut(&member.place()) {
                        known.label = member.label;
                    }
                }
            }
        }
        if touched {
            settle(&queue, Some(Moment { revision: events.revision, at_ms: events.at_ms }));
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use conclave_client::{Event, Kind};

    use super::*;

    fn node(name: &str, sequence: u64, create: u64) -> Node {
        Node {
            path: format!("/l/{name}{sequence:010}"),
            data: Bytes::from(format!("by {create}")),
            kind: Kind::Ephemeral,
            owner: Some(SessionId(100 + create)),
            create_revision: Revision(create),
            modify_revision: Revision(create),
            version: 0,
            children_version: 0,
            children_revision: Revision(0),
            child_count: 0,
            sequence: Some(sequence),
            created_ms: create * 1000,
            modified_ms: create * 1000,
            acl: "open".to_owned(),
        }
    }

    /// `5 + lock- 0` came at revision 5; `9 - lock- 0 5` went at 9, made at 5.
    fn history(lines: &str) -> Vec<Events> {
        lines
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let revision: u64 = words[0].parse().expect("a revision");
                let (kind, create) = match words[1] {
                    "+" => (EventKind::Created, revision),
                    _ => (EventKind::Deleted, words[4].parse().expect("a create revision")),
                };
                let node = node(words[2], words[3].parse().expect("a sequence"), create);
                Events { revision: Revision(revision), at_ms: revision * 1000, events: vec![Event { kind, node }] }
            })
            .collect()
    }

    fn told(holds: &[Hold]) -> Vec<String> {
        let moment = |m: Option<Moment>| m.map_or("?".to_owned(), |m| m.revision.to_string());
        holds
            .iter()
            .map(|h| format!("{}{} {}..{}", h.member.mode.name(), h.member.sequence, moment(h.from), moment(h.until)))
            .collect()
    }

    #[test]
    fn a_lock_passes_on_in_order_and_those_who_leave_the_queue_never_held() {
        let history = history("1 + lock- 0\n2 + lock- 1\n3 + lock- 2\n4 - lock- 1 2\n5 - lock- 0 1\n6 - lock- 2 3");
        assert_eq!(told(&holds("/l", &history, &[], Revision(1), 1)), ["exclusive0 1..5", "exclusive2 5..6"]);
    }

    #[test]
    fn readers_share_and_a_writer_waits_for_all_of_them() {
        let history = history(
            "1 + read- 0\n2 + read- 1\n3 + lock- 2\n4 + read- 3\n5 - read- 0 1\n6 - read- 1 2\n7 - lock- 2 3\n8 - read- 3 4",
        );
        let told = told(&holds("/l", &history, &[], Revision(1), 1));
        assert_eq!(told, ["shared0 1..5", "shared1 2..6", "exclusive2 6..7", "shared3 7..8"]);
    }

    #[test]
    fn permits_are_counted() {
        let history = history("1 + permit- 0\n2 + permit- 1\n3 + permit- 2\n4 - permit- 1 2");
        assert_eq!(told(&holds("/l", &history, &[], Revision(1), 2)), ["permit0 1..?", "permit1 2..4", "permit2 4..?"]);
    }

    #[test]
    fn what_is_forgotten_is_not_made_up() {
        // Known from revision 10 on: 0 held then already, 1 waited.
        let history = history("12 - lock- 0 3\n13 + lock- 2");
        let live: Vec<Member> =
            [node("lock-", 1, 4), node("lock-", 2, 13)].iter().filter_map(|n| Member::of("/l", n)).collect();
        assert_eq!(told(&holds("/l", &history, &live, Revision(10), 1)), ["exclusive0 ?..12", "exclusive1 12..?"]);
    }

    #[test]
    fn a_lock_made_anew_counts_from_nought_again() {
        let history = history("1 + lock- 0\n2 - lock- 0 1\n7 + lock- 0\n8 + lock- 1\n9 - lock- 0 7");
        let told = told(&holds("/l", &history, &[], Revision(1), 1));
        assert_eq!(told, ["exclusive0 1..2", "exclusive0 7..9", "exclusive1 9..?"]);
    }

    #[test]
    fn other_queues_are_left_alone() {
        assert_eq!(Mode::of("lock-0000000001"), Some(Mode::Exclusive));
        assert_eq!(Mode::of("read-18446744073709551615"), Some(Mode::Shared));
        assert_eq!(Mode::of("candidate-0000000001"), Some(Mode::Leader));
        for name in ["lock-1", "job-0000000001", "lock-", "0000000001", "xlock-0000000001"] {
            assert_eq!(Mode::of(name), None, "{name}");
        }
        assert_eq!(Member::of("/other", &node("lock-", 1, 1)), None);
    }

    #[test]
    fn permits_are_read_off_the_parent() {
        assert_eq!(permits(br#"{"permits":3}"#), 3);
        assert_eq!(permits(b""), 1);
        assert_eq!(permits(b"whatever"), 1);
    }
}
