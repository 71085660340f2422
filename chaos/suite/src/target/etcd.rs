//! etcd, as Debian has it, with its own lock.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use conclave_checker::Model;

use super::{Start, Target, installed};
use crate::client::Recipe;

const PORT: u16 = 2_379;
const PEER_PORT: u16 = 2_380;

pub(super) struct Etcd;

impl Target for Etcd {
    fn name(&self) -> &str {
        "etcd"
    }

    fn about(&self) -> &str {
        "the Lock call of etcd's lock service under a lease that the client keeps alive; the revision at which the key \
         was created is the fencing token"
    }

    fn nodes_max(&self) -> usize {
        7
    }

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        let own = addresses[id - 1];
        let member = |(at, address): (usize, &Ipv4Addr)| format!("n{}=http://{address}:{PEER_PORT}", at + 1);
        let members: Vec<_> = addresses.iter().enumerate().map(member).collect();
        // Heartbeats and elections as they are by default: 100 ms and 1 s.
        let args = [
            ("--name", format!("n{id}")),
            ("--data-dir", dir.join("data").display().to_string()),
            ("--listen-client-urls", format!("http://{own}:{PORT}")),
            ("--advertise-client-urls", format!("http://{own}:{PORT}")),
            ("--listen-peer-urls", format!("http://{own}:{PEER_PORT}")),
            ("--initial-advertise-peer-urls", format!("http://{own}:{PEER_PORT}")),
            ("--initial-cluster", members.join(",")),
            ("--initial-cluster-state", "new".into()),
            ("--logger", "zap".into()),
            ("--log-level", "warn".into()),
        ];
        Ok(Start {
            program: installed("etcd", &["/usr/bin/etcd", "/usr/local/bin/etcd"], "etcd-server")?,
            args: args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            env: vec![],
        })
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(addresses.iter().map(|address| format!("http://{address}:{PORT}")).collect())
    }

    fn clients(&self) -> Option<&'static str> {
        Some(super::PEERS)
    }

    fn recipe(&self) -> Recipe {
        Recipe::Etcd
    }

    fn model(&self) -> Model {
        Model::FencedMutex
    }

    /// The shortest that etcd grants with its default election time-out.
    fn lease(&self) -> Duration {
        Duration::from_secs(2)
    }
}
