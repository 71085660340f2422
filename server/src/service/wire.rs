//! Between the wire and the domain: requests in, results and errors out.
//!
//! Checking happens here, once, by building types that cannot be wrong. What is wrong is a [`Refusal`], so that a
//! numbered request which never makes a command can still use up its number with an honest answer.

use bytes::Bytes;
use conclave_proto::{NodePath, Revision, SessionId, v1};
use conclave_state::{
    Acl, Change, Compare, EndReason, Kind, Node, Op, OpResult, ReadError, Refusal, Relation, Test, Txn, TxnResult,
};
use prost::Message as _;

use crate::raft::{ConfirmError, ProposeError};

/// What is refused at the door, before anything is replicated. The replicated limits stay the judges.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes of one node's data.
    pub data_bytes_max: u64,
    /// Most operations, and most comparisons, of one transaction.
    pub txn_ops_max: u32,
}

/// Where a path stands in a transaction, for words.
#[derive(Clone, Copy)]
enum At {
    Compare(usize),
    Op(u32),
}

fn path(text: &str, at: At) -> Result<NodePath, Refusal> {
    NodePath::parse(text).map_err(|error| match at {
        At::Compare(n) => Refusal::Invalid { what: format!("comparison {n}: {error}"), op: None },
        At::Op(n) => Refusal::Invalid { what: error.to_string(), op: Some(n) },
    })
}

fn within(limit: &str, asked: usize, max: u64, op: Option<u32>) -> Result<(), Refusal> {
    if asked as u64 > max {
        return Err(Refusal::Limit { limit: limit.to_owned(), max, asked: asked as u64, op });
    }
    Ok(())
}

/// # Errors
/// What is wrong with it, and where.
pub fn txn(wire: v1::Txn, bounds: Bounds) -> Result<Txn, Refusal> {
    let max = u64::from(bounds.txn_ops_max);
    within("txn_ops_max", wire.compare.len(), max, None)?;
    within("txn_ops_max", wire.then.len(), max, None)?;
    within("txn_ops_max", wire.otherwise.len(), max, None)?;
    if wire.compare.is_empty() && wire.then.is_empty() && wire.otherwise.is_empty() {
        return Err(Refusal::Invalid {
            what: "the transaction is empty: give it at least one comparison or operation".into(),
            op: None,
        });
    }
    let ops = |ops: Vec<v1::Op>| -> Result<Vec<Op>, Refusal> {
        ops.into_iter().enumerate().map(|(n, wire)| op(wire, n as u32, bounds)).collect()
    };
    Ok(Txn {
        compare: wire.compare.into_iter().enumerate().map(|(n, wire)| compare(wire, n)).collect::<Result<_, _>>()?,
        then: ops(wire.then)?,
        otherwise: ops(wire.otherwise)?,
    })
}

fn compare(wire: v1::Compare, n: usize) -> Result<Compare, Refusal> {
    use v1::compare::Test as Wire;
    let invalid = |what: String| Refusal::Invalid { what: format!("comparison {n}: {what}"), op: None };
    let relation = |wire: i32| match v1::Relation::try_from(wire) {
        Ok(v1::Relation::Equal) => Ok(Relation::Equal),
        Ok(v1::Relation::NotEqual) => Ok(Relation::NotEqual),
        Ok(v1::Relation::Less) => Ok(Relation::Less),
        Ok(v1::Relation::Greater) => Ok(Relation::Greater),
        Err(_) => Err(invalid(format!("relation {wire} is none of EQUAL, NOT_EQUAL, LESS, GREATER (0 to 3)"))),
    };
    let path = path(&wire.path, At::Compare(n))?;
    let test = match wire.test {
        None => {
            return Err(invalid(
                "has no test: use one of exists, version, create_revision, modify_revision, data, owner, held_since"
                    .into(),
            ));
        }
        Some(Wire::Exists(exists)) => Test::Exists(exists),
        Some(Wire::Version(number)) => Test::Version(relation(number.relation)?, number.value),
        Some(Wire::CreateRevision(number)) => Test::CreateRevision(relation(number.relation)?, Revision(number.value)),
        Some(Wire::ModifyRevision(number)) => Test::ModifyRevision(relation(number.relation)?, Revision(number.value)),
        Some(Wire::Data(data)) => Test::Data(relation(data.relation)?, data.value),
        Some(Wire::Owner(0)) => Test::Owner(None),
        Some(Wire::Owner(session)) => Test::Owner(Some(SessionId(session))),
        Some(Wire::HeldSince(revision)) => Test::HeldSince(Revision(revision)),
    };
    Ok(Compare { path, test })
}

