//! Whole clusters of Conclave in one thread under virtual time: one seed, one run.
//!
//! The production [`Core`](conclave_server::raft::Core), with the leader's duties and the state machine in it, and the
//! production watch hub, on a simulated disk, network and clock; and the production session streams, with the client library
//! at their other end. What befalls them is a [`plan::Plan`], grown from the
//! seed before anything runs; what must hold is judged by the [`oracle`]s. The same seed gives the same trace.

pub mod bare;
pub mod client;
pub mod disk;
pub mod event;
pub mod exec;
mod finale;
pub mod life;
pub mod net;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod profile;
mod run;
mod shrink;
pub mod summary;
pub mod time;
pub mod trace;
pub mod world;

pub use node::quiet_panics;
pub use run::{Outcome, run, run_plan};
pub use shrink::shrink;
