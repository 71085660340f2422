//! `put get del ls tree watch`.

use std::{io::Read as _, os::unix::ffi::OsStringExt as _};

use bytes::Bytes;
use conclave_client::{Client, Compare, ErrorKind, EventKind, Listing, Node, NodePath, Op, Relation, Revision};
use serde::Serialize;

use crate::{
    args,
    exit::{self, Failure},
    history::event_name,
    output::{NodeJson, Out, kind_text, preview, printable},
    units,
};

/// Most bytes read for a value: more than any server takes, so that the server's own limit is what is named.
const VALUE_BYTES_MAX: u64 = 4 << 20;
/// Characters of data in a line.
const DATA_CHARS: usize = 60;

#[derive(Serialize)]
struct PutJson {
    path: String,
    created: bool,
    version: u64,
    revision: u64,
}

/// Writes.
pub async fn put(client: &Client, args: args::Put, out: &mut Out) -> Result<(), Failure> {
    let path = args.path.as_str();
    let data = value(args.value, args.file)?;
    let parents = !args.no_parents;
    let mut op = if args.create { Op::create(path, data) } else { Op::put(path, data) };
    if parents {
        op = op.create_parents();
    }
    let mut txn = client.txn().then(op);
    if let Some(version) = args.if_version {
        txn = txn.when(Compare::version(path, Relation::Equal, version)).otherwise_get(path);
    }
    let done = txn.commit().await?;
    let result = match (done.succeeded, done.results.first()) {
        (false, Some(conclave_client::OpResult::Got(found))) => {
            return Err(wrong_version(path, args.if_version.unwrap_or_default(), found.as_ref()));
        }
        (true, Some(conclave_client::OpResult::Put { created, version })) => {
            PutJson { path: path.to_owned(), created: *created, version: *version, revision: done.revision.0 }
        }
        (true, Some(conclave_client::OpResult::Created { path, .. })) => {
            PutJson { path: path.clone(), created: true, version: 0, revision: done.revision.0 }
        }
        _ => return Err(Failure::new(exit::INTERNAL, "the server answered with the result of another operation")),
    };
    if out.is_json() {
        return out.json(&result);
    }
    let what = if result.created { "created" } else { "changed" };
    out.line(format!("{what} {} version {} at revision {}", result.path, result.version, result.revision))
}

fn wrong_version(path: &str, wanted: u64, found: Option<&Node>) -> Failure {
    match found {
        Some(node) => {
            Failure::new(exit::NO, format!("{path} is in version {}, not {wanted}; nothing was done", node.version))
        }
        None => Failure::not_found(format!("no node {path}; nothing was done")),
    }
}

fn value(value: Option<std::ffi::OsString>, file: Option<std::path::PathBuf>) -> Result<Bytes, Failure> {
    let read = |what: String, from: &mut dyn std::io::Read| {
        let mut data = Vec::new();
        match from.take(VALUE_BYTES_MAX + 1).read_to_end(&mut data) {
            Err(error) => Err(Failure::local(what, &error)),
            Ok(_) if data.len() as u64 > VALUE_BYTES_MAX => Err(Failure::new(
                exit::REFUSED,
                format!("{what}: more than {}, which no server takes", units::bytes(VALUE_BYTES_MAX)),
            )),
            Ok(_) => Ok(data.into()),
        }
    };
    match (value, file) {
        (Some(text), _) if text == "-" => read("cannot read standard input".to_owned(), &mut std::io::stdin().lock()),
        (Some(text), _) => Ok(text.into_vec().into()),
        (None, Some(file)) => {
            let what = format!("cannot read {}", file.display());
            let mut opened = std::fs::File::open(&file).map_err(|error| Failure::local(&what, &error))?;
            read(what, &mut opened)
        }
        (None, None) => Err(Failure::usage("put needs a VALUE, `-` for standard input, or --file FILE")),
    }
}

