//! Reads, evaluated on the local state once it is known to be new enough.
//!
//! The state is locked briefly: large answers are cut, and history is copied out in chunks before it is searched.

use std::ops::Deref;

use conclave_proto::{NodePath, Revision, v1};
use conclave_state::Machine;

use super::wire::{self, definite};

/// Nodes of a listing, unless asked otherwise.
pub const LIST_NODES_DEFAULT: usize = 1_000;
/// Most nodes of a listing, entries of queues, and revisions of history in one answer.
pub const LIST_NODES_MAX: usize = 10_000;
/// An answer is cut once its data is larger; one node more may be in it.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Revisions searched for one history answer; it says where to go on.
pub const HISTORY_SEARCHED_MAX: usize = 65_536;
/// Revisions copied out of the state at a time.
const HISTORY_CHUNK: usize = 1_024;

fn parse(what: &str, text: &str) -> Result<NodePath, v1::Error> {
    NodePath::parse(text)
        .map_err(|error| definite(v1::Code::InvalidArgument, false, format!("bad request: {what}: {error}")))
}

fn limit(asked: u32) -> usize {
    match asked {
        0 => LIST_NODES_DEFAULT,
        asked => (asked as usize).min(LIST_NODES_MAX),
    }
}

fn after(path: &NodePath, text: &str) -> Result<Option<NodePath>, v1::Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let after = parse("after", text)?;
    if after != *path && !after.is_below(path) {
        let message = format!("bad request: after={after} is not below path={path}");
        return Err(definite(v1::Code::InvalidArgument, false, message));
    }
    Ok(Some(after))
}

/// Answers a read from the state as it is now.
///
/// # Errors
/// What is wrong with the request, or why the store cannot answer it.
pub fn evaluate<G: Deref<Target = Machine>>(
    state: impl Fn() -> G,
    read: &v1::Read,
) -> Result<v1::ReadResult, v1::Error> {
    use v1::{read::Query, read_result as answer};
    let at = (read.at_revision != 0).then_some(Revision(read.at_revision));
    let now_only = |what: &str| match at {
        None => Ok(()),
        Some(at) => Err(definite(
            v1::Code::InvalidArgument,
            false,
            format!("bad request: {what} cannot be read at a past revision, at_revision is {at}"),
        )),
    };
    let Some(query) = &read.query else {
        let message = "bad request: the read asks for nothing: use one of get, list, queues, history";
        return Err(definite(v1::Code::InvalidArgument, false, message));
    };
    let (revision, result) = match query {
        Query::Get(path) => {
            let path = parse("get", path)?;
            let state = state();
            let node = match at {
                None => state.get(&path).cloned(),
                Some(at) => state.get_at(&path, at).map_err(|error| wire::read_error(&error))?,
            };
            let revision = state.revision();
            drop(state);
            let node = node.map(|node| wire::node(&path, &node));
            (revision, answer::Result::Get(answer::GetResult { node }))
        }
        Query::List(list) => {
            let path = parse("list", &list.path)?;
            let after = after(&path, &list.after)?;
            let state = state();
            let there = match at {
                None => state.get(&path).is_some(),
                Some(at) => state.get_at(&path, at).map_err(|error| wire::read_error(&error))?.is_some(),
            };
            if !there {
                return Err(definite(v1::Code::NoNode, false, format!("no such node: path={path}")));
            }
            let (found, mut more) = state
                .list(&path, list.depth, after.as_ref(), limit(list.limit), at)
                .map_err(|error| wire::read_error(&error))?;
            let revision = state.revision();
            drop(state);
            let mut nodes = Vec::with_capacity(found.len());
            let mut bytes = 0;
            for (path, node) in found {
                if bytes >= ANSWER_BYTES_MAX {
                    more = true;
                    break;
                }
                let mut node = wire::node(&path, &node);
                if !list.with_data {
                    node.data = bytes::Bytes::new();
                }
                bytes += node.path.len() + node.data.len();
                nodes.push(node);
            }
            (revision, answer::Result::List(answer::ListResult { nodes, more }))
        }
        Query::Queues(queues) => {
            now_only("queues")?;
            let prefix = parse("prefix", if queues.prefix.is_empty() { "/" } else { &queues.prefix })?;
            let after = after(&prefix, &queues.after)?;
            let state = state();
            let (found, mut more) = state.queues(&prefix, after.as_ref(), limit(queues.limit));
            // Only references are taken while the state is locked.
            let mut room = LIST_NODES_MAX;
            let mut taken = Vec::with_capacity(found.len());
            for (path, children) in found {
                if room == 0 {
                    more = true;
                    break;
                }
                let length = children.len() as u64;
                let entries: Vec<_> = children
                    .into_iter()
                    .take(room)
                    .filter_map(|path| {
                        let node = state.get(&path)?.clone();
                        let owner = node.owner.and_then(|owner| state.session(owner));
                        Some((path, node, owner.map_or_else(String::new, |session| session.name.clone())))
                    })
                    .collect();
                room -= entries.len();
                let node = state.get(&path).cloned();
                taken.push((path, node, entries, length));
            }
            let revision = state.revision();
            drop(state);
            let queues = taken
                .into_iter()
                .map(|(path, node, entries, length)| v1::Queue {
                    node: node.map(|node| wire::node(&path, &node)),
                    entries: entries
                        .into_iter()
                        .map(|(path, node, session_name)| v1::queue::Entry {
                            node: Some(wire::node(&path, &node)),
                            session_name,
                        })
                        .collect(),
                    length,
                })
                .collect();
            (revision, answer::Result::Queues(answer::QueuesResult { queues, more }))
        }
        Query::History(history) => {
            now_only("history")?;
            search(state, history)?
        }
    };
    Ok(v1::ReadResult { revision: revision.0, result: Some(result) })
}

