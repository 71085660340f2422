//! What clients did, as a history in the checker's form.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::{
    client::{Happened, Outcome, Told},
    clock::ns,
    nemesis::Done,
};

/// A lease may end so much before the client that asked for it would say: the service's clock counts whole
/// milliseconds, and not from the very moment.
const LEASE_SLACK_NS: i64 = 5_000_000;

/// A process's name changes when what it has done stays open, as histories want it. Each of a client's threads of work
/// is a process.
struct Name<'a> {
    name: &'a str,
    task: u32,
    life: u32,
}

impl Name<'_> {
    fn text(&self) -> String {
        let task = if self.task == 0 { String::new() } else { format!("/{}", self.task + 1) };
        let life = if self.life == 1 { String::new() } else { format!(".{}", self.life) };
        format!("{}{task}{life}", self.name)
    }
}

/// One line of JSON for each event, in the order of the one clock.
///
/// A lock without tokens that the service takes back by itself when a lease has run out says so: the hold may have
/// ended at any moment after that (`expire` of unknown outcome). Without it a paused holder would convict a service
/// that did what it said.
#[must_use]
pub fn lines(names: &[String], told: &[(usize, Told)], faults: &[Done], lease: Duration, tokens: bool) -> String {
    let mut events: Vec<(i64, Value)> = Vec::new();
    for (who, name) in names.iter().enumerate() {
        let own = || told.iter().filter(|(by, _)| *by == who).map(|(_, told)| told);
        let tasks: BTreeSet<u32> = own().map(|told| told.task).collect();
        for task in tasks {
            let name = Name { name, task, life: 1 };
            let its = own().filter(|told| told.task == task || told.happened == Happened::Killed);
            client(name, its, lease, tokens, &mut events);
        }
    }
    for fault in faults.iter().filter(|fault| !fault.missed) {
        let name = fault.class.name();
        let event = |f: String| json!({"process": "nemesis", "type": "info", "f": f, "value": fault.target});
        events.push((fault.from_ns, event(format!("start-{name}"))));
        events.push((fault.until_ns, event(format!("stop-{name}"))));
    }
    // Stable: what one client told stays in its order.
    events.sort_by_key(|(at, _)| *at);
    let line = |(at, mut event): (i64, Value)| {
        event["time"] = at.into();
        format!("{event}\n")
    };
    events.into_iter().map(line).collect()
}

fn client<'a>(
    mut name: Name<'_>,
    told: impl Iterator<Item = &'a Told>,
    lease: Duration,
    tokens: bool,
    events: &mut Vec<(i64, Value)>,
) {
    // Of the present hold: from when on the service may take it back, and which lock it is.
    let mut expires = None;
    let mut held = String::new();
    for Told { at_ns, happened, .. } in told {
        match happened {
            Happened::Call { f, key, value } => {
                events.push((
                    *at_ns,
                    json!({"process": name.text(), "type": "invoke", "f": f, "key": key, "value": value}),
                ));
            }
            Happened::Return { f, key, outcome, value, error, lease_from_ns } => {
                let kind = match outcome {
                    Outcome::Ok => "ok",
                    Outcome::Fail => "fail",
                    Outcome::Info => "info",
                };
                events.push((
                    *at_ns,
                    json!({"process": name.text(), "type": kind, "f": f, "key": key, "value": value, "error": error}),
                ));
                let mut over = *outcome == Outcome::Info;
                if *outcome == Outcome::Ok && (f == "acquire" || f == "try_acquire") {
                    held.clone_from(key);
                    expires = lease_from_ns.map(|from| from + ns(lease) - LEASE_SLACK_NS);
                }
                if f == "release"
                    && !tokens
                    && let Some(expires) = expires.take()
                    && (*outcome != Outcome::Ok || expires <= *at_ns)
                {
                    expire(&name, key, expires, events);
                    over = true;
                }
                if over {
                    name.life += 1;
                }
            }
            Happened::Killed => {
                // What it was at stays open; a lock without tokens that it held ends by its lease.
                if let Some(expires) = expires.take() {
                    expire(&name, &held, expires, events);
                }
                name.life += 1;
            }
            _ => {}
        }
    }
}

fn expire(of: &Name<'_>, key: &str, at_ns: i64, events: &mut Vec<(i64, Value)>) {
    let process = format!("lease of {} at {at_ns}", of.text());
    events.push((at_ns, json!({"process": process, "type": "invoke", "f": "expire", "key": key, "value": of.text()})));
}

#[cfg(test)]
mod tests {
    use conclave_checker::{Limits, Model, Verdict, history, judge};

    use super::*;

    fn call(at: i64, f: &str) -> Told {
        let happened = Happened::Call { f: f.into(), key: "a".into(), value: Value::Null };
        Told { at_ns: at * 1_000_000, task: 0, happened }
    }

    fn back(at: i64, f: &str, outcome: Outcome, lease_from: Option<i64>) -> Told {
        Told {
            at_ns: at * 1_000_000,
            task: 0,
            happened: Happened::Return {
                f: f.into(),
                key: "a".into(),
                outcome,
                value: Value::Null,
                error: None,
                lease_from_ns: lease_from.map(|at| at * 1_000_000),
            },
        }
    }

    fn verdict(told: &[(usize, Told)]) -> Verdict {
        let names = ["one".to_owned(), "two".to_owned(), "three".to_owned()];
        let text = lines(&names, told, &[], Duration::from_millis(100), false);
        let history = history::parse(text.as_bytes(), history::Format::Json).expect("its own form");
        judge(&history, &Model::OwnerMutex, &Limits::default()).expect("its own operations").verdict
    }

    #[test]
    fn a_grant_after_the_lease_is_lawful_and_one_within_it_is_not() {
        let first = [(0, call(0, "acquire")), (0, back(1, "acquire", Outcome::Ok, Some(0)))];
        let late = [(0, call(300, "release")), (0, back(301, "release", Outcome::Fail, None))];
        let second = |at| [(1, call(at, "acquire")), (1, back(at + 1, "acquire", Outcome::Ok, Some(at)))];
        let all = |at| [first.to_vec(), second(at).to_vec(), late.to_vec()].concat();
        assert_eq!(verdict(&all(150)), Verdict::Linearizable);
        assert!(matches!(verdict(&all(50)), Verdict::NotLinearizable(_)));
    }

    #[test]
    fn a_late_release_that_lets_a_third_in_beside_the_second_is_seen() {
        let told = [
            (0, call(0, "acquire")),
            (0, back(1, "acquire", Outcome::Ok, Some(0))),
            (1, call(120, "acquire")),
            (1, back(121, "acquire", Outcome::Ok, Some(120))),
            (0, call(130, "release")),
            (0, back(131, "release", Outcome::Info, None)),
            (2, call(135, "acquire")),
            (2, back(136, "acquire", Outcome::Ok, Some(135))),
            (1, call(150, "release")),
            (1, back(151, "release", Outcome::Ok, None)),
        ];
        assert!(matches!(verdict(&told), Verdict::NotLinearizable(_)));
        // Without the third nothing was wrong.
        let without: Vec<_> = told.iter().filter(|(who, _)| *who != 2).cloned().collect();
        assert_eq!(verdict(&without), Verdict::Linearizable);
    }
}
