//! The rows of the verdict that every run has.

use conclave_checker::{Judgement, Verdict};

use super::{
    Row, Standing,
    beliefs::{self, Cause},
    replicas::Audit,
    touches::Touches,
};
use crate::{
    board::Board,
    client::{Happened, Outcome},
    nemesis::Done,
    report,
    workload::{Touched, Workload},
};

/// L1, from what the checker says of the history.
#[must_use]
pub fn first_layer(workload: Workload, judgement: &Judgement, beliefs: &[beliefs::Belief], audit: &Audit) -> Row {
    let handed = beliefs::hand_overs(beliefs);
    let agree = match audit.replicas.len() {
        0 => String::new(),
        replicas => format!("; the accounts of {replicas} replicas agree"),
    };
    let (standing, unknown, details) = match (&judgement.verdict, audit.differs()) {
        (_, Some(differs)) => (Standing::Fail, false, format!("replicas differ: {differs}")),
        _ if !workload.grants() => (Standing::NotExercised, false, "the workload has no locks".into()),
        (Verdict::NotLinearizable(refutation), None) => (Standing::Fail, false, refutation.cause.clone()),
        (Verdict::Unknown(why), None) => (Standing::NotExercised, true, why.clone()),
        (Verdict::Linearizable, None) if handed == 0 => (Standing::NotExercised, false, "no lock changed hands".into()),
        (Verdict::Linearizable, None) => (
            Standing::Pass,
            false,
            format!("{} operations have an order; locks changed hands {handed} times{agree}", judgement.operations),
        ),
    };
    Row {
        id: "L1",
        text: "grants: one holder at a time in the service's own account, tokens rise",
        standing,
        unknown,
        details,
    }
}

/// L2, from what clients took for theirs.
#[must_use]
pub fn second_layer(beliefs: &[beliefs::Belief], overlaps: &[beliefs::Overlap]) -> Row {
    let count =
        |is: fn(&Cause) -> bool| overlaps.iter().filter(|overlap| overlap.cause.as_ref().is_some_and(is)).count();
    let paused = count(|cause| matches!(cause, Cause::Fault(_)));
    let stalled = count(|cause| matches!(cause, Cause::Stall(_)));
    let unexplained = overlaps.len() - paused - stalled;
    let longest = report::time(overlaps.iter().map(beliefs::Overlap::length_ns).max().unwrap_or(0));
    let handed = beliefs::hand_overs(beliefs);
    let (standing, details) = match overlaps.len() {
        0 if handed == 0 => (Standing::NotExercised, "no lock changed hands".to_owned()),
        0 => (Standing::Pass, format!("no overlap in {} holds", beliefs.len())),
        all => (
            if unexplained == 0 { Standing::Pass } else { Standing::Fail },
            format!(
                "{all} overlaps, longest {longest}: {paused} while the earlier holder was paused, {stalled} while the \
                 machine kept it from looking, {unexplained} without a cause"
            ),
        ),
    };
    Row {
        id: "L2",
        text: "beliefs: no two clients take a lock for theirs at once, unless the earlier stood still (I8)",
        standing,
        unknown: false,
        details,
    }
}

/// L3, from the log of the resource.
#[must_use]
pub fn third_layer(workload: Workload, touches: Option<&Touches>, board: &Board) -> Row {
    let fenced = workload.touched() == Touched::Fenced;
    let text = match fenced {
        true => "resource: no touch with an older token, no update lost (I5)",
        false => "resource: no update lost",
    };
    let (standing, details) = if let Some(found) = touches {
        let refused = board.told.iter().filter(|(_, told)| matches!(told.happened, Happened::Refused { .. })).count();
        let figures = format!("{} writes, {} lost; late touches refused: {refused}", found.writes, found.lost);
        match &found.first {
            Some(first) if found.lost > 0 || fenced => (Standing::Fail, format!("{figures}; {first}")),
            _ if fenced && refused == 0 => (Standing::NotExercised, format!("{figures}: no holder came late")),
            _ if found.writes == 0 => (Standing::NotExercised, "nothing was written".into()),
            _ => (Standing::Pass, figures),
        }
    } else {
        (Standing::NotExercised, "the workload has no resource".to_owned())
    };
    Row { id: "L3", text, standing, unknown: false, details }
}

/// A server that ended by itself, and not by a fault after which it may, fails I15, whatever else was seen of it.
#[must_use]
pub fn gave_up(recovery: Row, why: &str) -> Row {
    Row { standing: Standing::Fail, unknown: false, details: why.to_owned(), ..recovery }
}

/// I15. `same`: whether all servers came to the same state, where there is more than one copy of it.
#[must_use]
pub fn recovery(
    workload: Workload,
    board: &Board,
    faults: &[Done],
    keys: &[String],
    clients: usize,
    calm_ns: i64,
    same: Option<bool>,
) -> Row {
    let met = faults.iter().filter(|fault| !fault.missed).count();
    let granted = |key: &str| {
        board.told.iter().any(|(_, told)| {
            told.at_ns > calm_ns && matches!(&told.happened, Happened::Begin { key: begun, .. } if begun == key)
        })
    };
    let locks = if workload.grants() { keys } else { &[] };
    let stuck: Vec<_> = locks.iter().filter(|key| !granted(key)).cloned().collect();
    let served = board.told.iter().any(|(_, told)| {
        told.at_ns > calm_ns && matches!(told.happened, Happened::Return { outcome: Outcome::Ok, .. })
    });
    let ill = faults.iter().find(|fault| !fault.missed && fault.healed_ns.is_none());
    let (standing, details) = if let Some(ill) = ill {
        let why = ill.trouble.clone().unwrap_or_else(|| "servers or writes did not come back in time".into());
        (Standing::Fail, format!("after \"{}\": {why}", ill.what))
    } else if !stuck.is_empty() && keys.len() <= clients {
        (Standing::Fail, format!("not granted any more after healing: {}", stuck.join(", ")))
    } else if !served {
        (Standing::Fail, "nothing that was asked for was done any more after healing".to_owned())
    } else if same == Some(false) {
        (Standing::Fail, "the servers did not come to the same state".to_owned())
    } else if met == 0 {
        (Standing::NotExercised, "nothing was broken".to_owned())
    } else {
        let slowest = faults.iter().filter_map(|fault| fault.healed_ns).max().unwrap_or(0);
        let same = if same == Some(true) { "; all servers ended in the same state" } else { "" };
        (Standing::Pass, format!("{met} faults healed, the slowest within {}{same}", report::time(slowest)))
    };
    Row {
        id: "I15",
        text: "after healing: servers answer, locks are granted, replicas agree",
        standing,
        unknown: false,
        details,
    }
}
