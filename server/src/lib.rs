//! Conclave's server, as a library: the binary `conclaved` adds flags, signals and logging.

pub mod command;
pub mod config;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod raft;
pub mod run;
pub mod service;
pub mod storage;
pub mod timings;
pub mod tls;

/// An error and its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
