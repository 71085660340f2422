//! Transactions: comparisons, and what to do when all hold or one does not; atomic, one revision.

use bytes::Bytes;
use conclave_proto::{Revision, SessionId, v1};

use crate::{Effect, Error, ErrorKind, Node, Result, recipes::HoldRef, requests::Via};

/// How a number or data compares: `found RELATION given`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// =
    Equal,
    /// ≠
    NotEqual,
    /// <
    Less,
    /// >
    Greater,
}

impl Relation {
    fn wire(self) -> i32 {
        match self {
            Self::Equal => v1::Relation::Equal,
            Self::NotEqual => v1::Relation::NotEqual,
            Self::Less => v1::Relation::Less,
            Self::Greater => v1::Relation::Greater,
        }
        .into()
    }
}

/// One comparison of a transaction. All but [`Compare::missing`] fail for a node that is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pub(crate) v1::Compare);

impl Compare {
    fn new(path: impl Into<String>, test: v1::compare::Test) -> Self {
        Self(v1::Compare { path: path.into(), test: Some(test) })
    }

    /// The node is there.
    pub fn exists(path: impl Into<String>) -> Self {
        Self::new(path, v1::compare::Test::Exists(true))
    }

    /// The node is not there.
    pub fn missing(path: impl Into<String>) -> Self {
        Self::new(path, v1::compare::Test::Exists(false))
    }

    /// Its number of data changes.
    pub fn version(path: impl Into<String>, relation: Relation, version: u64) -> Self {
        Self::new(path, v1::compare::Test::Version(number(relation, version)))
    }

    /// The revision that made it.
    pub fn create_revision(path: impl Into<String>, relation: Relation, revision: Revision) -> Self {
        Self::new(path, v1::compare::Test::CreateRevision(number(relation, revision.0)))
    }

    /// The revision that last changed its data.
    pub fn modify_revision(path: impl Into<String>, relation: Relation, revision: Revision) -> Self {
        Self::new(path, v1::compare::Test::ModifyRevision(number(relation, revision.0)))
    }

    /// Its data, bytewise.
    pub fn data(path: impl Into<String>, relation: Relation, data: impl Into<Bytes>) -> Self {
        let data = v1::compare::Data { relation: relation.wire(), value: data.into() };
        Self::new(path, v1::compare::Test::Data(data))
    }

    /// The session it dies with; `None`: it is not ephemeral.
    pub fn owner(path: impl Into<String>, owner: Option<SessionId>) -> Self {
        Self::new(path, v1::compare::Test::Owner(owner.map_or(0, |id| id.0)))
    }

    /// The calling session owns the node in the incarnation made at this revision. Never holds without a session.
    pub fn held_since(path: impl Into<String>, create_revision: Revision) -> Self {
        Self::new(path, v1::compare::Test::HeldSince(create_revision.0))
    }
}

fn number(relation: Relation, value: u64) -> v1::compare::Number {
    v1::compare::Number { relation: relation.wire(), value }
}

/// One operation of a transaction. [`TxnBuilder`] has a method for the frequent ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(pub(crate) v1::Op);

impl Op {
    fn new(op: v1::op::Op) -> Self {
        Self(v1::Op { op: Some(op) })
    }

    /// Writes a node's data, making a persistent node if there is none.
    pub fn put(path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::new(v1::op::Op::Put(v1::op::Put { path: path.into(), data: data.into(), create_parents: false }))
    }

    /// Makes a persistent node that is not there.
    pub fn create(path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::new(v1::op::Op::Create(v1::op::Create { path: path.into(), data: data.into(), ..Default::default() }))
    }

