//! Stored records: their keys and how they are written. A change here is a change of the stored format.
//!
//! A key is a tag byte, then path bytes or big-endian numbers; a value is [`FORMAT`], then postcard of one of the
//! types below. A history record holds before-images only: each after-image is the next before-image of the same
//! node, or the living node, so restoring rebuilds them from the newest revision to the oldest.

use bytes::Bytes;
use conclave_proto::{Index, NodePath, RequestNumber, Revision, SessionId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::Xxh3;

use crate::{Entry, Limits, Node, Outcome, RequestId, RestoreError};

/// First byte of every value and of every log entry.
pub(crate) const FORMAT: u8 = 2;

/// Answers up to this many bytes live in their session's progress record; larger ones each have their own, so that
/// one of them is not written again with every request.
pub(crate) const ANSWER_INLINE_BYTES_MAX: usize = 512;

const TAG_ANSWER: u8 = b'A';
const TAG_HISTORY: u8 = b'H';
const TAG_META: u8 = b'M';
const TAG_NODE: u8 = b'N';
const TAG_PROGRESS: u8 = b'P';
const TAG_SESSION: u8 = b'S';

/// A record's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Key {
    /// An answer too large for the progress record.
    Answer(SessionId, RequestNumber),
    /// What one revision replaced.
    History(Revision),
    /// Positions, bounds and the hash.
    Meta,
    /// A living node.
    Node(NodePath),
    /// A session's numbers and answers.
    Progress(SessionId),
    /// The rest of a session.
    Session(SessionId),
}

impl Key {
    /// As stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Answer(session, number) => {
                let mut key = numbered(TAG_ANSWER, session.0);
                key.extend_from_slice(&number.0.to_be_bytes());
                key
            }
            Self::History(revision) => numbered(TAG_HISTORY, revision.0),
            Self::Meta => vec![TAG_META],
            Self::Node(path) => node_key(path),
            Self::Progress(session) => numbered(TAG_PROGRESS, session.0),
            Self::Session(session) => numbered(TAG_SESSION, session.0),
        }
    }

    /// From its stored form.
    pub(crate) fn decode(key: &[u8]) -> Result<Self, RestoreError> {
        let wrong = |why: &str| RestoreError::Record { key: printable(key), why: why.to_owned() };
        let (&tag, rest) = key.split_first().ok_or_else(|| wrong("empty key"))?;
        let number = |bytes: &[u8]| {
            bytes.try_into().map(u64::from_be_bytes).map_err(|_| wrong("a number of this key is not eight bytes"))
        };
        Ok(match tag {
            TAG_ANSWER if rest.len() == 16 => {
                Self::Answer(SessionId(number(&rest[..8])?), RequestNumber(number(&rest[8..])?))
            }
            TAG_HISTORY => Self::History(Revision(number(rest)?)),
            TAG_META if rest.is_empty() => Self::Meta,
            TAG_NODE => {
                let text = std::str::from_utf8(rest).map_err(|_| wrong("the path is not UTF-8"))?;
                Self::Node(NodePath::parse(text).map_err(|error| wrong(&error.to_string()))?)
            }
            TAG_PROGRESS => Self::Progress(SessionId(number(rest)?)),
            TAG_SESSION => Self::Session(SessionId(number(rest)?)),
            _ => return Err(wrong("no record has such a key")),
        })
    }
}

/// The key of a living node, without a copy of its path.
pub(crate) fn node_key(path: &NodePath) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + path.as_str().len());
    key.push(TAG_NODE);
    key.extend_from_slice(path.as_str().as_bytes());
    key
}

fn numbered(tag: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Positions, bounds and the hash. Everything else that `Machine` holds is derived from the other records.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct MetaRecord {
    pub(crate) applied: Index,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) fence_epoch: u64,
    pub(crate) limits: Limits,
    /// The sum over all other records.
    pub(crate) sum: u128,
}

/// A session but for its numbers and answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct SessionRecord {
    pub(crate) secret: [u8; 16],
    pub(crate) run: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) remaining_ms: u64,
    pub(crate) name: String,
    pub(crate) opened_revision: Revision,
    pub(crate) opened_ms: u64,
}

/// A session's numbers, and the answers to those between them; an empty answer has its own record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ProgressRecord {
    pub(crate) acknowledged: RequestNumber,
    pub(crate) last: RequestNumber,
    pub(crate) answers: Vec<Bytes>,
}

/// What one revision replaced.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct HistoryRecord {
    pub(crate) at_ms: u64,
    pub(crate) before: Vec<(NodePath, Before)>,
}

/// A node as it was before a revision.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Before {
    /// It was not there.
    Absent,
    /// Whole.
    Node(Node),
    /// Its data (left empty here) is what it is after the revision too: only metadata about children changed.
    SameData(Node),
}

/// Appends [`FORMAT`] and postcard of `value` to `buffer`.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.push(FORMAT);
    postcard::to_extend(value, buffer).expect("these types serialize, and memory grows")
}

/// The reverse of [`encode`]; nothing may be left over.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
            Err(error) => Err(error.to_string()),
        },
        Some((format, _)) => Err(format!("format {format} is not known, expected {FORMAT}")),
        None => Err("empty".to_owned()),
    }
}

/// A record's share of the state hash.
pub(crate) fn digest(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest128()
}

/// A key for people.
pub(crate) fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

impl Entry {
    /// As carried by the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self, Vec::with_capacity(128))
    }

    /// From the log.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        decode(bytes)
    }

    /// Whose it is, without reading the rest; none if that cannot be read.
    #[must_use]
    pub fn request(bytes: &[u8]) -> Option<RequestId> {
        let (&format, rest) = bytes.split_first()?;
        // The first field.
        (format == FORMAT).then(|| postcard::take_from_bytes(rest).ok().map(|(id, _)| id)).flatten()
    }
}

/// An answer as kept for retries.
pub(crate) fn encode_answer(outcome: &Outcome) -> Box<[u8]> {
    encode(outcome, Vec::with_capacity(32)).into_boxed_slice()
}

/// # Panics
/// If it was not written by [`encode_answer`].
pub(crate) fn decode_answer(bytes: &[u8]) -> Outcome {
    decode(bytes).expect("answers are checked when they are restored")
}
