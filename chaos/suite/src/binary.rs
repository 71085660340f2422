//! Where the binaries are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The environment variable that names the directory of the binaries, for whoever runs a test executable far from
/// where it was built.
pub const BIN_DIR_ENV: &str = "CONCLAVE_BIN_DIR";

/// The binary called `name`: in `CONCLAVE_BIN_DIR` if that is set, else in the target directory that the running
/// executable lies in (`target/release`, one above `deps` for a test).
///
/// # Errors
/// If it is not there, with the command that builds it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR_ENV) {
        return binary_in(Path::new(&dir), name);
    }
    let here = std::env::current_exe().context("where is this executable?")?;
    let dir = here.parent().context("an executable lies in a directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps lies in a target directory")? } else { dir };
    binary_in(dir, name)
}

/// The binary called `name` in `dir`.
///
/// # Errors
/// If it is not there, with the command that builds it.
pub fn binary_in(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    if !path.is_file() {
        let make = match name {
            crate::target::PEERS => "make build-peers",
            _ if name.ends_with("-faulty") => "make build-faulty",
            _ => "make build",
        };
        bail!("no {name} in {}; '{make}' builds it, and {BIN_DIR_ENV} names another directory", dir.display());
    }
    Ok(path)
}