fn op(wire: v1::Op, n: u32, bounds: Bounds) -> Result<Op, Refusal> {
    use v1::op::Op as Wire;
    let invalid = |what: String| Refusal::Invalid { what, op: Some(n) };
    let data = |data: &Bytes| within("data_bytes_max", data.len(), bounds.data_bytes_max, Some(n));
    let path = |text: &str| path(text, At::Op(n));
    Ok(match wire.op {
        None => return Err(invalid("is empty: use one of create, put, delete, get, list".into())),
        Some(Wire::Create(create)) => {
            data(&create.data)?;
            let kind = kind(create.kind, create.ttl_ms).map_err(invalid)?;
            let create_parents = match (create.create_parents, v1::Kind::try_from(create.parents_kind)) {
                (false, _) => None,
                (true, Ok(v1::Kind::Persistent)) => Some(Kind::Persistent),
                (true, Ok(v1::Kind::Container)) => Some(Kind::Container),
                (true, _) => {
                    return Err(invalid(format!(
                        "parents_kind {} is neither PERSISTENT (0) nor CONTAINER (2)",
                        create.parents_kind
                    )));
                }
            };
            Op::Create {
                path: path(&create.path)?,
                data: create.data,
                kind,
                sequential: create.sequential,
                create_parents,
            }
        }
        Some(Wire::Put(put)) => {
            data(&put.data)?;
            Op::Put { path: path(&put.path)?, data: put.data, create_parents: put.create_parents }
        }
        Some(Wire::Delete(delete)) => Op::Delete { path: path(&delete.path)?, recursive: delete.recursive },
        Some(Wire::Get(get)) => Op::Get { path: path(&get.path)? },
        Some(Wire::List(list)) => Op::List { path: path(&list.path)? },
    })
}

fn kind(wire: i32, ttl_ms: u64) -> Result<Kind, String> {
    let kind = match v1::Kind::try_from(wire) {
        Ok(v1::Kind::Ttl) if ttl_ms == 0 => return Err("a TTL node needs a ttl_ms of at least 1".into()),
        Ok(v1::Kind::Ttl) => return Ok(Kind::Ttl { ttl_ms }),
        Ok(v1::Kind::Persistent) => Kind::Persistent,
        Ok(v1::Kind::Ephemeral) => Kind::Ephemeral,
        Ok(v1::Kind::Container) => Kind::Container,
        Err(_) => return Err(format!("kind {wire} is none of PERSISTENT, EPHEMERAL, CONTAINER, TTL (0 to 3)")),
    };
    if ttl_ms != 0 {
        return Err(format!("ttl_ms={ttl_ms} belongs to TTL nodes only, this one is {kind:?}"));
    }
    Ok(kind)
}

/// A node on the wire.
#[must_use]
pub fn node(path: &NodePath, node: &Node) -> v1::Node {
    let (kind, ttl_ms) = match node.kind {
        Kind::Persistent => (v1::Kind::Persistent, 0),
        Kind::Ephemeral => (v1::Kind::Ephemeral, 0),
        Kind::Container => (v1::Kind::Container, 0),
        Kind::Ttl { ttl_ms } => (v1::Kind::Ttl, ttl_ms),
    };
    v1::Node {
        path: path.to_string(),
        data: node.data.clone(),
        kind: kind.into(),
        ttl_ms,
        owner: node.owner.map_or(0, |owner| owner.0),
        create_revision: node.create_revision.0,
        modify_revision: node.modify_revision.0,
        version: node.version,
        children_version: node.children_version,
        children_revision: node.children_revision.0,
        child_count: node.child_count,
        sequence: node.sequence,
        created_ms: node.created_ms,
        modified_ms: node.modified_ms,
        acl: match node.acl {
            Acl::Open => "open".to_owned(),
        },
    }
}

