//! The invariants I1 to I19, each judged in every run from whatever the run has to show.
//!
//! A checker of an [`Evidence`] counts how often it met what the invariant is about, and looks for the first case that
//! breaks it. One that met nothing says so: that is no pass.

mod bank;
mod grants;
mod kept;
mod sessions;
mod waits;
mod watches;

use super::{Row, Standing, evidence::Evidence};
use crate::workload::Workload;

/// What a checker found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// So often what it is about was met.
    pub met: u64,
    /// The first case that breaks it.
    pub broken: Option<String>,
    /// What was looked at; or why there was nothing to look at.
    pub figures: String,
}

impl Found {
    fn new(met: u64, broken: Option<String>, figures: String) -> Self {
        Self { met, broken, figures }
    }

    fn nothing(why: &str) -> Self {
        Self { figures: why.into(), ..Self::default() }
    }

    fn row(self, id: &'static str, text: &'static str) -> Row {
        let (standing, details) = match self.broken {
            Some(broken) => (Standing::Fail, broken),
            None if self.met == 0 => (Standing::NotExercised, self.figures),
            None => (Standing::Pass, self.figures),
        };
        Row { id, text, standing, unknown: false, details }
    }
}

/// A checker.
type Check = fn(&Evidence<'_>) -> Found;

/// All but I15, which needs to know of the run what is no evidence.
const TABLE: &[(&str, &str, Check)] = &[
    ("I1", "at most one holder (N permits; one writer or readers) at each revision", grants::one_holder),
    ("I2", "tokens of a lock rise with each grant", grants::tokens_rise),
    ("I3", "a token belongs to one grant", grants::one_grant),
    ("I4", "an acquire that reported ok was valid at some moment of it", grants::valid),
    ("I5", "a fenced resource accepts no token below one it has accepted", grants::fenced),
    ("I6", "clients report loss no later than their deadline", sessions::loss_in_time),
    ("I7", "no session ends before its TTL, none lasts beyond the bound", sessions::lapse),
    ("I8", "without a pause no two clients take a lock for theirs at once", sessions::no_overlap),
    ("I9", "release, expiry and close free a lock once; a late release changes nothing", grants::freed_once),
    ("I10", "grants follow the order of the line", grants::in_order),
    ("I11", "no lost wake-up: a free lock is granted to who waits", waits::no_lost_wakeup),
    ("I12", "no orphan: a session that is gone holds nothing and waits for nothing", sessions::no_orphan),
    ("I13", "no herd: a release wakes one", waits::no_herd),
    ("I14", "who leaves the middle of a line wakes nobody and holds up nobody", grants::middle),
    ("I16", "an unknown outcome stays unknown, a definite failure did nothing", kept::definite),
    ("I17", "reads are linearizable, also on a resumed old leader", kept::reads),
    ("I18", "what was acknowledged survives crashes", kept::acknowledged),
    ("I19", "watches: ordered, unique, atomic, reliable, resumable, never behind the reply", watches::told),
];

/// A row for each, with that of I15 in its place, and those that are the workload's own.
#[must_use]
pub fn rows(evidence: &Evidence<'_>, recovery: Row) -> Vec<Row> {
    let mut rows: Vec<_> = TABLE.iter().map(|(id, text, check)| check(evidence).row(id, text)).collect();
    let after = rows.iter().position(|row| row.id == "I14").map_or(rows.len(), |at| at + 1);
    rows.insert(after, recovery);
    if evidence.workload == Workload::Bank {
        rows.push(bank::total(evidence).row("bank", "the total never changes, no transfer pays twice"));
    }
    rows
}

#[cfg(test)]
mod tests;
