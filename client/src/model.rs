//! Nodes, events and results as users see them.

use std::time::Duration;

use bytes::Bytes;
use conclave_proto::{Revision, SessionId, v1};

/// How long a node lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Until it is deleted.
    Persistent,
    /// As long as its owner session; has no children.
    Ephemeral,
    /// Until some time after its last child went.
    Container,
    /// Until it has not changed for this long, if it has no children.
    Ttl(Duration),
}

/// One node of the tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Absolute path.
    pub path: String,
    /// Its data, at most 1 MiB.
    pub data: Bytes,
    /// How long it lives.
    pub kind: Kind,
    /// The session it dies with.
    pub owner: Option<SessionId>,
    /// The revision that made it; tells incarnations of one path apart.
    pub create_revision: Revision,
    /// The revision that last changed its data.
    pub modify_revision: Revision,
    /// Changes of its data since it was made.
    pub version: u64,
    /// Children made and removed since it was made.
    pub children_version: u64,
    /// The revision that last made or removed a child.
    pub children_revision: Revision,
    /// How many children it has.
    pub child_count: u64,
    /// The number its parent gave it, for a sequential node.
    pub sequence: Option<u64>,
    /// Wall clock, milliseconds since the Unix epoch; for people, decides nothing.
    pub created_ms: u64,
    /// Wall clock, milliseconds since the Unix epoch; for people, decides nothing.
    pub modified_ms: u64,
    /// Who may do what.
    pub acl: String,
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let kind = match node.kind() {
            v1::Kind::Persistent => Kind::Persistent,
            v1::Kind::Ephemeral => Kind::Ephemeral,
            v1::Kind::Container => Kind::Container,
            v1::Kind::Ttl => Kind::Ttl(Duration::from_millis(node.ttl_ms)),
        };
        Self {
            kind,
            path: node.path,
            data: node.data,
            owner: (node.owner != 0).then_some(SessionId(node.owner)),
            create_revision: Revision(node.create_revision),
            modify_revision: Revision(node.modify_revision),
            version: node.version,
            children_version: node.children_version,
            children_revision: Revision(node.children_revision),
            child_count: node.child_count,
            sequence: node.sequence,
            created_ms: node.created_ms,
            modified_ms: node.modified_ms,
            acl: node.acl,
        }
    }
}

impl Node {
    /// The last component of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// What happened to a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// Its data changed.
    Changed,
    /// It was removed.
    Deleted,
}

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The node after the change; as it last was, for a deletion.
    pub node: Node,
}

/// All changes of one revision that a watch covers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Events {
    /// The revision.
    pub revision: Revision,
    /// Wall clock, milliseconds since the Unix epoch; for people, decides nothing.
    pub at_ms: u64,
    /// The changes, at least one.
    pub events: Vec<Event>,
}

impl From<v1::Events> for Events {
    fn from(events: v1::Events) -> Self {
        let kind = |kind| match kind {
            v1::EventKind::Created => EventKind::Created,
            v1::EventKind::Changed => EventKind::Changed,
            v1::EventKind::Deleted => EventKind::Deleted,
        };
        Self {
            revision: Revision(events.revision),
            at_ms: events.at_ms,
            events: events
                .events
                .into_iter()
                .map(|event| Event { kind: kind(event.kind()), node: event.node.unwrap_or_default().into() })
                .collect(),
        }
    }
}

/// The result of a put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Put {
    /// The node was not there before.
    pub created: bool,
    /// Changes of its data since it was made.
    pub version: u64,
    /// The revision made.
    pub revision: Revision,
}

/// The result of a create.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Created {
    /// The node's path, with its number if it is sequential.
    pub path: String,
    /// The number its parent gave it.
    pub sequence: Option<u64>,
    /// Its create revision.
    pub revision: Revision,
}

/// The result of a delete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deleted {
    /// Nodes removed; 0 where there was none.
    pub count: u64,
    /// The revision made, or seen if nothing was removed.
    pub revision: Revision,
}

/// A node, or none, as of a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Got {
    /// The node.
    pub node: Option<Node>,
    /// What this answer reflects.
    pub revision: Revision,
}

/// Nodes below another, as of a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// In path order.
    pub nodes: Vec<Node>,
    /// There are more: list again, starting after the last path.
    pub more: bool,
    /// What this answer reflects.
    pub revision: Revision,
}

/// A parent with sequential children: a lock, a semaphore, an election.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queue {
    /// The parent.
    pub node: Node,
    /// Its sequential children in the order of their numbers; of a long queue only the first ones.
    pub entries: Vec<QueueEntry>,
    /// How many they are in all.
    pub length: u64,
}

/// One who holds or waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueueEntry {
    /// Its node; the data is its label.
    pub node: Node,
    /// The name of the owner session.
    pub session_name: String,
}

/// Queues below a prefix, as of a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queues {
    /// In path order.
    pub queues: Vec<Queue>,
    /// There are more: ask again, starting after the last path.
    pub more: bool,
    /// What this answer reflects.
    pub revision: Revision,
}

/// Past changes of a subtree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct History {
    /// Oldest first.
    pub revisions: Vec<Events>,
    /// The oldest revision still known.
    pub oldest: Revision,
    /// Where to go on from, if more is known.
    pub next: Option<Revision>,
    /// What this answer reflects.
    pub revision: Revision,
}