/// An event on the wire. A node deleted and created anew within one revision is told as created.
#[must_use]
pub fn event(change: &Change) -> v1::Event {
    let (kind, shown) = match (&change.before, &change.after) {
        (Some(before), None) => (v1::EventKind::Deleted, before),
        (None, Some(after)) => (v1::EventKind::Created, after),
        (Some(before), Some(after)) if before.create_revision != after.create_revision => {
            (v1::EventKind::Created, after)
        }
        (Some(_), Some(after)) => (v1::EventKind::Changed, after),
        (None, None) => unreachable!("a change has a side"),
    };
    v1::Event { kind: kind.into(), node: Some(node(&change.path, shown)) }
}

/// The encoded [`v1::Event`], once for all who watch.
#[must_use]
pub fn event_bytes(change: &Change) -> Bytes {
    event(change).encode_to_vec().into()
}

/// A transaction's result on the wire.
#[must_use]
pub fn txn_result(result: &TxnResult) -> v1::TxnResult {
    v1::TxnResult {
        succeeded: result.failed_compare.is_none(),
        failed_compare: result.failed_compare,
        results: result.results.iter().map(op_result).collect(),
        revision: result.revision.0,
    }
}

fn op_result(result: &OpResult) -> v1::OpResult {
    use v1::op_result as wire;
    let result = match result {
        OpResult::Created { path, sequence } => {
            wire::Result::Created(wire::Created { path: path.to_string(), sequence: *sequence })
        }
        OpResult::Put { created, version } => wire::Result::Put(wire::PutDone { created: *created, version: *version }),
        OpResult::Deleted { count } => wire::Result::Deleted(wire::Deleted { count: *count }),
        OpResult::Got(got) => {
            wire::Result::Got(wire::Got { node: got.as_ref().map(|(path, found)| node(path, found)) })
        }
        OpResult::Listed(names) => wire::Result::Listed(wire::Listed { names: names.clone() }),
    };
    v1::OpResult { result: Some(result) }
}

/// A definite error: certainly nothing was done.
#[must_use]
pub fn definite(code: v1::Code, retry: bool, message: impl Into<String>) -> v1::Error {
    v1::Error {
        code: code.into(),
        effect: v1::Effect::None.into(),
        retry,
        message: message.into(),
        op: None,
        expected: 0,
    }
}

/// Limits that bound the size of one request rather than the store.
const SIZE_LIMITS: [&str; 4] = ["data_bytes_max", "txn_ops_max", "path_bytes_max", "session_name_bytes_max"];

/// A refusal of the state machine, or of the door.
#[must_use]
pub fn refusal(refusal: &Refusal) -> v1::Error {
    use v1::Code;
    let (code, retry, op) = match refusal {
        Refusal::NodeExists { op, .. } => (Code::NodeExists, false, Some(*op)),
        Refusal::NoParent { op, .. } => (Code::NoParent, false, Some(*op)),
        Refusal::NotEmpty { op, .. } => (Code::NotEmpty, false, Some(*op)),
        Refusal::EphemeralParent { op, .. } => (Code::EphemeralParent, false, Some(*op)),
        Refusal::NeedsSession { op, .. } => (Code::InvalidArgument, false, Some(*op)),
        Refusal::Denied { op, .. } => (Code::Denied, false, Some(*op)),
        Refusal::Limit { limit, op, .. } if SIZE_LIMITS.contains(&limit.as_str()) => (Code::TooLarge, false, *op),
        // Room may come back, so the same request may yet succeed.
        Refusal::Limit { op, .. } => (Code::Limit, true, *op),
        Refusal::Invalid { op, .. } => (Code::InvalidArgument, false, *op),
        Refusal::NoSession { .. } => (Code::NoSession, false, None),
        Refusal::TakenOver { .. } => (Code::SessionTakenOver, false, None),
        Refusal::OutOfOrder { .. } => (Code::OutOfOrder, true, None),
        Refusal::AnswerForgotten { .. } => (Code::AnswerForgotten, false, None),
        Refusal::StaleTerm => (Code::Internal, false, None),
    };
    let mut error = definite(code, retry, refusal.to_string());
    error.op = op;
    match refusal {
        Refusal::OutOfOrder { expected, .. } => error.expected = expected.0,
        // It was applied once, or refused: the answer that would tell is gone.
        Refusal::AnswerForgotten { .. } => error.effect = v1::Effect::Unknown.into(),
        _ => {}
    }
    error
}

