//! Conclave as it ships: `conclaved`, and the client library in the clients.

use std::{net::Ipv4Addr, path::Path};

use conclave_checker::Model;

use super::{Contained, Start, Target};
use crate::{binary::binary, client::Recipe, place::containers::IMAGE};

const PORT: u16 = 7_400;
/// Where its metrics are.
pub const HTTP_PORT: u16 = 7_480;

pub(super) struct Conclave;

fn server((id, own): (usize, Ipv4Addr), members: &[(usize, Ipv4Addr)], dir: &Path) -> anyhow::Result<Start> {
    let members: Vec<_> = members.iter().map(|(id, address)| format!("{id}={address}:{PORT}")).collect();
    let args = [
        ("--id", id.to_string()),
        ("--cluster", "chaos".into()),
        ("--listen", format!("{own}:{PORT}")),
        ("--http", format!("{own}:{HTTP_PORT}")),
        ("--members", members.join(",")),
        ("--data-dir", dir.join("data").display().to_string()),
    ];
    Ok(Start {
        program: binary("conclaved")?,
        args: args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
        env: vec![("RUST_LOG".into(), "info".into())],
    })
}

impl Target for Conclave {
    fn name(&self) -> &'static str {
        "conclave"
    }

    fn about(&self) -> &'static str {
        "session.lock(path).wait(time), with a session that the client library keeps alive and a fencing token"
    }

    fn nodes_max(&self) -> usize {
        7
    }

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        let members: Vec<_> = addresses.iter().enumerate().map(|(at, address)| (at + 1, *address)).collect();
        server(members[id - 1], &members, dir)
    }

    fn newcomer(&self, own: (usize, Ipv4Addr), others: &[(usize, Ipv4Addr)], dir: &Path) -> anyhow::Result<Start> {
        server(own, others, dir)
    }

    fn short_logs(&self) -> &'static [(&'static str, &'static str)] {
        &[("CONCLAVE_RAFT_LOG_ENTRIES_MAX", "50"), ("CONCLAVE_RAFT_LOG_ENTRIES_KEEP", "10")]
    }

    fn stops_when_a_sync_fails(&self) -> bool {
        true
    }

    fn image(&self) -> Option<&'static str> {
        Some(IMAGE)
    }

    fn contained(&self, id: usize, names: &[String], dir: &Path) -> anyhow::Result<Contained> {
        let members: Vec<_> = names.iter().enumerate().map(|(at, name)| format!("{}={name}:{PORT}", at + 1)).collect();
        let env = [
            ("CONCLAVE_ID", id.to_string()),
            ("CONCLAVE_CLUSTER", "chaos".into()),
            ("CONCLAVE_MEMBERS", members.join(",")),
            ("CONCLAVE_LISTEN_CLIENT", format!("0.0.0.0:{PORT}")),
            ("CONCLAVE_LISTEN_HTTP", format!("0.0.0.0:{HTTP_PORT}")),
            ("RUST_LOG", "info".into()),
        ];
        Ok(Contained {
            args: Vec::new(),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            mounts: vec![(dir.join("data"), "/var/lib/conclave".into())],
        })
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(addresses.iter().map(|address| format!("http://{address}:{PORT}")).collect())
    }

    fn recipe(&self) -> Recipe {
        Recipe::Conclave
    }

    fn model(&self) -> Model {
        Model::FencedMutex
    }

    fn tells_state(&self) -> bool {
        true
    }
}