/// Prints a node's data as it is, or everything about it in JSON.
pub async fn get(client: &Client, args: &args::Get, out: &mut Out) -> Result<(), Failure> {
    let path = args.path.as_str();
    let mut request = client.get(path);
    if let Some(revision) = args.rev {
        request = request.at(Revision(revision));
    }
    if args.stale {
        request = request.stale_ok();
    }
    let Some(node) = request.await? else {
        return Err(missing(client, &args.path, args.rev).await);
    };
    if out.is_json() { out.json(&NodeJson::full(&node)) } else { out.raw(&node.data) }
}

/// There is no such node; says how far the path does exist.
async fn missing(client: &Client, path: &NodePath, rev: Option<u64>) -> Failure {
    if let Some(revision) = rev {
        return Failure::not_found(format!("no node {path} at revision {revision}"));
    }
    let failure = Failure::not_found(format!("no node {path}"));
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.is_root()) {
        match client.get(ancestor.as_str()).stale_ok().await {
            Ok(Some(_)) => {
                return failure.with_hint(format!("{ancestor} exists; `conclave ls {ancestor}` lists what is there"));
            }
            Ok(None) => {}
            Err(_) => return failure,
        }
    }
    failure
}

#[derive(Serialize)]
struct DelJson {
    path: String,
    deleted: u64,
    revision: u64,
}

/// Deletes.
pub async fn del(client: &Client, args: &args::Del, out: &mut Out) -> Result<(), Failure> {
    let path = args.path.as_str();
    let op = if args.recursive { Op::delete_recursive(path) } else { Op::delete(path) };
    let mut txn = client.txn().then(op);
    if let Some(version) = args.if_version {
        txn = txn.when(Compare::version(path, Relation::Equal, version)).otherwise_get(path);
    }
    let done = txn.commit().await?;
    let deleted = match (done.succeeded, done.results.first()) {
        (false, Some(conclave_client::OpResult::Got(None))) if args.force => 0,
        (false, Some(conclave_client::OpResult::Got(found))) => {
            return Err(wrong_version(path, args.if_version.unwrap_or_default(), found.as_ref()));
        }
        (true, Some(conclave_client::OpResult::Deleted { count })) => *count,
        _ => return Err(Failure::new(exit::INTERNAL, "the server answered with the result of another operation")),
    };
    if deleted == 0 && !args.force {
        return Err(missing(client, &args.path, None).await);
    }
    if out.is_json() {
        return out.json(&DelJson { path: path.to_owned(), deleted, revision: done.revision.0 });
    }
    match deleted {
        0 => out.line(format!("there was no {path}")),
        1 => out.line(format!("deleted {path} at revision {}", done.revision)),
        n => out.line(format!("deleted {path} and {} below it at revision {}", n - 1, done.revision)),
    }
}

#[derive(Serialize)]
struct ListJson {
    path: String,
    revision: u64,
    nodes: Vec<NodeJson>,
}

/// Everything below a node, to this depth, page by page and all of one revision. The node itself must exist.
async fn list(
    client: &Client,
    path: &NodePath,
    depth: u32,
    rev: Option<u64>,
    stale: bool,
    data: bool,
) -> Result<Listing, Failure> {
    let mut all: Option<Listing> = None;
    loop {
        let mut request = client.list(path.as_str()).depth(depth);
        if data {
            request = request.with_data();
        }
        if stale {
            request = request.stale_ok();
        }
        // Pages after the first are read at the revision of the first, so that together they were once true.
        let at = rev.map(Revision).or_else(|| all.as_ref().map(|all| all.revision)).filter(|_| !stale);
        if let Some(revision) = at {
            request = request.at(revision);
        }
        if let Some(last) = all.as_ref().and_then(|all| all.nodes.last()) {
            request = request.after(last.path.clone());
        }
        let page = match request.await {
            Err(error) if error.kind() == ErrorKind::NoNode => return Err(missing(client, path, rev).await),
            page => page?,
        };
        let (more, empty) = (page.more, page.nodes.is_empty());
        match &mut all {
            None => all = Some(page),
            Some(all) => all.nodes.extend(page.nodes),
        }
        if !more || empty {
            return Ok(all.expect("the first page was just put there"));
        }
    }
}

