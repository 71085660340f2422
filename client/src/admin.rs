//! What operators ask of a cluster.

use std::{sync::Arc, time::Duration};

use conclave_proto::{
    Index, Revision, ServerId, SessionId, Term,
    v1::{self, admin_client::AdminClient},
};
use tonic::{Response, Status};

use crate::{
    Effect, Error, ErrorKind, Result,
    client::{ClientInner, Repeat, from_status},
    link::Link,
};

/// A server's part in Raft.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Follows, votes.
    Follower,
    /// Leads.
    Leader,
    /// Seeks votes.
    Candidate,
    /// Follows, does not vote.
    Learner,
}

/// One server of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// host:port other servers reach it at.
    pub peer_address: String,
    /// host:port clients reach it at.
    pub client_address: String,
    /// Not (yet) a voter.
    pub learner: bool,
}

/// How far one member has come, by the leader's knowledge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Which.
    pub id: ServerId,
    /// Its log agrees with the leader's up to here.
    pub matched: Index,
    /// Heard of recently.
    pub active: bool,
}

/// What one server says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerStatus {
    /// Its id.
    pub id: ServerId,
    /// The cluster's id.
    pub cluster: String,
    /// The program's version.
    pub version: String,
    /// Its part in Raft.
    pub role: Role,
    /// The leader it knows.
    pub leader: Option<ServerId>,
    /// Raft's term.
    pub term: Term,
    /// Last committed index it knows.
    pub committed: Index,
    /// Last applied index.
    pub applied: Index,
    /// Last index in its log.
    pub last: Index,
    /// Its log begins after this.
    pub compacted: Index,
    /// Its newest snapshot; 0 for none.
    pub snapshot: Index,
    /// The store's revision.
    pub revision: Revision,
    /// History up to here is forgotten.
    pub compacted_revision: Revision,
    /// The state's hash after `applied`, hexadecimal.
    pub state_hash: String,
    /// Open sessions.
    pub sessions: u64,
    /// Nodes of the tree.
    pub nodes: u64,
    /// Watches at this server.
    pub watches: u64,
    /// Bytes on its disk.
    pub disk_bytes: u64,
    /// The cluster as it knows it.
    pub members: Vec<Member>,
    /// Its state differs from its peers'; it serves nothing.
    pub diverged: bool,
    /// The upper bits of every fencing token.
    pub fence_epoch: u64,
    /// On the leader: how far each member has come.
    pub progress: Vec<Progress>,
    /// Its connections with its peers are encrypted.
    pub peers_encrypted: bool,
    /// Whom it takes the asker for: a certificate's or a token's name, or `anonymous`.
    pub caller: String,
}

/// What one endpoint answered.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// The endpoint, as configured.
    pub endpoint: String,
    /// The connection to it speaks TLS.
    pub encrypted: bool,
    /// What it said, or why it did not.
    pub status: Result<ServerStatus>,
}

/// An open session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// For people.
    pub name: String,
    /// The silence it survives.
    pub ttl: Duration,
    /// Time left by the leader's clock.
    pub remaining: Duration,
    /// The store's revision when it was opened.
    pub opened_revision: Revision,
    /// Wall clock, milliseconds since the Unix epoch; for people.
    pub opened_ms: u64,
    /// Ephemeral nodes it owns, at most 100 of them.
    pub owns: Vec<String>,
    /// How many it owns in all.
    pub owned: u64,
}

/// What operators ask of a cluster. From [`crate::Client::admin`].
#[derive(Clone)]
pub struct Admin {
    pub(crate) client: Arc<ClientInner>,
}

impl Admin {
    /// Asks every endpoint at the same time, in the order of the configuration.
    pub async fn status(&self) -> Vec<EndpointStatus> {
        let endpoints = &self.client.endpoints;
        let ask = |at: usize| async move {
            let endpoint = endpoints.name(at).to_owned();
            let (_, channel) = endpoints.channel(at);
            let mut admin = AdminClient::new(channel);
            let asked = tokio::time::timeout(endpoints.config.request_timeout, admin.status(v1::StatusRequest {}));
            let status = match asked.await {
                Ok(Ok(status)) => Ok(status.into_inner().into()),
                Ok(Err(status)) => Err(from_status(&status, &endpoint).with_effect(Effect::None)),
                Err(_) => Err(Error::new(ErrorKind::Timeout, format!("{endpoint}: no answer in time")).with_retry()),
            };
            EndpointStatus { endpoint, encrypted: endpoints.is_encrypted(at), status }
        };
        futures_util::future::join_all((0..endpoints.len()).map(ask)).await
    }

