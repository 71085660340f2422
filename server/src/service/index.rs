//! Which watches a change concerns, found by its path: costs its depth and its matches, not the number of watches.

use std::collections::HashMap;

use conclave_proto::{NodePath, v1::Scope};
use conclave_state::Change;

/// The path above, as text; none for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        _ if path.len() == 1 => None,
        Some(0) => Some("/"),
        Some(at) => Some(&path[..at]),
        None => unreachable!("a path is absolute"),
    }
}

/// Watches by what they cover. `K` names a watch.
#[derive(Debug)]
pub struct Index<K> {
    node: HashMap<NodePath, Vec<K>>,
    children: HashMap<NodePath, Vec<K>>,
    subtree: HashMap<NodePath, Vec<K>>,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { node: HashMap::new(), children: HashMap::new(), subtree: HashMap::new() }
    }
}

impl<K: Copy> Index<K> {
    fn by(&mut self, scope: Scope) -> &mut HashMap<NodePath, Vec<K>> {
        match scope {
            Scope::Node => &mut self.node,
            Scope::Children => &mut self.children,
            Scope::Subtree => &mut self.subtree,
        }
    }

    /// True if nothing is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.node.is_empty() && self.children.is_empty() && self.subtree.is_empty()
    }

    /// Adds a watch; its place is needed to remove it.
    pub fn add(&mut self, path: &NodePath, scope: Scope, key: K) -> usize {
        let keys = self.by(scope).entry(path.clone()).or_default();
        keys.push(key);
        keys.len() - 1
    }

    /// Removes a watch; the returned one, if any, has taken its place.
    pub fn remove(&mut self, path: &NodePath, scope: Scope, place: usize) -> Option<K> {
        let by = self.by(scope);
        let keys = by.get_mut(path).expect("the watch is in the index");
        keys.swap_remove(place);
        let moved = keys.get(place).copied();
        if keys.is_empty() {
            by.remove(path);
        }
        moved
    }

    /// Calls `hit` for every watch that `change` concerns.
    pub fn matches(&self, change: &Change, mut hit: impl FnMut(K)) {
        if !change.is_event() {
            return;
        }
        let path = change.path.as_str();
        let mut all = |keys: Option<&Vec<K>>| keys.into_iter().flatten().copied().for_each(&mut hit);
        if !self.node.is_empty() {
            all(self.node.get(path));
        }
        if !self.children.is_empty()
            && let Some(parent) = parent(path)
        {
            all(self.children.get(parent));
        }
        if !self.subtree.is_empty() {
            let mut at = Some(path);
            while let Some(path) = at {
                all(self.subtree.get(path));
                at = parent(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use conclave_proto::Revision;
    use conclave_state::{Acl, Kind, Node};

    use super::*;

    fn node(modify_revision: u64) -> Arc<Node> {
        Arc::new(Node {
            data: bytes::Bytes::new(),
            kind: Kind::Persistent,
            owner: None,
            acl: Acl::Open,
            create_revision: Revision(1),
            modify_revision: Revision(modify_revision),
            version: 0,
            children_version: 0,
            children_revision: Revision(1),
            child_count: 0,
            next_sequence: 0,
            sequence: None,
            created_ms: 0,
            modified_ms: 0,
        })
    }

    fn hits(index: &Index<&'static str>, path: &str) -> String {
        let path = NodePath::parse(path).expect("a path");
        let change = Change { path, before: Some(node(1)), after: Some(node(2)) };
        let mut hits = Vec::new();
        index.matches(&change, |key| hits.push(key));
        hits.sort_unstable();
        hits.join(" ")
    }

    #[test]
    fn a_change_finds_its_watches_and_no_others() {
        let mut index = Index::default();
        let path = |text| NodePath::parse(text).expect("a path");
        index.add(&path("/a"), Scope::Node, "node");
        index.add(&path("/a"), Scope::Children, "children");
        index.add(&path("/a"), Scope::Subtree, "subtree");
        index.add(&path("/"), Scope::Children, "top");
        index.add(&path("/"), Scope::Subtree, "everything");
        assert_eq!(hits(&index, "/"), "everything");
        assert_eq!(hits(&index, "/a"), "everything node subtree top");
        assert_eq!(hits(&index, "/a/b"), "children everything subtree");
        assert_eq!(hits(&index, "/a/b/c"), "everything subtree");
        assert_eq!(hits(&index, "/a-b"), "everything top");
        let unchanged = Change { path: path("/a"), before: Some(node(1)), after: Some(node(1)) };
        index.matches(&unchanged, |key| panic!("{key} was told of a change of children's metadata"));
    }

    #[test]
    fn removal_leaves_the_others_where_they_say_they_are() {
        let mut index = Index::default();
        let path = NodePath::root();
        let places = ["a", "b", "c"].map(|key| index.add(&path, Scope::Node, key));
        assert_eq!(index.remove(&path, Scope::Node, places[0]), Some("c"));
        assert_eq!(hits(&index, "/"), "b c");
        assert_eq!(index.remove(&path, Scope::Node, places[1]), None, "b was the last");
        assert_eq!(hits(&index, "/"), "c");
        assert_eq!(index.remove(&path, Scope::Node, places[0]), None);
        assert!(index.is_empty());
    }
}
