//! Where servers and clients live, and how they are cut off from each other.
//!
//! True of every place:
//! * a host in it has an address of its own that outlives the processes on it;
//! * what it makes carries the name of its owner (a process id with the time of its start), so that a later run can
//!   remove what a killed one left ([`namespaces::sweep`]);
//! * when it is dropped nothing of it is left.
//!
//! There is one kind so far, network namespaces. Containers will be another: the trait has what both can do.

pub mod namespaces;

use std::{net::Ipv4Addr, process::Command};

/// A host of a place, by its number from 0 on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Host(pub usize);

/// Something that a run wants and this machine may lack.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}: not available ({why})")]
pub struct NotAvailable {
    /// A place or a kind of fault.
    pub what: String,
    /// What is missing.
    pub why: String,
}

/// Hosts on one network.
pub trait Place: Send {
    /// As in reports.
    fn name(&self) -> &'static str;

    /// The address of a host.
    fn address(&self, host: Host) -> Ipv4Addr;

    /// A command that runs `program` on the host, and dies with us.
    fn command(&self, host: Host, program: &std::path::Path) -> Command;

    /// Whether hosts can be cut off from each other here.
    ///
    /// # Errors
    /// What is missing.
    fn can_cut(&self) -> Result<(), NotAvailable>;

    /// From now on `host` hears nothing of `others` and they hear nothing of it. Once per host until [`Place::join`].
    ///
    /// # Errors
    /// The tool's.
    fn cut(&self, host: Host, others: &[Host]) -> anyhow::Result<()>;

    /// Ends what [`Place::cut`] began, and looks whether it is ended.
    ///
    /// # Errors
    /// The tool's, or if packets would still be dropped.
    fn join(&self, host: Host) -> anyhow::Result<()>;
}
