//! Conclave's wire messages, and the identifiers that every part shares.
//!
//! [`v1`] is what clients speak, [`peer`] what servers speak among themselves; both are generated from the
//! `.proto` files beside this crate's sources. The identifiers are newtypes, so that no function takes two bare
//! integers, and [`NodePath`] is checked once, where it is parsed.

mod ids;
mod path;

pub use ids::{FencingToken, Index, RequestNumber, Revision, ServerId, SessionId, Term};
pub use path::{NodePath, PATH_BYTES_MAX, PATH_DEPTH_MAX, PathError, SEQUENCE_DIGITS};

/// The public protocol.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("conclave.v1");
}

/// The protocol between servers.
#[allow(missing_docs, clippy::all)]
pub mod peer {
    tonic::include_proto!("conclave.peer.v1");
}

/// Encoded `FileDescriptorSet` of both protocols, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
