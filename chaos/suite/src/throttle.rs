//! A slow disk: the kernel lets only so many bytes a second of one process's writes through to a device (blkio, version 1
//! of control groups; Documentation/admin-guide/cgroup-v1/blkio-controller.rst of the kernel).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::place::namespaces;

const ROOT: &str = "/sys/fs/cgroup/blkio";

/// A process whose writes are slow until this is dropped.
pub struct Throttle {
    group: PathBuf,
}

impl Throttle {
    /// Begins, with this many bytes a second.
    ///
    /// # Errors
    /// The kernel's; if it has no such control group.
    pub fn begin(pid: u32, device: &Path, bytes: u64) -> anyhow::Result<Self> {
        available()?;
        let number = fs::metadata(device).with_context(|| format!("{}", device.display()))?.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let group = Path::new(ROOT).join(namespaces::label()?);
        fs::create_dir(&group).with_context(|| format!("{}", group.display()))?;
        let throttle = Self { group };
        let limit = throttle.group.join("blkio.throttle.write_bps_device");
        fs::write(&limit, format!("{major}:{minor} {bytes}")).context("no limit for a device")?;
        fs::write(throttle.group.join("cgroup.procs"), pid.to_string()).context("the process does not join")?;
        let inside = fs::read_to_string(throttle.group.join("cgroup.procs"))?;
        ensure!(inside.lines().any(|line| line == pid.to_string()), "the process did not join");
        Ok(throttle)
    }

    /// Ends it, and looks whether it is ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(self) -> anyhow::Result<()> {
        remove(&self.group);
        ensure!(!self.group.exists(), "{} is still there", self.group.display());
        Ok(())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        remove(&self.group);
    }
}

/// Whether there are such control groups here.
///
/// # Errors
/// If not.
pub fn available() -> anyhow::Result<()> {
    let there = Path::new(ROOT).join("blkio.throttle.write_bps_device").exists();
    ensure!(there, "no control groups of version 1 with blkio at {ROOT}");
    Ok(())
}

/// Its processes join the group above, which has no limit.
fn remove(group: &Path) {
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), pid);
    }
    let _ = fs::remove_dir(group);
}

/// Removes the groups of killed runs, and returns how many. Where there is no such kernel there are none.
#[must_use]
pub fn sweep() -> usize {
    let groups = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let orphaned = groups.filter(|group| group.file_name().to_str().is_some_and(namespaces::orphaned));
    orphaned.map(|group| remove(&group.path())).count()
}
