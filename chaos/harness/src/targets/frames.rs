//! Frames of a session stream, both ways.

use conclave_proto::v1::{self, ClientFrame, ClientItem, ServerFrame, ServerItem};
use prost::Message;

use crate::Target;

/// What a client sends, as the server reads it.
pub const CLIENT: Target = Target {
    name: "session-frame",
    about: "a frame of a client, as the server reads it; written and read again it is the same",
    run: |data| same_again::<ClientFrame>(data),
    seeds: || client_frames().iter().map(Message::encode_to_vec).collect(),
};

/// What a server sends, as the client reads it.
pub const SERVER: Target = Target {
    name: "reply-frame",
    about: "a frame of a server, as the client reads it; written and read again it is the same",
    run: |data| same_again::<ServerFrame>(data),
    seeds: || server_frames().iter().map(Message::encode_to_vec).collect(),
};

fn same_again<M: Message + Default + PartialEq>(data: &[u8]) {
    let Ok(read) = M::decode(data) else { return };
    let written = read.encode_to_vec();
    assert_eq!(written.len(), read.encoded_len());
    let again = M::decode(&written[..]).expect("what was written can be read");
    assert!(again == read, "it reads as something else");
}

/// Every item a client can send.
pub(crate) fn client_frames() -> Vec<ClientFrame> {
    use v1::client_item::Item;
    let hello = v1::Hello { secret: vec![7; 16].into(), ttl_ms: 10_000, name: "seed".into(), ..Default::default() };
    let items = vec![
        Item::Hello(hello),
        Item::KeepAlive(v1::KeepAlive { id: 3 }),
        Item::Watch(v1::WatchOpen { watch: 1, path: "/a".into(), ..Default::default() }),
        Item::QueueWatch(v1::QueueWatch { watch: 2, path: "/q/n-0000000001".into(), ..Default::default() }),
        Item::Cancel(v1::WatchCancel { watch: 1 }),
        Item::Close(v1::Close {}),
        Item::Call(v1::Call {
            id: 9,
            number: 1,
            body: Some(v1::call::Body::Read(v1::Read {
                query: Some(v1::read::Query::Get("/a/b".into())),
                ..Default::default()
            })),
            ..Default::default()
        }),
        Item::Call(v1::Call { id: 10, number: 2, body: Some(v1::call::Body::Txn(txn())), ..Default::default() }),
    ];
    let frame = |items: Vec<Item>| ClientFrame {
        items: items.into_iter().map(|item| ClientItem { item: Some(item) }).collect(),
    };
    let mut frames: Vec<_> = items.iter().map(|item| frame(vec![item.clone()])).collect();
    frames.push(frame(items));
    frames
}

/// A transaction with one of each operation.
pub(crate) fn txn() -> v1::Txn {
    use v1::op::Op;
    let create = |path: &str, kind: v1::Kind, sequential| {
        Op::Create(v1::op::Create {
            path: path.into(),
            kind: kind.into(),
            sequential,
            create_parents: true,
            data: "x".into(),
            ..Default::default()
        })
    };
    let ops = |ops: Vec<Op>| ops.into_iter().map(|op| v1::Op { op: Some(op) }).collect();
    v1::Txn {
        then: ops(vec![
            create("/a", v1::Kind::Persistent, false),
            create("/q/n-", v1::Kind::Ephemeral, true),
            Op::Put(v1::op::Put { path: "/p/q".into(), data: "y".into(), create_parents: true }),
            Op::Delete(v1::op::Delete { path: "/a".into(), recursive: true }),
        ]),
        otherwise: ops(vec![create("/b", v1::Kind::Container, false)]),
        ..Default::default()
    }
}

fn server_frames() -> Vec<ServerFrame> {
    use v1::server_item::Item;
    let node = v1::Node { path: "/a".into(), data: "x".into(), create_revision: 4, ..Default::default() };
    let event = v1::Event { kind: v1::EventKind::Deleted.into(), node: Some(node.clone()) };
    let read = v1::ReadResult {
        revision: 4,
        result: Some(v1::read_result::Result::Get(v1::read_result::GetResult { node: Some(node) })),
    };
    let items = [
        Item::Welcome(v1::Welcome { session: 5, ttl_ms: 1_000, cluster: "seed".into(), ..Default::default() }),
        Item::KeepAlive(v1::KeepAliveAck { id: 3, told_revision: 4 }),
        Item::Events(v1::Events { watch: 1, revision: 4, events: vec![event], at_ms: 5 }),
        Item::Reply(v1::Reply { id: 9, revision: 4, body: Some(v1::reply::Body::Read(read)), queue_ready: true }),
        Item::QueueReady(v1::QueueReady { watch: 2, revision: 5 }),
        Item::Ended(v1::SessionEnded { reason: 1, message: "gone".into() }),
    ];
    items.map(|item| ServerFrame { items: vec![ServerItem { item: Some(item) }] }).into()
}
