//! Random commands against a naive model that keeps a full copy of the tree for every revision, and shares no code
//! with the machine. After every command: outcome, tree, past, history, queues, invariants, hash and restart agree.

mod common;

use std::collections::BTreeMap;

use common::{Replica, by, path};
use conclave_proto::{NodePath, Revision, SEQUENCE_DIGITS, SessionId, Term};
use conclave_state::{
    Command, Compare, EndReason, Kind, Limits, Node, Op, OpResult, Outcome, QueuePlace, Refusal, Relation, Test, Txn,
    TxnResult,
};
use proptest::prelude::*;

const TERM: Term = Term(3);
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/b/c/d",
    "/a/b-x",
    "/a-b",
    "/a0",
    "/q",
    "/q/n-",
    "/q/n-x-",
    "/q/r-",
    "/e",
    "/e/x",
    "/conclave",
    "/conclave/x",
    "/conclaves",
];

/// Sessions and nodes are named by position in what there is, so that most commands mean something.
#[derive(Clone, Debug)]
enum Step {
    Open { ttl_ms: u64 },
    Txn { session: Option<usize>, number: Numbered, txn: Txn },
    Refused { session: usize, number: Numbered },
    TakeOver { session: usize, run: u64 },
    End { session: usize, reason: EndReason },
    Expire { sessions: Vec<usize>, stale: bool },
    Checkpoint { session: usize, remaining_ms: u64, stale: bool },
    Reap { stale: bool, changed: bool },
    Compact { back: u64 },
    Configure { history_revisions_max: u64 },
    Save,
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Numbered {
    Next {
        unacknowledged: u64,
    },
    Repeat {
        back: u64,
    },
    Gap,
    /// From a process that another took the session over from.
    Predecessor,
}

fn some_path() -> impl Strategy<Value = NodePath> {
    prop_oneof![
        8 => proptest::sample::select(PATHS).prop_map(path),
        3 => (proptest::sample::select(&["/q/n-", "/q/n-x-", "/q/r-", "/a/b"][..]), 0_u64..6)
            .prop_map(|(text, number)| path(&format!("{text}{number:010}"))),
    ]
}

fn some_data() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![Just("".into()), Just("x".into()), Just("yy".into()), Just(vec![9; 700].into())]
}

fn some_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => Just(Kind::Persistent),
        4 => Just(Kind::Ephemeral),
        2 => Just(Kind::Container),
        1 => (0_u64..3).prop_map(|ttl_ms| Kind::Ttl { ttl_ms }),
    ]
}

fn some_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (some_path(), some_data(), some_kind(), any::<bool>(), proptest::option::of(some_kind())).prop_map(
            |(path, data, kind, sequential, create_parents)| Op::Create { path, data, kind, sequential, create_parents }
        ),
        3 => (some_path(), some_data(), any::<bool>())
            .prop_map(|(path, data, create_parents)| Op::Put { path, data, create_parents }),
        3 => (some_path(), any::<bool>()).prop_map(|(path, recursive)| Op::Delete { path, recursive }),
        1 => some_path().prop_map(|path| Op::Get { path }),
        1 => some_path().prop_map(|path| Op::List { path }),
    ]
}

fn some_relation() -> impl Strategy<Value = Relation> {
    proptest::sample::select(&[Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][..])
}

fn some_compare() -> impl Strategy<Value = Compare> {
    let test = prop_oneof![
        any::<bool>().prop_map(Test::Exists),
        (some_relation(), 0_u64..3).prop_map(|(relation, version)| Test::Version(relation, version)),
        (some_relation(), 0_u64..9).prop_map(|(relation, at)| Test::CreateRevision(relation, Revision(at))),
        (some_relation(), 0_u64..9).prop_map(|(relation, at)| Test::ModifyRevision(relation, Revision(at))),
        (some_relation(), some_data()).prop_map(|(relation, data)| Test::Data(relation, data)),
        proptest::option::of(1_u64..4).prop_map(|owner| Test::Owner(owner.map(SessionId))),
        (0_u64..9).prop_map(|at| Test::HeldSince(Revision(at))),
    ];
    (some_path(), test).prop_map(|(path, test)| Compare { path, test })
}

