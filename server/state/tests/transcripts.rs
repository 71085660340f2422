//! Situations, one file each under `transcripts/`: a line is what happens, `=>`, and what came of it. After every line
//! the invariants hold and a restart gives the same state.

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use common::{Replica, path};
use conclave_proto::{RequestNumber, Revision, SessionId, Term};
use conclave_state::{
    Applied, By, Command, Compare, EndReason, Kind, Op, OpResult, Outcome, Refusal, Relation, RevisionChanges, Test,
    Txn,
};

const TERM: Term = Term(5);

#[derive(Default)]
struct Play {
    replica: Replica,
    sessions: BTreeMap<String, SessionId>,
    changes: Option<Arc<RevisionChanges>>,
}

#[test]
fn every_transcript_comes_true() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 8, "transcripts are missing");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let mut play = Play::default();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let (what, expected) = line.split_once("=>").unwrap_or((line, ""));
            let records = play.replica.records.clone();
            let found = play.line(what.trim());
            let place = format!("{}:{number}: {line}", file.display());
            if found != expected.trim() {
                wrong.push(format!("{place}\n    but it came to: {found}"));
            }
            play.replica.machine.check().unwrap_or_else(|broken| panic!("{place}: {broken}"));
            let hash = play.replica.machine.hash();
            play.replica.save();
            assert_eq!(play.replica.machine.hash(), hash, "{place}");
            assert_eq!(play.replica.restored().hash(), hash, "{place}");
            if found.starts_with("refused") {
                // But for the positions, and the number and answer of the session that asked.
                let lasting = |records: &common::Records| {
                    let lasting = records.iter().filter(|(key, _)| !matches!(key[0], b'M' | b'P'));
                    lasting.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
                };
                assert_eq!(lasting(&records), lasting(&play.replica.records), "{place}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Play {
    fn line(&mut self, what: &str) -> String {
        let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match first {
            "open" => {
                let [name, ttl] = words[..] else { panic!("open NAME TTL: {what}") };
                let command = Command::OpenSession {
                    secret: [3; 16],
                    run: 0,
                    ttl_ms: ttl.parse().expect("ms"),
                    name: name.into(),
                };
                let applied = self.apply(command);
                if let Outcome::Opened { session } = applied.outcome {
                    self.sessions.insert(name.to_owned(), session);
                    return format!("session {}", session.0);
                }
                self.tell(&applied)
            }
            "close" | "kill" => {
                let reason = if first == "close" { EndReason::Closed } else { EndReason::Killed };
                let (session, run) = self.speaker(words[0]);
                self.do_it(Command::EndSession { session, run: (first == "close").then_some(run), reason })
            }
            // `take-over a 2`: process 2 speaks for it; then `a:2 txn` is its request, and `a txn` its predecessor's.
            "take-over" => {
                let run = words[1].parse().expect("a number");
                let applied = self.apply(Command::TakeOver { session: self.session(words[0]), run });
                let told = self.tell(&applied);
                if applied.taken_over.is_some() { format!("taken {told}").trim_end().to_owned() } else { told }
            }
            // `expire@4 a b`: by a leader of term 4.
            _ if first.starts_with("expire") => {
                let term = first.split_once('@').map_or(TERM, |(_, term)| Term(term.parse().expect("a term")));
                self.do_it(Command::ExpireSessions {
                    term,
                    sessions: words.iter().map(|name| self.session(name)).collect(),
                })
            }
            "checkpoint" => {
                let remaining_ms = vec![(self.session(words[0]), words[1].parse().expect("ms"))];
                self.do_it(Command::CheckpointSessions { term: TERM, serial: 1, remaining_ms })
            }
            "remaining" => {
                let session = self.replica.machine.session(self.session(words[0]));
                session.map_or("none".to_owned(), |session| session.remaining_ms.to_string())
            }
            "reap" => {
                let path = path(words[0]);
                let (modified, children) = self
                    .replica
                    .machine
                    .get(&path)
                    .map_or((Revision(1), Revision(1)), |node| (node.modify_revision, node.children_revision));
                self.do_it(Command::Reap { term: TERM, nodes: vec![(path, modified, children)] })
            }
            "compact" => {
                self.do_it(Command::Compact { term: TERM, through: Revision(words[0].parse().expect("a revision")) })
            }
            "limits" => {
                let mut limits = self.replica.machine.limits().clone();
                for word in words {
                    let (name, value) = word.split_once('=').expect("name=value");
                    let value: u64 = value.parse().expect("a number");
                    let small = || u32::try_from(value).expect("small");
                    match name {
                        "data_bytes_max" => limits.data_bytes_max = value,
                        "txn_ops_max" => limits.txn_ops_max = small(),
                        "nodes_max" => limits.nodes_max = value,
                        "headroom_nodes" => limits.headroom_nodes = value,
                        "store_bytes_max" => limits.store_bytes_max = value,
                        "headroom_bytes" => limits.headroom_bytes = value,
                        "sessions_max" => limits.sessions_max = value,
                        "answers_max" => limits.answers_max = small(),
                        "answer_bytes_max" => limits.answer_bytes_max = value,
                        "answers_bytes_max" => limits.answers_bytes_max = value,
                        "history_revisions_max" => limits.history_revisions_max = value,
                        "history_bytes_max" => limits.history_bytes_max = value,
                        _ => panic!("no such limit: {name}"),
                    }
                }
                self.do_it(Command::Configure { term: TERM, limits })
            }
            "epoch" => self.do_it(Command::RaiseFenceEpoch { epoch: words[0].parse().expect("a number") }),
            "refuse" => {
                let by =
                    By { session: self.session(words[0]), run: 0, number: number(words[1]), acknowledged: number("0") };
                let refusal = Refusal::Invalid { what: "bad path".into(), op: None };
                self.do_it(Command::Refused { by, refusal })
            }
            "restart" => {
                self.replica.machine = self.replica.restored();
                String::new()
            }
            "changes" => self.changes.as_ref().map_or("none".to_owned(), |changes| {
                let told = changes.changes.iter().map(|change| {
                    let sign = match (&change.before, &change.after) {
                        (None, _) => '+',
                        (_, None) => '-',
                        _ if change.is_event() => '*',
                        _ => '.',
                    };
                    format!("{sign}{}", change.path)
                });
                told.collect::<Vec<_>>().join(" ")
            }),
            "place" => {
                let [of, permits, blocking @ ..] = &words[..] else { panic!("place PATH PERMITS [BLOCKING]") };
                let blocking = blocking.first().copied().unwrap_or_default();
                let place = self.replica.machine.queue_place(&path(of), permits.parse().expect("a number"), blocking);
                format!("{place:?}").to_lowercase()
            }
            "past" => {
                let at = Revision(words[0].parse().expect("a revision"));
                match self.replica.machine.get_at(&path(words[1]), at) {
                    Ok(None) => "none".to_owned(),
                    Ok(Some(node)) => String::from_utf8_lossy(&node.data).into_owned(),
                    Err(error) => error.to_string(),
                }
            }
            "counts" => {
                let counts = self.replica.machine.counts();
                format!(
                    "nodes={} sessions={} ephemerals={} queues={}/{} history={} answers={}",
                    counts.nodes,
                    counts.sessions,
                    counts.ephemerals,
                    counts.queues,
                    counts.queue_entries,
                    counts.history_revisions,
                    counts.answers
                )
            }
            _ => {
                // `NAME [NUMBER/ACKNOWLEDGED] txn`, or `- txn` without a session.
                let (by, rest) = self.by(first, rest);
                self.do_it(Command::Txn { by, txn: txn(rest) })
            }
        }
    }

    fn by<'a>(&self, name: &str, rest: &'a str) -> (Option<By>, &'a str) {
        if name == "-" {
            return (None, rest);
        }
        let (session, run) = self.speaker(name);
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            let (numbers, rest) = rest.split_once(' ').expect("a transaction");
            let (this, acknowledged) = numbers.split_once('/').unwrap_or((numbers, "0"));
            return (Some(By { session, run, number: number(this), acknowledged: number(acknowledged) }), rest);
        }
        let last = self.replica.machine.session(session).map_or(RequestNumber(0), |session| session.last_number);
        (Some(By { session, run, number: last.next(), acknowledged: RequestNumber(0) }), rest)
    }

    /// `NAME`, or `NAME:RUN` for another than the first process.
    fn speaker(&self, text: &str) -> (SessionId, u64) {
        let (name, run) = text.split_once(':').unwrap_or((text, "0"));
        (self.session(name), run.parse().expect("a run"))
    }

    fn session(&self, name: &str) -> SessionId {
        *self.sessions.get(name).unwrap_or_else(|| panic!("no session was called {name}"))
    }

    fn apply(&mut self, command: Command) -> Applied {
        let applied = self.replica.apply_at(TERM, 7, command);
        self.changes.clone_from(&applied.changes);
        applied
    }

    fn do_it(&mut self, command: Command) -> String {
        let applied = self.apply(command);
        self.tell(&applied)
    }

    fn tell(&self, applied: &Applied) -> String {
        match &applied.outcome {
            Outcome::Done if applied.ended.is_empty() => "done".to_owned(),
            Outcome::Done => {
                let told = applied.ended.iter().map(|(id, reason)| {
                    let name = self.sessions.iter().find(|(_, session)| *session == id).expect("opened here").0;
                    format!("{name} {}", format!("{reason:?}").to_lowercase())
                });
                told.collect::<Vec<_>>().join(", ")
            }
            Outcome::Opened { .. } => unreachable!("told by open"),
            Outcome::Refused(refusal) => format!("refused: {refusal}"),
            Outcome::Txn(result) => {
                let mut told = format!("rev={}", result.revision);
                if let Some(failed) = result.failed_compare {
                    told += &format!(" failed={failed}");
                }
                for result in &result.results {
                    told += &match result {
                        OpResult::Created { path, .. } => format!(" {path}"),
                        OpResult::Put { created, version } => {
                            format!(" {}v{version}", if *created { "new " } else { "" })
                        }
                        OpResult::Deleted { count } => format!(" deleted={count}"),
                        OpResult::Got(None) => " none".to_owned(),
                        OpResult::Got(Some((_, node))) => format!(" data={}", String::from_utf8_lossy(&node.data)),
                        OpResult::Listed(names) => format!(" [{}]", names.join(" ")),
                    };
                }
                told
            }
        }
    }
}

