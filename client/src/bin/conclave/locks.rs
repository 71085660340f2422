//! `conclave locks`: every lock, who holds it, since when, and who waits.

use conclave_client::{Client, ErrorKind, Events, FencingToken, Queue, Revision};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::{
    args,
    exit::Failure,
    output::{Out, preview},
    queues::{self, Member, Mode},
    units,
};

/// Locks asked about at the same time.
const AT_ONCE: usize = 16;
/// Characters of a label in a table.
const LABEL_CHARS: usize = 60;
/// Pages of history read to find out when a hold began; beyond them its beginning counts as unknown.
const HISTORY_PAGES_MAX: usize = 100;

#[derive(Serialize)]
struct LocksJson {
    revision: u64,
    locks: Vec<LockJson>,
}

#[derive(Serialize)]
struct LockJson {
    path: String,
    permits: Option<usize>,
    holders: Vec<MemberJson>,
    waiters: Vec<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    mode: Mode,
    session: Option<u64>,
    session_name: String,
    node: String,
    label: String,
    /// Holders only.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    /// Holders: since when it holds; null if older history is forgotten. Waiters: since when they wait.
    since: Option<String>,
    for_ms: Option<u64>,
}

/// Shows them.
pub async fn run(client: &Client, args: &args::Locks, out: &mut Out) -> Result<(), Failure> {
    let (queues, revision) = all_queues(client, args.prefix.as_str()).await?;
    let epoch = fence_epoch(client).await?;
    let locks: Vec<LockJson> = stream::iter(queues.into_iter().map(|queue| describe(client, queue, epoch)))
        .buffered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?
        .into_iter()
        .flatten()
        .filter(|lock| !args.held || !lock.holders.is_empty())
        .collect();
    if out.is_json() {
        return out.json(&LocksJson { revision: revision.0, locks });
    }
    if locks.is_empty() {
        eprintln!("nobody holds or waits for a lock at or below {}", args.prefix);
        return Ok(());
    }
    let mut rows = Vec::new();
    for lock in &locks {
        let mut name = lock.path.clone();
        let roles = std::iter::repeat_n("holds".to_owned(), lock.holders.len())
            .chain((1..=lock.waiters.len()).map(|place| format!("waits #{place}")));
        for (member, role) in lock.holders.iter().chain(&lock.waiters).zip(roles) {
            rows.push(vec![
                std::mem::take(&mut name),
                role,
                member.mode.name().to_owned(),
                member.session_name.clone(),
                member.session.map(|id| id.to_string()).unwrap_or_default(),
                member.since.clone().unwrap_or_else(|| "before known history".to_owned()),
                member.for_ms.map(|ms| units::span(std::time::Duration::from_millis(ms))).unwrap_or_default(),
                member.token.map(|token| token.to_string()).unwrap_or_default(),
                preview(member.label.as_bytes(), LABEL_CHARS),
            ]);
        }
        if !name.is_empty() {
            rows.push(vec![name, "free".to_owned()]);
        }
    }
    out.table(&["LOCK", "ROLE", "MODE", "HOLDER", ">SESSION", "SINCE", ">FOR", ">TOKEN", "LABEL"], rows)
}

/// The upper bits of every token, as any server that answers knows them.
pub async fn fence_epoch(client: &Client) -> Result<u64, Failure> {
    let answers = client.admin().status().await;
    let mut refused = None;
    for answer in answers {
        match answer.status {
            Ok(status) => return Ok(status.fence_epoch),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.map_or_else(|| Failure::usage("no endpoints are configured"), Failure::from))
}

/// Every queue at or below `prefix`, and the revision they are of.
pub async fn all_queues(client: &Client, prefix: &str) -> Result<(Vec<Queue>, Revision), Failure> {
    let mut queues = Vec::new();
    loop {
        let mut request = client.queues(prefix);
        if let Some(last) = queues.last() {
            let last: &Queue = last;
            request = request.after(last.node.path.clone());
        }
        let page = request.await?;
        let empty = page.queues.is_empty();
        queues.extend(page.queues);
        if !page.more || empty {
            return Ok((queues, page.revision));
        }
    }
}

/// A lock's changes from `from` on, and the revision from which on they are complete.
pub async fn history_from(
    client: &Client,
    path: &str,
    from: Revision,
    pages_max: usize,
) -> Result<(Vec<Events>, Revision), Failure> {
    let (mut complete, mut next, mut all) = (from, from, Vec::new());
    for _ in 0..pages_max {
        let page = match client.history(path).from(next).await {
            Ok(page) => page,
            Err(error) if error.kind() == ErrorKind::Compacted && error.resume_revision().is_some_and(|r| r > next) => {
                // Compacted just now, or before we asked: what was read so far has a hole behind it.
                next = error.resume_revision().expect("just seen");
                complete = next;
                all.clear();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        complete = complete.max(page.oldest);
        all.extend(page.revisions);
        match page.next {
            Some(revision) if revision > next => next = revision,
            _ => return Ok((all, complete)),
        }
    }
    Ok((all, complete))
}

async fn describe(client: &Client, queue: Queue, epoch: u64) -> Result<Option<LockJson>, Failure> {
    let path = queue.node.path.clone();
    let mut members: Vec<(Member, String)> = queue
        .entries
        .into_iter()
        .filter_map(|entry| Some((Member::of(&path, &entry.node)?, entry.session_name)))
        .collect();
    if members.is_empty() {
        return Ok(None);
    }
    members.sort_by_key(|(member, _)| (member.create_revision, member.sequence));
    let permits = queues::permits(&queue.node.data);
    let semaphore = members.iter().any(|(member, _)| member.mode == Mode::Permit);
    let holding = queues::holders(members.iter().map(|(member, _)| member), permits);

    let first = members[0].0.create_revision;
    let (history, complete) = history_from(client, &path, first, HISTORY_PAGES_MAX).await?;
    let live: Vec<Member> = members.iter().map(|(member, _)| member.clone()).collect();
    let holds = queues::holds(&path, &history, &live, complete, permits);

    let now = units::now_ms();
    let mut holders = Vec::new();
    let mut waiters = Vec::new();
    for (at, (member, session_name)) in members.into_iter().enumerate() {
        let holds_now = at < holding;
        let since_ms = if holds_now {
            let hold = holds
                .iter()
                .rev()
                .find(|h| h.member.create_revision == member.create_revision && h.member.sequence == member.sequence);
            hold.and_then(|hold| hold.from).map(|moment| moment.at_ms)
        } else {
            Some(member.created_ms)
        };
        let json = MemberJson {
            mode: member.mode,
            session: member.owner.map(|id| id.0),
            session_name,
            node: member.path,
            label: String::from_utf8_lossy(&member.label).into_owned(),
            token: holds_now.then(|| FencingToken::new(epoch, member.create_revision).get()),
            since: since_ms.map(units::utc),
            for_ms: since_ms.map(|ms| now.saturating_sub(ms)),
        };
        if holds_now { holders.push(json) } else { waiters.push(json) }
    }
    Ok(Some(LockJson { path, permits: semaphore.then_some(permits), holders, waiters }))
}
