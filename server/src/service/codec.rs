//! The session stream's frames, encoded straight from the outbox.
//!
//! The same bytes as `v1::ServerFrame` would give, without building one: events arrive encoded and are shared by all
//! their watchers.

use std::{collections::VecDeque, sync::Arc};

use bytes::BufMut;
use conclave_faults::point;
use conclave_proto::v1;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::outbox::{Events, FRAME_BYTES, Item, Outbox};

/// Field numbers of the protocol that are written by hand here; a test holds them to the generated code.
mod field {
    pub const FRAME_ITEMS: u32 = 1;
    pub const ITEM_EVENTS: u32 = 4;
    pub const EVENTS_WATCH: u32 = 1;
    pub const EVENTS_REVISION: u32 = 2;
    pub const EVENTS_EVENTS: u32 = 3;
    pub const EVENTS_AT_MS: u32 = 4;
}

fn number_len(field: u32, value: u64) -> usize {
    if value == 0 { 0 } else { key_len(field) + encoded_len_varint(value) }
}

fn put_number(field: u32, value: u64, to: &mut impl BufMut) {
    if value != 0 {
        encode_key(field, WireType::Varint, to);
        encode_varint(value, to);
    }
}

fn put_length(field: u32, len: usize, to: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(len as u64, to);
}

fn block_len(field: u32, len: usize) -> usize {
    key_len(field) + encoded_len_varint(len as u64) + len
}

/// Length of the encoded [`v1::Events`].
fn events_len(events: &Events) -> usize {
    number_len(field::EVENTS_WATCH, events.watch)
        + number_len(field::EVENTS_REVISION, events.revision)
        + events.events.as_slice().iter().map(|event| block_len(field::EVENTS_EVENTS, event.len())).sum::<usize>()
        + number_len(field::EVENTS_AT_MS, events.at_ms)
}

/// Writes a [`v1::Events`].
pub(super) fn put_events(events: &Events, to: &mut impl BufMut) {
    put_number(field::EVENTS_WATCH, events.watch, to);
    put_number(field::EVENTS_REVISION, events.revision, to);
    for event in events.events.as_slice() {
        put_length(field::EVENTS_EVENTS, event.len(), to);
        to.put_slice(event);
    }
    put_number(field::EVENTS_AT_MS, events.at_ms, to);
}

fn put_item(item: &Item, to: &mut impl BufMut) {
    match item {
        Item::Events(events) => {
            let len = events_len(events);
            put_length(field::FRAME_ITEMS, block_len(field::ITEM_EVENTS, len), to);
            put_length(field::ITEM_EVENTS, len, to);
            put_events(events, to);
        }
        Item::Notice(notice) => {
            put_length(field::FRAME_ITEMS, notice.encoded_len(), to);
            notice.encode(to);
        }
    }
}

/// Frames of clients in, outboxes out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames;

impl Codec for Frames {
    type Encode = Arc<Outbox>;
    type Decode = v1::ClientFrame;
    type Encoder = FrameEncoder;
    type Decoder = FrameDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder::default()
    }

    fn decoder(&mut self) -> FrameDecoder {
        FrameDecoder
    }
}

/// Room for items that a stream keeps between frames.
const ITEMS_KEPT: usize = 1024;

/// Takes what an outbox has and writes it as one `ServerFrame`.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    /// Swapped with the outbox's queue, so that neither is allocated anew.
    items: VecDeque<Item>,
}

impl FrameEncoder {
    /// Writes what the outbox has.
    pub fn write(&mut self, outbox: &Outbox, to: &mut impl BufMut) {
        outbox.take(&mut self.items);
        for item in self.items.drain(..) {
            put_item(&item, to);
        }
        if self.items.capacity() > ITEMS_KEPT {
            self.items = VecDeque::new();
        }
    }
}

impl Encoder for FrameEncoder {
    type Item = Arc<Outbox>;
    type Error = Status;

    fn encode(&mut self, outbox: Arc<Outbox>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        point!("session-encode", |error| Err(Status::unavailable(error.to_string())));
        self.write(&outbox, to);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(4 << 10, FRAME_BYTES)
    }
}

/// Reads a `ClientFrame`.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder;

impl Decoder for FrameDecoder {
    type Item = v1::ClientFrame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<v1::ClientFrame>, Status> {
        point!("session-decode", |error| Err(Status::unavailable(error.to_string())));
        prost::Message::decode(from)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the request cannot be decoded: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(4 << 10, FRAME_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use prost::Message as _;

    use super::*;
    use crate::service::outbox::Payload;

    #[test]
    fn hand_written_frames_are_the_generated_ones() {
        let event = |path: &str| v1::Event {
            kind: v1::EventKind::Deleted.into(),
            node: Some(v1::Node { path: path.into(), data: Bytes::from_static(b"x"), ..Default::default() }),
        };
        let encoded = |path: &str| Bytes::from(event(path).encode_to_vec());
        let reply = v1::server_item::Item::Reply(v1::Reply {
            id: 300,
            revision: 9,
            body: Some(v1::reply::Body::Error(v1::Error { message: "no".into(), ..Default::default() })),
            queue_ready: true,
        });
        let items = [
            Item::Events(Events { watch: 5, revision: 1 << 40, at_ms: 77, events: Payload::One(encoded("/a")) }),
            Item::Notice(reply.clone()),
            Item::Events(Events {
                watch: 0,
                revision: 2,
                at_ms: 0,
                events: Payload::Many(Arc::from([encoded("/b"), encoded("/c")])),
            }),
        ];
        let mut bytes = BytesMut::new();
        for item in &items {
            put_item(item, &mut bytes);
        }
        let events = |watch, revision, at_ms, paths: &[&str]| {
            v1::server_item::Item::Events(v1::Events {
                watch,
                revision,
                at_ms,
                events: paths.iter().map(|path| event(path)).collect(),
            })
        };
        let expected = v1::ServerFrame {
            items: [events(5, 1 << 40, 77, &["/a"]), reply, events(0, 2, 0, &["/b", "/c"])]
                .map(|item| v1::ServerItem { item: Some(item) })
                .into(),
        };
        assert_eq!(bytes.as_ref(), expected.encode_to_vec());
        assert_eq!(v1::ServerFrame::decode(bytes), Ok(expected));
    }
}
