//! Decoders that live in the server.

use conclave_proto::{
    Index, RequestNumber, SessionId, Term,
    peer::{PeerFrame, PeerHello, PeerItem, Renew, SnapshotChunk, StateHash, peer_item::Item},
    v1::{ClientFrame, call::Body, client_item},
};
use conclave_server::{
    config::{Config, Flag},
    raft::check_chunk,
    service::wire::{self, Bounds},
    storage,
};
use conclave_state::{By, Command, Entry, Machine, RequestId};
use prost::Message as _;
use raft::eraftpb;

use crate::{Target, joined, parts};

/// From a frame to the state.
pub const TRANSACTION: Target = Target {
    name: "session-transaction",
    about: "the calls of a client's frame, made commands and applied; a command reads the same from the log",
    run: transaction,
    seeds: || super::frames::client_frames().iter().map(prost::Message::encode_to_vec).collect(),
};

fn transaction(data: &[u8]) {
    let Ok(frame) = ClientFrame::decode(data) else { return };
    let mut machine = Machine::new();
    let opened = Command::OpenSession { secret: [7; 16], run: 0, ttl_ms: 10_000, name: String::new() };
    let request = RequestId { server: 1, run: 1, count: 0 };
    machine.apply(Index(1), Term(1), Some(Entry { request, at_ms: 0, command: opened }));
    let bounds = Bounds { data_bytes_max: 1 << 20, txn_ops_max: 128 };
    let calls = frame.items.into_iter().filter_map(|item| match item.item {
        Some(client_item::Item::Call(call)) => Some(call),
        _ => None,
    });
    for call in calls {
        let Some(Body::Txn(txn)) = call.body else { continue };
        if call.number == 0 {
            continue; // refused at the door
        }
        let by = By {
            session: SessionId(1),
            run: 0,
            number: RequestNumber(call.number),
            acknowledged: RequestNumber(call.acknowledged),
        };
        let command = match wire::txn(txn, bounds) {
            Ok(txn) => Command::Txn { by: Some(by), txn },
            Err(refusal) => Command::Refused { by, refusal },
        };
        let entry = Entry { request, at_ms: 0, command };
        let again = Entry::decode(&entry.encode()).expect("what was written can be read");
        assert!(again == entry, "it reads as something else");
        let at = Index(machine.applied().0 + 1);
        machine.apply(at, Term(1), Some(again));
    }
}

/// What servers tell each other.
pub const PEER: Target = Target {
    name: "peer-frame",
    about: "a frame of a peer, and raft's messages in it; written and read again it is the same",
    run: peer,
    seeds: peer_seeds,
};

fn peer(data: &[u8]) {
    let Ok(frame) = PeerFrame::decode(data) else { return };
    let again = PeerFrame::decode(&frame.encode_to_vec()[..]).expect("what was written can be read");
    assert!(again == frame, "it reads as something else");
    for item in frame.items {
        let Some(Item::Raft(bytes)) = item.item else { continue };
        let Ok(message) = <eraftpb::Message as prost_raft::Message>::decode(&bytes[..]) else { continue };
        let written = prost_raft::Message::encode_to_vec(&message);
        let again = <eraftpb::Message as prost_raft::Message>::decode(&written[..]);
        assert_eq!(again.expect("what was written can be read"), message);
    }
}

fn peer_seeds() -> Vec<Vec<u8>> {
    let mut message = eraftpb::Message { from: 1, to: 2, term: 3, index: 4, ..Default::default() };
    message.entries.push(eraftpb::Entry { index: 5, term: 3, data: b"data".to_vec(), ..Default::default() });
    let items = [
        Item::Hello(PeerHello { cluster: "seed".into(), from: 1, to: 2, protocol: 1, address: "h:1".into() }),
        Item::Raft(prost_raft::Message::encode_to_vec(&message).into()),
        Item::Renew(Renew { from: 1, batch: 2, sessions: vec![3, 4] }),
        Item::StateHash(StateHash { from: 1, index: 1024, hash: vec![5; 16].into() }),
    ];
    items.map(|item| PeerFrame { items: vec![PeerItem { item: Some(item) }] }.encode_to_vec()).into()
}

