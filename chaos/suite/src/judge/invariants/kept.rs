//! Data: what was acknowledged is kept, what failed did nothing, what is read is so.

use std::collections::{BTreeMap, BTreeSet};

use conclave_checker::Verdict;

use super::Found;
use crate::{
    client::{Happened, Outcome},
    judge::evidence::{Evidence, made},
    nemesis::Done,
};

/// I16. What a definite failure would have left is in no replica; unknown outcomes go into the history as such.
pub fn definite(evidence: &Evidence<'_>) -> Found {
    let rejected: BTreeSet<(&str, &str)> = evidence
        .told()
        .filter_map(|(_, _, happened)| match happened {
            Happened::Rejected { path, data } => Some((path.as_str(), data.as_str())),
            _ => None,
        })
        .collect();
    let changes = evidence.audit.replicas.iter().flat_map(|replica| &replica.changes);
    let broken = changes.into_iter().find(|change| rejected.contains(&(change.path.as_str(), change.data.as_str())));
    let broken = broken.map(|change| {
        format!("{} = {} certainly failed, and was applied at revision {}", change.path, change.data, change.revision)
    });
    let unknown = evidence
        .told()
        .filter(|(_, _, happened)| matches!(happened, Happened::Return { outcome: Outcome::Info, .. }))
        .count() as u64;
    let figures = match unknown {
        0 => format!("no outcome was unknown; {} certain failures left nothing", rejected.len()),
        _ => format!("{unknown} outcomes unknown; {} certain failures left nothing", rejected.len()),
    };
    Found::new(unknown, broken, figures)
}

/// I17: the checker's word, where there were reads.
pub fn reads(evidence: &Evidence<'_>) -> Found {
    let read = |f: &str| matches!(f, "read" | "get" | "txn" | "observe");
    let count = |outcome| {
        let is = |happened: &Happened| matches!(happened, Happened::Return { f, outcome: found, .. } if read(f) && *found == outcome);
        evidence.told().filter(|(_, _, happened)| is(happened)).count() as u64
    };
    match &evidence.judgement.verdict {
        _ if count(Outcome::Ok) == 0 => Found::nothing("nothing was read"),
        Verdict::NotLinearizable(refutation) => Found { broken: Some(refutation.cause.clone()), ..Found::default() },
        Verdict::Unknown(why) => Found::nothing(why),
        Verdict::Linearizable => {
            let met = count(Outcome::Ok);
            let operations = evidence.judgement.operations;
            Found::new(met, None, format!("{met} reads among {operations} operations that have an order"))
        }
    }
}

/// Whether it took a server down without warning.
fn crashes(fault: &Done) -> bool {
    match fault.class.name() {
        "kill" => !fault.servers.is_empty(),
        name => matches!(name, "power" | "disk" | "files" | "wipe"),
    }
}

/// I18: every replica has every change that was acknowledged.
pub fn acknowledged(evidence: &Evidence<'_>) -> Found {
    let Some(known_from) = evidence.known_from() else { return Found::nothing("no replica could be asked") };
    let mut owed: Vec<(u64, &str, Option<&str>)> = Vec::new();
    for (_, _, happened) in evidence.told() {
        match happened {
            Happened::Acknowledged { revision, path, data } => owed.push((*revision, path, data.as_deref())),
            // A grant is a node that was made.
            Happened::Granted { token, node, .. } => owed.push((made(*token), node, Some(""))),
            _ => {}
        }
    }
    owed.retain(|(revision, ..)| *revision >= known_from);
    let mut broken = None;
    for replica in &evidence.audit.replicas {
        let mut has: BTreeMap<(u64, &str), Vec<(&str, Option<&str>)>> = BTreeMap::new();
        for change in &replica.changes {
            let data = (change.kind != "deleted").then_some(change.data.as_str());
            has.entry((change.revision, &change.path)).or_default().push((&change.kind, data));
        }
        let lost = owed.iter().find(|(revision, path, data)| {
            // Within one revision the last change of a node is what it comes to; a grant's label is nothing to us.
            let found = has.get(&(*revision, *path)).and_then(|all| all.last());
            found.is_none_or(|(_, found)| match data {
                Some("") => found.is_none(),
                _ => found != data,
            })
        });
        if let Some((revision, path, data)) = lost {
            let what = data.map_or("its removal".to_owned(), |data| format!("{data:?}"));
            let server = replica.server + 1;
            broken = broken.or(Some(format!(
                "{path}: {what} was acknowledged at revision {revision}, and server {server} has it not"
            )));
        }
    }
    let crashes = evidence.faults.iter().filter(|fault| !fault.missed && crashes(fault)).count() as u64;
    let kept = format!("{} acknowledged changes are on all of {} replicas", owed.len(), evidence.audit.replicas.len());
    match (owed.len(), crashes) {
        (0, _) => Found { broken, ..Found::nothing("nothing was acknowledged that has a revision") },
        (_, 0) => Found { broken, ..Found::nothing(&format!("no server crashed; {kept}")) },
        _ => Found::new(crashes, broken, format!("{kept}, after {crashes} crashes")),
    }
}