    /// All open sessions, by id.
    ///
    /// # Errors
    /// Definite always.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let mut all: Vec<SessionInfo> = Vec::new();
        loop {
            let after = all.last().map_or(0, |info| info.id.0);
            let (sessions, more) = self.ask_sessions(v1::SessionsRequest { session: 0, after, limit: 0 }).await?;
            let none = sessions.is_empty();
            all.extend(sessions);
            if !more || none {
                return Ok(all);
            }
        }
    }

    /// One session, if it is open.
    ///
    /// # Errors
    /// Definite always.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionInfo>> {
        match self.ask_sessions(v1::SessionsRequest { session: id.0, ..Default::default() }).await {
            Ok((sessions, _)) => Ok(sessions.into_iter().find(|info| info.id == id)),
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_sessions(&self, request: v1::SessionsRequest) -> Result<(Vec<SessionInfo>, bool)> {
        self.client
            .call(Repeat::Safe, |channel| async move {
                let reply = AdminClient::new(channel).sessions(request).await?.into_inner();
                Ok(match reply.error {
                    Some(error) => Err(error),
                    None => Ok((reply.sessions.into_iter().map(SessionInfo::from).collect(), reply.more)),
                })
            })
            .await
    }

    /// Ends a session and everything it owns; its client is told.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SessionLost`] where there is none.
    pub async fn kill_session(&self, id: SessionId) -> Result<String> {
        let request = v1::KillRequest { session: id.0 };
        self.change(|mut admin| async move { admin.kill_session(request).await }).await
    }

    /// Adds a server that receives the log and does not vote. Addresses are host:port.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Membership`]: what is in the way.
    pub async fn add_learner(&self, id: ServerId, peer_address: &str, client_address: &str) -> Result<String> {
        let request = v1::MemberRequest {
            id: id.0,
            peer_address: peer_address.to_owned(),
            client_address: client_address.to_owned(),
        };
        self.change(|mut admin| {
            let request = request.clone();
            async move { admin.add_learner(request).await }
        })
        .await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Membership`]: what is in the way.
    pub async fn promote(&self, id: ServerId) -> Result<String> {
        let request = move || v1::MemberRequest { id: id.0, ..Default::default() };
        self.change(|mut admin| async move { admin.promote(request()).await }).await
    }

    /// Removes a server.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Membership`]: what is in the way.
    pub async fn remove(&self, id: ServerId) -> Result<String> {
        let request = move || v1::MemberRequest { id: id.0, ..Default::default() };
        self.change(|mut admin| async move { admin.remove(request()).await }).await
    }

    /// Hands leadership over; `None`: to whoever is most up to date.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Membership`]: what is in the way.
    pub async fn transfer_leadership(&self, to: Option<ServerId>) -> Result<String> {
        let request = v1::TransferRequest { id: to.map_or(0, |id| id.0) };
        self.change(|mut admin| async move { admin.transfer_leadership(request).await }).await
    }

    async fn change<F>(&self, send: impl Fn(AdminClient<Link>) -> F) -> Result<String>
    where
        F: Future<Output = Result<Response<v1::AdminReply>, Status>>,
    {
        self.client
            .call(Repeat::IfNothingHappened, |channel| {
                let sent = send(AdminClient::new(channel));
                async move {
                    let reply = sent.await?.into_inner();
                    Ok(reply.error.map_or(Ok(reply.message), Err))
                }
            })
            .await
    }
}

impl From<v1::SessionInfo> for SessionInfo {
    fn from(info: v1::SessionInfo) -> Self {
        Self {
            id: SessionId(info.session),
            name: info.name,
            ttl: Duration::from_millis(info.ttl_ms),
            remaining: Duration::from_millis(info.remaining_ms),
            opened_revision: Revision(info.opened_revision),
            opened_ms: info.opened_ms,
            owns: info.owns,
            owned: info.owned,
        }
    }
}

impl From<v1::StatusReply> for ServerStatus {
    fn from(status: v1::StatusReply) -> Self {
        let role = match status.role() {
            v1::Role::Follower => Role::Follower,
            v1::Role::Leader => Role::Leader,
            v1::Role::Candidate => Role::Candidate,
            v1::Role::Learner => Role::Learner,
        };
        Self {
            id: ServerId(status.id),
            cluster: status.cluster,
            version: status.version,
            role,
            leader: (status.leader != 0).then_some(ServerId(status.leader)),
            term: Term(status.term),
            committed: Index(status.committed_index),
            applied: Index(status.applied_index),
            last: Index(status.last_index),
            compacted: Index(status.compacted_index),
            snapshot: Index(status.snapshot_index),
            revision: Revision(status.revision),
            compacted_revision: Revision(status.compacted_revision),
            state_hash: status.state_hash,
            sessions: status.sessions,
            nodes: status.nodes,
            watches: status.watches,
            disk_bytes: status.disk_bytes,
            members: status
                .members
                .into_iter()
                .map(|member| Member {
                    id: ServerId(member.id),
                    peer_address: member.peer_address,
                    client_address: member.client_address,
                    learner: member.learner,
                })
                .collect(),
            diverged: status.diverged,
            peers_encrypted: status.peers_encrypted,
            caller: status.caller,
            fence_epoch: status.fence_epoch,
            progress: status
                .progress
                .into_iter()
                .map(|progress| Progress {
                    id: ServerId(progress.id),
                    matched: Index(progress.matched_index),
                    active: progress.active,
                })
                .collect(),
        }
    }
}
