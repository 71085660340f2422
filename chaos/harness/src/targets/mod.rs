//! One file for each kind of decoder.

pub mod entries;
pub mod frames;
pub mod histories;
pub mod paths;
pub mod records;
#[cfg(feature = "server")]
pub mod server;
