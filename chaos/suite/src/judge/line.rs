//! A lock's line, as the changes of a replica tell it: who stood in it, who held, and when.
//!
//! Members are sequential nodes below the lock's node, and stand in the order of their numbers. A name says what a member
//! wants: `lock-` alone, `read-` with other readers, `permit-` one of several, `candidate-` to lead. This reads the servers' tree
//! and shares no code with them.

use std::collections::BTreeMap;

use crate::client::Change;

/// One who stood in a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The lock's path.
    pub lock: String,
    /// Its own path.
    pub node: String,
    /// The session it hung on.
    pub owner: Option<u64>,
    /// The revision that made it: its token, but for the epoch.
    pub made: u64,
    /// Its number.
    pub sequence: u64,
    /// How many of its kind may hold at once: 1, a semaphore's permits, or 0 for readers.
    pub room: u64,
    /// The revision after which it held.
    pub granted: Option<u64>,
    /// The revision that removed it.
    pub left: Option<u64>,
    /// The revision after which it no longer held although it was there.
    pub displaced: Option<u64>,
    /// When it came, somebody stood before it.
    pub waited: bool,
    /// When it left, it did not hold, and somebody stood behind it.
    pub from_the_middle: bool,
}

impl Member {
    /// What happened to it, in order.
    #[must_use]
    pub fn story(&self) -> Vec<(u64, &'static str)> {
        let all = [(Some(self.made), "queued"), (self.granted, "granted"), (self.left, "left")];
        all.into_iter().filter_map(|(revision, event)| Some((revision?, event))).collect()
    }
}

fn wants(name: &str) -> Option<u64> {
    match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "lock-" | "candidate-" => Some(1),
        "read-" => Some(0),
        // How many is the lock's to say.
        "permit-" => Some(u64::MAX),
        _ => None,
    }
}

/// `{"permits":2}`.
fn permits(data: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(data).ok()?.get("permits")?.as_u64()
}

/// All that ever stood in a line, in the order of their coming.
#[must_use]
pub fn members(changes: &[Change]) -> Vec<Member> {
    let mut all: Vec<Member> = Vec::new();
    // Those in each line, by their numbers.
    let mut lines: BTreeMap<String, BTreeMap<u64, usize>> = BTreeMap::new();
    let mut rooms: BTreeMap<&str, u64> = BTreeMap::new();
    for revision in changes.chunk_by(|one, two| one.revision == two.revision) {
        let mut touched = Vec::new();
        for change in revision {
            if let Some(room) = permits(&change.data) {
                rooms.insert(&change.path, room);
            }
            let Some((lock, name)) = change.path.rsplit_once('/') else { continue };
            let (Some(room), Some(sequence)) = (wants(name), change.sequence) else { continue };
            let line = lines.entry(lock.to_owned()).or_default();
            match change.kind.as_str() {
                "created" => {
                    let room = if room == u64::MAX { rooms.get(lock).copied().unwrap_or(1) } else { room };
                    line.insert(sequence, all.len());
                    all.push(Member {
                        lock: lock.into(),
                        node: change.path.clone(),
                        owner: change.owner,
                        made: change.made,
                        sequence,
                        room,
                        granted: None,
                        left: None,
                        displaced: None,
                        waited: line.len() > 1,
                        from_the_middle: false,
                    });
                }
                "deleted" => {
                    let behind = line.range(sequence + 1..).next().is_some();
                    if let Some(at) = line.remove(&sequence) {
                        let member = &mut all[at];
                        member.left = Some(change.revision);
                        member.from_the_middle = member.granted.is_none() && behind;
                    }
                }
                _ => {}
            }
            touched.push(lock);
        }
        for lock in touched {
            settle(&lines[lock], &mut all, revision[0].revision);
        }
    }
    all
}

/// Who holds after this revision.
fn settle(line: &BTreeMap<u64, usize>, all: &mut [Member], revision: u64) {
    let (mut before, mut writers) = (0, 0);
    for at in line.values() {
        let member = &mut all[*at];
        let holds = match member.room {
            0 => writers == 0,
            room => before < room,
        };
        before += 1;
        writers += u64::from(member.room != 0);
        match (holds, member.granted) {
            (true, None) => member.granted = Some(revision),
            (false, Some(_)) => {
                member.displaced.get_or_insert(revision);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A member comes or goes.
    pub fn step(revision: u64, kind: &str, name: &str, sequence: u64, made: u64) -> Change {
        Change {
            revision,
            kind: kind.into(),
            path: format!("/chaos/locks/a/{name}{sequence:010}"),
            data: String::new(),
            owner: Some(100 + sequence),
            sequence: Some(sequence),
            made,
        }
    }

    #[test]
    fn one_after_the_other_and_who_leaves_the_middle_grants_nothing() {
        let changes = [
            step(1, "created", "lock-", 0, 1),
            step(2, "created", "lock-", 1, 2),
            step(3, "created", "lock-", 2, 3),
            step(4, "deleted", "lock-", 1, 2),
            step(5, "deleted", "lock-", 0, 1),
        ];
        let all = members(&changes);
        let granted: Vec<_> = all.iter().map(|member| member.granted).collect();
        assert_eq!(granted, [Some(1), None, Some(5)]);
        assert!(all[1].from_the_middle && all[2].waited && !all[0].from_the_middle, "{all:?}");
        assert_eq!(all[0].story(), [(1, "queued"), (1, "granted"), (5, "left")]);
    }

    #[test]
    fn readers_share_and_permits_are_counted() {
        let read = [
            step(1, "created", "read-", 0, 1),
            step(2, "created", "read-", 1, 2),
            step(3, "created", "lock-", 2, 3),
            step(4, "created", "read-", 3, 4),
            step(5, "deleted", "read-", 0, 1),
            step(6, "deleted", "read-", 1, 2),
            step(7, "deleted", "lock-", 2, 3),
        ];
        let granted = |changes: &[Change]| members(changes).iter().map(|member| member.granted).collect::<Vec<_>>();
        assert_eq!(granted(&read), [Some(1), Some(2), Some(6), Some(7)]);
        let parent = Change {
            path: "/chaos/locks/a".into(),
            data: r#"{"permits":2}"#.into(),
            sequence: None,
            ..step(1, "created", "", 0, 1)
        };
        let permit = [
            parent,
            step(1, "created", "permit-", 0, 1),
            step(2, "created", "permit-", 1, 2),
            step(3, "created", "permit-", 2, 3),
            step(4, "deleted", "permit-", 0, 1),
        ];
        assert_eq!(granted(&permit), [Some(1), Some(2), Some(4)]);
    }

    #[test]
    fn who_is_put_before_a_holder_displaces_it() {
        let changes = [step(1, "created", "lock-", 5, 1), step(2, "created", "lock-", 4, 2)];
        assert_eq!(members(&changes)[0].displaced, Some(2));
    }
}
