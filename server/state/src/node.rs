//! Nodes, and changes of nodes.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::{NodePath, Revision, SessionId};
use serde::{Deserialize, Serialize};

/// How long a node lives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Kind {
    /// Until it is deleted.
    Persistent,
    /// Until its owner session ends. Has no children.
    Ephemeral,
    /// Until some time after its last child went.
    Container,
    /// Until it was not changed for this long, if it has no children.
    Ttl {
        /// Milliseconds, at least 1.
        ttl_ms: u64,
    },
}

/// Who may do what with a node. One value until roles exist; stored, so that they can come without a migration.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Acl {
    /// Everybody may do everything.
    #[default]
    Open,
}

/// A node's data and metadata, as of some revision. The path is the key it is stored under.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// At most `Limits::data_bytes_max`.
    pub data: Bytes,
    /// How long it lives.
    pub kind: Kind,
    /// The session an ephemeral node dies with.
    pub owner: Option<SessionId>,
    /// Who may do what.
    pub acl: Acl,
    /// When this incarnation was created.
    pub create_revision: Revision,
    /// When the data last changed; the create revision at first.
    pub modify_revision: Revision,
    /// Changes of data since creation.
    pub version: u64,
    /// Creations and deletions of children since creation.
    pub children_version: u64,
    /// When a child was last created or deleted; the create revision at first.
    pub children_revision: Revision,
    /// Children now.
    pub child_count: u64,
    /// The number the next sequential child gets.
    pub next_sequence: u64,
    /// The number this node got from its parent, if it was created sequential.
    pub sequence: Option<u64>,
    /// For people; decides nothing. Milliseconds since the Unix epoch, from the proposer's wall clock.
    pub created_ms: u64,
    /// For people; decides nothing.
    pub modified_ms: u64,
}

impl Node {
    /// True if only the leader's clock keeps it: a TTL node without children, or a container that had some and has
    /// none.
    #[must_use]
    pub fn is_mortal(&self) -> bool {
        self.child_count == 0
            && match self.kind {
                Kind::Container => self.children_version > 0,
                Kind::Ttl { .. } => true,
                Kind::Persistent | Kind::Ephemeral => false,
            }
    }
}

/// What one revision did to one node. Both sides present: its data or its children's metadata changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Which node.
    pub path: NodePath,
    /// As it was before the revision.
    pub before: Option<Arc<Node>>,
    /// As it is after it.
    pub after: Option<Arc<Node>>,
}

impl Change {
    /// False if only the metadata about children changed, which tells a watcher nothing the children's own changes
    /// do not.
    #[must_use]
    pub fn is_event(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                before.modify_revision != after.modify_revision || before.create_revision != after.create_revision
            }
            _ => true,
        }
    }
}

/// All changes of one revision, in path order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevisionChanges {
    /// Which revision.
    pub revision: Revision,
    /// The proposer's wall clock, for people. Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// In path order, one per node.
    pub changes: Vec<Change>,
}
