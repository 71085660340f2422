//! L2: what clients took for their own, and when two did at once.

use std::collections::BTreeMap;

use crate::{
    client::{Happened, Told},
    nemesis::Done,
};

/// A client took a lock for its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Belief {
    /// By its place.
    pub client: usize,
    /// Which lock.
    pub key: String,
    /// Its token, where there are tokens.
    pub token: Option<i64>,
    /// So many may hold at once with it; 0: as many as like, who say so too.
    pub room: u32,
    /// From here.
    pub from_ns: i64,
    /// To here: given back, or learned that it is lost.
    pub until_ns: i64,
    /// It last looked here, and still held.
    pub seen_ns: i64,
}

/// Two did at the same time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overlap {
    /// Who began first.
    pub first: Belief,
    /// Who began while the first went on.
    pub second: Belief,
    /// Why nobody could have told the first.
    pub cause: Option<Cause>,
}

/// What excuses an overlap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The fault that stopped the first, by its place.
    Fault(usize),
    /// The first stood still for another reason: from before the second began it did not get to look at its lock, for so
    /// many nanoseconds. The moment it did, it knew.
    Stall(i64),
}

impl Overlap {
    /// How long.
    #[must_use]
    pub fn length_ns(&self) -> i64 {
        self.first.until_ns.min(self.second.until_ns) - self.second.from_ns
    }
}

/// All beliefs, in the order of their beginnings. One without an end lasts until `end_ns`.
#[must_use]
pub fn beliefs(told: &[(usize, Told)], end_ns: i64) -> Vec<Belief> {
    let mut all: Vec<Belief> = Vec::new();
    let mut open: BTreeMap<(usize, u32, &str), usize> = BTreeMap::new();
    for (client, told) in told {
        match &told.happened {
            Happened::Begin { key, token, room } => {
                open.insert((*client, told.task, key), all.len());
                all.push(Belief {
                    client: *client,
                    key: key.clone(),
                    token: *token,
                    room: *room,
                    from_ns: told.at_ns,
                    until_ns: end_ns,
                    seen_ns: end_ns,
                });
            }
            Happened::End { key, lost, seen_ns } => {
                if let Some(at) = open.remove(&(*client, told.task, key)) {
                    // Who gives it back held it until then.
                    (all[at].until_ns, all[at].seen_ns) = (told.at_ns, if *lost { *seen_ns } else { told.at_ns });
                }
            }
            Happened::Killed => {
                // Nobody is left to believe.
                open.retain(|(whose, ..), at| {
                    let stays = whose != client;
                    if !stays {
                        (all[*at].until_ns, all[*at].seen_ns) = (told.at_ns, told.at_ns);
                    }
                    stays
                });
            }
            _ => {}
        }
    }
    all.sort_by_key(|belief| belief.from_ns);
    all
}

/// Every two that overlap, and whether the first stood still. `lease_ns` is the lease, in nanoseconds.
#[must_use]
pub fn overlaps(beliefs: &[Belief], faults: &[Done], lease_ns: i64) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (at, second) in beliefs.iter().enumerate() {
        let earlier: Vec<_> = beliefs[..at]
            .iter()
            .filter(|first| first.key == second.key && first.until_ns > second.from_ns)
            .filter(|first| first.room > 0 || second.room > 0)
            .collect();
        // Others that came before it and are there still leave it room.
        if second.room > 1 && earlier.len() < second.room as usize {
            continue;
        }
        // It stood still at some moment between its beginning and that of the other. Or leases were worth nothing when the
        // other one came: the last that was counted by a wrong clock ends within a lease of its being right again.
        let cause = |first: &Belief| {
            let fault = faults.iter().position(|fault| {
                fault.from_ns <= second.from_ns
                    && ((fault.paused_client == Some(first.client) && fault.until_ns >= first.from_ns)
                        || (fault.beyond && fault.until_ns + lease_ns >= second.from_ns))
            });
            let stall = || (first.seen_ns <= second.from_ns).then(|| Cause::Stall(first.until_ns - first.seen_ns));
            fault.map(Cause::Fault).or_else(stall)
        };
        let causes: Vec<_> = earlier.iter().map(|first| cause(first)).collect();
        // Without those that believe too long, the others may have had room.
        let room = causes.iter().filter(|cause| cause.is_none()).count() < second.room as usize;
        for (first, cause) in earlier.into_iter().zip(causes) {
            if cause.is_some() || second.room <= 1 || !room {
                found.push(Overlap { first: first.clone(), second: second.clone(), cause });
            }
        }
    }
    found
}

