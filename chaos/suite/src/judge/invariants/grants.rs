//! Grants: what clients were told, held against the replicas' account of each lock's line.

use std::collections::BTreeMap;

use super::Found;
use crate::{
    client::{Happened, Outcome},
    judge::evidence::{Evidence, Grant, made},
};

/// Grants of which the replicas still know.
fn known<'a>(evidence: &Evidence<'a>) -> Vec<Grant<'a>> {
    let Some(from) = evidence.known_from() else { return Vec::new() };
    evidence.grants().into_iter().filter(|grant| made(grant.token) >= from).collect()
}

const NO_GRANT: &str = "no grant that the replicas know of";

/// I1: nobody is put before a holder, and nobody is told to hold while one that holds stands in the way.
pub fn one_holder(evidence: &Evidence<'_>) -> Found {
    let displaced = evidence.members.iter().find_map(|member| {
        let at = member.displaced?;
        Some(format!("{} held since revision {}, and at {at} no longer did", member.node, member.granted?))
    });
    let grants = known(evidence);
    let early = || grants.iter().find_map(|grant| early(evidence, grant, true));
    match grants.len() as u64 {
        0 => Found { broken: displaced, ..Found::nothing(NO_GRANT) },
        met => Found::new(
            met,
            displaced.or_else(early),
            format!("{met} grants, each with the lock's line at its revision"),
        ),
    }
}

/// A grant that was told when the line did not have it yet: behind one that held, or behind one that waited.
fn early(evidence: &Evidence<'_>, grant: &Grant<'_>, behind_holder: bool) -> Option<String> {
    let member = grant.member?;
    if member.granted.is_some_and(|granted| granted <= grant.seen) {
        return None;
    }
    let before = evidence.members.iter().find(|other| {
        other.lock == member.lock
            && other.sequence < member.sequence
            && other.made <= grant.seen
            && other.left.is_none_or(|left| left > grant.seen)
            && (member.room != 0 || other.room != 0)
            && other.granted.is_some_and(|granted| granted <= grant.seen) == behind_holder
    })?;
    let state = if behind_holder { "held" } else { "waited" };
    Some(format!(
        "{} was granted by revision {}, when {} still {state} before it",
        member.node, grant.seen, before.node
    ))
}

/// I2, in the order of the replicas' account.
pub fn tokens_rise(evidence: &Evidence<'_>) -> Found {
    let mut locks: BTreeMap<&str, Vec<(u64, u64, i64)>> = BTreeMap::new();
    for grant in known(evidence) {
        if let Some(member) = grant.member
            && let Some(granted) = member.granted
        {
            locks.entry(&member.lock).or_default().push((granted, member.sequence, grant.token));
        }
    }
    let (mut met, mut broken) = (0, None);
    for (lock, grants) in &mut locks {
        grants.sort_unstable();
        for pair in grants.windows(2) {
            met += 1;
            if pair[1].2 <= pair[0].2 {
                broken.get_or_insert(format!("{lock}: token {} was granted after {}", pair[1].2, pair[0].2));
            }
        }
    }
    Found::new(met, broken, format!("{met} times a token followed another of its lock, on {} locks", locks.len()))
}

/// I3.
pub fn one_grant(evidence: &Evidence<'_>) -> Found {
    let mut seen: BTreeMap<(&str, i64), (usize, u64)> = BTreeMap::new();
    let (mut met, mut broken) = (0, None);
    for grant in evidence.grants() {
        met += 1;
        if let Some((client, _)) = seen.insert((grant.key, grant.token), (grant.client, grant.session)) {
            let (one, two) = (client + 1, grant.client + 1);
            broken.get_or_insert(format!("{}: token {} went to clients {one} and {two}", grant.key, grant.token));
        }
    }
    Found::new(met, broken, format!("{met} grants, {} tokens", seen.len()))
}

