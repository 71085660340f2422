//! Frames: what a session sends is encoded once, when it is asked for, and kept in that form until it is answered.

use bytes::{BufMut, Bytes, BytesMut};
use conclave_proto::v1;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Items put into one frame before the next is begun.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// Largest call, encoded. Servers refuse requests of more than 2 MiB (and with them the whole stream), which leaves
/// room for the frame around it.
pub(crate) const CALL_BYTES_MAX: usize = (2 << 20) - (1 << 10);

// Field numbers of the protocol; `tests::what_is_written_by_hand_reads_as_generated` holds them to it.
const FRAME_ITEMS: u32 = 1;
const ITEM_CALL: u32 = 2;
const CALL_ID: u32 = 1;
const CALL_NUMBER: u32 = 2;
const CALL_ACKNOWLEDGED: u32 = 3;

/// A call's body as it is kept: all of it but the fields that change when it is sent again.
pub(crate) fn call_body(call: &v1::Call) -> Bytes {
    debug_assert_eq!((call.id, call.number, call.acknowledged), (0, 0, 0), "written when it is sent");
    call.encode_to_vec().into()
}

/// Adds a call to a frame.
pub(crate) fn put_call(frame: &mut BytesMut, id: u64, number: u64, acknowledged: u64, body: &[u8]) {
    let field = |tag, value| if value == 0 { 0 } else { key_len(tag) + encoded_len_varint(value) };
    let call = field(CALL_ID, id) + field(CALL_NUMBER, number) + field(CALL_ACKNOWLEDGED, acknowledged) + body.len();
    let item = key_len(ITEM_CALL) + encoded_len_varint(call as u64) + call;
    frame.reserve(item + 16);
    encode_key(FRAME_ITEMS, WireType::LengthDelimited, frame);
    encode_varint(item as u64, frame);
    encode_key(ITEM_CALL, WireType::LengthDelimited, frame);
    encode_varint(call as u64, frame);
    for (tag, value) in [(CALL_ID, id), (CALL_NUMBER, number), (CALL_ACKNOWLEDGED, acknowledged)] {
        if value != 0 {
            encode_key(tag, WireType::Varint, frame);
            encode_varint(value, frame);
        }
    }
    frame.put_slice(body);
}

/// Adds any other item to a frame.
pub(crate) fn put_item(frame: &mut BytesMut, item: v1::client_item::Item) {
    let item = v1::ClientItem { item: Some(item) };
    frame.reserve(item.encoded_len() + 16);
    encode_key(FRAME_ITEMS, WireType::LengthDelimited, frame);
    item.encode_length_delimited(frame).expect("room was reserved");
}

/// Sends frames that are encoded already, and decodes what comes back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Bytes;
    type Decode = v1::ServerFrame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(frame);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = v1::ServerFrame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<v1::ServerFrame>, Status> {
        let frame = v1::ServerFrame::decode(from);
        frame.map(Some).map_err(|error| Status::internal(format!("the server's frame cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_reads_as_generated() {
        let call = v1::Call {
            body: Some(v1::call::Body::Read(v1::Read {
                query: Some(v1::read::Query::Get("/a".to_owned())),
                ..Default::default()
            })),
            queue_op: 3,
            ..Default::default()
        };
        let mut frame = BytesMut::new();
        put_call(&mut frame, 1 << 63 | 7, 0, 0, &call_body(&call));
        put_item(&mut frame, v1::client_item::Item::KeepAlive(v1::KeepAlive { id: 300 }));
        put_call(&mut frame, 5, 4, 3, &call_body(&call));
        put_item(&mut frame, v1::client_item::Item::Close(v1::Close {}));

        let read = v1::ClientFrame::decode(frame.freeze()).expect("a frame");
        let items: Vec<_> = read.items.into_iter().map(|item| item.item.expect("an item")).collect();
        let with = |id, number, acknowledged| v1::Call { id, number, acknowledged, ..call.clone() };
        assert_eq!(
            items,
            [
                v1::client_item::Item::Call(with(1 << 63 | 7, 0, 0)),
                v1::client_item::Item::KeepAlive(v1::KeepAlive { id: 300 }),
                v1::client_item::Item::Call(with(5, 4, 3)),
                v1::client_item::Item::Close(v1::Close {}),
            ]
        );
    }
}
