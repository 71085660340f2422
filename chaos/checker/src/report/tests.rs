//! Whole pages, as text. How they look and behave is for `tests/report_browser.rs`.

use std::{collections::HashMap, time::Duration};

use super::*;
use crate::{
    Function, Operation, Outcome, Refutation, Value, Verdict,
    history::{Fault, NEVER, NO_TIME},
};

/// A history told event by event, a millisecond apart.
#[derive(Default)]
pub struct Story {
    history: History,
    processes: HashMap<i64, u32>,
    keys: HashMap<String, u32>,
}

impl Story {
    pub fn call(&mut self, process: i64, key: &str, function: Function, argument: Value) -> usize {
        let history = &mut self.history;
        let process = *self.processes.entry(process).or_insert_with(|| {
            history.processes.push(process.into());
            u32::try_from(history.processes.len() - 1).unwrap()
        });
        let key = *self.keys.entry(key.to_owned()).or_insert_with(|| {
            history.keys.push(key.into());
            u32::try_from(history.keys.len() - 1).unwrap()
        });
        let called = history.events;
        history.operations.push(Operation {
            process,
            key,
            function,
            outcome: Outcome::Unknown,
            called,
            returned: NEVER,
            argument,
            result: Value::Null,
            called_ns: i64::from(called) * 1_000_000,
            returned_ns: NO_TIME,
        });
        history.events += 1;
        history.operations.len() - 1
    }

    fn finish(&mut self, at: usize, outcome: Outcome, result: Value) {
        let operation = &mut self.history.operations[at];
        (operation.outcome, operation.result) = (outcome, result);
        operation.returned = self.history.events;
        operation.returned_ns = i64::from(operation.returned) * 1_000_000;
        self.history.events += 1;
    }

    pub fn ok(&mut self, at: usize, result: Value) {
        self.finish(at, Outcome::Ok, result);
    }

    pub fn fail(&mut self, at: usize) {
        self.finish(at, Outcome::Fail, Value::Null);
    }

    pub fn history(self) -> History {
        self.history
    }
}

fn judgement(verdict: Verdict) -> Judgement {
    let refutations = match &verdict {
        Verdict::NotLinearizable(refutation) => vec![(**refutation).clone()],
        _ => Vec::new(),
    };
    Judgement { verdict, refutations, operations: 2, took: Duration::from_millis(3), peak_bytes: 4096 }
}

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\"'&\0\u{202e}]]><!--";

#[test]
fn nothing_of_a_hostile_history_becomes_markup() {
    let mut story = Story::default();
    let write = story.call(0, HOSTILE, Function::Write, HOSTILE.into());
    story.ok(write, Value::Null);
    let read = story.call(1, HOSTILE, Function::Read, Value::Null);
    story.ok(read, Value::List(vec![HOSTILE.into(), Value::Null].into()));
    let mut history = story.history();
    history.processes[1] = HOSTILE.into();
    let fault =
        Fault { what: HOSTILE.into(), target: HOSTILE.into(), from: 0, until: 2, from_ns: NO_TIME, until_ns: NO_TIME };
    history.faults.push(fault);
    let judgement = judgement(Verdict::NotLinearizable(Box::new(Refutation {
        key: 0,
        operations: vec![0, 1],
        culprit: 1,
        cause: HOSTILE.into(),
    })));
    let texts = [HOSTILE.to_owned()];
    let facts = [(HOSTILE.to_owned(), HOSTILE.to_owned())];
    let invariants =
        [Invariant { id: HOSTILE.into(), text: HOSTILE.into(), standing: Standing::Fail, details: HOSTILE.into() }];
    let lanes = [Lane {
        name: HOSTILE.into(),
        spans: vec![Span { state: State::Other, from_ns: 0, until_ns: None, text: HOSTILE.into() }],
        points: vec![Point { at_ns: 1, text: HOSTILE.into() }],
    }];
    let page = render(&Report {
        facts: &facts,
        invariants: &invariants,
        lanes: &lanes,
        replay: Some(HOSTILE),
        notes: &texts,
        ..Report::new(HOSTILE, HOSTILE, &history, &judgement)
    });
    assert!(!page.contains("<img"), "markup got through");
    assert!(!page.contains(['\0', '\u{202e}']), "a hidden character got through");
    // The page's own two scripts and no third.
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("<!--").count(), 0);
}

/// What the page has for its scripts.
fn data(page: &str) -> serde_json::Value {
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn the_first_screen_says_verdict_model_counts_and_cause() {
    let mut story = Story::default();
    let write = story.call(0, "x", Function::Write, Value::Int(1));
    story.ok(write, Value::Null);
    story.call(1, "x", Function::Read, Value::Null);
    let history = story.history();
    for (verdict, words, cause) in [
        (
            Verdict::Linearizable,
            "<h1><span class=\"mark\" aria-hidden=\"true\"></span>Linearizable",
            "Every operation has a place",
        ),
        (Verdict::Unknown("60 s are over".into()), "</span>Unknown", "60 s are over"),
        (
            Verdict::NotLinearizable(Box::new(Refutation {
                key: 0,
                operations: vec![0, 1],
                culprit: 1,
                cause: "no place".into(),
            })),
            "</span>Not linearizable",
            "no place",
        ),
    ] {
        let judgement = judgement(verdict);
        let page = render(&Report::new("a.jsonl", "register", &history, &judgement));
        for part in
            [words, cause, "a.jsonl", "<dt>model</dt><dd><bdi>register</bdi>", "<dt>unknown</dt><dd><bdi>1</bdi>"]
        {
            assert!(page.contains(part), "{part} is missing");
        }
        assert_eq!(
            page.contains("Offending operations</h2>"),
            matches!(judgement.verdict, Verdict::NotLinearizable(_))
        );
    }
}

#[test]
fn refutations_out_of_range_and_empty_histories_make_pages_too() {
    let history = History::default();
    let refutation = Refutation { key: 9, operations: vec![7], culprit: 8, cause: String::new() };
    let judgement = judgement(Verdict::NotLinearizable(Box::new(refutation)));
    let page = render(&Report::new("", "", &history, &judgement));
    assert_eq!(data(&page)["refutations"].as_array().map(Vec::len), Some(0), "nothing to frame");
    assert_eq!(data(&page)["timed"], false);
}

#[test]
fn a_hundred_thousand_operations_stay_under_ten_megabytes() {
    let mut story = Story::default();
    for i in 0..100_000_i64 {
        let long = format!("a rather long value that no other operation has, number {i:08}");
        let write =
            story.call(i % 25, ["x", "y", "z"][usize::try_from(i % 3).unwrap()], Function::Write, long.as_str().into());
        story.ok(write, Value::Int(i));
    }
    let history = story.history();
    let page = render(&Report::new("large", "register", &history, &judgement(Verdict::Linearizable)));
    assert!(page.len() < 10_000_000, "{} bytes", page.len());
    assert_eq!(data(&page)["count"], 100_000);
}
