//! Waiting: that who waits is woken, and nobody else.

use std::{collections::BTreeMap, time::Duration};

use super::Found;
use crate::{
    client::{Happened, Outcome},
    clock::ns,
    judge::evidence::Evidence,
    report::time,
};

/// The servers' bound on a wake-up, beside what a session's end may take: generous, as a machine can be busy.
const WOKEN_WITHIN: Duration = Duration::from_secs(3);

fn asks(f: &str) -> bool {
    matches!(f, "acquire" | "acquire_shared" | "campaign")
}

/// I11: nobody waits long for a lock that nobody took for theirs meanwhile, in times without faults. A holder that fell
/// silent keeps its lock for a TTL and the bound on its end.
pub fn no_lost_wakeup(evidence: &Evidence<'_>) -> Found {
    let bound_ns = 2 * evidence.lease_ns + ns(WOKEN_WITHIN);
    let mut calls: BTreeMap<(usize, u32, &str), i64> = BTreeMap::new();
    let (mut met, mut longest, mut broken) = (0, 0, None);
    for (client, told) in evidence.told {
        match &told.happened {
            Happened::Call { f, key, .. } if asks(f) => drop(calls.insert((*client, told.task, key), told.at_ns)),
            Happened::Killed => calls.retain(|(whose, ..), _| whose != client),
            Happened::Return { f, key, outcome, .. } if asks(f) => {
                let Some(called) = calls.remove(&(*client, told.task, key.as_str())) else { continue };
                met += u64::from(*outcome == Outcome::Ok);
                let free = longest_free(evidence, key, called, told.at_ns);
                longest = longest.max(free);
                if free > bound_ns {
                    broken.get_or_insert_with(|| {
                        let who = client + 1;
                        format!("client {who} waited {} for {key}, which nobody held and nothing disturbed", time(free))
                    });
                }
            }
            _ => {}
        }
    }
    let figures =
        format!("{met} waits were granted; the longest for a lock that nobody took for theirs was {}", time(longest));
    Found::new(met, broken, figures)
}

/// The longest stretch of a wait in which nobody took the lock for theirs and all was well.
fn longest_free(evidence: &Evidence<'_>, key: &str, from_ns: i64, until_ns: i64) -> i64 {
    let held =
        evidence.beliefs.iter().filter(|belief| belief.key == key).map(|belief| (belief.from_ns, belief.until_ns));
    let broken =
        evidence.faults.iter().filter(|fault| !fault.missed).map(|fault| {
            (fault.from_ns, fault.healed_ns.map_or(i64::MAX, |after| fault.until_ns.saturating_add(after)))
        });
    let within = |(from, until): &(i64, i64)| *from < until_ns && *until > from_ns;
    let mut busy: Vec<_> = held.chain(broken).filter(within).collect();
    busy.sort_unstable();
    let (mut longest, mut at) = (0, from_ns);
    for (from, until) in busy {
        longest = longest.max(from - at);
        at = at.max(until);
    }
    longest.max(until_ns - at)
}

/// I13: the servers tell a waiter that its turn has come once; again only on a new stream.
pub fn no_herd(evidence: &Evidence<'_>) -> Found {
    let told = evidence.audit.counted("conclave_queue_ready_total");
    let (Some(told), Some(streams)) = (told, evidence.audit.counted("conclave_streams_total")) else {
        return Found::nothing("no server told its metrics");
    };
    if evidence.audit.longest().is_none_or(|account| account.oldest > 1) {
        return Found::nothing("no replica knows all grants any more");
    }
    let granted = evidence.members.iter().filter(|member| member.granted.is_some()).count() as u64;
    let broken = (told > granted + streams).then(|| {
        format!("waiters were told {told} times that their turn had come, for {granted} grants on {streams} streams")
    });
    Found::new(
        told,
        broken,
        format!("waiters were told {told} times that their turn had come; {granted} grants, {streams} streams"),
    )
}