/// A proposal without an outcome.
#[must_use]
pub fn propose_error(error: ProposeError) -> v1::Error {
    use v1::Code;
    let code = match error {
        ProposeError::NoLeader => Code::NoLeader,
        ProposeError::Overloaded => Code::Overloaded,
        ProposeError::LeadershipLost => Code::LeadershipLost,
        ProposeError::Timeout => Code::Timeout,
        ProposeError::Stopping => Code::Unavailable,
        ProposeError::Diverged => Code::Diverged,
    };
    let mut wire = definite(code, !matches!(error, ProposeError::Diverged), error.to_string());
    if error.is_indefinite() {
        wire.effect = v1::Effect::Unknown.into();
    }
    wire
}

/// A read that could not be confirmed.
#[must_use]
pub fn confirm_error(error: ConfirmError) -> v1::Error {
    use v1::Code;
    let (code, retry) = match error {
        ConfirmError::NoLeader => (Code::NoLeader, true),
        ConfirmError::Timeout => (Code::Timeout, true),
        ConfirmError::Stopping => (Code::Unavailable, true),
        ConfirmError::Diverged => (Code::Diverged, false),
        ConfirmError::NoSession => (Code::NoSession, false),
    };
    definite(code, retry, error.to_string())
}

/// A read the store cannot answer.
#[must_use]
pub fn read_error(error: &ReadError) -> v1::Error {
    let (code, retry) = match error {
        ReadError::Compacted { .. } => (v1::Code::Compacted, false),
        ReadError::Future { .. } => (v1::Code::FutureRevision, true),
    };
    definite(code, retry, error.to_string())
}

