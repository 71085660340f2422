//! A good run passes; the same run with one thing changed is convicted of just that.

use conclave_checker::{Judgement, Verdict};
use serde_json::json;

use super::*;
use crate::{
    client::{Change, Happened, Outcome, Told},
    judge::{
        beliefs,
        line::{self, tests::step},
        replicas::{Audit, Replica},
    },
    nemesis::{Class, Done},
};

/// What a run left; `rows` judges it.
struct Run {
    workload: Workload,
    told: Vec<(usize, Told)>,
    faults: Vec<Done>,
    audit: Audit,
    verdict: Verdict,
}

const MS: i64 = 1_000_000;

fn at(ms: i64, happened: Happened) -> Told {
    Told { at_ns: ms * MS, task: 0, happened }
}

fn done(f: &str, outcome: Outcome, token: i64) -> Happened {
    let (value, error) = (json!(token), (outcome != Outcome::Ok).then(|| "no".to_owned()));
    Happened::Return { f: f.into(), key: "a".into(), outcome, value, error, lease_from_ns: None }
}

fn call(f: &str) -> Happened {
    Happened::Call { f: f.into(), key: "a".into(), value: json!(null) }
}

fn granted(sequence: u64, token: i64, revision: u64) -> Happened {
    let node = format!("/chaos/locks/a/lock-{sequence:010}");
    Happened::Granted { key: "a".into(), token, session: 100 + sequence, node, revision }
}

fn begin(token: i64) -> Happened {
    Happened::Begin { key: "a".into(), token: Some(token), room: 1 }
}

fn end(ms: i64) -> Happened {
    Happened::End { key: "a".into(), lost: false, seen_ns: ms * MS }
}

/// Two clients hold one after the other, a third gives up in the middle, a server is killed meanwhile.
fn good() -> Run {
    let account = vec![
        step(1, "created", "lock-", 0, 1),
        step(2, "created", "lock-", 1, 2),
        step(3, "created", "lock-", 2, 3),
        step(4, "deleted", "lock-", 1, 2),
        step(5, "deleted", "lock-", 0, 1),
        step(6, "deleted", "lock-", 2, 3),
    ];
    let told = vec![
        (0, at(1, call("acquire"))),
        (0, at(2, done("acquire", Outcome::Ok, 1))),
        (0, at(2, granted(0, 1, 1))),
        (0, at(2, begin(1))),
        (1, at(3, call("acquire"))),
        (0, at(20, end(20))),
        (0, at(21, call("release"))),
        (0, at(22, done("release", Outcome::Ok, 1))),
        (1, at(23, done("acquire", Outcome::Ok, 3))),
        (1, at(23, granted(2, 3, 5))),
        (1, at(23, begin(3))),
        (1, at(40, end(40))),
        (1, at(41, done("release", Outcome::Ok, 3))),
        (2, at(50, Happened::Over { session: 101, reason: "DeadlinePassed".into(), late_ms: Some(1) })),
        (
            2,
            at(
                60,
                Happened::Acknowledged {
                    revision: 1,
                    path: "/chaos/locks/a/lock-0000000000".into(),
                    data: Some(String::new()),
                },
            ),
        ),
        (2, at(61, done("acquire", Outcome::Info, 0))),
    ];
    let replicas = (0..2).map(|server| Replica { server, oldest: 1, changes: account.clone() }).collect();
    let metrics = [(0, "conclave_queue_ready_total 2\nconclave_streams_total 3\n".to_owned())].into();
    let remains = Some((Vec::new(), Vec::new()));
    Run {
        workload: Workload::Lock,
        told,
        faults: vec![kill()],
        audit: Audit { replicas, metrics, remains, troubles: Vec::new() },
        verdict: Verdict::Linearizable,
    }
}

fn kill() -> Done {
    Done {
        class: Class::Kill,
        what: "kill".into(),
        target: String::new(),
        missed: false,
        paused_client: None,
        servers: vec![0],
        beyond: false,
        from_ns: 5 * MS,
        until_ns: 6 * MS,
        first_write_ns: None,
        healed_ns: Some(MS),
        trouble: None,
    }
}

