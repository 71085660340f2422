//! Requests, built by name and sent by awaiting them; the same for a client without a session and for a session.

use std::{future::IntoFuture, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_proto::{Revision, v1};

use crate::{
    Created, Deleted, Error, Got, History, Listing, Node, Put, Queue, QueueEntry, Queues, Result, client::ClientInner,
    session::Handle,
};

/// The future of a request.
pub type RequestFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Which way requests go.
#[derive(Clone)]
pub(crate) enum Via {
    Client(Arc<ClientInner>),
    Session(Arc<Handle>),
}

/// What can be asked for with and without a session: methods of whoever has a `via`.
macro_rules! store_requests {
    () => {
        /// Reads a node.
        pub fn get(&self, path: impl Into<String>) -> $crate::GetRequest {
            $crate::GetRequest::new(self.via(), path.into())
        }

        /// Lists what is below a node.
        pub fn list(&self, path: impl Into<String>) -> $crate::ListRequest {
            $crate::ListRequest::new(self.via(), path.into())
        }

        /// Writes a node's data, making a persistent node if there is none.
        pub fn put(&self, path: impl Into<String>, data: impl Into<bytes::Bytes>) -> $crate::PutRequest {
            $crate::PutRequest::new(self.via(), path.into(), data.into())
        }

        /// Makes a node.
        pub fn create(&self, path: impl Into<String>) -> $crate::CreateRequest {
            $crate::CreateRequest::new(self.via(), path.into())
        }

        /// Removes a node.
        pub fn delete(&self, path: impl Into<String>) -> $crate::DeleteRequest {
            $crate::DeleteRequest::new(self.via(), path.into())
        }

        /// Builds a transaction.
        pub fn txn(&self) -> $crate::TxnBuilder {
            $crate::TxnBuilder::new(self.via())
        }

        /// Watches a node, its children or everything below it.
        pub fn watch(&self, path: impl Into<String>) -> $crate::WatchRequest {
            $crate::WatchRequest::new(self.via(), path.into())
        }

        /// Reads past changes.
        pub fn history(&self, path: impl Into<String>) -> $crate::HistoryRequest {
            $crate::HistoryRequest::new(self.via(), path.into())
        }

        /// Lists locks, semaphores and elections at or below `prefix`.
        pub fn queues(&self, prefix: impl Into<String>) -> $crate::QueuesRequest {
            $crate::QueuesRequest::new(self.via(), prefix.into())
        }
    };
}
pub(crate) use store_requests;

impl Via {
    pub(crate) async fn apply(&self, txn: v1::Txn) -> Result<v1::TxnResult> {
        match self {
            Self::Client(client) => client.apply(txn).await,
            Self::Session(session) => session.apply(txn).await,
        }
    }

    async fn query(&self, read: v1::Read) -> Result<v1::ReadResult> {
        match self {
            Self::Client(client) => client.query(read).await,
            Self::Session(session) => session.query(read).await,
        }
    }

    async fn apply_one(&self, op: v1::op::Op) -> Result<(v1::op_result::Result, Revision)> {
        let txn = v1::Txn { compare: Vec::new(), then: vec![v1::Op { op: Some(op) }], otherwise: Vec::new() };
        let mut result = self.apply(txn).await?;
        match result.results.pop().and_then(|r| r.result) {
            Some(one) => Ok((one, Revision(result.revision))),
            None => Err(Error::internal("the server answered without a result")),
        }
    }
}

fn unexpected<T>() -> Result<T> {
    Err(Error::internal("the server answered with the result of another operation"))
}

macro_rules! awaitable {
    ($name:ident => $out:ty) => {
        impl IntoFuture for $name {
            type Output = Result<$out>;
            type IntoFuture = RequestFuture<$out>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

/// Reads one node. Await it for `Option<Node>`, or [`GetRequest::read`] it for the revision too. Linearizable unless
/// [`GetRequest::stale_ok`].
#[must_use = "a request does nothing until it is awaited"]
pub struct GetRequest {
    pub(crate) via: Via,
    pub(crate) path: String,
    pub(crate) read: v1::Read,
}

impl GetRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, path, read: v1::Read::default() }
    }

    /// The node as it was right after this revision.
    ///
    /// Awaiting fails with [`crate::ErrorKind::Compacted`] or [`crate::ErrorKind::FutureRevision`] where that is not known.
    pub fn at(mut self, revision: Revision) -> Self {
        self.read.at_revision = revision.0;
        self
    }

    /// Let the connected server answer from its own copy: cheaper, perhaps behind, never older than what this session
    /// has seen.
    pub fn stale_ok(mut self) -> Self {
        self.read.stale_ok = true;
        self
    }

    /// With `stale_ok`: no older than this revision.
    pub fn not_older_than(mut self, revision: Revision) -> Self {
        self.read.min_revision = revision.0;
        self
    }

    /// The node and the revision this answer reflects.
    ///
    /// # Errors
    /// Definite always: a read changes nothing.
    pub async fn read(mut self) -> Result<Got> {
        self.read.query = Some(v1::read::Query::Get(self.path));
        let answer = self.via.query(self.read).await?;
        match answer.result {
            Some(v1::read_result::Result::Get(get)) => {
                Ok(Got { node: get.node.map(Node::from), revision: Revision(answer.revision) })
            }
            _ => unexpected(),
        }
    }

    async fn send(self) -> Result<Option<Node>> {
        Ok(self.read().await?.node)
    }
}

awaitable!(GetRequest => Option<Node>);

/// Reads the nodes below another: its children, unless [`ListRequest::depth`] asks for more.
#[must_use = "a request does nothing until it is awaited"]
pub struct ListRequest {
    via: Via,
    read: v1::Read,
    query: v1::read::ListQuery,
}

impl ListRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, read: v1::Read::default(), query: v1::read::ListQuery { path, ..Default::default() } }
    }

    /// How many levels below the node; 0 and 1 are its children.
    pub fn depth(mut self, levels: u32) -> Self {
        self.query.depth = levels;
        self
    }

    /// With the nodes' data, which is left out otherwise.
    pub fn with_data(mut self) -> Self {
        self.query.with_data = true;
        self
    }

    /// Nodes at the most; [`Listing::more`] tells whether there are others. 0: the server's own bound.
    pub fn limit(mut self, nodes: u32) -> Self {
        self.query.limit = nodes;
        self
    }

    /// Start after this path, such as the last one of the listing before.
    pub fn after(mut self, path: impl Into<String>) -> Self {
        self.query.after = path.into();
        self
    }

    /// As it was right after this revision.
    pub fn at(mut self, revision: Revision) -> Self {
        self.read.at_revision = revision.0;
        self
    }

    /// See [`GetRequest::stale_ok`].
    pub fn stale_ok(mut self) -> Self {
        self.read.stale_ok = true;
        self
    }

    async fn send(mut self) -> Result<Listing> {
        self.read.query = Some(v1::read::Query::List(self.query));
        let answer = self.via.query(self.read).await?;
        match answer.result {
            Some(v1::read_result::Result::List(list)) => Ok(Listing {
                nodes: list.nodes.into_iter().map(Node::from).collect(),
                more: list.more,
                revision: Revision(answer.revision),
            }),
            _ => unexpected(),
        }
    }
}