fn number(text: &str) -> RequestNumber {
    RequestNumber(text.parse().unwrap_or_else(|_| panic!("a number: {text}")))
}

/// `OP, OP` or `if COMPARE, COMPARE then OP, OP else OP, OP`.
fn txn(text: &str) -> Txn {
    let ops = |text: &str| text.split(',').map(str::trim).filter(|op| !op.is_empty()).map(op).collect();
    let Some(text) = text.strip_prefix("if ") else {
        return Txn { then: ops(text), ..Txn::default() };
    };
    let (compare, rest) = text.split_once(" then").expect("if .. then ..");
    let (then, otherwise) = rest.split_once(" else").unwrap_or((rest, ""));
    let compare = compare.split(',').map(|text| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let given = |at: usize| words[at].parse::<u64>().expect("a number");
        let test = match words[0] {
            "exists" => Test::Exists(true),
            "missing" => Test::Exists(false),
            "version" => Test::Version(Relation::Equal, given(2)),
            "created" => Test::CreateRevision(Relation::Equal, Revision(given(2))),
            "modified-before" => Test::ModifyRevision(Relation::Less, Revision(given(2))),
            "data" => Test::Data(Relation::Equal, words[2].as_bytes().to_vec().into()),
            "data-not" => Test::Data(Relation::NotEqual, words[2].as_bytes().to_vec().into()),
            "unowned" => Test::Owner(None),
            "held" => Test::HeldSince(Revision(given(2))),
            other => panic!("no such comparison: {other}"),
        };
        Compare { path: path(words[1]), test }
    });
    Txn { compare: compare.collect(), then: ops(then), otherwise: ops(otherwise) }
}

fn op(text: &str) -> Op {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (verb, at) = (words[0], path(words[1]));
    let has = |word: &str| words[2..].contains(&word);
    let data = || words[2..].iter().find_map(|word| word.strip_prefix('=')).unwrap_or_default().as_bytes().to_vec();
    match verb {
        "create" => Op::Create {
            path: at,
            data: data().into(),
            kind: match () {
                () if has("ephemeral") => Kind::Ephemeral,
                () if has("container") => Kind::Container,
                () if has("ttl") => Kind::Ttl { ttl_ms: 100 },
                () => Kind::Persistent,
            },
            sequential: has("sequential"),
            create_parents: if has("in-containers") {
                Some(Kind::Container)
            } else if has("with-parents") {
                Some(Kind::Persistent)
            } else {
                None
            },
        },
        "put" => Op::Put { path: at, data: data().into(), create_parents: has("with-parents") },
        "delete" => Op::Delete { path: at, recursive: has("recursive") },
        "get" => Op::Get { path: at },
        "list" => Op::List { path: at },
        other => panic!("no such operation: {other}"),
    }
}