fn some_numbered() -> impl Strategy<Value = Numbered> {
    prop_oneof![
        8 => (0_u64..4).prop_map(|unacknowledged| Numbered::Next { unacknowledged }),
        2 => (0_u64..6).prop_map(|back| Numbered::Repeat { back }),
        1 => Just(Numbered::Gap),
        1 => Just(Numbered::Predecessor),
    ]
}

fn some_step() -> impl Strategy<Value = Step> {
    let ops = |most| proptest::collection::vec(some_op(), 0..most);
    let txn = (proptest::collection::vec(some_compare(), 0..3), ops(4), ops(3))
        .prop_map(|(compare, then, otherwise)| Txn { compare, then, otherwise });
    let single = some_op().prop_map(|op| Txn { then: vec![op], ..Txn::default() });
    prop_oneof![
        4 => (400_u64..3_000).prop_map(|ttl_ms| Step::Open { ttl_ms }),
        20 => (proptest::option::weighted(0.9, 0_usize..4), some_numbered(), prop_oneof![2 => single, 1 => txn])
            .prop_map(|(session, number, txn)| Step::Txn { session, number, txn }),
        1 => (0_usize..4, some_numbered()).prop_map(|(session, number)| Step::Refused { session, number }),
        1 => (0_usize..4, 0_u64..3).prop_map(|(session, run)| Step::TakeOver { session, run }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(session, closed)| Step::End {
            session,
            reason: if closed { EndReason::Closed } else { EndReason::Killed }
        }),
        2 => (proptest::collection::vec(0_usize..4, 0..3), any::<bool>())
            .prop_map(|(sessions, stale)| Step::Expire { sessions, stale }),
        1 => (0_usize..4, 0_u64..4_000, any::<bool>())
            .prop_map(|(session, remaining_ms, stale)| Step::Checkpoint { session, remaining_ms, stale }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(stale, changed)| Step::Reap { stale, changed }),
        1 => (0_u64..5).prop_map(|back| Step::Compact { back }),
        1 => (2_u64..30).prop_map(|history_revisions_max| Step::Configure { history_revisions_max }),
        4 => Just(Step::Save),
        1 => Just(Step::Restart),
    ]
}

type Nodes = BTreeMap<String, Node>;

#[derive(Clone, Default)]
struct ModelSession {
    ttl_ms: u64,
    remaining_ms: u64,
    acknowledged: u64,
    /// All answers ever given, by number.
    answers: Vec<Outcome>,
    /// Of the process that speaks for it.
    run: u64,
}

#[derive(Default)]
struct Model {
    /// The tree after every revision.
    copies: Vec<Nodes>,
    sessions: BTreeMap<SessionId, ModelSession>,
    /// Revisions up to here may be forgotten.
    compacted: u64,
    revisions_max: u64,
}

fn above(text: &str) -> Option<String> {
    if text == "/" {
        return None;
    }
    let (above, _) = text.rsplit_once('/').expect("absolute");
    Some(if above.is_empty() { "/".to_owned() } else { above.to_owned() })
}

fn below<'a>(nodes: &'a Nodes, text: &str) -> Vec<&'a str> {
    let prefix = if text == "/" { "/".to_owned() } else { format!("{text}/") };
    nodes.keys().filter(|path| path.len() > prefix.len() && path.starts_with(&prefix)).map(String::as_str).collect()
}

fn children(nodes: &Nodes, text: &str) -> Vec<String> {
    below(nodes, text).into_iter().filter(|path| above(path).as_deref() == Some(text)).map(str::to_owned).collect()
}

/// Why the model refuses, as far as it is compared.
#[derive(Debug, Eq, PartialEq)]
enum Why {
    Exists,
    NoParent,
    NotEmpty,
    EphemeralParent,
    NeedsSession,
    Denied,
    Invalid,
}

