//! Transactions: comparisons, then operations, on the living tree.

use bytes::Bytes;
use conclave_faults::planted;
use conclave_proto::{NodePath, SessionId};

use crate::{
    Compare, CreateKind, Kind, Limits, Node, Op, OpResult, Refusal, Relation, Test, Txn,
    command::LIST_NAMES_MAX,
    tree::{Moment, Tree, new_node},
};

/// The subtree that belongs to the cluster itself.
const RESERVED: &str = "/conclave";

/// Counted for each result beside the paths, names and data in it.
const RESULT_OVERHEAD_BYTES: u64 = 16;

/// What a transaction runs with. It changes `tree`; whoever runs it commits or rolls back.
pub(crate) struct Run<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) limits: &'a Limits,
    /// Whose, if it is a session's.
    pub(crate) session: Option<SessionId>,
    pub(crate) at: Moment,
    /// What bounds the results.
    pub(crate) budget: Budget,
}

/// Bytes that answers may have, and how many they have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The bound's name.
    pub(crate) limit: &'static str,
    pub(crate) max: u64,
    pub(crate) used: u64,
}

impl Budget {
    /// Of one transaction without others to share with.
    pub(crate) fn of_one(limits: &Limits) -> Self {
        Self { limit: "answer_bytes_max", max: limits.answer_bytes_max, used: 0 }
    }
}

/// The first comparison that did not hold, and the results of the branch that was done.
type Done = (Option<u32>, Vec<OpResult>);

