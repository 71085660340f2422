//! ZooKeeper, as Debian has it, with the lock recipe of its documentation.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::Context as _;
use conclave_checker::Model;

use super::{Start, Target, installed};
use crate::client::Recipe;

const PORT: u16 = 2_181;
const PEER_PORT: u16 = 2_888;
const ELECTION_PORT: u16 = 3_888;
/// As in the documentation's sample; the shortest session is two ticks.
const TICK_MS: u32 = 2_000;

pub(super) struct Zookeeper;

impl Target for Zookeeper {
    fn name(&self) -> &str {
        "zookeeper"
    }

    fn about(&self) -> &str {
        "an ephemeral sequential node, and a watch on the one before it (\"ZooKeeper Recipes and Solutions: Locks\"); the \
         transaction that created the node (czxid) is the fencing token"
    }

    fn nodes_max(&self) -> usize {
        7
    }

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        let program = installed("java", &["/usr/bin/java", "/usr/local/bin/java"], "openjdk-17-jre-headless")?;
        installed("zookeeper.jar", &["/usr/share/java/zookeeper.jar"], "zookeeper")?;
        let data = dir.join("data");
        fs::create_dir_all(&data).context("no directory for ZooKeeper's data")?;
        fs::write(data.join("myid"), format!("{id}\n")).context("myid")?;
        let mut settings = format!(
            "tickTime={TICK_MS}\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={PORT}\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            data.display()
        );
        for (at, address) in addresses.iter().enumerate().filter(|_| addresses.len() > 1) {
            settings += &format!("server.{}={address}:{PEER_PORT}:{ELECTION_PORT}\n", at + 1);
        }
        let path = dir.join("zoo.cfg");
        fs::write(&path, settings).with_context(|| format!("cannot write {}", path.display()))?;
        // A small heap and the quick compiler: three of them start on two cores within a few seconds.
        let args = [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dzookeeper.root.logger=WARN,CONSOLE",
            "-cp",
            "/etc/zookeeper/conf:/usr/share/java/zookeeper.jar",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ];
        let args = args.into_iter().map(str::to_owned).chain([path.display().to_string()]).collect();
        Ok(Start { program, args, env: vec![] })
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(addresses.iter().map(|address| format!("{address}:{PORT}")).collect())
    }

    fn clients(&self) -> Option<&'static str> {
        Some(super::PEERS)
    }

    fn recipe(&self) -> Recipe {
        Recipe::Zookeeper
    }

    fn model(&self) -> Model {
        Model::FencedMutex
    }

    /// Two ticks, the shortest session that it grants.
    fn lease(&self) -> Duration {
        Duration::from_millis(2 * u64::from(TICK_MS))
    }
}
