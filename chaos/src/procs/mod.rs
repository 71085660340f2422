//! A cluster of `conclaved` processes.
//!
//! True of every [`Cluster`]:
//! * its servers listen on loopback ports that no other cluster of this machine's user takes at the same time;
//! * a server that is started again has the same id, ports and disk as before;
//! * when it is dropped, also by a panic, its processes are gone; if the process that owns it is killed, they die too.

mod cluster;
mod ports;

pub use cluster::{Cluster, Options};
pub use conclave_suite::{
    binary::{BIN_DIR_ENV, binary, binary_in},
    spawn::{leashed, spawn},
};
pub use ports::PortBlock;
