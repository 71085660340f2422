//! A lock file: no server at all.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, bail};
use conclave_checker::Model;

use super::{Start, Target};
use crate::client::Recipe;

pub(super) struct Lockfile;

impl Target for Lockfile {
    fn name(&self) -> &str {
        "lockfile"
    }

    fn about(&self) -> &str {
        "a file created with O_EXCL in a directory that clients share; one whose mtime lies back further than the time-out \
         is removed by whoever finds it (lockfile_create(3), lockfile(1) -l)"
    }

    fn nodes_max(&self) -> usize {
        0
    }

    fn start(&self, _: usize, _: &[Ipv4Addr], _: &Path) -> anyhow::Result<Start> {
        bail!("a lock file has no server")
    }

    fn endpoints(&self, _: &[Ipv4Addr], dir: &Path) -> anyhow::Result<Vec<String>> {
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
        Ok(vec![shared.display().to_string()])
    }

    fn recipe(&self) -> Recipe {
        Recipe::Lockfile
    }

    fn model(&self) -> Model {
        Model::OwnerMutex
    }
}