/// How often a lock went from one client to another.
#[must_use]
pub fn hand_overs(beliefs: &[Belief]) -> usize {
    let mut last = BTreeMap::new();
    beliefs
        .iter()
        .filter(|belief| last.insert(&belief.key, belief.client).is_some_and(|was| was != belief.client))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Class;

    fn belief(client: usize, from_ns: i64, until_ns: i64) -> Belief {
        Belief { client, key: "a".into(), token: None, room: 1, from_ns, until_ns, seen_ns: until_ns }
    }

    fn pause(client: usize, from_ns: i64, until_ns: i64) -> Done {
        Done {
            class: Class::Pause,
            what: "pause".into(),
            target: String::new(),
            missed: false,
            paused_client: Some(client),
            servers: Vec::new(),
            beyond: false,
            from_ns,
            until_ns,
            first_write_ns: None,
            healed_ns: None,
            trouble: None,
        }
    }

    /// With a lease of 20.
    fn found(all: &[Belief], faults: &[Done]) -> Vec<Overlap> {
        overlaps(all, faults, 20)
    }

    #[test]
    fn an_overlap_is_measured_and_laid_at_the_pause_of_the_first_only() {
        let all = [belief(0, 10, 50), belief(1, 30, 70), belief(2, 70, 80)];
        let second = found(&all, &[pause(1, 15, 45)]);
        assert_eq!(second.len(), 1, "{second:?}");
        assert_eq!((second[0].length_ns(), second[0].cause), (20, None), "it was the second that stood still");
        assert_eq!(found(&all, &[pause(0, 15, 45)])[0].cause, Some(Cause::Fault(0)));
        // Where clocks go further apart than a lease allows for, it is nobody's fault but theirs.
        let drift = |beyond| Done { paused_client: None, beyond, ..pause(0, 15, 45) };
        assert_eq!(found(&all, &[drift(true)])[0].cause, Some(Cause::Fault(0)));
        assert_eq!(found(&all, &[drift(false)])[0].cause, None);
        // A lease that was counted while they did ends a lease later at the most.
        let over = |until_ns| [Done { from_ns: 0, until_ns, ..drift(true) }];
        assert_eq!(found(&all, &over(10))[0].cause, Some(Cause::Fault(0)));
        assert_eq!(found(&all, &over(9))[0].cause, None);
        assert_eq!(found(&all, &[pause(0, 55, 60)])[0].cause, None, "that pause came later");
        assert_eq!(hand_overs(&all), 2);
    }

    #[test]
    fn who_could_not_look_stood_still_and_who_looked_did_not() {
        let first = |seen_ns| Belief { seen_ns, ..belief(0, 10, 50) };
        let cause = |seen_ns| found(&[first(seen_ns), belief(1, 30, 70)], &[])[0].cause;
        assert_eq!(cause(29), Some(Cause::Stall(21)));
        assert_eq!(cause(31), None, "it held after the second had begun");
    }

    #[test]
    fn readers_share_a_writer_does_not_and_permits_are_counted() {
        let of = |client, room| Belief { room, ..belief(client, 10 + i64::try_from(client).unwrap_or(0), 50) };
        assert!(found(&[of(0, 0), of(1, 0), of(2, 0)], &[]).is_empty());
        assert_eq!(found(&[of(0, 0), of(1, 0), of(2, 1)], &[]).len(), 2);
        assert_eq!(found(&[of(0, 1), of(1, 0)], &[]).len(), 1);
        assert!(found(&[of(0, 2), of(1, 2)], &[]).is_empty());
        assert_eq!(found(&[of(0, 2), of(1, 2), of(2, 2)], &[]).len(), 2);
        // The one that stood still is one too many; the other two are not.
        let still = found(&[of(0, 2), of(1, 2), of(2, 2)], &[pause(0, 10, 45)]);
        assert_eq!(
            still.iter().map(|overlap| (overlap.first.client, overlap.cause)).collect::<Vec<_>>(),
            [(0, Some(Cause::Fault(0)))]
        );
    }

    #[test]
    fn one_that_holds_another_lock_disturbs_nobody() {
        let other = Belief { key: "b".into(), ..belief(1, 20, 30) };
        assert!(found(&[belief(0, 10, 50), other], &[]).is_empty());
    }
}