fn why(refusal: &Refusal) -> Why {
    match refusal {
        Refusal::NodeExists { .. } => Why::Exists,
        Refusal::NoParent { .. } => Why::NoParent,
        Refusal::NotEmpty { .. } => Why::NotEmpty,
        Refusal::EphemeralParent { .. } => Why::EphemeralParent,
        Refusal::NeedsSession { .. } => Why::NeedsSession,
        Refusal::Denied { .. } => Why::Denied,
        Refusal::Invalid { .. } => Why::Invalid,
        other => panic!("not in this test: {other}"),
    }
}

/// A transaction on a copy, in the plainest way.
struct Attempt {
    nodes: Nodes,
    session: Option<SessionId>,
    revision: u64,
    at_ms: u64,
    changed: bool,
}

impl Attempt {
    fn add(&mut self, text: &str, data: &bytes::Bytes, kind: Kind, sequence: Option<u64>) {
        self.changed = true;
        let revision = Revision(self.revision);
        let parent = self.nodes.get_mut(&above(text).expect("not the root")).expect("made before");
        parent.child_count += 1;
        parent.children_version += 1;
        parent.children_revision = revision;
        let node = Node {
            data: data.clone(),
            kind,
            owner: if kind == Kind::Ephemeral { self.session } else { None },
            acl: conclave_state::Acl::Open,
            create_revision: revision,
            modify_revision: revision,
            version: 0,
            children_version: 0,
            children_revision: revision,
            child_count: 0,
            next_sequence: 0,
            sequence,
            created_ms: self.at_ms,
            modified_ms: self.at_ms,
        };
        assert!(self.nodes.insert(text.to_owned(), node).is_none());
    }

    fn drop_tree(&mut self, text: &str) -> u64 {
        let mut gone: Vec<String> = below(&self.nodes, text).into_iter().map(str::to_owned).collect();
        gone.push(text.to_owned());
        for path in &gone {
            self.nodes.remove(path);
        }
        self.changed = true;
        let parent = self.nodes.get_mut(&above(text).expect("not the root")).expect("there");
        parent.child_count -= 1;
        parent.children_version += 1;
        parent.children_revision = Revision(self.revision);
        gone.len() as u64
    }

