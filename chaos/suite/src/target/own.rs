//! A cluster that the user runs: a target without servers of the suite's.

use std::{fmt, net::Ipv4Addr, path::Path};

use anyhow::bail;
use conclave_checker::Model;

use super::{Start, Target};
use crate::client::{Access, Recipe};

/// Where it is, and what a run may touch there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Own {
    /// Its servers.
    pub endpoints: Vec<String>,
    /// How they let clients in.
    pub access: Access,
    /// The node below which a run stays: see [`crate::namespace`].
    pub namespace: String,
}

/// As on the command line.
impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--endpoints {} --namespace {}", self.endpoints.join(","), self.namespace)?;
        let Access { ca, certificate, token_file } = &self.access;
        let (cert, key) = certificate.as_ref().map(|(cert, key)| (cert, key)).unzip();
        let files = [("ca", ca.as_ref()), ("cert", cert), ("key", key), ("token-file", token_file.as_ref())];
        for (name, file) in files {
            if let Some(file) = file {
                write!(f, " --{name} {}", file.display())?;
            }
        }
        Ok(())
    }
}

impl Target for Own {
    fn name(&self) -> &str {
        "conclave"
    }

    fn about(&self) -> &str {
        "session.lock(path).wait(time) on a cluster of the user's own"
    }

    fn nodes_max(&self) -> usize {
        0
    }

    fn start(&self, _: usize, _: &[Ipv4Addr], _: &Path) -> anyhow::Result<Start> {
        bail!("the servers are the user's: they are not started here")
    }

    fn endpoints(&self, _: &[Ipv4Addr], _: &Path) -> anyhow::Result<Vec<String>> {
        Ok(self.endpoints.clone())
    }

    fn own(&self) -> Option<&Own> {
        Some(self)
    }

    fn recipe(&self) -> Recipe {
        Recipe::Conclave
    }

    fn model(&self) -> Model {
        Model::FencedMutex
    }
}