awaitable!(ListRequest => Listing);

/// Lists locks, semaphores and elections: every parent with sequential children, and those in order.
#[must_use = "a request does nothing until it is awaited"]
pub struct QueuesRequest {
    via: Via,
    read: v1::Read,
    query: v1::read::QueuesQuery,
}

impl QueuesRequest {
    pub(crate) fn new(via: Via, prefix: String) -> Self {
        Self { via, read: v1::Read::default(), query: v1::read::QueuesQuery { prefix, ..Default::default() } }
    }

    /// Parents at the most; 0: the server's own bound.
    pub fn limit(mut self, parents: u32) -> Self {
        self.query.limit = parents;
        self
    }

    /// Start after this parent, such as the last one of the answer before.
    pub fn after(mut self, path: impl Into<String>) -> Self {
        self.query.after = path.into();
        self
    }

    /// See [`GetRequest::stale_ok`].
    pub fn stale_ok(mut self) -> Self {
        self.read.stale_ok = true;
        self
    }

    async fn send(mut self) -> Result<Queues> {
        self.read.query = Some(v1::read::Query::Queues(self.query));
        let answer = self.via.query(self.read).await?;
        let entry =
            |e: v1::queue::Entry| QueueEntry { node: e.node.unwrap_or_default().into(), session_name: e.session_name };
        match answer.result {
            Some(v1::read_result::Result::Queues(queues)) => Ok(Queues {
                queues: queues
                    .queues
                    .into_iter()
                    .map(|queue| Queue {
                        node: queue.node.unwrap_or_default().into(),
                        length: queue.length,
                        entries: queue.entries.into_iter().map(entry).collect(),
                    })
                    .collect(),
                more: queues.more,
                revision: Revision(answer.revision),
            }),
            _ => unexpected(),
        }
    }
}

awaitable!(QueuesRequest => Queues);

/// Reads past changes of a node and of what is below it.
#[must_use = "a request does nothing until it is awaited"]
pub struct HistoryRequest {
    via: Via,
    read: v1::Read,
    query: v1::read::HistoryQuery,
}

