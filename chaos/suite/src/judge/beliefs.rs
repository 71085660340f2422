//! L2: what clients took for their own, and when two did at once.

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
    /// From here.
    pub from_ns: i64,
    /// To here: given back, or learned that it is lost.
    pub until_ns: i64,
}

/// Two did at the same time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overlap {
    /// Who began first.
    pub first: Belief,
    /// Who began while the first went on.
    pub second: Belief,
    /// The fault that stopped the first, by its place: then nobody could have told it.
    pub pause: Option<usize>,
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
    let mut open: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
    for (client, told) in told {
        match &told.happened {
            Happened::Begin { key, token } => {
                open.insert(*client, all.len());
                all.push(Belief {
                    client: *client,
                    key: key.clone(),
                    token: *token,
                    from_ns: told.at_ns,
                    until_ns: end_ns,
                });
            }
            Happened::End { .. } => {
                if let Some(at) = open.remove(client) {
                    all[at].until_ns = told.at_ns;
                }
            }
            _ => {}
        }
    }
    all.sort_by_key(|belief| belief.from_ns);
    all
}

/// Every two that overlap, and whether a pause of the first is to blame.
#[must_use]
pub fn overlaps(beliefs: &[Belief], faults: &[Done]) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (at, second) in beliefs.iter().enumerate() {
        let earlier = beliefs[..at].iter().filter(|first| {
            first.key == second.key && first.client != second.client && first.until_ns > second.from_ns
        });
        for first in earlier {
            // It stood still at some moment between its beginning and that of the other.
            let pause = faults.iter().position(|fault| {
                fault.paused_client == Some(first.client)
                    && fault.from_ns <= second.from_ns
                    && fault.until_ns >= first.from_ns
            });
            found.push(Overlap { first: first.clone(), second: second.clone(), pause });
        }
    }
    found
}

/// How often a lock went from one client to another.
#[must_use]
pub fn hand_overs(beliefs: &[Belief]) -> usize {
    let mut last = std::collections::BTreeMap::new();
    beliefs
        .iter()
        .filter(|belief| last.insert(&belief.key, belief.client).is_some_and(|was| was != belief.client))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Class;

    fn belief(client: usize, from_ns: i64, until_ns: i64) -> Belief {
        Belief { client, key: "a".into(), token: None, from_ns, until_ns }
    }

    fn pause(client: usize, from_ns: i64, until_ns: i64) -> Done {
        Done {
            class: Class::Pause,
            what: "pause".into(),
            target: String::new(),
            missed: false,
            paused_client: Some(client),
            server: None,
            from_ns,
            until_ns,
            first_write_ns: None,
            healed_ns: None,
            trouble: None,
        }
    }

    #[test]
    fn an_overlap_is_measured_and_laid_at_the_pause_of_the_first_only() {
        let all = [belief(0, 10, 50), belief(1, 30, 70), belief(2, 70, 80)];
        let found = overlaps(&all, &[pause(1, 15, 45)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].length_ns(), found[0].pause), (20, None), "it was the second that stood still");
        assert_eq!(overlaps(&all, &[pause(0, 15, 45)])[0].pause, Some(0));
        assert_eq!(overlaps(&all, &[pause(0, 55, 60)])[0].pause, None, "that pause came later");
        assert_eq!(hand_overs(&all), 2);
    }

    #[test]
    fn one_that_holds_another_lock_disturbs_nobody() {
        let other = Belief { key: "b".into(), ..belief(1, 20, 30) };
        assert!(overlaps(&[belief(0, 10, 50), other], &[]).is_empty());
    }
}
