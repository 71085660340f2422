//! Starts real servers and takes them down again, for the tests in `tests/`.
//!
//! A test starts a [`Cluster`], drives it through the client (or the command line, see [`binary`]) and lets it drop.
//! When the test fails, the ends of the servers' logs are printed; with `CONCLAVE_KEEP=1` their directory is kept.
//! The binaries are taken from the target directory the tests were built in, or from `CONCLAVE_BIN_DIR`; they are not
//! built by `cargo test` itself: `make test` does both.

pub mod ledger;
pub mod metrics;
pub mod seed;
pub mod wire;

pub use conclave_chaos::procs::{Cluster, Options, PortBlock, binary, leashed, spawn};

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// A generous bound for whatever must happen at all; no test asserts how fast something is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tries `attempt` until it succeeds.
///
/// # Panics
/// If it has not within [`PATIENCE`], with its last complaint.
pub async fn eventually<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(complaint) if Instant::now() >= until => panic!("{what}: not within {PATIENCE:?}: {complaint}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
