//! Everything a run is judged by.

use std::collections::{BTreeMap, BTreeSet};

use conclave_checker::Judgement;

use super::{
    beliefs::{Belief, Overlap},
    line::Member,
    replicas::Audit,
    touches::Touches,
};
use crate::{
    client::{Happened, Told},
    nemesis::Done,
    workload::Workload,
};

/// What a verdict rests on.
pub struct Evidence<'a> {
    /// What clients did.
    pub workload: Workload,
    /// What they told, by their place, in the order of arrival.
    pub told: &'a [(usize, Told)],
    /// What was broken.
    pub faults: &'a [Done],
    /// The lease, nanoseconds.
    pub lease_ns: i64,
    /// The checker's word.
    pub judgement: &'a Judgement,
    /// What clients took for theirs.
    pub beliefs: &'a [Belief],
    /// Two of them at once.
    pub overlaps: &'a [Overlap],
    /// The resource's log, where there is one that compares tokens.
    pub touches: Option<&'a Touches>,
    /// What replicas said.
    pub audit: &'a Audit,
    /// Read off the account that reaches back furthest.
    pub members: &'a [Member],
}

/// A grant that a client was told of.
pub struct Grant<'a> {
    /// By its place.
    pub client: usize,
    /// Which lock.
    pub key: &'a str,
    /// As the client showed it.
    pub token: i64,
    /// On which it hung.
    pub session: u64,
    /// Its node.
    pub node: &'a str,
    /// The newest revision that the session had seen when the grant was told.
    pub seen: u64,
    /// By the replicas' account, if they still know.
    pub member: Option<&'a Member>,
}

impl<'a> Evidence<'a> {
    /// All that was told, with when and by whom.
    pub fn told(&self) -> impl Iterator<Item = (usize, i64, &'a Happened)> + use<'a> {
        self.told.iter().map(|(client, told)| (*client, told.at_ns, &told.happened))
    }

    /// Grants, in the order in which they were told.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant<'a>> {
        let members: BTreeMap<(&str, u64), &Member> =
            self.members.iter().map(|member| ((member.node.as_str(), member.made), member)).collect();
        let grant = |(client, _, happened): (usize, i64, &'a Happened)| match happened {
            Happened::Granted { key, token, session, node, revision } => Some(Grant {
                client,
                key,
                token: *token,
                session: *session,
                node,
                seen: *revision,
                member: members.get(&(node.as_str(), made(*token))).copied(),
            }),
            _ => None,
        };
        self.told().filter_map(grant).collect()
    }

    /// Nothing older is known to every replica; none if none was asked.
    #[must_use]
    pub fn known_from(&self) -> Option<u64> {
        self.audit.replicas.iter().map(|replica| replica.oldest).max()
    }

    /// Sessions of which a client learned that they are over, with the reason.
    #[must_use]
    pub fn over(&self) -> BTreeMap<u64, &'a str> {
        let over = |(_, _, happened): (usize, i64, &'a Happened)| match happened {
            Happened::Over { session, reason, .. } => Some((*session, reason.as_str())),
            _ => None,
        };
        self.told().filter_map(over).collect()
    }

    /// Clients that were killed.
    #[must_use]
    pub fn killed(&self) -> BTreeSet<usize> {
        self.told().filter(|(_, _, happened)| **happened == Happened::Killed).map(|(client, ..)| client).collect()
    }

    /// What clients judged for themselves, of one invariant: how often, and the first that was broken.
    #[must_use]
    pub fn judged(&self, of: &str) -> (u64, Option<String>) {
        let judged = |(_, _, happened): (usize, i64, &'a Happened)| match happened {
            Happened::Judged { invariant, broken } if invariant == of => Some(broken.clone()),
            _ => None,
        };
        let all: Vec<_> = self.told().filter_map(judged).collect();
        (all.len() as u64, all.into_iter().flatten().next())
    }

    /// Whether all was well from `from_ns` to `until_ns`, and the last fault before it had healed.
    #[must_use]
    pub fn calm(&self, from_ns: i64, until_ns: i64) -> bool {
        !self.faults.iter().filter(|fault| !fault.missed).any(|fault| {
            let healed = fault.healed_ns.map_or(i64::MAX, |after| fault.until_ns + after);
            fault.from_ns < until_ns && healed > from_ns
        })
    }

    /// When all was well again after `from_ns`, if it was not; `i64::MAX` if it never was.
    #[must_use]
    pub fn well_again(&self, from_ns: i64, until_ns: i64) -> i64 {
        let met = self.faults.iter().filter(|fault| !fault.missed && fault.from_ns < until_ns);
        let healed = met.map(|fault| fault.healed_ns.map_or(i64::MAX, |after| fault.until_ns + after));
        healed.filter(|healed| *healed > from_ns).max().unwrap_or(from_ns)
    }
}

/// The revision in a token.
#[must_use]
pub fn made(token: i64) -> u64 {
    token.unsigned_abs() & ((1 << 48) - 1)
}
