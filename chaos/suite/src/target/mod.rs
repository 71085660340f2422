//! Locks on trial: their servers, and the recipe that clients use with them.

mod conclave;
mod etcd;
mod lockfile;
mod own;
mod planted;
mod redis;
pub(crate) mod redis_failover;
mod redlock;
mod zookeeper;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use conclave_checker::Model;

pub use self::conclave::HTTP_PORT as METRICS_PORT;
pub use self::own::Own;
use crate::client::Recipe;

/// A program to be started on a server's host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    /// What to run.
    pub program: PathBuf,
    /// With these arguments.
    pub args: Vec<String>,
    /// And this in its environment.
    pub env: Vec<(String, String)>,
}

/// A server to be started in a container of Conclave's image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contained {
    /// Of the image's own program.
    pub args: Vec<String>,
    /// In its environment.
    pub env: Vec<(String, String)>,
    /// Directories and files of this machine, and where they are in the container.
    pub mounts: Vec<(PathBuf, String)>,
}

/// A lock service with a way of locking.
pub trait Target: Send + Sync {
    /// As on the command line.
    fn name(&self) -> &str;

    /// How its lock works and who says so, in a sentence.
    fn about(&self) -> &str;

    /// Fewest servers it can have.
    fn nodes_min(&self) -> usize {
        self.nodes_max().min(1)
    }

    /// Most servers it can have; none where clients need no server.
    fn nodes_max(&self) -> usize;

    /// How many it has if nobody asks for another number.
    fn nodes_usual(&self) -> usize {
        3.clamp(self.nodes_min(), self.nodes_max())
    }

    /// How server `id` (from 1 on) is started, the first time and again. `dir` is its own and outlives its process.
    ///
    /// # Errors
    /// If the program is not here.
    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start>;

    /// How a server is started that is to be added to `others`: its id, which none had, and its address; theirs. `dir` is
    /// empty the first time, and outlives the process.
    ///
    /// # Errors
    /// If the program is not here, or nobody can be added to such servers.
    fn newcomer(
        &self,
        _server: (usize, Ipv4Addr),
        _others: &[(usize, Ipv4Addr)],
        _dir: &Path,
    ) -> anyhow::Result<Start> {
        anyhow::bail!("nobody can be added to the servers of {}", self.name())
    }

    /// What in their environment makes its servers compact their logs every few seconds; nothing, where they do not.
    fn short_logs(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The image that has its servers' programs, if there is one.
    fn image(&self) -> Option<&'static str> {
        None
    }

    /// How server `id` is started in a container of that image. `names` are the servers' on their network. As outside,
    /// `dir` outlives the container.
    ///
    /// # Errors
    /// If there is no image.
    fn contained(&self, _id: usize, _names: &[String], _dir: &Path) -> anyhow::Result<Contained> {
        anyhow::bail!("the programs of {} are in no image", self.name())
    }

    /// Where clients find the lock: at its servers, in their order; where there are none, at something in `dir`, which
    /// outlives all processes of the run.
    ///
    /// # Errors
    /// The disk's.
    fn endpoints(&self, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Vec<String>>;

    /// The program whose hidden command `client` makes its clients, if it is not the running one. It lies beside that.
    fn clients(&self) -> Option<&'static str> {
        None
    }

    /// The bug (see [`conclave_faults::Bug`]) that is planted in its clients.
    fn planted(&self) -> Option<&str> {
        None
    }

    /// The user's cluster, if that is what it is: it has no servers of ours.
    fn own(&self) -> Option<&Own> {
        None
    }

    /// What clients do.
    fn recipe(&self) -> Recipe;

    /// What its history has to be linearizable to.
    fn model(&self) -> Model;

    /// Whether grants come with fencing tokens.
    fn has_tokens(&self) -> bool {
        self.model() == Model::FencedMutex
    }

    /// Whether its servers tell a hash of their state, which then has to become the same.
    fn tells_state(&self) -> bool {
        false
    }

    /// Whether a server that lost its disk is started again on an empty one: its documentation does not tell otherwise.
    fn starts_empty(&self) -> bool {
        false
    }

    /// Whether its documentation says that a server ends when a sync of its disk fails.
    fn stops_when_a_sync_fails(&self) -> bool {
        false
    }

    /// The lease for which the service grants a lock without hearing from its holder again, if the clients do not ask
    /// for another: so long, and not longer, a pause of the holder may last without the lock being given away.
    fn lease(&self) -> Duration {
        Duration::from_millis(1_500)
    }
}

/// The program whose clients have the recipes of etcd and ZooKeeper.
pub const PEERS: &str = "conclave-chaos-peers";

/// Names of all targets; besides, `conclave-planted:BUG` is Conclave with one of the planted bugs.
pub const NAMES: &[&str] = &[
    "conclave",
    "redis-get-set",
    "redis-setnx",
    "redis-setnx-owner",
    "redis-failover",
    "redlock",
    "etcd",
    "zookeeper",
    "lockfile",
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Box<dyn Target>> {
    match name {
        "conclave" => Some(Box::new(conclave::Conclave)),
        _ if name.starts_with(planted::PREFIX) => {
            let planted = planted::Planted::of(&name[planted::PREFIX.len()..])?;
            Some(Box::new(planted))
        }
        "redis-failover" => Some(Box::new(redis_failover::Failover)),
        "redlock" => Some(Box::new(redlock::Redlock)),
        "etcd" => Some(Box::new(etcd::Etcd)),
        "zookeeper" => Some(Box::new(zookeeper::Zookeeper)),
        "lockfile" => Some(Box::new(lockfile::Lockfile)),
        _ => redis::LOCKS.iter().find(|lock| lock.name == name).map(|lock| Box::new(*lock) as Box<dyn Target>),
    }
}

/// The program of Debian's `package`, at the first of these places where it is.
fn installed(name: &str, places: &[&str], package: &str) -> anyhow::Result<PathBuf> {
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.with_context(|| format!("{name}: not available (Debian's package is {package})"))
}

/// Writes a server's file of settings, one `name value` a line, unless it is there: some servers change their own.
fn settle(path: &Path, settings: &[(&str, String)]) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let lines: String = settings.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_target() {
        for name in NAMES {
            assert_eq!(target(name).expect("there").name(), *name);
        }
        for bug in conclave_faults::Bug::ALL {
            let name = format!("conclave-planted:{}", bug.key());
            assert_eq!(target(&name).expect("there").name(), name);
        }
        assert!(target("conclave-planted:everything").is_none());
        assert!(target("redis").is_none());
    }

    #[test]
    fn what_is_usual_is_possible() {
        for target in NAMES.iter().filter_map(|name| target(name)) {
            let usual = target.nodes_usual();
            assert!((target.nodes_min()..=target.nodes_max()).contains(&usual), "{}: {usual}", target.name());
        }
    }

    #[test]
    fn what_a_server_wrote_into_its_settings_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("settings");
        settle(&path, &[("port", "1".into()), ("dir", "/a".into())]).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "port 1\ndir /a\n");
        settle(&path, &[("port", "2".into())]).expect("left alone");
        assert!(std::fs::read_to_string(&path).expect("a file").starts_with("port 1\n"));
    }
}