impl Run {
    fn rows(&self) -> Vec<Row> {
        let members = line::members(&self.audit.longest().expect("a replica").changes);
        let beliefs = beliefs::beliefs(&self.told, 100 * MS);
        let overlaps = beliefs::overlaps(&beliefs, &self.faults, 20 * MS);
        let judgement = Judgement {
            verdict: self.verdict.clone(),
            refutations: Vec::new(),
            operations: 9,
            took: std::time::Duration::ZERO,
            peak_bytes: 0,
        };
        let recovery =
            Row { id: "I15", text: "", standing: Standing::NotExercised, unknown: false, details: String::new() };
        let evidence = Evidence {
            workload: self.workload,
            told: &self.told,
            faults: &self.faults,
            lease_ns: 1_500 * MS,
            judgement: &judgement,
            beliefs: &beliefs,
            overlaps: &overlaps,
            touches: None,
            audit: &self.audit,
            members: &members,
        };
        rows(&evidence, recovery)
    }

    fn broken(&self) -> Vec<&'static str> {
        self.rows().iter().filter(|row| row.standing == Standing::Fail).map(|row| row.id).collect()
    }

    fn passed(&self) -> Vec<&'static str> {
        self.rows().iter().filter(|row| row.standing == Standing::Pass).map(|row| row.id).collect()
    }

    /// The same with something changed.
    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut run = good();
        change(&mut run);
        run
    }

    fn replicas(&mut self, change: impl Fn(&mut Vec<Change>)) {
        self.audit.replicas.iter_mut().for_each(|replica| change(&mut replica.changes));
    }
}

