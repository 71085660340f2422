//! The cumulative record: one line of JSON for each call.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use conclave_sim::profile::Profile;

use super::Hunt;

/// Days since 1970-01-01 as year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The commit of the checkout that this is run in.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Appends what a hunt came to.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, hunt: &Hunt, profile: &Profile) -> anyhow::Result<()> {
    let violation = hunt.failed.as_ref().and_then(|failed| failed.violation.as_ref());
    let line = serde_json::json!({
        "date": now(),
        "commit": commit(),
        "profile": profile.name,
        "seeds": format!("{}..{}", hunt.seeds.0, hunt.seeds.1),
        "runs": hunt.summary.runs,
        "simulated_seconds": hunt.summary.simulated_us / 1_000_000,
        "seconds": (hunt.took.as_secs_f64() * 10.0).round() / 10.0,
        "threads": hunt.jobs,
        "verdict": violation.map_or("clean", |violation| violation.what),
        "failed_seed": hunt.failed.as_ref().map(|failed| failed.seed),
    });
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    writeln!(file, "{line}").with_context(|| format!("cannot write to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(20_818), (2026, 12, 31));
    }
}