impl HistoryRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, read: v1::Read::default(), query: v1::read::HistoryQuery { path, ..Default::default() } }
    }

    /// From this revision on; without it from the oldest known.
    pub fn from(mut self, revision: Revision) -> Self {
        self.query.from_revision = revision.0;
        self
    }

    /// Revisions at the most; 0: the server's own bound. [`History::next`] tells where to go on.
    pub fn limit(mut self, revisions: u32) -> Self {
        self.query.limit = revisions;
        self
    }

    /// See [`GetRequest::stale_ok`].
    pub fn stale_ok(mut self) -> Self {
        self.read.stale_ok = true;
        self
    }

    async fn send(mut self) -> Result<History> {
        self.read.query = Some(v1::read::Query::History(self.query));
        let answer = self.via.query(self.read).await?;
        match answer.result {
            Some(v1::read_result::Result::History(history)) => Ok(History {
                revisions: history.revisions.into_iter().map(Into::into).collect(),
                oldest: Revision(history.oldest_revision),
                next: (history.next_revision != 0).then_some(Revision(history.next_revision)),
                revision: Revision(answer.revision),
            }),
            _ => unexpected(),
        }
    }
}

awaitable!(HistoryRequest => History);

/// Writes a node's data, making a persistent node if there is none.
#[must_use = "a request does nothing until it is awaited"]
pub struct PutRequest {
    via: Via,
    put: v1::op::Put,
}

impl PutRequest {
    pub(crate) fn new(via: Via, path: String, data: Bytes) -> Self {
        Self { via, put: v1::op::Put { path, data, create_parents: false } }
    }

    /// Make missing parents, persistent, in the same revision.
    pub fn create_parents(mut self) -> Self {
        self.put.create_parents = true;
        self
    }

    async fn send(self) -> Result<Put> {
        match self.via.apply_one(v1::op::Op::Put(self.put)).await? {
            (v1::op_result::Result::Put(put), revision) => {
                Ok(Put { created: put.created, version: put.version, revision })
            }
            _ => unexpected(),
        }
    }
}

awaitable!(PutRequest => Put);

/// Makes a node that is not there; persistent unless asked otherwise.
#[must_use = "a request does nothing until it is awaited"]
pub struct CreateRequest {
    via: Via,
    create: v1::op::Create,
}

impl CreateRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, create: v1::op::Create { path, ..Default::default() } }
    }

    /// Its data, at most 1 MiB. Default: none.
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.create.data = data.into();
        self
    }

    /// Dies with this session. Needs a session.
    pub fn ephemeral(mut self) -> Self {
        self.create.kind = v1::Kind::Ephemeral.into();
        self
    }

    /// Removed some time after its last child went.
    pub fn container(mut self) -> Self {
        self.create.kind = v1::Kind::Container.into();
        self
    }

    /// Removed once it has not changed for this long (in whole milliseconds), if it has no children.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.create.kind = v1::Kind::Ttl.into();
        self.create.ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The parent appends its counter, at least ten digits, to the path; [`Created::path`] is the result.
    pub fn sequential(mut self) -> Self {
        self.create.sequential = true;
        self
    }

    /// Make missing parents, persistent, in the same revision.
    pub fn create_parents(mut self) -> Self {
        self.create.create_parents = true;
        self
    }

    /// Make missing parents, containers that go some time after their last child, in the same revision.
    pub fn create_container_parents(mut self) -> Self {
        self.create.create_parents = true;
        self.create.parents_kind = v1::Kind::Container.into();
        self
    }

    async fn send(self) -> Result<Created> {
        match self.via.apply_one(v1::op::Op::Create(self.create)).await? {
            (v1::op_result::Result::Created(created), revision) => {
                Ok(Created { path: created.path, sequence: created.sequence, revision })
            }
            _ => unexpected(),
        }
    }
}

awaitable!(CreateRequest => Created);

/// Removes a node; that there is none is no failure.
#[must_use = "a request does nothing until it is awaited"]
pub struct DeleteRequest {
    via: Via,
    delete: v1::op::Delete,
}

impl DeleteRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, delete: v1::op::Delete { path, recursive: false } }
    }

    /// With everything below it.
    pub fn recursive(mut self) -> Self {
        self.delete.recursive = true;
        self
    }

    async fn send(self) -> Result<Deleted> {
        match self.via.apply_one(v1::op::Op::Delete(self.delete)).await? {
            (v1::op_result::Result::Deleted(deleted), revision) => Ok(Deleted { count: deleted.count, revision }),
            _ => unexpected(),
        }
    }
}

awaitable!(DeleteRequest => Deleted);
