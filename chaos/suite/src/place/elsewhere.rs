//! A place without servers of ours: they are the user's, wherever they may be. Clients are plain processes.
//!
//! Nothing of it needs a privilege, so nothing of it can be cut off.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;

use super::{Host, NotAvailable, Place};
use crate::spawn::leashed;

/// This machine, as it is.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere;

const WHY: &str = "the servers are not ours, and clients have no network of their own";

impl Place for Elsewhere {
    fn name(&self) -> String {
        "a cluster of the user's own".into()
    }

    fn address(&self, _: Host) -> Ipv4Addr {
        Ipv4Addr::LOCALHOST
    }

    fn command(&self, _: Host, program: &Path) -> Command {
        let mut command = leashed(program);
        command.stdin(Stdio::null());
        command
    }

    fn network(&self, _: Host) -> Result<PathBuf, NotAvailable> {
        Err(NotAvailable { what: "network".into(), why: WHY.into() })
    }

    fn unplug(&self, _: Host) -> anyhow::Result<()> {
        bail!(WHY)
    }

    fn plug(&self, _: Host) -> anyhow::Result<()> {
        bail!(WHY)
    }
}
