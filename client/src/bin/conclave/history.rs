//! `conclave history`: who changed a node, and who held a lock, when.

use conclave_client::{Client, EventKind, FencingToken, Node, Revision};
use serde::Serialize;

use crate::{
    args,
    exit::Failure,
    locks::{all_queues, fence_epoch, history_from},
    output::{NodeJson, Out, preview},
    queues::{self, Hold, Member, Moment},
    units,
};

/// Characters of data in a table.
const DATA_CHARS: usize = 40;

#[derive(Serialize)]
struct HistoryJson {
    path: String,
    /// Nothing older is known.
    oldest_revision: u64,
    changes: Vec<ChangeJson>,
    holds: Vec<HoldJson>,
}

#[derive(Serialize)]
struct ChangeJson {
    revision: u64,
    at: String,
    event: &'static str,
    node: NodeJson,
}

#[derive(Serialize)]
struct HoldJson {
    mode: queues::Mode,
    session: Option<u64>,
    token: u64,
    label: String,
    /// Null: since before the oldest known revision.
    from: Option<MomentJson>,
    /// Null: holds still.
    until: Option<MomentJson>,
}

#[derive(Serialize)]
struct MomentJson {
    revision: u64,
    at: String,
}

impl From<Moment> for MomentJson {
    fn from(moment: Moment) -> Self {
        Self { revision: moment.revision.0, at: units::utc(moment.at_ms) }
    }
}

/// An event in one word.
pub fn event_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Created => "created",
        EventKind::Changed => "changed",
        EventKind::Deleted => "deleted",
    }
}

/// Shows it.
pub async fn run(client: &Client, args: &args::History, out: &mut Out) -> Result<(), Failure> {
    let path = args.path.as_str();
    let from = Revision(args.from.unwrap_or(0));
    let (history, complete) = history_from(client, path, from, usize::MAX).await?;
    let queue = all_queues(client, path).await?.0.into_iter().find(|queue| queue.node.path == path);
    let live: Vec<Member> =
        queue.iter().flat_map(|queue| &queue.entries).filter_map(|entry| Member::of(path, &entry.node)).collect();
    let permits = match &queue {
        Some(queue) => queues::permits(&queue.node.data),
        // The queue's parent is gone: its permits stand in the last that was heard of it.
        None => history
            .iter()
            .rev()
            .flat_map(|events| events.events.iter().rev())
            .find(|event| event.node.path == path)
            .map_or(1, |event| queues::permits(&event.node.data)),
    };
    let mut holds = queues::holds(path, &history, &live, complete, permits);

    let mut changes: Vec<(Revision, u64, EventKind, Node)> = history
        .into_iter()
        .flat_map(|events| {
            let (revision, at_ms) = (events.revision, events.at_ms);
            events.events.into_iter().map(move |event| (revision, at_ms, event.kind, event.node))
        })
        .collect();
    if let Some(last) = args.last {
        changes.drain(..changes.len().saturating_sub(last));
        holds.drain(..holds.len().saturating_sub(last));
    }
    if changes.is_empty() && holds.is_empty() && !out.is_json() {
        let message = if complete.0 > 1 {
            format!(
                "no change of {path} is known since revision {complete}; older history is forgotten or was not asked for"
            )
        } else {
            format!("{path} and what is below it never changed")
        };
        return Err(Failure::not_found(message));
    }
    let epoch = if holds.is_empty() { 0 } else { fence_epoch(client).await? };
    let token = |hold: &Hold| FencingToken::new(epoch, hold.member.create_revision).get();
    if out.is_json() {
        let changes = changes
            .iter()
            .map(|(revision, at_ms, kind, node)| ChangeJson {
                revision: revision.0,
                at: units::utc(*at_ms),
                event: event_name(*kind),
                node: NodeJson::full(node),
            })
            .collect();
        let holds = holds
            .iter()
            .map(|hold| HoldJson {
                mode: hold.member.mode,
                session: hold.member.owner.map(|id| id.0),
                token: token(hold),
                label: String::from_utf8_lossy(&hold.member.label).into_owned(),
                from: hold.from.map(Into::into),
                until: hold.until.map(Into::into),
            })
            .collect();
        return out.json(&HistoryJson { path: path.to_owned(), oldest_revision: complete.0, changes, holds });
    }
    let rows = changes
        .iter()
        .map(|(revision, at_ms, kind, node)| {
            vec![
                units::utc(*at_ms),
                revision.to_string(),
                event_name(*kind).to_owned(),
                node.path.clone(),
                node.version.to_string(),
                node.owner.map(|id| id.to_string()).unwrap_or_default(),
                preview(&node.data, DATA_CHARS),
            ]
        })
        .collect();
    out.table(&["AT", ">REVISION", "EVENT", "PATH", ">VERSION", ">SESSION", "DATA"], rows)?;
    if !holds.is_empty() {
        let moment = |moment: Option<Moment>, none: &str| moment.map_or(none.to_owned(), |m| units::utc(m.at_ms));
        let rows = holds
            .iter()
            .map(|hold| {
                vec![
                    moment(hold.from, "before known history"),
                    moment(hold.until, "still held"),
                    hold.member.mode.name().to_owned(),
                    hold.member.owner.map(|id| id.to_string()).unwrap_or_default(),
                    token(hold).to_string(),
                    preview(&hold.member.label, DATA_CHARS),
                ]
            })
            .collect();
        out.line("")?;
        out.table(&["HELD FROM", "UNTIL", "MODE", ">SESSION", ">TOKEN", "LABEL"], rows)?;
    }
    Ok(())
}
