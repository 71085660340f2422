//! The table a person can judge, and what it comes to.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::replay::{Plan, Verdict};

/// What is wrong with Conclave's column; empty if it is clean.
pub fn complaints(verdict: &Verdict) -> Vec<String> {
    let judgement = verdict.judgement;
    let mut complaints = Vec::new();
    let mut must = |holds: bool, complaint: String| {
        if !holds {
            complaints.push(complaint);
        }
    };
    must(judgement.more == 0, format!("{} changes were applied more than once", judgement.more));
    must(judgement.never == 0, format!("{} changes were never applied", judgement.never));
    must(judgement.wrong == 0, format!("{} orders are corrupted", judgement.wrong));
    must(verdict.unhindered == 0, format!("{} workers wrote to an order that another had entered", verdict.unhindered));
    must(verdict.long_pause, "nobody took the stopped worker's lock while it stood still".into());
    must(!verdict.long_pause || verdict.stale > 0, "the stopped worker's late write was not refused".into());
    must(verdict.stale == verdict.stale_and_told, "a guard did not say lost although its token was refused".into());
    must(verdict.without_leader.is_some(), "no lock was granted or released after the leader was killed".into());
    must(verdict.came_back, "the killed server did not come back".into());
    complaints
}

/// The runs side by side.
pub fn table(plan: &Plan, runs: &[(&str, &Verdict)]) -> Table {
    type Read = fn(&Verdict) -> String;
    let rows: [(&str, Read); 13] = [
        ("orders", |run| run.judgement.orders.to_string()),
        ("deliveries (some twice, late ones again)", |run| run.deliveries.to_string()),
        ("changes applied exactly once", |run| run.judgement.once.to_string()),
        ("changes applied twice or more", |run| run.judgement.more.to_string()),
        ("changes never applied", |run| run.judgement.never.to_string()),
        ("orders corrupted (lost updates)", |run| run.judgement.wrong.to_string()),
        ("  their totals wrong by", |run| cents(run.judgement.cents_off)),
        ("workers stopped for 0.3 s, and past the TTL", |run| {
            format!("{} + {}", run.short_pauses, u8::from(run.long_pause))
        }),
        ("overlaps: two workers inside one order", |run| run.overlaps.to_string()),
        ("  stale writes refused by token", |run| if run.fenced { run.stale.to_string() } else { "no tokens".into() }),
        ("  overlaps where the earlier one wrote all the same", |run| run.unhindered.to_string()),
        ("time without a leader after kill -9", |run| match run.without_leader {
            Some(gap) => format!("{:.2} s", gap.as_secs_f64()),
            None => "not killed".into(),
        }),
        ("waiting for a lock, median / 99 %", |run| {
            format!("{:.1} / {:.0} ms", run.waited.0.as_secs_f64() * 1e3, run.waited.1.as_secs_f64() * 1e3)
        }),
    ];
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once("").chain(runs.iter().map(|(name, _)| *name)));
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let changes = runs.iter().map(|_| number(plan.changes.len().to_string()));
    table.add_row(std::iter::once(Cell::new("changes to orders in the file")).chain(changes));
    for (what, read) in rows {
        table.add_row(std::iter::once(Cell::new(what)).chain(runs.iter().map(|(_, run)| number(read(run)))));
    }
    table
}

fn cents(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shop::Judgement;

    fn clean() -> Verdict {
        Verdict {
            judgement: Judgement { orders: 2, once: 5, ..Judgement::default() },
            overlaps: 1,
            stale: 1,
            stale_and_told: 1,
            long_pause: true,
            without_leader: Some(Duration::from_millis(400)),
            came_back: true,
            ..Verdict::default()
        }
    }

    #[test]
    fn a_column_is_clean_only_if_everything_happened_and_nothing_broke() {
        assert_eq!(complaints(&clean()), Vec::<String>::new());
        let spoilt: [(&str, fn(&mut Verdict)); 9] = [
            ("more than once", |run| run.judgement.more = 1),
            ("never applied", |run| run.judgement.never = 1),
            ("corrupted", |run| run.judgement.wrong = 1),
            ("another had entered", |run| run.unhindered = 1),
            ("nobody took", |run| run.long_pause = false),
            ("was not refused", |run| (run.stale, run.stale_and_told) = (0, 0)),
            ("did not say lost", |run| run.stale_and_told = 0),
            ("after the leader was killed", |run| run.without_leader = None),
            ("come back", |run| run.came_back = false),
        ];
        for (part, spoil) in spoilt {
            let mut verdict = clean();
            spoil(&mut verdict);
            let found = complaints(&verdict);
            assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
        }
    }
}
