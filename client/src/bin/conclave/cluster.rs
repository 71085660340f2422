//! `conclave cluster`: the servers.

use std::collections::{BTreeMap, BTreeSet};

use conclave_client::{Client, Config, EndpointStatus, Role, ServerId, ServerStatus};
use serde::Serialize;

use crate::{
    args,
    exit::{self, Failure},
    output::Out,
    units,
};

/// Entries a server may be behind the leader before `health` speaks of it.
const BEHIND_MAX: u64 = 10_000;

#[derive(Serialize)]
struct EndpointJson {
    endpoint: String,
    /// The connection to it speaks TLS.
    tls: bool,
    /// Why it did not answer; null if it did.
    error: Option<String>,
    #[serde(flatten)]
    status: Option<StatusJson>,
}

#[derive(Serialize)]
struct StatusJson {
    id: u64,
    cluster: String,
    version: String,
    role: &'static str,
    leader: Option<u64>,
    term: u64,
    committed_index: u64,
    applied_index: u64,
    last_index: u64,
    compacted_index: u64,
    snapshot_index: u64,
    revision: u64,
    compacted_revision: u64,
    state_hash: String,
    sessions: u64,
    nodes: u64,
    watches: u64,
    disk_bytes: u64,
    diverged: bool,
    fence_epoch: u64,
    /// Its connections with its peers speak TLS.
    peers_tls: bool,
    /// Whom it takes the asker for.
    caller: String,
    members: Vec<MemberJson>,
    /// Only the leader's answer has them.
    progress: Vec<ProgressJson>,
}

#[derive(Serialize)]
struct MemberJson {
    id: u64,
    peer_address: String,
    client_address: String,
    learner: bool,
}

#[derive(Serialize)]
struct ProgressJson {
    id: u64,
    matched_index: u64,
    active: bool,
}

#[derive(Serialize)]
struct HealthJson {
    healthy: bool,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct MessageJson {
    message: String,
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::Leader => "leader",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
    }
}

impl From<ServerStatus> for StatusJson {
    fn from(status: ServerStatus) -> Self {
        Self {
            id: status.id.0,
            cluster: status.cluster,
            version: status.version,
            role: role_name(status.role),
            leader: status.leader.map(|id| id.0),
            term: status.term.0,
            committed_index: status.committed.0,
            applied_index: status.applied.0,
            last_index: status.last.0,
            compacted_index: status.compacted.0,
            snapshot_index: status.snapshot.0,
            revision: status.revision.0,
            compacted_revision: status.compacted_revision.0,
            state_hash: status.state_hash,
            sessions: status.sessions,
            nodes: status.nodes,
            watches: status.watches,
            disk_bytes: status.disk_bytes,
            diverged: status.diverged,
            fence_epoch: status.fence_epoch,
            peers_tls: status.peers_encrypted,
            caller: status.caller,
            members: status
                .members
                .into_iter()
                .map(|m| MemberJson {
                    id: m.id.0,
                    peer_address: m.peer_address,
                    client_address: m.client_address,
                    learner: m.learner,
                })
                .collect(),
            progress: status
                .progress
                .into_iter()
                .map(|p| ProgressJson { id: p.id.0, matched_index: p.matched.0, active: p.active })
                .collect(),
        }
    }
}

/// Asks or changes.
pub async fn run(client: &Client, config: &Config, args: args::Cluster, out: &mut Out) -> Result<(), Failure> {
    let admin = client.admin();
    let message = match args {
        args::Cluster::Status => return status(client, out).await,
        args::Cluster::Health => return health(client, out).await,
        args::Cluster::AddLearner { id, address, client_address } => {
            let client_address = client_address.as_ref().unwrap_or(&address).0.clone();
            let admin = leader(client, config).await?.admin();
            admin.add_learner(ServerId(id.0), &address.0, &client_address).await?
        }
        args::Cluster::Promote { id } => leader(client, config).await?.admin().promote(ServerId(id.0)).await?,
        args::Cluster::Remove { id } => leader(client, config).await?.admin().remove(ServerId(id.0)).await?,
        args::Cluster::Transfer { id } => admin.transfer_leadership(id.map(|id| ServerId(id.0))).await?,
    };
    if out.is_json() { out.json(&MessageJson { message }) } else { out.line(message) }
}

/// A client that begins with the leader: only it changes the membership. Where nobody says who leads, any server does,
/// and says what is wrong.
async fn leader(client: &Client, config: &Config) -> Result<Client, Failure> {
    let answers = client.admin().status().await;
    let newest = answers.iter().filter_map(|answer| answer.status.as_ref().ok()).max_by_key(|status| status.term);
    let known = newest.and_then(|status| status.members.iter().find(|member| Some(member.id) == status.leader));
    // By its own word first: it may be reached at another address than it gives to others.
    let itself = answers.iter().find(|answer| {
        answer.status.as_ref().is_ok_and(|s| s.role == Role::Leader && newest.is_some_and(|n| n.term == s.term))
    });
    match itself.map(|answer| &answer.endpoint).or(known.map(|member| &member.client_address)) {
        Some(address) => Ok(Client::new(config.clone().with_endpoints([address.clone()]))?),
        None => Ok(client.clone()),
    }
}

