//! The living nodes, what is derived from them, and the before-images of the command under way.
//!
//! A command changes the tree in place. The first change of each node puts its before-image into `touched`, from
//! which the command is either committed, as one revision's changes, or rolled back.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use conclave_faults::planted;
use conclave_proto::{NodePath, Revision, SEQUENCE_DIGITS, SessionId};

use crate::{
    Acl, Change, Kind, Node, RestoreError,
    machine::Writes,
    queues::Queues,
    records::{digest, encode, node_key},
};

/// A node and its record's share of the hash; 0 while it has not been written.
#[derive(Clone, Debug)]
struct Live {
    node: Arc<Node>,
    digest: u128,
}

/// The wall clock and the revision a command works at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The revision the command makes if it changes something.
    pub(crate) revision: Revision,
    /// The proposer's wall clock.
    pub(crate) at_ms: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    live: BTreeMap<NodePath, Live>,
    /// Before-images of the command under way.
    touched: BTreeMap<NodePath, Option<Arc<Node>>>,
    // Derived from `live`:
    queues: Queues,
    owned: BTreeMap<SessionId, BTreeSet<NodePath>>,
    mortal: BTreeSet<NodePath>,
    bytes: u64,
    ephemerals: u64,
    // For storing:
    /// Nodes that differ from their records, and whether there is a record.
    unsaved: BTreeMap<NodePath, bool>,
    /// Sum over the digests in `live`.
    sum: u128,
}

fn weight(path: &NodePath, node: &Node) -> u64 {
    (path.as_str().len() + node.data.len()) as u64
}

impl Tree {
    /// The root alone, not yet stored.
    pub(crate) fn new() -> Self {
        let mut tree = Self::empty();
        tree.insert(
            NodePath::root(),
            Arc::new(new_node(Bytes::new(), Kind::Persistent, None, Moment { revision: Revision(0), at_ms: 0 })),
        );
        tree.unsaved.insert(NodePath::root(), false);
        tree
    }

    /// Without even a root: for restoring.
    pub(crate) fn empty() -> Self {
        Self {
            live: BTreeMap::new(),
            touched: BTreeMap::new(),
            queues: Queues::default(),
            owned: BTreeMap::new(),
            mortal: BTreeSet::new(),
            bytes: 0,
            ephemerals: 0,
            unsaved: BTreeMap::new(),
            sum: 0,
        }
    }

    /// Puts back a node whose record has this digest.
    pub(crate) fn restore(&mut self, path: NodePath, node: Node, digest: u128) -> Result<(), RestoreError> {
        // The index of queues trusts names; a record that lies must not stop the server in words of its own.
        if let Some(sequence) = node.sequence
            && !path.name().ends_with(&format!("{sequence:0SEQUENCE_DIGITS$}"))
        {
            return Err(RestoreError::Inconsistent(format!("{path} is not named after its number {sequence}")));
        }
        self.insert(path.clone(), Arc::new(node));
        self.live.get_mut(&path).expect("just inserted").digest = digest;
        self.sum = self.sum.wrapping_add(digest);
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ reading

    pub(crate) fn get(&self, path: &NodePath) -> Option<&Arc<Node>> {
        self.live.get(path).map(|live| &live.node)
    }

    /// Living nodes from `start` on, in path order.
    pub(crate) fn range<'a>(&'a self, start: Bound<&'a str>) -> impl Iterator<Item = (&'a NodePath, &'a Arc<Node>)> {
        self.live.range::<str, _>((start, Bound::Unbounded)).map(|(path, live)| (path, &live.node))
    }