/// Searches history for the changes of a node and what is below it.
fn search<G: Deref<Target = Machine>>(
    state: impl Fn() -> G,
    asked: &v1::read::HistoryQuery,
) -> Result<(Revision, v1::read_result::Result), v1::Error> {
    let path = parse("history", &asked.path)?;
    let limit = limit(asked.limit);
    let mut answer = v1::read_result::HistoryResult::default();
    let mut from = Revision(asked.from_revision);
    let mut bytes = 0;
    let mut searched = 0;
    loop {
        let (chunk, newest) = {
            let state = state();
            answer.oldest_revision = state.oldest_revision().0;
            if from.0 == 0 {
                from = state.oldest_revision();
            }
            let history = state.history(from).map_err(|error| wire::read_error(&error))?;
            (history.take(HISTORY_CHUNK).cloned().collect::<Vec<_>>(), state.revision())
        };
        for changes in &chunk {
            if answer.revisions.len() >= limit || bytes >= ANSWER_BYTES_MAX || searched >= HISTORY_SEARCHED_MAX {
                answer.next_revision = changes.revision.0;
                return Ok((newest, v1::read_result::Result::History(answer)));
            }
            searched += 1;
            from = changes.revision.next();
            let concerned = |changed: &NodePath| *changed == path || changed.is_below(&path);
            let events: Vec<_> = changes
                .changes
                .iter()
                .filter(|change| change.is_event() && concerned(&change.path))
                .map(wire::event)
                .collect();
            if !events.is_empty() {
                bytes +=
                    events.iter().filter_map(|event| event.node.as_ref()).map(|n| n.data.len() + 64).sum::<usize>();
                let revision = changes.revision.0;
                answer.revisions.push(v1::Events { watch: 0, revision, events, at_ms: changes.at_ms });
            }
        }
        if chunk.len() < HISTORY_CHUNK {
            return Ok((newest, v1::read_result::Result::History(answer)));
        }
    }
}
