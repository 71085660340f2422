//! What every decoder of Conclave must survive.
//!
//! A [`Target`] is one decoder and what is always true of it: no bytes make it panic or hang, and what it accepts means
//! the same after being written and read again. The fuzzer in `chaos/fuzz` runs a target for as long as it is told to;
//! `tests/quick.rs` runs each for a moment with seeds that were damaged a little.

pub mod mutate;
mod targets;

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// `area-what`, also the name of its fuzzer.
    pub name: &'static str,
    /// What is decoded, by whom, and what is checked beside.
    pub about: &'static str,
    /// Panics if the decoder is wrong.
    pub run: fn(&[u8]),
    /// Good input, small.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    targets::frames::CLIENT,
    targets::frames::SERVER,
    targets::paths::PATH,
    targets::entries::ENTRY,
    targets::records::RECORDS,
    targets::histories::JSON,
    targets::histories::EDN,
    #[cfg(feature = "server")]
    targets::server::TRANSACTION,
    #[cfg(feature = "server")]
    targets::server::PEER,
    #[cfg(feature = "server")]
    targets::server::CHUNK,
    #[cfg(feature = "server")]
    targets::server::META,
    #[cfg(feature = "server")]
    targets::server::CONFIG,
    #[cfg(feature = "server")]
    targets::server::MEMBERS,
];

/// The target called `name`.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>();
    *found.unwrap_or_else(|| panic!("there is no target {name:?}; there are {:?}", names()))
}

/// Input in parts: each two bytes of length (big-endian), then that many bytes, or what is left.
pub(crate) fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let (part, after) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
        parts.push(part);
        data = after;
    }
    parts
}

/// The reverse of [`parts`].
pub(crate) fn joined(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut data = Vec::new();
    for part in parts {
        let part = part.as_ref();
        data.extend_from_slice(&u16::try_from(part.len()).expect("seeds are small").to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}