    fn parents(&mut self, text: &str, make: Option<Kind>) -> Result<(), Why> {
        let mut missing = Vec::new();
        let mut at = above(text);
        while let Some(path) = at {
            if let Some(node) = self.nodes.get(&path) {
                if node.kind == Kind::Ephemeral {
                    return Err(Why::EphemeralParent);
                }
                break;
            }
            at = above(&path);
            missing.push(path);
        }
        if !missing.is_empty() && make.is_none() {
            return Err(Why::NoParent);
        }
        for path in missing.iter().rev() {
            self.add(path, &bytes::Bytes::new(), make.expect("asked above"), None);
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<OpResult, Why> {
        let reserved = |text: &str| text == "/conclave" || text.starts_with("/conclave/");
        Ok(match op {
            Op::Create { path, data, kind, sequential, create_parents } => {
                let text = path.as_str();
                if text == "/" || reserved(text) {
                    return Err(Why::Denied);
                }
                if *kind == Kind::Ephemeral && self.session.is_none() {
                    return Err(Why::NeedsSession);
                }
                if matches!(kind, Kind::Ttl { ttl_ms: 0 })
                    || matches!(create_parents, Some(Kind::Ephemeral | Kind::Ttl { .. }))
                {
                    return Err(Why::Invalid);
                }
                if !sequential && self.nodes.contains_key(text) {
                    return Err(Why::Exists);
                }
                self.parents(text, *create_parents)?;
                let (mut name, mut sequence) = (text.to_owned(), None);
                while *sequential && (sequence.is_none() || self.nodes.contains_key(&name)) {
                    let parent = self.nodes.get_mut(&above(text).expect("not the root")).expect("there");
                    sequence = Some(parent.next_sequence);
                    name = format!("{text}{:0SEQUENCE_DIGITS$}", parent.next_sequence);
                    parent.next_sequence += 1;
                }
                self.add(&name, data, *kind, sequence);
                OpResult::Created { path: NodePath::parse(&name).expect("short"), sequence }
            }
            Op::Put { path, data, create_parents } => {
                let text = path.as_str();
                if reserved(text) {
                    return Err(Why::Denied);
                }
                if let Some(node) = self.nodes.get_mut(text) {
                    node.data = data.clone();
                    node.version += 1;
                    node.modify_revision = Revision(self.revision);
                    node.modified_ms = self.at_ms;
                    self.changed = true;
                    OpResult::Put { created: false, version: node.version }
                } else {
                    self.parents(text, create_parents.then_some(Kind::Persistent))?;
                    self.add(text, data, Kind::Persistent, None);
                    OpResult::Put { created: true, version: 0 }
                }
            }
            Op::Delete { path, recursive } => {
                let text = path.as_str();
                if text == "/" || reserved(text) {
                    return Err(Why::Denied);
                }
                match self.nodes.get(text) {
                    None => OpResult::Deleted { count: 0 },
                    Some(node) if node.child_count > 0 && !recursive => return Err(Why::NotEmpty),
                    Some(_) => OpResult::Deleted { count: self.drop_tree(text) },
                }
            }
            Op::Get { path } => OpResult::Got(self.nodes.get(path.as_str()).map(|node| (path.clone(), node.clone()))),
            Op::List { path } => OpResult::Listed(
                children(&self.nodes, path.as_str()).iter().map(|c| c.rsplit('/').next().unwrap().to_owned()).collect(),
            ),
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        fn ask<T: Ord>(relation: Relation, found: T, given: T) -> bool {
            match relation {
                Relation::Equal => found == given,
                Relation::NotEqual => found != given,
                Relation::Less => found < given,
                Relation::Greater => found > given,
            }
        }
        match (self.nodes.get(compare.path.as_str()), &compare.test) {
            (found, Test::Exists(given)) => found.is_some() == *given,
            (None, _) => false,
            (Some(node), Test::Version(relation, given)) => ask(*relation, node.version, *given),
            (Some(node), Test::CreateRevision(relation, given)) => ask(*relation, node.create_revision, *given),
            (Some(node), Test::ModifyRevision(relation, given)) => ask(*relation, node.modify_revision, *given),
            (Some(node), Test::Data(relation, given)) => ask(*relation, node.data.clone(), given.clone()),
            (Some(node), Test::Owner(given)) => node.owner == *given,
            (Some(node), Test::HeldSince(given)) => {
                node.owner.is_some() && node.owner == self.session && node.create_revision == *given
            }
        }
    }
}

impl Model {
    fn new() -> Self {
        let mut attempt = Attempt { nodes: Nodes::new(), session: None, revision: 0, at_ms: 0, changed: false };
        let root = Node { child_count: 0, children_version: 0, ..blank() };
        attempt.nodes.insert("/".to_owned(), root);
        Self { copies: vec![attempt.nodes], revisions_max: 200_000, ..Self::default() }
    }

    fn now(&self) -> &Nodes {
        self.copies.last().expect("never empty")
    }

    fn revision(&self) -> u64 {
        self.copies.len() as u64 - 1
    }

    fn attempt(&self, session: Option<SessionId>, at_ms: u64) -> Attempt {
        Attempt { nodes: self.now().clone(), session, revision: self.revision() + 1, at_ms, changed: false }
    }

    fn keep(&mut self, attempt: Attempt) {
        if attempt.changed {
            self.copies.push(attempt.nodes);
            let excess = (self.revision() - self.compacted).saturating_sub(self.revisions_max);
            self.compacted += excess;
        }
    }

    fn txn(&mut self, session: Option<SessionId>, at_ms: u64, txn: &Txn) -> Result<TxnResult, Why> {
        let mut attempt = self.attempt(session, at_ms);
        let failed_compare = txn.compare.iter().position(|compare| !attempt.holds(compare)).map(|at| at as u32);
        let branch = if failed_compare.is_none() { &txn.then } else { &txn.otherwise };
        let results = branch.iter().map(|op| attempt.op(op)).collect::<Result<Vec<_>, _>>()?;
        self.keep(attempt);
        Ok(TxnResult { failed_compare, results, revision: Revision(self.revision()) })
    }

    fn end(&mut self, sessions: &[SessionId]) {
        let mut attempt = self.attempt(None, 0);
        for session in sessions {
            if self.sessions.remove(session).is_some() {
                let owned: Vec<String> = attempt
                    .nodes
                    .iter()
                    .filter(|(_, node)| node.owner == Some(*session))
                    .map(|(path, _)| path.clone())
                    .collect();
                for path in owned {
                    attempt.drop_tree(&path);
                }
            }
        }
        self.keep(attempt);
    }
}

fn blank() -> Node {
    Node {
        data: bytes::Bytes::new(),
        kind: Kind::Persistent,
        owner: None,
        acl: conclave_state::Acl::Open,
        create_revision: Revision(0),
        modify_revision: Revision(0),
        version: 0,
        children_version: 0,
        children_revision: Revision(0),
        child_count: 0,
        next_sequence: 0,
        sequence: None,
        created_ms: 0,
        modified_ms: 0,
    }
}

struct World {
    replica: Replica,
    /// Fed the same; never saves, never restarts.
    twin: Replica,
    model: Model,
}

impl World {
    fn session(&self, at: usize) -> SessionId {
        self.model.sessions.keys().nth(at).copied().unwrap_or(SessionId(9_999))
    }

    fn apply(&mut self, at_ms: u64, command: Command) -> conclave_state::Applied {
        let (before, hash) = (self.replica.machine.revision(), self.replica.machine.hash());
        let applied = self.replica.apply_at(TERM, at_ms, command.clone());
        let twin = self.twin.apply_at(TERM, at_ms, command);
        assert_eq!(applied.outcome, twin.outcome);
        assert_eq!(applied.changes, twin.changes);
        assert_eq!(self.replica.machine.hash(), self.twin.machine.hash(), "two replicas agree");
        assert_ne!(self.replica.machine.hash(), hash, "the applied index is in the hash");
        let made = u64::from(applied.changes.is_some());
        assert_eq!(self.replica.machine.revision().0, before.0 + made, "one revision per changing command");
        applied
    }

    fn step(&mut self, count: usize, step: &Step) {
        let at_ms = 1_000 + count as u64;
        match step {
            Step::Open { ttl_ms } => {
                let secret = [count as u8; 16];
                let applied =
                    self.apply(at_ms, Command::OpenSession { secret, run: 0, ttl_ms: *ttl_ms, name: "x".into() });
                match applied.outcome {
                    Outcome::Opened { session } => {
                        let new = ModelSession { ttl_ms: *ttl_ms, remaining_ms: *ttl_ms, ..ModelSession::default() };
                        assert!(self.model.sessions.insert(session, new).is_none(), "ids are never issued again");
                    }
                    outcome => assert!(*ttl_ms < 500, "{outcome:?}"),
                }
            }
            Step::Txn { session, number, txn } => {
                let by = session.map(|session| self.by(session, *number));
                let outcome = self.apply(at_ms, Command::Txn { by, txn: txn.clone() }).outcome;
                if self.is_fresh(by.as_ref(), &outcome) {
                    let expected = self.model.txn(by.map(|by| by.session), at_ms, txn);
                    match (&outcome, &expected) {
                        (Outcome::Txn(found), Ok(expected)) => assert_eq!(found, expected),
                        (Outcome::Refused(found), Err(expected)) => assert_eq!(why(found), *expected, "{found}"),
                        _ => panic!("{outcome:?}, expected {expected:?}"),
                    }
                    self.answered(by, outcome);
                }
            }
            Step::Refused { session, number } => {
                let by = self.by(*session, *number);
                let refusal = Refusal::Invalid { what: "bad path".into(), op: Some(1) };
                let outcome = self.apply(at_ms, Command::Refused { by, refusal: refusal.clone() }).outcome;
                if self.is_fresh(Some(&by), &outcome) {
                    assert_eq!(outcome, Outcome::Refused(refusal));
                    self.answered(Some(by), outcome);
                }
            }
            Step::TakeOver { session, run } => {
                let session = self.session(*session);
                let applied = self.apply(at_ms, Command::TakeOver { session, run: *run });
                let known = self.model.sessions.get_mut(&session);
                let other = known.as_ref().is_some_and(|session| session.run != *run);
                assert_eq!(applied.taken_over, other.then_some((session, *run)));
                assert_eq!(applied.outcome == Outcome::Done, known.is_some());
                if let Some(session) = known {
                    session.run = *run;
                }
            }
            Step::End { session, reason } => {
                let session = self.session(*session);
                let known = self.model.sessions.contains_key(&session);
                let applied = self.apply(at_ms, Command::EndSession { session, run: None, reason: *reason });
                assert_eq!(applied.ended, if known { vec![(session, *reason)] } else { vec![] });
                self.model.end(&[session]);
            }
            Step::Expire { sessions, stale } => {
                let sessions: Vec<_> = sessions.iter().map(|at| self.session(*at)).collect();
                let term = if *stale { Term(2) } else { TERM };
                let outcome = self.apply(at_ms, Command::ExpireSessions { term, sessions: sessions.clone() }).outcome;
                assert_eq!(outcome == Outcome::Refused(Refusal::StaleTerm), *stale);
                if !stale {
                    self.model.end(&sessions);
                }
            }
            Step::Checkpoint { session, remaining_ms, stale } => {
                let session = self.session(*session);
                let term = if *stale { Term(4) } else { TERM };
                let remaining = vec![(session, *remaining_ms)];
                self.apply(at_ms, Command::CheckpointSessions { term, serial: 1, remaining_ms: remaining });
                if let Some(model) = self.model.sessions.get_mut(&session)
                    && !stale
                {
                    model.remaining_ms = model.ttl_ms.min(*remaining_ms);
                }
            }
            Step::Reap { stale, changed } => {
                let mut nodes: Vec<_> = self
                    .model
                    .now()
                    .iter()
                    .map(|(text, node)| (path(text), node.modify_revision, node.children_revision))
                    .collect();
                nodes.push((path("/nowhere"), Revision(1), Revision(1)));
                if *changed {
                    nodes.iter_mut().for_each(|(_, modified, _)| modified.0 += 1);
                }
                let term = if *stale { Term(2) } else { TERM };
                self.apply(at_ms, Command::Reap { term, nodes: nodes.clone() });
                if !stale && !changed {
                    let mut attempt = self.model.attempt(None, at_ms);
                    for (path, _, children_revision) in &nodes {
                        let Some(node) = attempt.nodes.get(path.as_str()) else { continue };
                        let mortal = match node.kind {
                            Kind::Container => node.children_version > 0,
                            Kind::Ttl { .. } => true,
                            _ => false,
                        };
                        if mortal && node.child_count == 0 && node.children_revision == *children_revision {
                            attempt.drop_tree(path.as_str());
                        }
                    }
                    self.model.keep(attempt);
                }
            }
            Step::Compact { back } => {
                let through = self.model.revision().saturating_sub(*back);
                self.apply(at_ms, Command::Compact { term: TERM, through: Revision(through) });
                self.model.compacted = self.model.compacted.max(through);
            }
            Step::Configure { history_revisions_max } => {
                let limits = Limits { history_revisions_max: *history_revisions_max, ..Limits::default() };
                self.apply(at_ms, Command::Configure { term: TERM, limits });
                self.model.revisions_max = *history_revisions_max;
                let excess = (self.model.revision() - self.model.compacted).saturating_sub(*history_revisions_max);
                self.model.compacted += excess;
            }
            Step::Save => {
                let hash = self.replica.machine.hash();
                self.replica.save();
                assert_eq!(self.replica.machine.hash(), hash, "saving changes nothing");
            }
            Step::Restart => {
                self.replica.save();
                let restored = self.replica.restored();
                assert_eq!(restored.hash(), self.replica.machine.hash(), "a restart changes nothing");
                assert_eq!(restored.counts(), self.replica.machine.counts());
                self.replica.machine = restored;
            }
        }
    }

    fn by(&self, session: usize, number: Numbered) -> conclave_state::By {
        let session = self.session(session);
        let last = self.model.sessions.get(&session).map_or(0, |session| session.answers.len() as u64);
        let run = self.model.sessions.get(&session).map_or(0, |session| session.run);
        let by = |session, number, acknowledged| conclave_state::By { run, ..by(session, number, acknowledged) };
        match number {
            Numbered::Predecessor => conclave_state::By { run: run + 1, ..by(session, last + 1, 0) },
            Numbered::Next { unacknowledged } => by(session, last + 1, last.saturating_sub(unacknowledged)),
            Numbered::Repeat { back } => by(session, last.saturating_sub(back).max(1), 0),
            Numbered::Gap => by(session, last + 2, 0),
        }
    }

    /// Whether a request was to be applied; if not, checks that its outcome was the right one.
    fn is_fresh(&self, by: Option<&conclave_state::By>, outcome: &Outcome) -> bool {
        let Some(by) = by else { return true };
        let number = by.number.0;
        let Some(session) = self.model.sessions.get(&by.session) else {
            assert_eq!(*outcome, Outcome::Refused(Refusal::NoSession { session: by.session }));
            return false;
        };
        if by.run != session.run {
            assert_eq!(*outcome, Outcome::Refused(Refusal::TakenOver { session: by.session }));
            return false;
        }
        let last = session.answers.len() as u64;
        if number == last + 1 {
            return true;
        }
        if number > last {
            assert!(
                matches!(outcome, Outcome::Refused(Refusal::OutOfOrder { expected, .. }) if expected.0 == last + 1)
            );
        } else if number <= session.acknowledged {
            assert!(matches!(outcome, Outcome::Refused(Refusal::AnswerForgotten { .. })));
        } else {
            assert_eq!(*outcome, session.answers[number as usize - 1], "a retry gets the first answer");
        }
        false
    }

    fn answered(&mut self, by: Option<conclave_state::By>, outcome: Outcome) {
        let Some(by) = by else { return };
        let session = self.model.sessions.get_mut(&by.session).expect("asked before");
        session.acknowledged = session.acknowledged.max(by.acknowledged.0);
        session.answers.push(outcome);
    }

    fn agree(&self) {
        let machine = &self.replica.machine;
        machine.check().expect("every invariant holds");
        assert_eq!(machine.revision().0, self.model.revision());
        assert_eq!(machine.oldest_revision().0, self.model.compacted + 1);
        assert_eq!(machine.sessions().count(), self.model.sessions.len());
        for session in machine.sessions() {
            let model = &self.model.sessions[&session.id];
            assert_eq!(session.last_number.0, model.answers.len() as u64);
            assert_eq!((session.ttl_ms, session.remaining_ms), (model.ttl_ms, model.remaining_ms));
            let owned: Vec<&str> = machine.owned(session.id).map(NodePath::as_str).collect();
            let expected = self.model.now().iter().filter(|(_, node)| node.owner == Some(session.id));
            assert_eq!(owned, expected.map(|(path, _)| path.as_str()).collect::<Vec<_>>());
        }
        for revision in 0..=self.model.revision() {
            let copy = &self.model.copies[revision as usize];
            let at = Revision(revision);
            let known = revision > self.model.compacted || revision == self.model.revision();
            let found = machine.list(&NodePath::root(), 64, None, usize::MAX, Some(at));
            if !known {
                assert!(found.is_err(), "revision {revision} is compacted");
                continue;
            }
            let (found, more) = found.expect("known");
            assert!(!more);
            let found: Vec<_> = found.iter().map(|(path, node)| (path.as_str(), &**node)).collect();
            let expected: Vec<_> = copy.iter().skip(1).map(|(path, node)| (path.as_str(), node)).collect();
            assert_eq!(found, expected, "the tree at revision {revision}");
            for text in PATHS {
                assert_eq!(machine.get_at(&path(text), at).expect("known").as_deref(), copy.get(*text));
            }
            // Children, in pages of two.
            for text in ["/", "/a", "/q"] {
                let (mut found, mut after): (Vec<String>, Option<NodePath>) = (Vec::new(), None);
                loop {
                    let (page, more) = machine.list(&path(text), 0, after.as_ref(), 2, Some(at)).expect("known");
                    found.extend(page.iter().map(|(path, _)| path.to_string()));
                    after = page.last().map(|(path, _)| path.clone());
                    if !more {
                        break;
                    }
                }
                assert_eq!(found, children(copy, text), "children of {text} at revision {revision}");
            }
        }
        // History is the difference between copies.
        let history: Vec<_> = machine.history(machine.oldest_revision()).expect("not compacted").collect();
        assert_eq!(history.len() as u64, self.model.revision() - self.model.compacted);
        for changes in history {
            let after = &self.model.copies[changes.revision.0 as usize];
            let before = &self.model.copies[changes.revision.0 as usize - 1];
            let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
            paths.sort();
            paths.dedup();
            paths.retain(|path| before.get(*path) != after.get(*path));
            assert_eq!(changes.changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), paths);
            for change in &changes.changes {
                assert_eq!(change.before.as_deref(), before.get(change.path.as_str()));
                assert_eq!(change.after.as_deref(), after.get(change.path.as_str()));
            }
        }
        self.queues_agree();
    }

    fn queues_agree(&self) {
        let machine = &self.replica.machine;
        let now = self.model.now();
        let sequential: Vec<(&String, &Node)> = now.iter().filter(|(_, node)| node.sequence.is_some()).collect();
        for (text, node) in &sequential {
            for blocking in ["", "n-", "n-x-", "r-", "zz"] {
                let before = sequential
                    .iter()
                    .filter(|(other, _)| above(other) == above(text))
                    .filter(|(other, _)| {
                        let name = other.rsplit('/').next().unwrap();
                        name[..name.len() - SEQUENCE_DIGITS].starts_with(blocking)
                    })
                    .filter(|(_, other)| other.sequence < node.sequence)
                    .count();
                for permits in 0..3 {
                    let expected = if before < permits { QueuePlace::Ready } else { QueuePlace::Waiting };
                    assert_eq!(machine.queue_place(&path(text), permits as u32, blocking), expected);
                }
            }
        }
        for text in PATHS {
            if now.get(*text).is_none_or(|node| node.sequence.is_none()) {
                assert_eq!(machine.queue_place(&path(text), 1, ""), QueuePlace::Gone);
            }
        }
        let (queues, more) = machine.queues(&NodePath::root(), None, usize::MAX);
        assert!(!more);
        let listed: usize = queues.iter().map(|(_, queue)| queue.len()).sum();
        assert_eq!(listed, sequential.len());
        for (parent, queue) in &queues {
            let numbers: Vec<_> = queue.iter().map(|path| now[path.as_str()].sequence).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "by number");
            assert!(queue.iter().all(|path| path.parent().as_ref() == Some(parent)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_model_does(steps in proptest::collection::vec(some_step(), 1..60)) {
        let mut world = World { replica: Replica::default(), twin: Replica::default(), model: Model::new() };
        for (count, step) in steps.iter().enumerate() {
            world.step(count, step);
            world.agree();
        }
        world.replica.save();
        world.twin.save();
        prop_assert_eq!(&world.replica.records, &world.twin.records, "records do not depend on when they were saved");
    }
}
