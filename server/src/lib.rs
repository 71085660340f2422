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
