//! Sessions: when they end, who knows, and what they leave.

use super::Found;
use crate::{
    client::Happened,
    clock::ns,
    judge::{beliefs::hand_overs, evidence::Evidence},
    nemesis::Class,
    report::time,
};

/// Beyond its TTL (counted from when all was well again) a silent session's nodes may be there so long. The leader looks
/// every few ticks, and an election adds one checkpoint interval; the rest is a busy machine's.
const LAPSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(4);

/// I6. Clients look at themselves while they hold; what they find is told.
pub fn loss_in_time(evidence: &Evidence<'_>) -> Found {
    let (mut met, mut latest) = (0, 0);
    for (_, _, happened) in evidence.told() {
        if let Happened::Over { late_ms: Some(late_ms), .. } = happened {
            met += 1;
            latest = latest.max(*late_ms);
        }
    }
    let uncaused = evidence.overlaps.iter().find(|overlap| overlap.cause.is_none()).map(|overlap| {
        format!("client {} still held {} when it was another's", overlap.first.client + 1, overlap.first.key)
    });
    let broken = evidence.judged("I6").1.or(uncaused);
    let figures = match met {
        0 => "no client lost a session at its deadline".to_owned(),
        _ => format!(
            "{met} sessions were lost at their deadline, and never taken for alive after it; told at most {latest} ms later"
        ),
    };
    Found::new(met, broken, figures)
}

/// I7.
pub fn lapse(evidence: &Evidence<'_>) -> Found {
    let (mut met, mut longest, mut broken) = (0, 0, evidence.judged("I7").1);
    for (_, _, happened) in evidence.told() {
        let Happened::Lapsed { session, silent_ns, deadline_ns, gone_ns, revisions } = happened else { continue };
        if drifted(evidence, *silent_ns, gone_ns.unwrap_or(i64::MAX)) {
            continue;
        }
        let due_ns =
            |until_ns| evidence.well_again(*silent_ns, until_ns).saturating_add(evidence.lease_ns + ns(LAPSE_WITHIN));
        let what = match gone_ns {
            Some(gone) if gone < deadline_ns => {
                Some(format!("session {session} was ended {} before its TTL was over", time(deadline_ns - gone)))
            }
            Some(_) if *revisions != 1 => Some(format!("the nodes of session {session} went at {revisions} revisions")),
            Some(gone) if *gone > due_ns(*gone) => {
                Some(format!("session {session} was there {} after it fell silent", time(gone - silent_ns)))
            }
            Some(gone) => {
                met += 1;
                longest = longest.max(gone - silent_ns);
                None
            }
            None => Some(format!("session {session} fell silent, and its nodes never went")),
        };
        broken = broken.or(what);
    }
    let figures = match met {
        0 => "no session was let fall silent and looked at".to_owned(),
        _ => format!(
            "{met} sessions fell silent; none ended before its TTL, the last {} after its silence began",
            time(longest)
        ),
    };
    Found::new(met, broken, figures)
}

/// Whether a server's clocks went wrong in this time: it is right by them, and nobody here can read them.
fn drifted(evidence: &Evidence<'_>, from_ns: i64, until_ns: i64) -> bool {
    let mut drift = evidence.faults.iter().filter(|fault| fault.class == Class::Drift);
    drift.any(|fault| fault.from_ns <= until_ns && fault.until_ns >= from_ns)
}

/// I8: what L2 found, less what stood still.
pub fn no_overlap(evidence: &Evidence<'_>) -> Found {
    let met = hand_overs(evidence.beliefs) as u64;
    let uncaused = evidence.overlaps.iter().find(|overlap| overlap.cause.is_none()).map(|overlap| {
        let (one, two) = (overlap.first.client + 1, overlap.second.client + 1);
        format!("clients {one} and {two} both took {} for theirs for {}", overlap.first.key, time(overlap.length_ns()))
    });
    Found::new(met, uncaused, format!("locks changed hands {met} times"))
}

/// I12, at the end.
pub fn no_orphan(evidence: &Evidence<'_>) -> Found {
    let Some((sessions, members)) = &evidence.audit.remains else {
        return Found::nothing("nobody could be asked at the end");
    };
    let ended = evidence.over().values().filter(|reason| **reason != "Closed").count() + evidence.killed().len();
    let lapsed = evidence.told().filter(|(_, _, happened)| matches!(happened, Happened::Lapsed { .. })).count();
    let met = (ended + lapsed) as u64;
    let orphan = members.first().map(|(node, owner)| {
        let owner = owner.map_or("nobody".to_owned(), |owner| format!("session {owner}"));
        format!("{node} of {owner} is there long after all clients have left")
    });
    let open = sessions.first().map(|(id, name)| format!("session {id} of {name} is open long after it has left"));
    let figures = match met {
        0 => "every session was closed in good order; nothing was left".to_owned(),
        _ => format!("{met} sessions ended without being closed; nothing was left of them"),
    };
    Found::new(met, orphan.or(open), figures)
}