impl Run<'_> {
    /// # Errors
    /// The first refusal; the tree then holds whatever was done before it, for rolling back.
    pub(crate) fn txn(mut self, txn: Txn) -> Result<Done, Refusal> {
        let ops_max = u64::from(self.limits.txn_ops_max);
        for asked in [txn.compare.len(), txn.then.len(), txn.otherwise.len()] {
            limit("txn_ops_max", ops_max, asked as u64, None)?;
        }
        if planted!(ReleaseWithoutOwnerCheck) {
            self.free_the_holder(&txn);
        }
        let failed = txn.compare.iter().position(|compare| !self.holds(compare));
        let branch = if failed.is_none() { txn.then } else { txn.otherwise };
        let mut results = Vec::with_capacity(branch.len());
        for (op, what) in (0..).zip(branch) {
            let result = self.op(op, what)?;
            self.count_answer(op, &result)?;
            results.push(result);
        }
        Ok((failed.map(|position| u32::try_from(position).expect("bounded by txn_ops_max")), results))
    }

    /// A planted bug: if this is a release, whoever is first in that line goes, too.
    fn free_the_holder(&mut self, txn: &Txn) {
        let [Compare { path, test: Test::HeldSince(_) }] = &txn.compare[..] else { return };
        if !matches!(&txn.then[..], [Op::Delete { path: released, .. }] if released == path) {
            return;
        }
        let Some(lock) = path.parent() else { return };
        let first = self.tree.queues().range(&lock, None).next().and_then(|(_, mut line)| line.next().cloned());
        if let Some(first) = first.filter(|first| first != path && first.parent().as_ref() == Some(&lock)) {
            self.tree.delete(&first, self.at);
        }
    }

    fn holds(&self, Compare { path, test }: &Compare) -> bool {
        if planted!(CompareIgnoresRevision)
            && matches!(test, Test::CreateRevision(..) | Test::ModifyRevision(..) | Test::HeldSince(_))
        {
            return true;
        }
        let Some(node) = self.tree.get(path) else { return *test == Test::Exists(false) };
        match test {
            Test::Exists(exists) => *exists,
            Test::Version(relation, given) => relate(*relation, &node.version, given),
            Test::CreateRevision(relation, given) => relate(*relation, &node.create_revision, given),
            Test::ModifyRevision(relation, given) => relate(*relation, &node.modify_revision, given),
            Test::Data(relation, given) => relate(*relation, &node.data, given),
            Test::Owner(given) => node.owner == *given,
            Test::HeldSince(revision) => {
                self.session.is_some() && node.owner == self.session && node.create_revision == *revision
            }
        }
    }

    fn op(&mut self, op: u32, what: Op) -> Result<OpResult, Refusal> {
        match what {
            Op::Create { path, data, kind, sequential, create_parents } => {
                self.create(op, path, data, kind, sequential, create_parents)
            }
            Op::Put { path, data, create_parents } => self.put(op, path, data, create_parents),
            Op::Delete { path, recursive } => self.delete(op, &path, recursive),
            Op::Get { path } => {
                let node = self.tree.get(&path).map(|node| Node::clone(node));
                Ok(OpResult::Got(node.map(|node| (path, node))))
            }
            Op::List { path } => {
                let children = self.tree.get(&path).map_or(0, |node| node.child_count);
                limit("list_names_max", LIST_NAMES_MAX, children, Some(op))?;
                let names = if children == 0 {
                    Vec::new()
                } else {
                    self.tree.children(&path).map(|child| child.name().to_owned()).collect()
                };
                Ok(OpResult::Listed(names))
            }
        }
    }

    fn create(
        &mut self,
        op: u32,
        path: NodePath,
        data: Bytes,
        kind: CreateKind,
        sequential: bool,
        create_parents: Option<CreateKind>,
    ) -> Result<OpResult, Refusal> {
        writable(&path, op)?;
        let owner = match kind {
            Kind::Ephemeral => match self.session {
                Some(session) => Some(session),
                None => return Err(Refusal::NeedsSession { path, op }),
            },
            Kind::Ttl { ttl_ms: 0 } => return Err(invalid(op, format!("ttl_ms must be at least 1: path={path}"))),
            Kind::Persistent | Kind::Container | Kind::Ttl { .. } => None,
        };
        let parents = match create_parents {
            None => None,
            Some(kind @ (Kind::Persistent | Kind::Container)) => Some(kind),
            Some(Kind::Ephemeral | Kind::Ttl { .. }) => {
                return Err(invalid(op, format!("parents can be made persistent or container: path={path}")));
            }
        };
        if !sequential && let Some(node) = self.tree.get(&path) {
            return Err(Refusal::NodeExists { create_revision: node.create_revision, path, op });
        }
        let headroom = kind == Kind::Ephemeral;
        limit("data_bytes_max", self.limits.data_bytes_max, data.len() as u64, Some(op))?;
        let parent = path.parent().expect("the root is not writable");
        self.parents(op, &path, &parent, parents, headroom)?;

        let mut node = new_node(data, kind, owner, self.at);
        let path = if sequential { self.number(op, &path, &parent, &mut node)? } else { path };
        writable(&path, op)?;
        self.admit_node(op, &path, node.data.len(), headroom)?;
        let sequence = node.sequence;
        self.tree.create(path.clone(), node, self.at);
        Ok(OpResult::Created { path, sequence })
    }

    /// Draws the parent's next number that leads to a free name: clients can take a name before its number comes.
    fn number(&mut self, op: u32, path: &NodePath, parent: &NodePath, node: &mut Node) -> Result<NodePath, Refusal> {
        loop {
            let sequence = self.tree.draw_sequence(parent);
            let numbered = path.with_sequence(sequence).map_err(|error| invalid(op, error.to_string()))?;
            if self.tree.get(&numbered).is_none() {
                node.sequence = Some(sequence);
                return Ok(numbered);
            }
        }
    }

    fn put(&mut self, op: u32, path: NodePath, data: Bytes, create_parents: bool) -> Result<OpResult, Refusal> {
        if !path.is_root() {
            writable(&path, op)?;
        }
        limit("data_bytes_max", self.limits.data_bytes_max, data.len() as u64, Some(op))?;
        if let Some(node) = self.tree.get(&path) {
            let more = (data.len() as u64).saturating_sub(node.data.len() as u64);
            let headroom = node.kind == Kind::Ephemeral;
            if more > 0 {
                self.admit_bytes(op, more, headroom)?;
            }
            let version = self.tree.write(&path, data, self.at);
            return Ok(OpResult::Put { created: false, version });
        }
        let parent = path.parent().expect("the root is there");
        self.parents(op, &path, &parent, create_parents.then_some(Kind::Persistent), false)?;
        self.admit_node(op, &path, data.len(), false)?;
        self.tree.create(path, new_node(data, Kind::Persistent, None, self.at), self.at);
        Ok(OpResult::Put { created: true, version: 0 })
    }

    fn delete(&mut self, op: u32, path: &NodePath, recursive: bool) -> Result<OpResult, Refusal> {
        writable(path, op)?;
        let Some(node) = self.tree.get(path) else { return Ok(OpResult::Deleted { count: 0 }) };
        if node.child_count > 0 && !recursive {
            return Err(Refusal::NotEmpty { path: path.clone(), child_count: node.child_count, op });
        }
        Ok(OpResult::Deleted { count: self.tree.delete(path, self.at) })
    }

    /// Sees to it that `parent`, of `path`, is there and may have children.
    fn parents(
        &mut self,
        op: u32,
        path: &NodePath,
        parent: &NodePath,
        make: Option<Kind>,
        headroom: bool,
    ) -> Result<(), Refusal> {
        let mut missing = Vec::new();
        let mut above = parent.clone();
        let nearest = loop {
            match self.tree.get(&above) {
                Some(node) => break node,
                None => {
                    let next = above.parent().expect("the root is there");
                    missing.push(std::mem::replace(&mut above, next));
                }
            }
        };
        if nearest.kind == Kind::Ephemeral {
            return Err(Refusal::EphemeralParent { path: path.clone(), parent: above, op });
        }
        let Some(highest) = missing.last() else { return Ok(()) };
        let Some(kind) = make else {
            return Err(Refusal::NoParent { path: path.clone(), parent: highest.clone(), op });
        };
        while let Some(parent) = missing.pop() {
            self.admit_node(op, &parent, 0, headroom)?;
            self.tree.create(parent, new_node(Bytes::new(), kind, None, self.at), self.at);
        }
        Ok(())
    }

    /// A full store refuses nodes; those made for an ephemeral one, and its parents, have headroom.
    fn admit_node(&self, op: u32, path: &NodePath, data_bytes: usize, headroom: bool) -> Result<(), Refusal> {
        let nodes_max = self.limits.nodes_max.saturating_add(if headroom { self.limits.headroom_nodes } else { 0 });
        limit("nodes_max", nodes_max, self.tree.len() + 1, Some(op))?;
        self.admit_bytes(op, (path.as_str().len() + data_bytes) as u64, headroom)
    }

    fn admit_bytes(&self, op: u32, more: u64, headroom: bool) -> Result<(), Refusal> {
        let bytes_max =
            self.limits.store_bytes_max.saturating_add(if headroom { self.limits.headroom_bytes } else { 0 });
        limit("store_bytes_max", bytes_max, self.tree.bytes() + more, Some(op))
    }

    fn count_answer(&mut self, op: u32, result: &OpResult) -> Result<(), Refusal> {
        let bytes = match result {
            OpResult::Created { path, .. } => path.as_str().len(),
            OpResult::Got(Some((path, node))) => path.as_str().len() + node.data.len(),
            OpResult::Listed(names) => names.iter().map(|name| name.len() + 1).sum(),
            OpResult::Put { .. } | OpResult::Deleted { .. } | OpResult::Got(None) => 0,
        };
        self.budget.used += bytes as u64 + RESULT_OVERHEAD_BYTES;
        limit(self.budget.limit, self.budget.max, self.budget.used, Some(op))?;
        Ok(())
    }
}

fn relate<T: Ord>(relation: Relation, found: &T, given: &T) -> bool {
    match relation {
        Relation::Equal => found == given,
        Relation::NotEqual => found != given,
        Relation::Less => found < given,
        Relation::Greater => found > given,
    }
}

fn limit(name: &str, max: u64, asked: u64, op: Option<u32>) -> Result<(), Refusal> {
    if asked > max { Err(Refusal::Limit { limit: name.to_owned(), max, asked, op }) } else { Ok(()) }
}

fn invalid(op: u32, what: String) -> Refusal {
    Refusal::Invalid { what, op: Some(op) }
}

/// Whether clients may make, change or remove a node of this path.
fn writable(path: &NodePath, op: u32) -> Result<(), Refusal> {
    let why = if path.is_root() {
        "the root can be neither made nor removed"
    } else if path.as_str().strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        "/conclave belongs to the cluster itself"
    } else {
        return Ok(());
    };
    Err(Refusal::Denied { path: path.clone(), why: why.to_owned(), op })
}
