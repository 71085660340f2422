//! What a hunt leaves in the cumulative record.

use std::path::Path;

use conclave_sim::profile::Profile;
use conclave_suite::record;

use super::Hunt;

/// Appends what a hunt came to that began at this commit.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, commit: &str, hunt: &Hunt, profile: &Profile) -> anyhow::Result<()> {
    let violation = hunt.failed.as_ref().and_then(|failed| failed.violation.as_ref());
    let figures = serde_json::json!({
        "profile": profile.name,
        "seeds": format!("{}..{}", hunt.seeds.0, hunt.seeds.1),
        "runs": hunt.summary.runs,
        "simulated_seconds": hunt.summary.simulated_us / 1_000_000,
        "seconds": (hunt.took.as_secs_f64() * 10.0).round() / 10.0,
        "threads": hunt.jobs,
        "verdict": violation.map_or("clean", |violation| violation.what),
        "failed_seed": hunt.failed.as_ref().map(|failed| failed.seed),
    });
    record::append(path, commit, figures)
}