async fn status(client: &Client, out: &mut Out) -> Result<(), Failure> {
    let answers = client.admin().status().await;
    let silent = answers.iter().all(|answer| answer.status.is_err());
    let problems = problems(&answers);
    if out.is_json() {
        let list: Vec<EndpointJson> = answers
            .into_iter()
            .map(|answer| match answer.status {
                Ok(status) => (answer.endpoint, answer.encrypted, None, Some(status.into())),
                Err(error) => (answer.endpoint, answer.encrypted, Some(error.to_string()), None),
            })
            .map(|(endpoint, tls, error, status)| EndpointJson { endpoint, tls, error, status })
            .collect();
        out.json(&list)?;
    } else {
        let rows = answers
            .into_iter()
            .map(|answer| match answer.status {
                Ok(s) => vec![
                    answer.endpoint,
                    s.id.to_string(),
                    tls_word(answer.encrypted, s.peers_encrypted).to_owned(),
                    if s.diverged { "DIVERGED".to_owned() } else { role_name(s.role).to_owned() },
                    s.leader.map_or("none".to_owned(), |id| id.to_string()),
                    s.term.to_string(),
                    s.applied.to_string(),
                    s.revision.to_string(),
                    s.nodes.to_string(),
                    s.sessions.to_string(),
                    s.watches.to_string(),
                    units::bytes(s.disk_bytes),
                    s.version,
                ],
                Err(_) => vec![answer.endpoint, "-".to_owned(), "-".to_owned(), "no answer".to_owned()],
            })
            .collect();
        out.table(
            &[
                "ENDPOINT",
                ">ID",
                "TLS",
                "ROLE",
                ">LEADER",
                ">TERM",
                ">APPLIED",
                ">REVISION",
                ">NODES",
                ">SESSIONS",
                ">WATCHES",
                ">DISK",
                "VERSION",
            ],
            rows,
        )?;
        for problem in &problems {
            out.line(format!("problem: {problem}"))?;
        }
    }
    if silent {
        return Err(Failure::new(exit::UNAVAILABLE, "no server answered")
            .with_hint("are they running? name others with --endpoints or CONCLAVE_ENDPOINTS"));
    }
    match (problems.is_empty(), out.is_json()) {
        (true, _) => Ok(()),
        (false, false) => Err(Failure::new(exit::NO, String::new())),
        (false, true) => Err(Failure::new(exit::NO, format!("not healthy: {}", problems.join("; ")))),
    }
}

/// Whether the connection to a server, and those with its peers, are encrypted.
fn tls_word(client: bool, peers: bool) -> &'static str {
    match (client, peers) {
        (true, true) => "yes",
        (true, false) => "not among servers",
        (false, true) => "among servers only",
        (false, false) => "no",
    }
}

async fn health(client: &Client, out: &mut Out) -> Result<(), Failure> {
    let answers = client.admin().status().await;
    let mut problems = problems(&answers);
    if problems.is_empty() {
        // Words are cheap: only an answer that a majority stands behind shows that they serve.
        if let Err(error) = client.get("/").await {
            problems.push(format!("a linearizable read failed: {error}"));
        }
    }
    let healthy = problems.is_empty();
    if out.is_json() {
        out.json(&HealthJson { healthy, problems })?;
    } else if healthy {
        let leader = answers.iter().filter_map(|a| a.status.as_ref().ok()).find_map(|s| s.leader);
        out.line(format!(
            "healthy: {} of {} endpoints answer, server {} leads, a linearizable read succeeded",
            answers.len(),
            answers.len(),
            leader.map_or_else(|| "?".to_owned(), |id| id.to_string())
        ))?;
    } else {
        for problem in &problems {
            out.line(format!("problem: {problem}"))?;
        }
    }
    if healthy { Ok(()) } else { Err(Failure::new(exit::NO, String::new())) }
}

