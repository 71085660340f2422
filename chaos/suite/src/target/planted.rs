//! Conclave with a mistake planted in it: what the suite has to convict.

use std::{net::Ipv4Addr, path::Path};

use conclave_checker::Model;
use conclave_faults::Bug;

use super::{Contained, Start, Target, conclave::Conclave};
use crate::{binary::binary, client::Recipe, place::containers::IMAGE_FAULTY};

/// What its names begin with; then comes the bug's key.
pub(super) const PREFIX: &str = "conclave-planted:";
/// What makes a bug active in a server that has them compiled in.
const VARIABLE: &str = "CONCLAVE_PLANTED";

pub(super) struct Planted {
    bug: Bug,
    name: String,
    about: String,
}

impl Planted {
    /// By the key of its bug.
    pub(super) fn of(key: &str) -> Option<Self> {
        let bug = *Bug::ALL.iter().find(|bug| bug.key() == key)?;
        let about = format!("as Conclave's, with a mistake planted in servers and clients: {}", bug.about());
        Some(Self { bug, name: format!("{PREFIX}{key}"), about: about.trim_end_matches('.').to_owned() })
    }

    fn faulty(&self, mut start: Start) -> anyhow::Result<Start> {
        start.program = binary("conclaved-faulty")?;
        start.env.push(self.variable());
        Ok(start)
    }

    fn variable(&self) -> (String, String) {
        (VARIABLE.into(), self.bug.key().into())
    }
}

impl Target for Planted {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        &self.about
    }

    fn nodes_max(&self) -> usize {
        Conclave.nodes_max()
    }

    fn start(&self, id: usize, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Start> {
        self.faulty(Conclave.start(id, addresses, dir)?)
    }

    fn newcomer(&self, own: (usize, Ipv4Addr), others: &[(usize, Ipv4Addr)], dir: &Path) -> anyhow::Result<Start> {
        self.faulty(Conclave.newcomer(own, others, dir)?)
    }

    fn short_logs(&self) -> &'static [(&'static str, &'static str)] {
        Conclave.short_logs()
    }

    fn stops_when_a_sync_fails(&self) -> bool {
        Conclave.stops_when_a_sync_fails()
    }

    fn image(&self) -> Option<&'static str> {
        Some(IMAGE_FAULTY)
    }

    fn contained(&self, id: usize, names: &[String], dir: &Path) -> anyhow::Result<Contained> {
        let mut contained = Conclave.contained(id, names, dir)?;
        contained.env.push(self.variable());
        Ok(contained)
    }

    fn clients(&self) -> Option<&'static str> {
        Some("conclave-chaos-faulty")
    }

    fn planted(&self) -> Option<&str> {
        Some(self.bug.key())
    }

    fn endpoints(&self, addresses: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Vec<String>> {
        Conclave.endpoints(addresses, dir)
    }

    fn recipe(&self) -> Recipe {
        Conclave.recipe()
    }

    fn model(&self) -> Model {
        Conclave.model()
    }

    fn tells_state(&self) -> bool {
        Conclave.tells_state()
    }
}
