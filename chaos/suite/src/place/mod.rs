//! Where servers and clients live.
//!
//! True of every place:
//! * a host in it has an address of its own that outlives the processes on it;
//! * what it makes carries the name of its owner (a process id with the time of its start), so that a later run can
//!   remove what a killed one left ([`namespaces::sweep`]);
//! * when it is dropped nothing of it is left.
//!
//! There are three kinds: [`containers`], and [`namespaces`] with plain processes for where there is no Docker (everything
//! that is done to a network is done in network namespaces in both), and [`elsewhere`], where servers are the user's.

pub mod containers;
pub mod elsewhere;
pub mod namespaces;

use std::{
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use self::{containers::Containers, namespaces::Namespaces};
use crate::{disks, resource::server, throttle};

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
    fn name(&self) -> String;

    /// The address of a host.
    fn address(&self, host: Host) -> Ipv4Addr;

    /// A command that runs `program` on the host, and dies with us.
    fn command(&self, host: Host, program: &Path) -> Command;

    /// Where servers are containers, who starts them.
    fn containers(&self) -> Option<&Containers> {
        None
    }

    /// The network of a host as a file (`/run/netns/NAME`), as nsenter(1) and setns(2) take it: where it is to be had,
    /// packets can be dropped, lost and delayed there (see [`crate::network`]).
    ///
    /// # Errors
    /// Why it is not.
    fn network(&self, host: Host) -> Result<PathBuf, NotAvailable>;

    /// Takes the host off the network, until [`Place::plug`]: its interface goes, or has no carrier.
    ///
    /// # Errors
    /// The tool's.
    fn unplug(&self, host: Host) -> anyhow::Result<()>;

    /// Ends what [`Place::unplug`] began.
    ///
    /// # Errors
    /// The tool's.
    fn plug(&self, host: Host) -> anyhow::Result<()>;
}

/// Which kind of place is wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    /// Containers where they can be had, else network namespaces.
    Auto,
    /// [`containers`].
    Containers,
    /// [`namespaces`].
    #[default]
    Namespaces,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Containers => "containers",
            Self::Namespaces => "namespaces",
        })
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found =
            [Self::Auto, Self::Containers, Self::Namespaces].into_iter().find(|choice| choice.to_string() == text);
        found.ok_or_else(|| format!("no place is called {text:?}; there are auto, containers and namespaces"))
    }
}

/// Makes a place for `hosts`, of which the first are `servers` that `image` has; no image where the servers' programs are
/// in none. And why it is not in containers, if that was open.
///
/// # Errors
/// [`NotAvailable`] if this machine or user cannot have it, or the servers cannot live there; the tools'.
pub fn make(
    choice: Choice,
    image: Option<&str>,
    servers: usize,
    hosts: usize,
) -> anyhow::Result<(Box<dyn Place>, Option<NotAvailable>)> {
    let contained = || match image {
        Some(image) => containers::available(image).map(|()| image),
        None => {
            Err(NotAvailable { what: "containers".into(), why: "the programs of these servers are in no image".into() })
        }
    };
    let refused = match choice {
        Choice::Namespaces => None,
        Choice::Containers => return Ok((Box::new(Containers::make(contained()?, servers, hosts)?), None)),
        Choice::Auto => match contained() {
            Ok(image) => return Ok((Box::new(Containers::make(image, servers, hosts)?), None)),
            Err(lacks) => Some(lacks),
        },
    };
    Ok((Box::new(Namespaces::make(hosts)?), refused))
}

/// Removes what killed runs left in places of any kind, and returns how many things that were.
///
/// # Errors
/// The tools'.
pub fn sweep() -> anyhow::Result<usize> {
    // Containers first: they use the namespaces, and their processes are Docker's to end.
    let hosts = containers::sweep()? + namespaces::sweep()?;
    // And servers before the directories they work in.
    Ok(hosts + server::sweep()? + disks::sweep()? + throttle::sweep())
}