/// A part of a snapshot on its way.
pub const CHUNK: Target = Target {
    name: "snapshot-chunk",
    about: "a chunk of a snapshot; what is accepted has its checksum and a plain file name",
    run: chunk,
    seeds: || {
        let chunk = |name: &str, data: &'static [u8]| SnapshotChunk {
            file: 1,
            name: name.into(),
            file_size: 4,
            offset: 0,
            data: data.into(),
            crc: checksum(data),
            last: true,
        };
        ["000007.sst", "../CURRENT", ".", ""].map(|name| chunk(name, b"data").encode_to_vec()).into()
    },
};

/// CRC-32, by the book (IEEE 802.3), so that the decoder is not checked with itself.
fn checksum(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn chunk(data: &[u8]) {
    let Ok(chunk) = SnapshotChunk::decode(data) else { return };
    if check_chunk(&chunk).is_ok() {
        assert_eq!(checksum(&chunk.data), chunk.crc);
        let joined = std::path::Path::new("/incoming").join(&chunk.name);
        assert_eq!(joined.parent(), Some(std::path::Path::new("/incoming")), "it would leave its directory");
    }
}

/// What a disk says of itself.
pub const META: Target = Target {
    name: "meta-record",
    about: "a record of the meta column family, key and value",
    run: |data| {
        if let [key, value, ..] = parts(data)[..] {
            let _ = storage::check_meta(key, value);
        }
    },
    seeds: || {
        let state = eraftpb::HardState { term: 3, vote: 1, commit: 9 };
        let state = prost_raft::Message::encode_to_vec(&state);
        vec![
            joined([&b"hard_state"[..], &state]),
            joined([&b"applied"[..], &[1, 9, 3]]),
            joined([&b"compacted"[..], &[1, 0, 0]]),
            joined([&b"identity"[..], &[1, 4, b's', b'e', b'e', b'd', 1]]),
            joined([&b"membership"[..], &[1, 2, 10, 1, 1, 1, 3, b'h', b':', b'1', 3, b'h', b':', b'1', 0]]),
        ]
    },
};

/// The configuration file.
pub const CONFIG: Target = Target {
    name: "config-file",
    about: "a configuration file; what is accepted reads the same after being printed",
    run: |data| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(config) = Config::load(Some(("fuzz.toml", text)), [], []) else { return };
        let _ = config.check();
        let printed = config.to_toml();
        let again = Config::load(Some(("printed.toml", &printed)), [], []);
        assert!(again.expect("what was printed can be read") == config, "it reads as something else:\n{printed}");
    },
    seeds: || {
        let good = "id = 1\ncluster = \"seed\"\ndata_dir = \"d\"\nlisten_client = \"127.0.0.1:7401\"\n\
                    [[members]]\nid = 1\naddress = \"h:1\"\n[raft]\ntick = \"20ms\"\nlog_bytes_max = \"64MiB\"\n\
                    [limits]\ndata_bytes_max = \"512KiB\"\nhistory_age = \"1d\"\n[log]\nformat = \"json\"\n";
        let lines = good.lines().map(|line| line.as_bytes().to_vec());
        lines.chain([good.as_bytes().to_vec()]).collect()
    },
};

/// Members on the command line.
pub const MEMBERS: Target = Target {
    name: "member-list",
    about: "--members and the other settings that come as text",
    run: |data| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        for key in ["members", "raft.tick", "limits.data_bytes_max", "listen_client", "limits.nodes_max"] {
            let flag = Flag { name: "--flag", key, value: text.to_owned() };
            if let Ok(config) = Config::load(None, [], [flag]) {
                let _ = config.check();
            }
        }
    },
    seeds: || {
        ["1=h:1,2=h:2", "3=[::1]:7401/c:9", "1h30m", "512KiB", "127.0.0.1:1", "18446744073709551615"]
            .map(|text| text.into())
            .into()
    },
};
