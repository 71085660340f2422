//! At the end, when all is quiet: what every replica says it has, server by server.
//!
//! A replica's account is its history of changes, read from its own copy, of which each entry was applied at one index of
//! the log. So replicas agree if their accounts do, and what was acknowledged is kept if every account has it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conclave_client::{Client, Error, Revision};

use super::{
    Change, Happened, Spec,
    conclave::{config, runtime},
    tell,
    work::change,
};
use crate::target::METRICS_PORT;

/// So long one server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Sessions and their nodes have to be gone so long after their TTL.
const GONE_WITHIN: Duration = Duration::from_secs(4);

pub fn run(spec: &Spec) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        remains(spec).await?;
        for (at, endpoint) in spec.endpoints.iter().enumerate() {
            if let Err(error) = replica(spec, at, endpoint).await {
                tell(Happened::Trouble { error: format!("server {}: {error}", at + 1) });
            }
            match metrics(endpoint) {
                Ok(text) => tell(Happened::Metrics { server: at, text }),
                Err(error) => tell(Happened::Trouble { error: format!("metrics of server {}: {error:#}", at + 1) }),
            }
        }
        Ok(())
    })
}

/// Names of our sessions begin so.
const OURS: &str = "client ";

/// Waits until nothing is left of sessions, but no longer than they may take.
async fn remains(spec: &Spec) -> anyhow::Result<()> {
    let client = Client::new(config(spec).with_request_timeout(ANSWER_WITHIN))?;
    let until = Instant::now() + spec.ttl + GONE_WITHIN;
    loop {
        let (mut members, mut after) = (Vec::new(), String::new());
        loop {
            let page = client.queues(spec.namespace.clone()).after(after.clone()).await?;
            let queues = page.queues.into_iter();
            let Some(last) = queues.clone().next_back() else { break };
            after = last.node.path;
            let nodes = queues.flat_map(|queue| queue.entries).map(|entry| entry.node);
            // Sequential nodes that hang on no session stand in no line.
            let nodes = nodes.filter(|node| node.owner.is_some());
            members.extend(nodes.map(|node| (node.path, node.owner.map(|owner| owner.0))));
            if !page.more {
                break;
            }
        }
        let sessions = client.admin().sessions().await?.into_iter();
        let sessions = sessions.filter(|session| session.name.starts_with(OURS));
        let sessions: Vec<_> = sessions.map(|session| (session.id.0, session.name)).collect();
        if (members.is_empty() && sessions.is_empty()) || Instant::now() >= until {
            tell(Happened::Remains { sessions, members });
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn replica(spec: &Spec, at: usize, endpoint: &str) -> Result<(), Error> {
    let client = Client::new(config(spec).with_endpoints([endpoint]).with_request_timeout(ANSWER_WITHIN))?;
    // What the observer writes is no part of it.
    let observed = format!("{}/probe", spec.namespace);
    let mut from = Revision(0);
    loop {
        let page = client.history(spec.namespace.clone()).from(from).stale_ok().await?;
        let changes = page.revisions.into_iter().flat_map(|events| {
            let revision = events.revision;
            events.events.into_iter().map(move |event| change(revision, event))
        });
        let changes: Vec<Change> = changes.filter(|change| change.path != observed).collect();
        tell(Happened::Replica { server: at, oldest: page.oldest.0, changes });
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// By HTTP/1.0, in which the answer ends with the connection.
fn metrics(endpoint: &str) -> anyhow::Result<String> {
    let host = endpoint.trim_start_matches("http://").rsplit_once(':').context("an endpoint has a port")?.0;
    let address = format!("{host}:{METRICS_PORT}").parse().context("an endpoint is an address")?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.contains(" 200 "), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}
