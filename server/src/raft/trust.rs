//! Who may speak as a peer, where connections are encrypted.
//!
//! A peer's certificate is signed by our CA (the handshake saw to that), made for servers, and names the host of the
//! member it says it is. Members are those this server knows from the log, and those its configuration names: a
//! newcomer with an empty disk knows no others. A server that was away may be spoken to by a member that was added
//! meanwhile; it asks the members it knows, and takes their word. So a certificate alone makes nobody a peer.

use std::{sync::Arc, time::Duration};

use conclave_proto::{
    ServerId,
    peer::{VouchRequest, peer_client::PeerClient},
};
use conclave_tls::Certificate;
use tokio::sync::watch;

use super::{
    Member, Status,
    peers::{Local, connect},
};
use crate::tls::host_of;

/// Members are asked for their word for so long.
const VOUCH_WITHIN: Duration = Duration::from_secs(2);

/// The certificate shown on the connection of a peer's request; among its extensions.
#[derive(Clone, Debug, Default)]
pub struct Shown(pub Option<Arc<Certificate>>);

/// See the module.
#[derive(Clone)]
pub(super) struct Trust {
    local: Local,
    founders: Vec<Member>,
    status: watch::Receiver<Arc<Status>>,
}

impl Trust {
    pub(super) fn new(local: Local, founders: Vec<Member>, status: watch::Receiver<Arc<Status>>) -> Self {
        Self { local, founders, status }
    }

    /// Whether whoever showed this may speak as server `from`, which says that it is reached at `address` (empty: it does
    /// not know).
    pub(super) async fn check(&self, shown: Option<&Shown>, from: ServerId, address: &str) -> Result<(), String> {
        if self.local.identity.is_none() {
            return Ok(());
        }
        let certificate = server_certificate(shown, from)?;
        let known = self.known();
        let mut of_it: Vec<&str> = known.iter().filter(|(id, _)| *id == from).map(|(_, address)| &**address).collect();
        of_it.dedup();
        if of_it.iter().any(|address| certificate.is_for_host(host_of(address))) {
            return Ok(());
        }
        let names = certificate.names().join(", ");
        if !of_it.is_empty() {
            return Err(format!(
                "the certificate for {names} is not for server {from}, which is at {}",
                of_it.join(", ")
            ));
        }
        if address.is_empty() || !certificate.is_for_host(host_of(address)) {
            return Err(format!(
                "server {from} is no member as far as is known here, and its certificate for {names} is not for the \
                 address it gives, {address:?}"
            ));
        }
        if self.somebody_vouches(&known, from, address).await {
            return Ok(());
        }
        Err(format!("server {from} at {address} is no member of this cluster, by the word of no member known here"))
    }

    /// Whether a server is a member at this address, by what is known here.
    pub(super) fn is_member(&self, id: ServerId, address: &str) -> bool {
        self.status.borrow().members.iter().any(|member| member.id == id && member.peer_address == address)
    }

    fn known(&self) -> Vec<(ServerId, String)> {
        let status = self.status.borrow();
        let all = status.members.iter().chain(&self.founders);
        all.map(|member| (member.id, member.peer_address.clone())).collect()
    }

    async fn somebody_vouches(&self, known: &[(ServerId, String)], from: ServerId, address: &str) -> bool {
        let mut others: Vec<&String> =
            known.iter().filter(|(id, _)| *id != self.local.id).map(|(_, address)| address).collect();
        others.sort_unstable();
        others.dedup();
        let ask = |member: &String| {
            let member = member.clone();
            let request = VouchRequest {
                cluster: self.local.cluster.clone(),
                from: self.local.id.0,
                id: from.0,
                address: address.to_owned(),
            };
            let local = self.local.clone();
            Box::pin(async move {
                let channel = connect(&local, &member).await.map_err(|_| ())?;
                let reply = PeerClient::new(channel).vouch(request).await.map_err(|_| ())?;
                if reply.into_inner().member { Ok(()) } else { Err(()) }
            })
        };
        if others.is_empty() {
            return false;
        }
        let asked = futures_util::future::select_ok(others.into_iter().map(ask));
        matches!(tokio::time::timeout(VOUCH_WITHIN, asked).await, Ok(Ok(_)))
    }
}

/// The certificate of a server of this CA, whichever.
pub(super) fn server_certificate(shown: Option<&Shown>, from: ServerId) -> Result<Arc<Certificate>, String> {
    let certificate = shown
        .and_then(|shown| shown.0.clone())
        .ok_or_else(|| format!("server {from} shows no certificate, and peers must"))?;
    if !certificate.is_for_servers() {
        return Err(format!(
            "the certificate of {} is a client's: it cannot speak as server {from}",
            certificate.name()
        ));
    }
    Ok(certificate)
}