/// Lists children.
pub async fn ls(client: &Client, args: &args::Ls, out: &mut Out) -> Result<(), Failure> {
    let listing = list(client, &args.path, 1, args.rev, args.stale, args.long).await?;
    if listing.nodes.is_empty() && !args.path.is_root() {
        // An empty answer does not tell a leaf from a node that is not there.
        let mut request = client.get(args.path.as_str());
        if let Some(revision) = args.rev {
            request = request.at(Revision(revision));
        }
        if args.stale {
            request = request.stale_ok();
        }
        if request.await?.is_none() {
            return Err(missing(client, &args.path, args.rev).await);
        }
    }
    if out.is_json() {
        let node = if args.long { NodeJson::full } else { NodeJson::bare };
        let nodes = listing.nodes.iter().map(node).collect();
        return out.json(&ListJson { path: args.path.to_string(), revision: listing.revision.0, nodes });
    }
    if !args.long {
        for node in &listing.nodes {
            out.line(printable(node.name()))?;
        }
        return Ok(());
    }
    let rows = listing
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name().to_owned(),
                kind_text(node.kind),
                node.owner.map(|owner| owner.to_string()).unwrap_or_default(),
                node.version.to_string(),
                node.modify_revision.to_string(),
                node.child_count.to_string(),
                units::bytes(node.data.len() as u64),
                units::utc(node.modified_ms),
            ]
        })
        .collect();
    out.table(&["NAME", "KIND", ">SESSION", ">VERSION", ">REVISION", ">CHILDREN", ">SIZE", "CHANGED"], rows)
}

/// Draws what is below a node.
pub async fn tree(client: &Client, args: &args::Tree, out: &mut Out) -> Result<(), Failure> {
    let top = client.get(args.path.as_str()).await?;
    if top.is_none() && !args.path.is_root() {
        return Err(missing(client, &args.path, None).await);
    }
    let listing = list(client, &args.path, args.depth, None, false, args.values || out.is_json()).await?;
    if out.is_json() {
        let nodes = listing.nodes.iter().map(NodeJson::full).collect();
        return out.json(&ListJson { path: args.path.to_string(), revision: listing.revision.0, nodes });
    }
    out.line(printable(args.path.as_str()))?;
    for line in branches(args.path.as_str(), &listing.nodes, args.values) {
        out.line(line)?;
    }
    Ok(())
}

