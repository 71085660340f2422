//! The cumulative record: one line of JSON for each hunt of the simulator and each suite of runs.

use std::{fs::OpenOptions, io::Write as _, path::Path, process::Command};

use anyhow::Context as _;
use serde_json::Value;
use time::OffsetDateTime;

/// This moment, as in `2026-11-21T18:48:26Z`.
#[must_use]
pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (date, month) = (now.date(), u8::from(now.month()));
    format!(
        "{:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        date.day(),
        now.hour(),
        now.minute(),
        now.second()
    )
}

/// The commit of the checkout that this is run in.
#[must_use]
pub fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Appends a line: these figures, with the date, and the commit that was there when they began.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, commit: &str, mut figures: Value) -> anyhow::Result<()> {
    (figures["date"], figures["commit"]) = (now().into(), commit.into());
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    writeln!(file, "{figures}").with_context(|| format!("cannot write to {}", path.display()))
}