/// What is wrong with what the servers say, each in a sentence.
fn problems(answers: &[EndpointStatus]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut servers: BTreeMap<ServerId, (&str, &ServerStatus)> = BTreeMap::new();
    for answer in answers {
        match &answer.status {
            Err(error) => problems.push(format!("{} does not answer: {error}", answer.endpoint)),
            Ok(status) => {
                if let Some((other, _)) = servers.insert(status.id, (&answer.endpoint, status)) {
                    problems.push(format!("{other} and {} are both server {}", answer.endpoint, status.id));
                }
            }
        }
    }
    let clusters: BTreeSet<&str> = servers.values().map(|(_, s)| s.cluster.as_str()).collect();
    if clusters.len() > 1 {
        problems.push(format!("the endpoints belong to different clusters: {}", Vec::from_iter(clusters).join(", ")));
        return problems;
    }
    for (endpoint, status) in servers.values() {
        if status.diverged {
            problems
                .push(format!("server {} ({endpoint}) differs from its peers' state and serves nothing", status.id));
        }
        if status.leader.is_none() {
            problems.push(format!("server {} ({endpoint}) knows no leader", status.id));
        }
    }
    let newest_term = servers.values().map(|(_, s)| s.term).max();
    let leader = servers.values().map(|(_, s)| *s).find(|s| s.role == Role::Leader && Some(s.term) == newest_term);
    let Some(leader) = leader else {
        // It may be one that was not asked. One that was would have to know.
        let named = servers.values().filter(|(_, s)| Some(s.term) == newest_term).find_map(|(_, s)| s.leader);
        if named.is_none_or(|id| servers.contains_key(&id)) {
            problems.push("no endpoint is the leader".to_owned());
        }
        return problems;
    };
    for (endpoint, status) in servers.values() {
        let behind = leader.committed.0.saturating_sub(status.applied.0);
        if behind > BEHIND_MAX {
            problems.push(format!("server {} ({endpoint}) is {} entries behind", status.id, units::count(behind)));
        }
    }
    for progress in &leader.progress {
        if !progress.active && progress.id != leader.id {
            problems.push(format!("the leader hears nothing of server {}", progress.id));
        }
    }
    for member in &leader.members {
        if !member.learner && !leader.progress.is_empty() && !leader.progress.iter().any(|p| p.id == member.id) {
            problems.push(format!("the leader does not replicate to server {}", member.id));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use conclave_client::{Index, Member, Progress, Revision, Term};

    use super::*;

    fn server(id: u64, role: Role) -> ServerStatus {
        let member = |id| Member {
            id: ServerId(id),
            peer_address: String::new(),
            client_address: String::new(),
            learner: false,
        };
        ServerStatus {
            id: ServerId(id),
            cluster: "c".to_owned(),
            version: "0".to_owned(),
            role,
            leader: Some(ServerId(1)),
            term: Term(2),
            committed: Index(50_000),
            applied: Index(50_000),
            last: Index(50_000),
            compacted: Index(0),
            snapshot: Index(0),
            revision: Revision(9),
            compacted_revision: Revision(0),
            state_hash: String::new(),
            sessions: 0,
            nodes: 0,
            watches: 0,
            disk_bytes: 0,
            members: [1, 2, 3].map(member).to_vec(),
            diverged: false,
            fence_epoch: 0,
            peers_encrypted: false,
            caller: "anonymous".to_owned(),
            progress: if role == Role::Leader {
                [1, 2, 3].map(|id| Progress { id: ServerId(id), matched: Index(50_000), active: true }).to_vec()
            } else {
                Vec::new()
            },
        }
    }

    fn cluster() -> Vec<ServerStatus> {
        vec![server(1, Role::Leader), server(2, Role::Follower), server(3, Role::Follower)]
    }

    fn found(change: impl FnOnce(&mut Vec<ServerStatus>)) -> String {
        let mut servers = cluster();
        change(&mut servers);
        let answers: Vec<EndpointStatus> = servers
            .into_iter()
            .enumerate()
            .map(|(at, status)| EndpointStatus { endpoint: format!("e{at}"), encrypted: false, status: Ok(status) })
            .collect();
        problems(&answers).join("; ")
    }

    #[test]
    fn a_healthy_cluster_has_no_problem_and_each_trouble_is_named() {
        assert_eq!(found(|_| {}), "");
        assert!(found(|s| s[1].diverged = true).contains("server 2 (e1) differs"));
        assert!(found(|s| s[2].leader = None).contains("server 3 (e2) knows no leader"));
        assert!(found(|s| s[2].applied = Index(1)).contains("server 3 (e2) is 49,999 entries behind"));
        assert!(found(|s| s[1].id = ServerId(3)).contains("e1 and e2 are both server 3"));
        assert!(found(|s| s[1].cluster = "d".to_owned()).contains("different clusters: c, d"));
        assert!(found(|s| s[0].role = Role::Follower).contains("no endpoint is the leader"));
        assert_eq!(found(|s| drop(s.remove(0))), "", "the leader was not among those asked");
        assert!(found(|s| s[0].progress[2].active = false).contains("hears nothing of server 3"));
        assert!(found(|s| s[1].term = Term(3)).contains("no endpoint is the leader"), "a leader of an old term");
    }
}