#[test]
fn a_good_run_passes_what_it_showed_and_exercised_nothing_else() {
    let run = good();
    assert_eq!(run.broken(), Vec::<&str>::new(), "{:#?}", run.rows());
    let showed = ["I1", "I2", "I3", "I4", "I6", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I16", "I18"];
    assert_eq!(run.passed(), showed, "{:#?}", run.rows());
}

#[test]
fn a_grant_behind_a_holder_or_out_of_turn_is_seen() {
    // Told when the first still held.
    let early = Run::with(|run| run.told[9].1.happened = granted(2, 3, 4));
    assert!(early.broken().contains(&"I1") && early.broken().contains(&"I14"), "{:#?}", early.rows());
    // Told when one that only waited stood before it, too.
    let turn = Run::with(|run| {
        run.replicas(|changes| {
            changes[3] = step(4, "deleted", "lock-", 0, 1);
            changes[4] = step(5, "deleted", "lock-", 1, 2);
        });
        run.told[9].1.happened = granted(2, 3, 3);
    });
    assert!(turn.broken().contains(&"I10"), "{:#?}", turn.rows());
    let displaced = Run::with(|run| {
        run.replicas(|changes| {
            changes[1] = step(2, "created", "lock-", 1, 2);
            changes[0] = step(1, "created", "lock-", 9, 1);
        });
    });
    assert!(displaced.broken().contains(&"I1"), "{:#?}", displaced.rows());
}

#[test]
fn tokens_that_fall_or_are_given_twice_and_grants_that_never_were_are_seen() {
    let epoch = 1_i64 << 48;
    let falls = Run::with(|run| run.told[2].1.happened = granted(0, epoch | 1, 1));
    assert_eq!(falls.broken(), ["I2"], "{:#?}", falls.rows());
    let twice = Run::with(|run| run.told[9].1.happened = granted(2, 1, 5));
    assert!(twice.broken().contains(&"I3"), "{:#?}", twice.rows());
    let gone = Run::with(|run| {
        run.told.push((2, at(70, granted(1, 2, 6))));
    });
    assert!(gone.broken().contains(&"I4"), "{:#?}", gone.rows());
}

#[test]
fn a_lock_freed_by_somebody_else_and_one_never_freed_are_seen() {
    let other = Run::with(|run| run.told[7].1.happened = done("release", Outcome::Fail, 1));
    assert_eq!(other.broken(), ["I9"], "{:#?}", other.rows());
    let lawful = Run::with(|run| {
        run.told[7].1.happened = done("release", Outcome::Fail, 1);
        run.told.push((0, at(90, Happened::Over { session: 100, reason: "Expired".into(), late_ms: None })));
    });
    assert!(lawful.broken().is_empty(), "its session had ended: {:#?}", lawful.rows());
    let never = Run::with(|run| run.replicas(|changes| drop(changes.pop())));
    assert_eq!(never.broken(), ["I9"], "{:#?}", never.rows());
}

#[test]
fn a_waiter_that_nobody_wakes_an_orphan_and_a_herd_are_seen() {
    let sleeps = Run::with(|run| {
        for (_, told) in &mut run.told[8..] {
            told.at_ns += 20_000 * MS;
        }
    });
    assert_eq!(sleeps.broken(), ["I11"], "{:#?}", sleeps.rows());
    let orphan = Run::with(|run| {
        run.audit.remains = Some((Vec::new(), vec![("/chaos/locks/a/lock-0000000007".into(), Some(9))]));
    });
    assert_eq!(orphan.broken(), ["I12"], "{:#?}", orphan.rows());
    let herd = Run::with(|run| {
        run.audit.metrics.insert(0, "conclave_queue_ready_total 6\nconclave_streams_total 3\n".into());
    });
    assert_eq!(herd.broken(), ["I13"], "{:#?}", herd.rows());
}

#[test]
fn what_is_lost_or_applied_against_its_word_is_seen() {
    let lost = Run::with(|run| {
        let path = "/chaos/locks/a/lock-0000000000".into();
        run.told[14].1.happened = Happened::Acknowledged { revision: 4, path, data: Some(String::new()) };
    });
    assert_eq!(lost.broken(), ["I18"], "{:#?}", lost.rows());
    let one_only = Run::with(|run| drop(run.audit.replicas[1].changes.remove(0)));
    assert!(one_only.broken().contains(&"I18"), "{:#?}", one_only.rows());
    assert!(one_only.audit.differs().is_some());
    let applied = Run::with(|run| {
        let path = "/chaos/locks/a/lock-0000000001".into();
        run.told.push((2, at(70, Happened::Rejected { path, data: String::new() })));
    });
    assert_eq!(applied.broken(), ["I16"], "{:#?}", applied.rows());
}

#[test]
fn a_session_that_ends_early_late_or_in_parts_is_seen() {
    let lapsed = |gone_ms: Option<i64>, revisions| {
        let gone_ns = gone_ms.map(|ms| ms * MS);
        let happened =
            Happened::Lapsed { session: 7, silent_ns: 100 * MS, deadline_ns: 1_500 * MS, gone_ns, revisions };
        Run::with(|run| run.told.push((2, at(30_000, happened))))
    };
    assert!(lapsed(Some(1_700), 1).passed().contains(&"I7"));
    for bad in [lapsed(Some(1_400), 1), lapsed(Some(20_000), 1), lapsed(None, 0), lapsed(Some(1_700), 2)] {
        assert_eq!(bad.broken(), ["I7"], "{:#?}", bad.rows());
    }
    // By clocks that nobody can read it may have been in time.
    let mut drifting = lapsed(Some(1_400), 1);
    drifting.faults.push(Done { class: Class::Drift, from_ns: 500 * MS, until_ns: 2_000 * MS, ..kill() });
    assert!(!drifting.broken().contains(&"I7"), "{:#?}", drifting.rows());
}

#[test]
fn what_a_client_saw_for_itself_and_two_holders_at_once_are_seen() {
    let broken = |of: &str| {
        let happened = Happened::Judged { invariant: of.into(), broken: Some("so".into()) };
        Run::with(|run| run.told.push((2, at(70, happened)))).broken()
    };
    assert_eq!((broken("I4"), broken("I6")), (vec!["I4"], vec!["I6"]));
    assert_eq!((broken("I7"), broken("I19")), (vec!["I7"], vec!["I19"]));
    let both = Run::with(|run| run.told[5].1 = at(30, end(30)));
    assert_eq!(both.broken(), ["I6", "I8"], "{:#?}", both.rows());
}

#[test]
fn a_read_that_has_no_place_is_seen() {
    let refutation = conclave_checker::Refutation { key: 0, operations: vec![], culprit: 0, cause: "stale".into() };
    let run = Run::with(|run| {
        run.workload = Workload::Kv;
        run.told.push((2, at(70, done("get", Outcome::Ok, 0))));
        run.verdict = Verdict::NotLinearizable(Box::new(refutation));
    });
    assert_eq!(run.broken(), ["I17"], "{:#?}", run.rows());
}