    /// Removes a node, if it is there.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(v1::op::Op::Delete(v1::op::Delete { path: path.into(), recursive: false }))
    }

    /// Removes a node, if it is there, and everything below it.
    pub fn delete_recursive(path: impl Into<String>) -> Self {
        Self::new(v1::op::Op::Delete(v1::op::Delete { path: path.into(), recursive: true }))
    }

    /// Reads a node as it is at this point of the transaction.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(v1::op::Op::Get(v1::op::Get { path: path.into() }))
    }

    /// Reads the names of a node's children, at most 10,000.
    pub fn list(path: impl Into<String>) -> Self {
        Self::new(v1::op::Op::List(v1::op::List { path: path.into() }))
    }

    /// For a create: it dies with the calling session.
    #[must_use]
    pub fn ephemeral(self) -> Self {
        self.on_create(|create| create.kind = v1::Kind::Ephemeral.into())
    }

    /// For a create: removed some time after its last child went.
    #[must_use]
    pub fn container(self) -> Self {
        self.on_create(|create| create.kind = v1::Kind::Container.into())
    }

    /// For a create: the parent appends its counter.
    #[must_use]
    pub fn sequential(self) -> Self {
        self.on_create(|create| create.sequential = true)
    }

    /// For a create: removed once unchanged for this long (in whole milliseconds).
    #[must_use]
    pub fn ttl(self, ttl: std::time::Duration) -> Self {
        self.on_create(|create| {
            create.kind = v1::Kind::Ttl.into();
            create.ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        })
    }

    /// For a create or a put: make missing parents in the same revision.
    #[must_use]
    pub fn create_parents(mut self) -> Self {
        match &mut self.0.op {
            Some(v1::op::Op::Create(create)) => create.create_parents = true,
            Some(v1::op::Op::Put(put)) => put.create_parents = true,
            _ => {}
        }
        self
    }

    fn on_create(mut self, change: impl FnOnce(&mut v1::op::Create)) -> Self {
        if let Some(v1::op::Op::Create(create)) = &mut self.0.op {
            change(create);
        }
        self
    }
}

/// The result of one operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OpResult {
    /// A node was made.
    Created {
        /// With the number, if it is sequential.
        path: String,
        /// The number.
        sequence: Option<u64>,
    },
    /// Data was written.
    Put {
        /// The node was not there before.
        created: bool,
        /// Changes of its data since it was made.
        version: u64,
    },
    /// Nodes were removed.
    Deleted {
        /// How many; 0 where there was none.
        count: u64,
    },
    /// A node, or none.
    Got(Option<Node>),
    /// Names of children, in order.
    Listed(Vec<String>),
}

/// The result of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TxnResult {
    /// All comparisons held.
    pub succeeded: bool,
    /// The first comparison that did not hold, counted from 0 in the order they were given.
    pub failed_compare: Option<usize>,
    /// One per operation of the branch that was done.
    pub results: Vec<OpResult>,
    /// The revision made, or seen if nothing changed.
    pub revision: Revision,
}

impl TxnResult {
    pub(crate) fn from_wire(result: v1::TxnResult) -> Result<Self> {
        let results = result.results.into_iter().map(|one| match one.result {
            Some(v1::op_result::Result::Created(c)) => Ok(OpResult::Created { path: c.path, sequence: c.sequence }),
            Some(v1::op_result::Result::Put(p)) => Ok(OpResult::Put { created: p.created, version: p.version }),
            Some(v1::op_result::Result::Deleted(d)) => Ok(OpResult::Deleted { count: d.count }),
            Some(v1::op_result::Result::Got(g)) => Ok(OpResult::Got(g.node.map(Node::from))),
            Some(v1::op_result::Result::Listed(l)) => Ok(OpResult::Listed(l.names)),
            None => Err(Error::internal("the server answered an operation without a result")),
        });
        Ok(Self {
            succeeded: result.succeeded,
            failed_compare: result.failed_compare.map(|at| at as usize),
            results: results.collect::<Result<_>>()?,
            revision: Revision(result.revision),
        })
    }
}

