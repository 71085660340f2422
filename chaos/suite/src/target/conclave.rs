//! Conclave as it ships: `conclaved`, and the client library in the clients.

use std::net::Ipv4Addr;

use conclave_checker::Model;

use super::{Start, Target};
use crate::{binary::binary, client::Recipe};

const PORT: u16 = 7_400;
const HTTP_PORT: u16 = 7_480;

pub(super) struct Conclave;

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

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &std::path::Path) -> anyhow::Result<Start> {
        let members: Vec<_> =
            addresses.iter().enumerate().map(|(at, address)| format!("{}={address}:{PORT}", at + 1)).collect();
        let own = addresses[id - 1];
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

    fn endpoint(&self, address: Ipv4Addr) -> String {
        format!("http://{address}:{PORT}")
    }

    fn recipe(&self) -> Recipe {
        Recipe::Conclave
    }

    fn model(&self) -> Model {
        Model::FencedMutex
    }
}
