//! Keys and values of the log and meta column families.

use prost_raft::Message as _;
use raft::eraftpb::{ConfState, HardState};
use serde::{Deserialize, Serialize};

use super::{Membership, StoreError};
use crate::raft::Member;

/// Of everything stored here but raft's own messages.
const FORMAT: u8 = 1;

pub(super) const IDENTITY: &[u8] = b"identity";
pub(super) const HARD_STATE: &[u8] = b"hard_state";
pub(super) const MEMBERSHIP: &[u8] = b"membership";
pub(super) const COMPACTED: &[u8] = b"compacted";
pub(super) const APPLIED: &[u8] = b"applied";

/// Big-endian, so that byte order is index order.
pub(super) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn log_index(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.try_into().map_err(|_| StoreError::Corrupt(format!("log key of {} bytes", key.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("writing to memory does not fail")
}

pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            postcard::from_bytes(rest).map_err(|error| StoreError::Corrupt(format!("{what} cannot be read: {error}")))
        }
        Some((format, _)) => {
            Err(StoreError::Corrupt(format!("{what} has format {format}, this server knows {FORMAT}")))
        }
        None => Err(StoreError::Corrupt(format!("{what} is empty"))),
    }
}

#[derive(Deserialize, Serialize)]
struct StoredMembership {
    conf: Vec<u8>,
    members: Vec<Member>,
}

pub(super) fn encode_membership(membership: &Membership) -> Vec<u8> {
    encode(&StoredMembership { conf: membership.conf.encode_to_vec(), members: membership.members.clone() })
}

pub(super) fn decode_membership(bytes: &[u8]) -> Result<Membership, StoreError> {
    let stored: StoredMembership = decode("membership", bytes)?;
    let conf = ConfState::decode(&stored.conf[..])
        .map_err(|error| StoreError::Corrupt(format!("membership cannot be read: {error}")))?;
    Ok(Membership { conf, members: stored.members })
}

pub(super) fn decode_hard_state(bytes: &[u8]) -> Result<HardState, StoreError> {
    HardState::decode(bytes).map_err(|error| StoreError::Corrupt(format!("hard state cannot be read: {error}")))
}
