//! Administration: what a server says of itself, sessions, membership.

use std::{sync::Arc, time::Duration};

use conclave_faults::point;
use conclave_proto::{ServerId, SessionId, v1};
use conclave_state::{Command, EndReason, Outcome};
use conclave_tls::Identity;
use tokio::net::TcpStream;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};

use super::{
    Service,
    admit::Caller,
    session::CONFIRM_WITHIN,
    wire::{self, definite},
};
use crate::{
    raft::{ChangeError, Member, MemberChange, Role},
    tls::{self, Once},
};

/// Paths shown of what a session owns.
const OWNS_MAX: usize = 100;
/// Sessions in one answer, unless asked for fewer. The state is locked meanwhile.
const SESSIONS_MAX: usize = 1_000;
/// Marks a request that another server passed on, so that it is not passed on again.
const FORWARDED: &str = "conclave-forwarded";
/// For a connection to the leader.
const FORWARD_WITHIN: Duration = Duration::from_secs(2);

/// `Admin`, over the shared parts.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) service: Arc<Service>,
    /// For asking the leader, by its clients' port.
    pub(crate) identity: Option<Arc<Identity>>,
    /// What is said of the connections among peers.
    pub(crate) peers_encrypted: bool,
}

impl Admin {
    fn status(&self) -> v1::StatusReply {
        let service = &self.service;
        let status = service.handle.status().borrow().clone();
        let sizes = service.hub.sizes();
        let state = service.handle.state();
        let counts = state.counts();
        v1::StatusReply {
            id: service.id.0,
            cluster: service.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: match status.role {
                Role::Follower => v1::Role::Follower,
                Role::Leader => v1::Role::Leader,
                Role::Candidate => v1::Role::Candidate,
                Role::Learner => v1::Role::Learner,
            }
            .into(),
            leader: status.leader.0,
            term: status.term.0,
            committed_index: status.committed.0.max(state.applied().0),
            applied_index: state.applied().0,
            last_index: status.last.0.max(state.applied().0),
            compacted_index: status.compacted.0,
            snapshot_index: status.snapshot.0,
            revision: state.revision().0,
            compacted_revision: state.oldest_revision().0.saturating_sub(1),
            state_hash: state.hash().to_string(),
            sessions: counts.sessions,
            nodes: counts.nodes,
            watches: (sizes.watches + sizes.queue_watches) as u64,
            disk_bytes: 0,
            members: status
                .members
                .iter()
                .map(|member| v1::Member {
                    id: member.id.0,
                    peer_address: member.peer_address.clone(),
                    client_address: member.client_address.clone(),
                    learner: member.learner,
                })
                .collect(),
            diverged: status.diverged,
            fence_epoch: state.fence_epoch(),
            peers_encrypted: self.peers_encrypted,
            caller: String::new(),
            progress: status
                .progress
                .iter()
                .map(|&(id, matched, active)| v1::status_reply::Progress { id: id.0, matched_index: matched.0, active })
                .collect(),
        }
    }

    /// On the leader: sessions and what remains to them by its clock. `None`: this server does not lead.
    async fn sessions_here(&self, asked: &v1::SessionsRequest) -> Option<v1::SessionsReply> {
        let service = &self.service;
        let remaining = service.handle.remaining().await?;
        let state = service.handle.state();
        let limit = match asked.limit {
            0 => SESSIONS_MAX,
            asked => (asked as usize).min(SESSIONS_MAX),
        };
        let left = |id: SessionId, otherwise: u64| {
            remaining.binary_search_by_key(&id, |&(id, _)| id).map_or(otherwise, |at| remaining[at].1)
        };
        let mut reply = v1::SessionsReply::default();
        for session in state.sessions() {
            if session.id.0 <= asked.after || (asked.session != 0 && session.id.0 != asked.session) {
                continue;
            }
            if reply.sessions.len() == limit {
                reply.more = true;
                break;
            }
            reply.sessions.push(v1::SessionInfo {
                session: session.id.0,
                name: session.name.clone(),
                ttl_ms: session.ttl_ms,
                remaining_ms: left(session.id, session.remaining_ms),
                opened_revision: session.opened_revision.0,
                opened_ms: session.opened_ms,
                owns: state.owned(session.id).take(OWNS_MAX).map(ToString::to_string).collect(),
                owned: state.owned(session.id).count() as u64,
            });
        }
        Some(reply)
    }