/// Builds a transaction: `when` comparisons hold the operations are done, `otherwise` the other ones.
///
/// ```no_run
/// # async fn example(session: conclave_client::Session) -> conclave_client::Result<()> {
/// use conclave_client::{Compare, Relation};
/// let done = session
///     .txn()
///     .when(Compare::version("/config/limit", Relation::Equal, 3))
///     .put("/config/limit", "250")
///     .otherwise_get("/config/limit")
///     .commit()
///     .await?;
/// println!("{} at revision {}", if done.succeeded { "changed" } else { "somebody was faster" }, done.revision);
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction does nothing until it is committed"]
pub struct TxnBuilder {
    via: Via,
    txn: v1::Txn,
    /// The hold whose comparison stands first.
    held: Option<HoldRef>,
}

impl TxnBuilder {
    pub(crate) fn new(via: Via) -> Self {
        Self { via, txn: v1::Txn::default(), held: None }
    }

    /// With the comparison that this incarnation is still held, which is not counted in `failed_compare`.
    pub(crate) fn held(via: Via, hold: HoldRef, compare: Compare) -> Self {
        Self { via, txn: v1::Txn { compare: vec![compare.0], ..Default::default() }, held: Some(hold) }
    }

    /// Do the operations only if this holds too.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn.compare.push(compare.0);
        self
    }

    /// Do this if all comparisons hold.
    pub fn then(mut self, op: Op) -> Self {
        self.txn.then.push(op.0);
        self
    }

    /// Do this if one comparison does not hold. With a guard's transaction: if one of the caller's own does not.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.txn.otherwise.push(op.0);
        self
    }

    /// [`Op::put`] if all comparisons hold.
    pub fn put(self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.then(Op::put(path, data))
    }

    /// [`Op::create`] if all comparisons hold.
    pub fn create(self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.then(Op::create(path, data))
    }

    /// [`Op::delete`] if all comparisons hold.
    pub fn delete(self, path: impl Into<String>) -> Self {
        self.then(Op::delete(path))
    }

    /// [`Op::get`] if all comparisons hold.
    pub fn get(self, path: impl Into<String>) -> Self {
        self.then(Op::get(path))
    }

    /// [`Op::list`] if all comparisons hold.
    pub fn list(self, path: impl Into<String>) -> Self {
        self.then(Op::list(path))
    }

    /// [`Op::put`] if one comparison does not hold.
    pub fn otherwise_put(self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.otherwise(Op::put(path, data))
    }

    /// [`Op::create`] if one comparison does not hold.
    pub fn otherwise_create(self, path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.otherwise(Op::create(path, data))
    }

    /// [`Op::delete`] if one comparison does not hold.
    pub fn otherwise_delete(self, path: impl Into<String>) -> Self {
        self.otherwise(Op::delete(path))
    }

    /// [`Op::get`] if one comparison does not hold.
    pub fn otherwise_get(self, path: impl Into<String>) -> Self {
        self.otherwise(Op::get(path))
    }

    /// [`Op::list`] if one comparison does not hold.
    pub fn otherwise_list(self, path: impl Into<String>) -> Self {
        self.otherwise(Op::list(path))
    }

    /// Applies it. A comparison that does not hold is a result, not a failure.
    ///
    /// # Errors
    /// If one operation is refused the whole transaction is, and [`Error::operation`] says which. A guard's
    /// transaction fails with [`ErrorKind::LockLost`] (definite) if the hold is over.
    pub async fn commit(self) -> Result<TxnResult> {
        let Some(hold) = self.held else {
            return TxnResult::from_wire(self.via.apply(self.txn).await?);
        };
        if !self.txn.otherwise.is_empty() {
            // Else the branch would be done also when the hold is over.
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a guard's transaction has no other branch: it would be done by one who no longer holds the lock",
            ));
        }
        hold.check()?;
        let mut result = self.via.apply(self.txn).await?;
        match result.failed_compare {
            Some(0) => Err(hold.refused().with_effect(Effect::None)),
            Some(at) => {
                result.failed_compare = Some(at - 1);
                TxnResult::from_wire(result)
            }
            None => TxnResult::from_wire(result),
        }
    }
}
