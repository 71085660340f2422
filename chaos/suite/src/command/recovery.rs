//! `conclave-chaos recovery`: how long services are away after a loss.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::run::{STOP, misfortune, stop_on_signals, target_name, time};
use crate::{
    recovery::{Figures, Loss, Options, measure},
    report,
};

/// Measures how long services are away: the leader killed, paused or cut off, a holder of a lock killed, many times each.
///
/// Prints a table in Markdown: medians and longest, service beside service, all from one run on one machine.
#[derive(Args, Debug)]
pub struct Recovery {
    /// Whose, by commas, each in its turn.
    #[arg(long, value_name = "NAMES", default_value = "conclave", value_delimiter = ',', value_parser = target_name)]
    targets: Vec<String>,
    /// How often each loss.
    #[arg(long, value_name = "N", default_value_t = 50)]
    times: usize,
    /// Servers of each.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// The lease or session time-out of locks; otherwise each target's.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Of the moments of loss.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for logs; it must not have anything in it.
    #[arg(long, value_name = "DIR", default_value = "recovery-report")]
    report: PathBuf,
}

impl Recovery {
    pub fn main(self) -> ExitCode {
        match self.go() {
            Ok(all) => {
                print!("{}", table(&all));
                if all.iter().all(|figures| figures.never == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => misfortune(&error),
        }
    }

    fn go(self) -> anyhow::Result<Vec<Figures>> {
        stop_on_signals()?;
        let options = Options {
            targets: self.targets,
            times: self.times,
            nodes: self.nodes,
            ttl: self.ttl,
            seed: self.seed,
            report: self.report,
            program: std::env::current_exe().context("where is this program?")?,
        };
        measure(&options, &STOP, &mut |target, loss, took| {
            let took = took.map_or("not in time".to_owned(), report::time);
            eprintln!("{target}: {} {took}", loss.text());
        })
    }
}

/// One row a loss, one column a target.
fn table(all: &[Figures]) -> String {
    let mut targets: Vec<&str> = all.iter().map(|figures| figures.target.as_str()).collect();
    targets.dedup();
    let mut out = format!("| | {} |\n|---|{}\n", targets.join(" | "), "---|".repeat(targets.len()));
    for loss in Loss::ALL {
        let cell = |target: &&str| {
            let found = all.iter().find(|figures| figures.target == **target && figures.loss == *loss);
            let Some(figures) = found else { return "-".to_owned() };
            let or = |time: Option<i64>| time.map_or("-".to_owned(), report::time);
            let lease = if *loss == Loss::HolderKilled {
                format!(", lease {}", report::time(crate::clock::ns(figures.lease)))
            } else {
                String::new()
            };
            let never = if figures.never == 0 { String::new() } else { format!(", {} never", figures.never) };
            format!(
                "{}, max {} ({} times{lease}{never})",
                or(figures.median_ns()),
                or(figures.max_ns()),
                figures.took_ns.len()
            )
        };
        let cells: Vec<_> = targets.iter().map(cell).collect();
        out.push_str(&format!("| {} | {} |\n", loss.text(), cells.join(" | ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_a_loss_and_a_column_a_target() {
        let figures = |target: &str, loss, took_ns: &[i64], never| Figures {
            target: target.into(),
            loss,
            lease: Duration::from_millis(1_500),
            took_ns: took_ns.into(),
            never,
        };
        let all = [
            figures("one", Loss::LeaderKilled, &[300_000_000, 1_100_000_000], 0),
            figures("one", Loss::HolderKilled, &[1_600_000_000], 0),
            figures("two", Loss::LeaderKilled, &[], 2),
        ];
        let text = table(&all);
        assert!(text.starts_with("| | one | two |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| 300 ms, max 1.10 s (2 times) | -, max - (0 times, 2 never) |"), "{text}");
        assert!(text.contains("| 1.60 s, max 1.60 s (1 times, lease 1.50 s) | - |"), "{text}");
    }
}