    async fn sessions_of_leader(
        &self,
        asked: v1::SessionsRequest,
        token: Option<MetadataValue<Ascii>>,
    ) -> Result<v1::SessionsReply, v1::Error> {
        let address = {
            let status = self.service.handle.status();
            let status = status.borrow();
            status
                .members
                .iter()
                .find(|member| member.id == status.leader && member.id != self.service.id)
                .map(|member| member.client_address.clone())
        };
        let Some(address) = address else {
            return Err(definite(v1::Code::NoLeader, true, "no leader is known"));
        };
        let unavailable = |what: &str, error: &dyn std::error::Error| {
            let message = format!("{what} the leader at {address}: {error}");
            definite(v1::Code::Unavailable, true, message)
        };
        point!("admin-forward", |error| Err(unavailable("cannot reach", &error)));
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("{}://{address}", tls::scheme(self.identity.as_ref())))
                .map_err(|error| unavailable("no such address of", &error))?
                .connect_timeout(FORWARD_WITHIN)
                .timeout(CONFIRM_WITHIN);
        let tcp = tokio::time::timeout(FORWARD_WITHIN, TcpStream::connect(&address))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|error| unavailable("cannot reach", &error))?;
        let stream = tls::secure(self.identity.as_ref(), tcp, &address)
            .await
            .map_err(|error| unavailable("no TLS with", &error))?;
        let channel = endpoint
            .connect_with_connector(Once(Some(stream)))
            .await
            .map_err(|error| unavailable("cannot reach", &error))?;
        let mut request = Request::new(asked);
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        // Where servers have no certificates, the asker's token stands for both.
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token);
        }
        v1::admin_client::AdminClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .sessions(request)
            .await
            .map(Response::into_inner)
            .map_err(|status| unavailable("no answer from", &status))
    }

    async fn change(&self, change: MemberChange) -> Response<v1::AdminReply> {
        point!("admin-members", |error| reply(Err(definite(v1::Code::Unavailable, true, error.to_string()))));
        reply(self.service.handle.change_members(change).await.map_err(|error| {
            let effect = match error {
                ChangeError::Refused(_) => v1::Effect::None,
                ChangeError::Unknown(_) => v1::Effect::Unknown,
            };
            v1::Error { effect: effect.into(), ..definite(v1::Code::Membership, false, error.to_string()) }
        }))
    }
}

fn reply(result: Result<String, v1::Error>) -> Response<v1::AdminReply> {
    Response::new(match result {
        Ok(message) => v1::AdminReply { message, error: None },
        Err(error) => v1::AdminReply { message: String::new(), error: Some(error) },
    })
}

fn refuse(message: impl Into<String>) -> Result<Response<v1::AdminReply>, Status> {
    Ok(reply(Err(definite(v1::Code::InvalidArgument, false, message))))
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Admin {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        point!("admin-status", |error| Err(Status::unavailable(error.to_string())));
        let mut status = Self::status(self);
        status.caller = request.extensions().get::<Caller>().map(|caller| caller.name.to_string()).unwrap_or_default();
        let handle = self.service.handle.clone();
        // Reads directories.
        status.disk_bytes = tokio::task::spawn_blocking(move || handle.disk_bytes()).await.unwrap_or_default();
        Ok(Response::new(status))
    }

    async fn sessions(&self, request: Request<v1::SessionsRequest>) -> Result<Response<v1::SessionsReply>, Status> {
        let forwarded = request.metadata().contains_key(FORWARDED);
        let token = request.metadata().get("authorization").cloned();
        let asked = request.into_inner();
        let answer = match self.service.permit() {
            Err(error) => Err(error),
            Ok(_permit) => match self.sessions_here(&asked).await {
                Some(reply) => Ok(reply),
                None if forwarded => Err(definite(v1::Code::NoLeader, true, "leadership has moved on")),
                None => self.sessions_of_leader(asked, token).await,
            },
        };
        let answer = answer.unwrap_or_else(|error| v1::SessionsReply { error: Some(error), ..Default::default() });
        Ok(Response::new(answer))
    }

    async fn kill_session(&self, request: Request<v1::KillRequest>) -> Result<Response<v1::AdminReply>, Status> {
        let session = SessionId(request.into_inner().session);
        let command = Command::EndSession { session, run: None, reason: EndReason::Killed };
        Ok(reply(match self.service.propose(command).await {
            Ok((_, Outcome::Refused(refusal))) => Err(wire::refusal(&refusal)),
            Ok((revision, _)) => Ok(format!("session {session:x} was ended at revision {revision}")),
            Err(error) => Err(wire::propose_error(error)),
        }))
    }

    async fn add_learner(&self, request: Request<v1::MemberRequest>) -> Result<Response<v1::AdminReply>, Status> {
        let asked = request.into_inner();
        if asked.id == 0 {
            return refuse("a member needs an id other than 0");
        }
        if let Err(error) = crate::config::check_address("peer_address", &asked.peer_address) {
            return refuse(error);
        }
        let client_address =
            if asked.client_address.is_empty() { asked.peer_address.clone() } else { asked.client_address };
        if let Err(error) = crate::config::check_address("client_address", &client_address) {
            return refuse(error);
        }
        let (id, peer_address) = (ServerId(asked.id), asked.peer_address);
        Ok(self.change(MemberChange::AddLearner(Member { id, peer_address, client_address, learner: true })).await)
    }

    async fn promote(&self, request: Request<v1::MemberRequest>) -> Result<Response<v1::AdminReply>, Status> {
        Ok(self.change(MemberChange::Promote(ServerId(request.into_inner().id))).await)
    }

    async fn remove(&self, request: Request<v1::MemberRequest>) -> Result<Response<v1::AdminReply>, Status> {
        Ok(self.change(MemberChange::Remove(ServerId(request.into_inner().id))).await)
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        point!("admin-transfer", |error| Err(Status::unavailable(error.to_string())));
        let to = ServerId(request.into_inner().id);
        Ok(reply(match self.service.handle.transfer(to).await {
            Ok(leader) => Ok(format!("server {leader} leads")),
            Err(message) => Err(definite(v1::Code::Membership, true, message)),
        }))
    }
}