/// One line for each node, drawn as a tree. A node's siblings need not stand side by side in path order (`/a-b` comes
/// between `/a` and `/a/b`), so children are gathered first.
fn branches<'a>(top: &str, nodes: &'a [Node], values: bool) -> Vec<String> {
    let mut children: std::collections::BTreeMap<&str, Vec<&'a Node>> = std::collections::BTreeMap::new();
    for node in nodes {
        let parent = node.path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        children.entry(parent).or_default().push(node);
    }
    // Depth first, without recursion: a hostile depth costs no stack.
    let mut lines = Vec::new();
    let mut todo: Vec<(&'a Node, String, bool)> = Vec::new();
    let below = |path: &str, stem: &str, todo: &mut Vec<(&'a Node, String, bool)>| {
        let nodes = children.get(path).map_or(&[][..], Vec::as_slice);
        // The last pushed comes first.
        todo.extend(nodes.iter().enumerate().rev().map(|(at, node)| (*node, stem.to_owned(), at + 1 == nodes.len())));
    };
    below(top, "", &mut todo);
    while let Some((node, stem, last)) = todo.pop() {
        let mut line = format!("{stem}{} {}", if last { "└──" } else { "├──" }, printable(node.name()));
        if values && !node.data.is_empty() {
            line.push_str(" = ");
            line.push_str(&preview(&node.data, DATA_CHARS));
        }
        if node.owner.is_some() {
            line.push_str("  (ephemeral)");
        }
        lines.push(line);
        below(&node.path, &format!("{stem}{}", if last { "    " } else { "│   " }), &mut todo);
    }
    lines
}

#[derive(Serialize)]
struct EventJson {
    revision: u64,
    at: String,
    event: &'static str,
    node: NodeJson,
}

/// Prints changes as they come.
pub async fn watch(client: &Client, args: &args::Watch, out: &mut Out) -> Result<(), Failure> {
    let mut request = client.watch(args.path.as_str());
    if args.children {
        request = request.children();
    }
    if args.subtree {
        request = request.subtree();
    }
    if let Some(revision) = args.from {
        request = request.from(Revision(revision));
    }
    let mut watch = request.open().await?;
    let mut left = args.count;
    if left == Some(0) {
        return Ok(());
    }
    while let Some(events) = watch.next().await {
        let events = events.map_err(|error| {
            let resume = error.resume_revision();
            let failure = Failure::from(error);
            match resume {
                Some(revision) => failure.with_hint(format!("--from {revision} is the oldest still known")),
                None => failure,
            }
        })?;
        for event in &events.events {
            if out.is_json() {
                let node = if event.kind == EventKind::Deleted { NodeJson::bare } else { NodeJson::full };
                out.json_line(&EventJson {
                    revision: events.revision.0,
                    at: units::utc(events.at_ms),
                    event: event_name(event.kind),
                    node: node(&event.node),
                })?;
            } else {
                let data = match event.kind {
                    EventKind::Deleted => String::new(),
                    _ => preview(&event.node.data, DATA_CHARS),
                };
                let line = format!(
                    "{} {:>8} {} {} {data}",
                    units::utc(events.at_ms),
                    events.revision.0,
                    event_name(event.kind),
                    printable(&event.node.path)
                );
                out.line(line.trim_end())?;
            }
            if let Some(left) = &mut left {
                *left -= 1;
                if *left == 0 {
                    return out.flush();
                }
            }
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use conclave_client::Kind;

    use super::*;

    fn node(path: &str, data: &'static str) -> Node {
        Node {
            path: path.to_owned(),
            data: Bytes::from_static(data.as_bytes()),
            kind: Kind::Persistent,
            owner: None,
            create_revision: Revision(1),
            modify_revision: Revision(1),
            version: 0,
            children_version: 0,
            children_revision: Revision(0),
            child_count: 0,
            sequence: None,
            created_ms: 0,
            modified_ms: 0,
            acl: String::new(),
        }
    }

    #[test]
    fn a_tree_is_drawn_though_siblings_stand_apart() {
        // In path order "/a-b" comes between "/a" and "/a/b".
        let nodes =
            [node("/a", "x"), node("/a-b", ""), node("/a/b", "y"), node("/a/b/c", ""), node("/z", "two\nlines")];
        assert_eq!(
            branches("/", &nodes, true),
            ["├── a = x", "│   └── b = y", "│       └── c", "├── a-b", "└── z = two\\nlines"]
        );
        assert_eq!(branches("/a", &nodes[2..4], false), ["└── b", "    └── c"]);
        assert_eq!(branches("/", &[], false), Vec::<String>::new());
    }

    #[test]
    fn a_value_is_any_bytes() {
        let text = std::ffi::OsString::from_vec(vec![0xff, 0x00]);
        assert_eq!(value(Some(text), None).expect("bytes")[..], [0xff, 0x00]);
        let gone = value(None, Some("/nonexistent/file".into())).expect_err("gone");
        assert_eq!(gone.code, exit::LOCAL_IO);
        assert!(gone.message.contains("/nonexistent/file"), "{gone}");
    }
}