    /// Paths of a node's children, in order. Costs a search for each child that has children of its own, whatever
    /// their number.
    pub(crate) fn children<'a>(&'a self, parent: &'a NodePath) -> impl Iterator<Item = &'a NodePath> {
        let below = parent.below_prefix();
        let mut nodes = self.live.range::<str, _>((Bound::Excluded(below.as_str()), Bound::Unbounded));
        std::iter::from_fn(move || {
            loop {
                let (path, _) = nodes.next()?;
                let name = path.as_str().strip_prefix(below.as_str())?;
                let Some(slash) = name.find('/') else { return Some(path) };
                // A grandchild: go on after all of its siblings ('0' is the byte after '/').
                let after = format!("{below}{}0", &name[..slash]);
                nodes = self.live.range::<str, _>((Bound::Included(after.as_str()), Bound::Unbounded));
            }
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn ephemerals(&self) -> u64 {
        self.ephemerals
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    pub(crate) fn owned(&self, session: SessionId) -> impl Iterator<Item = &NodePath> {
        self.owned.get(&session).into_iter().flatten()
    }

    pub(crate) fn mortal(&self) -> impl Iterator<Item = (&NodePath, &Arc<Node>)> {
        self.mortal.iter().map(|path| (path, self.get(path).expect("a mortal node lives")))
    }

    // ------------------------------------------------------------------------------------------ changing

    /// Makes a node. The caller has checked that it is not there, that its parent is and may have children.
    pub(crate) fn create(&mut self, path: NodePath, node: Node, at: Moment) {
        let parent = path.parent().expect("the root is never created");
        self.touch(&path);
        self.insert(path, Arc::new(node));
        self.change(&parent, |parent| {
            parent.child_count += 1;
            parent.children_version += 1;
            parent.children_revision = at.revision;
        });
    }

    /// Draws a number from a parent that is there.
    pub(crate) fn draw_sequence(&mut self, parent: &NodePath) -> u64 {
        let mut sequence = 0;
        self.change(parent, |parent| {
            if planted!(SequenceRestarts) && parent.child_count == 0 {
                parent.next_sequence = 0;
            }
            sequence = parent.next_sequence;
            parent.next_sequence += 1;
        });
        sequence
    }

    /// Writes the data of a node that is there; gives its new version.
    pub(crate) fn write(&mut self, path: &NodePath, data: Bytes, at: Moment) -> u64 {
        let new_bytes = data.len() as u64;
        let (mut old_bytes, mut version) = (0, 0);
        self.change(path, |node| {
            old_bytes = node.data.len() as u64;
            node.data = data;
            node.version += 1;
            node.modify_revision = at.revision;
            node.modified_ms = at.at_ms;
            version = node.version;
        });
        self.bytes = self.bytes + new_bytes - old_bytes;
        version
    }

    /// Removes a node that is there and everything below it; gives how many.
    pub(crate) fn delete(&mut self, path: &NodePath, at: Moment) -> u64 {
        let below = path.below_prefix();
        let mut count = 1;
        if self.get(path).expect("the caller has looked").child_count > 0 {
            let descendants: Vec<NodePath> = self
                .live
                .range::<str, _>((Bound::Excluded(below.as_str()), Bound::Unbounded))
                .take_while(|(path, _)| path.as_str().starts_with(&below))
                .map(|(path, _)| path.clone())
                .collect();
            count += descendants.len() as u64;
            for descendant in descendants {
                self.touch(&descendant);
                self.remove(&descendant);
            }
        }
        self.touch(path);
        self.remove(path);
        self.change(&path.parent().expect("the root is never deleted"), |parent| {
            parent.child_count -= 1;
            parent.children_version += 1;
            parent.children_revision = at.revision;
        });
        count
    }

    /// Whether the command under way changed anything. (Whatever it did to a node, its parent shows it.)
    pub(crate) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Ends the command under way: its changes, in path order.
    pub(crate) fn commit(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.touched.len());
        while let Some((path, before)) = self.touched.pop_first() {
            let after = self.get(&path).cloned();
            // What was made and removed again never was.
            if before.is_some() || after.is_some() {
                changes.push(Change { path, before, after });
            }
        }
        changes
    }

    /// Ends the command under way as if it had never been.
    pub(crate) fn roll_back(&mut self) {
        while let Some((path, before)) = self.touched.pop_first() {
            if self.live.contains_key(&path) {
                self.remove(&path);
            }
            if let Some(node) = before {
                self.insert(path, node);
            }
        }
    }

    fn touch(&mut self, path: &NodePath) {
        if self.touched.contains_key(path) {
            return;
        }
        let live = self.live.get(path);
        if !self.unsaved.contains_key(path) {
            self.unsaved.insert(path.clone(), live.is_some_and(|live| live.digest != 0));
        }
        self.touched.insert(path.clone(), live.map(|live| live.node.clone()));
    }

    /// Changes a node in place, all but its kind, owner and sequence.
    fn change(&mut self, path: &NodePath, how: impl FnOnce(&mut Node)) {
        self.touch(path);
        let live = self.live.get_mut(path).expect("the caller has looked");
        let was_mortal = live.node.is_mortal();
        // Its before-image is shared with `touched`: the first change of a command copies the node, not its data.
        how(Arc::make_mut(&mut live.node));
        let is_mortal = live.node.is_mortal();
        if was_mortal != is_mortal {
            if is_mortal {
                self.mortal.insert(path.clone());
            } else {
                self.mortal.remove(path);
            }
        }
    }

    /// Adds to `live` and what is derived from it.
    fn insert(&mut self, path: NodePath, node: Arc<Node>) {
        self.bytes += weight(&path, &node);
        if let Some(session) = node.owner {
            self.owned.entry(session).or_default().insert(path.clone());
        }
        self.ephemerals += u64::from(node.kind == Kind::Ephemeral);
        if let Some(sequence) = node.sequence {
            self.queues.insert(&path.parent().expect("the root is not sequential"), &path, sequence);
        }
        if node.is_mortal() {
            self.mortal.insert(path.clone());
        }
        let other = self.live.insert(path, Live { node, digest: 0 });
        assert!(other.is_none(), "a node was inserted over another");
    }

    /// The reverse.
    fn remove(&mut self, path: &NodePath) {
        let Live { node, digest } = self.live.remove(path).expect("only what is there is removed");
        self.sum = self.sum.wrapping_sub(digest);
        self.bytes -= weight(path, &node);
        if let Some(session) = node.owner {
            let owned = self.owned.get_mut(&session).expect("an owned node is among its owner's");
            owned.remove(path);
            if owned.is_empty() {
                self.owned.remove(&session);
            }
        }
        self.ephemerals -= u64::from(node.kind == Kind::Ephemeral);
        if let Some(sequence) = node.sequence {
            self.queues.remove(&path.parent().expect("the root is not sequential"), path, sequence);
        }
        if node.is_mortal() {
            self.mortal.remove(path);
        }
    }

    // ------------------------------------------------------------------------------------------ storing

    /// The sum as it would be if everything were saved now.
    pub(crate) fn sum(&self) -> u128 {
        self.unsaved.keys().filter_map(|path| Some((path, self.live.get(path)?))).fold(self.sum, |sum, (path, live)| {
            let value = encode(live.node.as_ref(), Vec::with_capacity(64 + live.node.data.len()));
            sum.wrapping_sub(live.digest).wrapping_add(digest(&node_key(path), &value))
        })
    }

    /// Appends what changed since the last time.
    pub(crate) fn save(&mut self, writes: &mut Writes) {
        while let Some((path, stored)) = self.unsaved.pop_first() {
            let key = node_key(&path);
            match self.live.get_mut(&path) {
                Some(live) => {
                    let value = encode(live.node.as_ref(), Vec::with_capacity(64 + live.node.data.len()));
                    let new = digest(&key, &value);
                    self.sum = self.sum.wrapping_sub(live.digest).wrapping_add(new);
                    live.digest = new;
                    writes.push((key, Some(value)));
                }
                None if stored => writes.push((key, None)),
                None => {}
            }
        }
    }

    // ------------------------------------------------------------------------------------------ checking

    /// Every invariant of the tree alone.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.live.contains_key(&NodePath::root()) {
            return Err("there is no root".to_owned());
        }
        if !self.touched.is_empty() {
            return Err("a command was neither committed nor rolled back".to_owned());
        }
        let mut counted: BTreeMap<NodePath, u64> = BTreeMap::new();
        let mut again = Self::empty();
        for (path, live) in &self.live {
            again.insert(path.clone(), live.node.clone());
            if (live.node.kind == Kind::Ephemeral) != live.node.owner.is_some() {
                return Err(format!("an owner without ephemeral kind, or the reverse: {path}"));
            }
            if live.node.modify_revision < live.node.create_revision {
                return Err(format!("changed before it was created: {path}"));
            }
            if let Some(parent) = path.parent() {
                let Some(above) = self.get(&parent) else { return Err(format!("no parent: {path}")) };
                if above.kind == Kind::Ephemeral {
                    return Err(format!("an ephemeral node has a child: {path}"));
                }
                if live.node.sequence.is_some_and(|sequence| sequence >= above.next_sequence) {
                    return Err(format!("its number can be given again: {path}"));
                }
                *counted.entry(parent).or_default() += 1;
            }
        }
        for (path, live) in &self.live {
            let count = counted.get(path).copied().unwrap_or(0);
            if live.node.child_count != count {
                return Err(format!("child_count is {}, there are {count}: {path}", live.node.child_count));
            }
        }
        if (again.bytes, again.ephemerals) != (self.bytes, self.ephemerals) {
            return Err("the sizes are not those of the nodes".to_owned());
        }
        if (&again.queues, &again.owned, &again.mortal) != (&self.queues, &self.owned, &self.mortal) {
            return Err("an index is not that of the nodes".to_owned());
        }
        Ok(())
    }
}

/// A node as it begins.
pub(crate) fn new_node(data: Bytes, kind: Kind, owner: Option<SessionId>, at: Moment) -> Node {
    Node {
        data,
        kind,
        owner,
        acl: Acl::Open,
        create_revision: at.revision,
        modify_revision: at.revision,
        version: 0,
        children_version: 0,
        children_revision: at.revision,
        child_count: 0,
        next_sequence: 0,
        sequence: None,
        created_ms: at.at_ms,
        modified_ms: at.at_ms,
    }
}