/// Why a session's stream ends when the session does.
#[must_use]
pub fn end_reason(reason: EndReason) -> (v1::session_ended::Reason, &'static str) {
    use v1::session_ended::Reason;
    match reason {
        EndReason::Closed => (Reason::Closed, "closed by its client"),
        EndReason::Expired => (Reason::Expired, "nothing was heard of the client for the session's TTL"),
        EndReason::Killed => (Reason::Killed, "killed by an administrator"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { data_bytes_max: 16, txn_ops_max: 3 };

    fn put(path: &str, data: &'static [u8]) -> v1::Op {
        let data = Bytes::from_static(data);
        v1::Op { op: Some(v1::op::Op::Put(v1::op::Put { path: path.into(), data, create_parents: false })) }
    }

    fn create(change: impl FnOnce(&mut v1::op::Create)) -> v1::Op {
        let mut create = v1::op::Create { path: "/a".into(), ..Default::default() };
        change(&mut create);
        v1::Op { op: Some(v1::op::Op::Create(create)) }
    }

    fn then(ops: Vec<v1::Op>) -> v1::Txn {
        v1::Txn { then: ops, ..Default::default() }
    }

    /// What each bad transaction is answered: code, operation, a part of the words.
    #[test]
    fn bad_transactions_are_told_what_is_wrong_and_where() {
        use v1::Code::{InvalidArgument, TooLarge};
        let good = || put("/a", b"x");
        let compare =
            |path: &str, test| v1::Txn { compare: vec![v1::Compare { path: path.into(), test }], ..Default::default() };
        let version = |relation| Some(v1::compare::Test::Version(v1::compare::Number { relation, value: 1 }));
        let deep = "/x".repeat(65);
        let long = format!("/{}", "y".repeat(1024));
        for (txn, code, op, words) in [
            (v1::Txn::default(), InvalidArgument, None, "transaction is empty"),
            (then(vec![v1::Op::default()]), InvalidArgument, Some(0), "one of create, put"),
            (then(vec![good(), put("a", b"")]), InvalidArgument, Some(1), "must begin with '/'"),
            (then(vec![put("", b"")]), InvalidArgument, Some(0), "must begin with '/'"),
            (then(vec![put("/a//b", b"")]), InvalidArgument, Some(0), "names nothing"),
            (then(vec![put("/a\0", b"")]), InvalidArgument, Some(0), "control character at byte 2"),
            (then(vec![put(&deep, b"")]), InvalidArgument, Some(0), "65 components, the limit is 64"),
            (then(vec![put(&long, b"")]), InvalidArgument, Some(0), "1025 bytes long, the limit is 1024"),
            (then(vec![put("/a", b"0123456789abcdef!")]), TooLarge, Some(0), "data_bytes_max is 16, asked for 17"),
            (then(vec![good(), good(), good(), good()]), TooLarge, None, "txn_ops_max is 3, asked for 4"),
            (then(vec![create(|c| c.kind = 9)]), InvalidArgument, Some(0), "kind 9"),
            (then(vec![create(|c| c.kind = 3)]), InvalidArgument, Some(0), "ttl_ms of at least 1"),
            (then(vec![create(|c| c.ttl_ms = 5)]), InvalidArgument, Some(0), "TTL nodes only"),
            (
                then(vec![create(|c| (c.create_parents, c.parents_kind) = (true, 1))]),
                InvalidArgument,
                Some(0),
                "neither PERSISTENT (0) nor CONTAINER (2)",
            ),
            (compare("/a", None), InvalidArgument, None, "comparison 0: has no test"),
            (compare("a", version(0)), InvalidArgument, None, "comparison 0: path must begin"),
            (compare("/a", version(4)), InvalidArgument, None, "relation 4"),
        ] {
            let shown = format!("{txn:?}");
            let error = refusal(&super::txn(txn, BOUNDS).expect_err(&shown));
            assert_eq!((error.code(), error.op), (code, op), "{shown}: {error:?}");
            assert!(error.message.contains(words), "{words:?} is not in {:?}", error.message);
            assert_eq!((error.effect(), error.retry), (v1::Effect::None, false), "{shown}");
        }
    }

    #[test]
    fn a_good_transaction_arrives_as_it_was_meant() {
        let wire = v1::Txn {
            compare: vec![v1::Compare { path: "/l".into(), test: Some(v1::compare::Test::Owner(0)) }],
            then: vec![create(|c| {
                (c.path, c.kind, c.sequential) = ("/l/n-".into(), 1, true);
                (c.create_parents, c.parents_kind) = (true, 2);
            })],
            otherwise: vec![put("/o", b"1")],
        };
        let parse = |text| NodePath::parse(text).expect("a path");
        assert_eq!(
            txn(wire, BOUNDS),
            Ok(Txn {
                compare: vec![Compare { path: parse("/l"), test: Test::Owner(None) }],
                then: vec![Op::Create {
                    path: parse("/l/n-"),
                    data: Bytes::new(),
                    kind: Kind::Ephemeral,
                    sequential: true,
                    create_parents: Some(Kind::Container),
                }],
                otherwise: vec![Op::Put { path: parse("/o"), data: Bytes::from_static(b"1"), create_parents: false }],
            })
        );
    }

    #[test]
    fn errors_say_whether_anything_can_have_happened() {
        for (error, effect, retry) in [
            (ProposeError::NoLeader, v1::Effect::None, true),
            (ProposeError::Overloaded, v1::Effect::None, true),
            (ProposeError::LeadershipLost, v1::Effect::Unknown, true),
            (ProposeError::Timeout, v1::Effect::Unknown, true),
            (ProposeError::Stopping, v1::Effect::Unknown, true),
            (ProposeError::Diverged, v1::Effect::None, false),
        ] {
            let wire = propose_error(error);
            assert_eq!((wire.effect(), wire.retry), (effect, retry), "{error}");
        }
        let gap = refusal(&Refusal::OutOfOrder {
            number: conclave_proto::RequestNumber(9),
            expected: conclave_proto::RequestNumber(7),
        });
        assert_eq!((gap.code(), gap.expected, gap.retry), (v1::Code::OutOfOrder, 7, true));
    }
}