/// I4: every grant told has a node that came to hold before it went, and a session that was not lost by then.
pub fn valid(evidence: &Evidence<'_>) -> Found {
    let grants = known(evidence);
    let never = grants.iter().find_map(|grant| match grant.member {
        None => Some(format!("{} was told as granted (token {}), and no replica knows it", grant.node, grant.token)),
        Some(member) if member.granted.is_none() => {
            Some(format!("{} was told as granted, and was gone before its turn came", grant.node))
        }
        Some(_) => None,
    });
    let broken = evidence.judged("I4").1.or(never);
    let waited = grants.iter().filter(|grant| grant.member.is_some_and(|member| member.waited)).count() as u64;
    Found::new(waited, broken, format!("{} grants, {waited} of them after waiting", grants.len()))
}

/// I5, where a holder came late.
pub fn fenced(evidence: &Evidence<'_>) -> Found {
    let Some(touches) = evidence.touches else { return Found::nothing("the workload has no fenced resource") };
    let refused =
        evidence.told().filter(|(_, _, happened)| matches!(happened, Happened::Refused { .. })).count() as u64;
    let broken = (touches.backwards > 0).then(|| touches.first.clone().unwrap_or_default());
    let figures = match refused {
        0 => "no holder came late".to_owned(),
        _ => format!("{} writes, {refused} late touches refused", touches.writes),
    };
    Found::new(refused, broken, figures)
}

/// I9.
pub fn freed_once(evidence: &Evidence<'_>) -> Found {
    let grants: BTreeMap<i64, Grant<'_>> = known(evidence).into_iter().map(|grant| (grant.token, grant)).collect();
    let (over, killed) = (evidence.over(), evidence.killed());
    let (mut freed, mut late, mut broken) = (0, 0, None);
    for (client, _, happened) in evidence.told() {
        let Happened::Return { f, outcome, value, error, .. } = happened else { continue };
        if f != "release" && f != "resign" {
            continue;
        }
        let Some(grant) = value.as_i64().and_then(|token| grants.get(&token)) else { continue };
        let what = match outcome {
            Outcome::Ok => {
                freed += 1;
                let there = grant.member.is_some_and(|member| member.left.is_none());
                there.then(|| format!("{} was released, and is there for ever", grant.node))
            }
            Outcome::Fail => {
                late += 1;
                // A client that ends may have had no time to tell of its session.
                let ended = error.as_ref().is_some_and(|error| error.starts_with("session lost"));
                let alone = !ended && !over.contains_key(&grant.session) && !killed.contains(&client);
                alone.then(|| format!("{} was no longer its holder's, whose session had not ended", grant.node))
            }
            Outcome::Info => None,
        };
        broken = broken.or(what);
    }
    Found::new(freed, broken, format!("{freed} releases freed a lock, {late} came late and changed nothing"))
}

/// I10.
pub fn in_order(evidence: &Evidence<'_>) -> Found {
    let grants = known(evidence);
    let waited = grants.iter().filter(|grant| grant.member.is_some_and(|member| member.waited)).count() as u64;
    let broken = grants.iter().find_map(|grant| early(evidence, grant, false));
    Found::new(waited, broken, format!("{waited} grants to those that had waited"))
}

/// I14.
pub fn middle(evidence: &Evidence<'_>) -> Found {
    let left = evidence.members.iter().filter(|member| member.from_the_middle);
    let met = left.clone().count() as u64;
    let grants = known(evidence);
    // Those that stood behind one that left, while they waited.
    let behind = |grant: &&Grant<'_>| {
        grant.member.is_some_and(|member| {
            left.clone().any(|gone| {
                gone.lock == member.lock
                    && gone.sequence < member.sequence
                    && gone.left.is_some_and(|at| at > member.made)
            })
        })
    };
    let after: Vec<_> = grants.iter().filter(behind).collect();
    let broken = after.iter().find_map(|grant| early(evidence, grant, true).or_else(|| early(evidence, grant, false)));
    let met = met.min(after.len() as u64);
    Found::new(met, broken, format!("{} left before their turn, {} behind them had theirs", left.count(), after.len()))
}
