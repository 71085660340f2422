//! The page itself: what can be read without JavaScript, around the timeline that the scripts draw.

use std::io::{Result, Write};

use super::{
    Invariant, MAX_REFUTATIONS, Report, Standing,
    columns::{self, framed},
    text::{self, MAX_TABLE_CHARS, count, duration, html},
};
use crate::{
    Operation, Outcome, Refutation, Value, Verdict,
    history::{NEVER, NO_TIME},
};

const STYLE: &str = include_str!("assets/page.css");
const TIMELINE: &str = include_str!("assets/timeline.html");
/// One script in parts, in this order.
const SCRIPTS: [&str; 8] = [
    include_str!("assets/data.js"),
    include_str!("assets/lanes.js"),
    include_str!("assets/view.js"),
    include_str!("assets/density.js"),
    include_str!("assets/draw.js"),
    include_str!("assets/margins.js"),
    include_str!("assets/hover.js"),
    include_str!("assets/controls.js"),
];

/// Nothing may be loaded, not even by a value that got through as markup.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

pub fn write(report: &Report<'_>, out: &mut impl Write) -> Result<()> {
    let title = html(report.title);
    writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(out, "<meta name=\"color-scheme\" content=\"light dark\">")?;
    writeln!(out, "<title>{}: {title}</title>\n<style>\n{STYLE}</style>\n</head>", verdict(report).1)?;
    writeln!(out, "<body class=\"{}\">", verdict(report).0)?;
    head(report, &title, out)?;
    out.write_all(TIMELINE.as_bytes())?;
    writeln!(out, "<div class=\"below\">")?;
    offending(report, out)?;
    invariants(report.invariants, out)?;
    if !report.notes.is_empty() {
        writeln!(out, "<section aria-labelledby=\"notes\"><h2 id=\"notes\">Notes</h2>")?;
        for note in report.notes {
            writeln!(out, "<p><bdi>{}</bdi></p>", html(note))?;
        }
        writeln!(out, "</section>")?;
    }
    writeln!(out, "</div>")?;
    let data = columns::json(report).to_string();
    writeln!(out, "<script type=\"application/json\" id=\"data\">{}</script>", text::json_in_script(&data))?;
    writeln!(out, "<script>\n\"use strict\";\n{{")?;
    for script in SCRIPTS {
        out.write_all(script.as_bytes())?;
    }
    writeln!(out, "}}\n</script>\n</body>\n</html>")
}

/// A class, and in words.
fn verdict(report: &Report<'_>) -> (&'static str, &'static str) {
    match report.judgement.verdict {
        Verdict::Linearizable => ("good", "Linearizable"),
        Verdict::NotLinearizable(_) => ("bad", "Not linearizable"),
        Verdict::Unknown(_) => ("unsure", "Unknown"),
    }
}

/// All refutations there are: those found, or the one of the verdict.
pub fn refutations<'a>(report: &Report<'a>) -> &'a [Refutation] {
    match &report.judgement.verdict {
        Verdict::NotLinearizable(one) if report.judgement.refutations.is_empty() => std::slice::from_ref(one),
        _ => &report.judgement.refutations,
    }
}

fn head(report: &Report<'_>, title: &str, out: &mut impl Write) -> Result<()> {
    let (history, judgement) = (report.history, report.judgement);
    let (_, words) = verdict(report);
    writeln!(out, "<header class=\"head\">\n<div class=\"line\">")?;
    writeln!(out, "<p class=\"title\"><bdi>{title}</bdi></p>")?;
    writeln!(
        out,
        "<div class=\"page-buttons\"><button id=\"theme\" type=\"button\">Dark</button>\
         <button id=\"help-button\" type=\"button\" aria-haspopup=\"dialog\">Keys <kbd>?</kbd></button></div>\n</div>"
    )?;
    writeln!(out, "<h1><span class=\"mark\" aria-hidden=\"true\"></span>{words}</h1>")?;
    let all = refutations(report);
    let cause = match &judgement.verdict {
        Verdict::Linearizable => {
            "Every operation has a place: one order explains all results that were seen.".to_owned()
        }
        Verdict::NotLinearizable(refutation) => all.first().unwrap_or(refutation).cause.clone(),
        Verdict::Unknown(limit) => limit.clone(),
    };
    writeln!(out, "<p class=\"cause\" id=\"cause\"><bdi>{}</bdi></p>", html(&cause))?;
    if all.len() > 1 {
        let keys = count(all.len());
        writeln!(out, "<p class=\"more\">{keys} keys have no order; this is the first of them.</p>")?;
    }
    let of = |outcome: Outcome| history.operations.iter().filter(|operation| operation.outcome == outcome).count();
    let mut facts = vec![
        ("model", report.model.to_owned()),
        ("operations", count(history.operations.len())),
        ("failed", count(of(Outcome::Fail))),
        ("unknown", count(of(Outcome::Unknown))),
        ("processes", count(history.processes.len())),
        ("keys", count(history.keys.len())),
        ("faults", count(history.faults.len())),
    ];
    if let Some(span) = span_ns(report) {
        facts.push(("history", duration(span)));
    }
    facts.push(("judged in", duration(i64::try_from(judgement.took.as_nanos()).unwrap_or(i64::MAX))));
    facts.extend(report.facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
    writeln!(out, "<dl class=\"facts\">")?;
    for (name, value) in facts {
        writeln!(out, "<div><dt>{}</dt><dd><bdi>{}</bdi></dd></div>", html(name), html(&value))?;
    }
    writeln!(out, "</dl>")?;
    if let Some(replay) = report.replay {
        writeln!(
            out,
            "<div class=\"replay\"><span>Replay</span><code id=\"replay\" tabindex=\"0\"><bdi>{}</bdi></code>\
             <button id=\"copy\" type=\"button\">Copy</button></div>",
            html(replay)
        )?;
    }
    writeln!(out, "</header>")
}

/// From the first call to the last call or return.
fn span_ns(report: &Report<'_>) -> Option<i64> {
    let operations = &report.history.operations;
    let known = |ns: &i64| *ns != NO_TIME;
    let first = operations.iter().map(|operation| operation.called_ns).filter(known).min()?;
    let times = operations.iter().flat_map(|operation| [operation.called_ns, operation.returned_ns]);
    Some(times.filter(known).max()?.saturating_sub(first))
}

fn offending(report: &Report<'_>, out: &mut impl Write) -> Result<()> {
    let all = refutations(report);
    if all.is_empty() {
        return Ok(());
    }
    writeln!(out, "<section aria-labelledby=\"offending\"><h2 id=\"offending\">Offending operations</h2>")?;
    writeln!(
        out,
        "<p class=\"hint\">These few operations have no order by themselves. The marked one has no place among the others.</p>"
    )?;
    let first_ns = report.history.operations.iter().map(|operation| operation.called_ns).min().unwrap_or(NO_TIME);
    for (number, refutation) in all.iter().take(MAX_REFUTATIONS).enumerate() {
        let shown = framed(&refutation.operations, refutation.culprit);
        let key = report.history.keys.get(refutation.key as usize).filter(|key| **key != Value::Null);
        let key = key.map(|key| format!("key {}: ", text::of_value(key, 80))).unwrap_or_default();
        let cause = html(&refutation.cause);
        writeln!(out, "<p class=\"caption\" id=\"cause-{number}\"><bdi>{}{cause}</bdi></p>", html(&key))?;
        writeln!(
            out,
            "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Offending operations, table\">\
             <table aria-describedby=\"cause-{number}\">"
        )?;
        writeln!(
            out,
            "<thead><tr><th scope=\"col\">operation</th><th scope=\"col\">process</th><th scope=\"col\">function</th>\
             <th scope=\"col\">called with</th><th scope=\"col\">returned</th><th scope=\"col\">outcome</th>\
             <th scope=\"col\" class=\"n\">called at</th><th scope=\"col\" class=\"n\">took</th>\
             <th scope=\"col\" class=\"n\">events</th></tr></thead>\n<tbody>"
        )?;
        for &index in &shown {
            if let Some(operation) = report.history.operations.get(index as usize) {
                let place = Place { refutation: number, index, culprit: index == refutation.culprit, first_ns };
                row(report, &place, operation, out)?;
            }
        }
        writeln!(out, "</tbody></table></div>")?;
        if let left @ 1.. = refutation.operations.len().saturating_sub(shown.len()) {
            writeln!(out, "<p class=\"hint\">{} more are not listed.</p>", count(left))?;
        }
    }
    if let left @ 1.. = all.len().saturating_sub(MAX_REFUTATIONS) {
        writeln!(out, "<p class=\"hint\">{} more keys without an order are not shown.</p>", count(left))?;
    }
    writeln!(out, "</section>")
}

struct Place {
    refutation: usize,
    index: u32,
    culprit: bool,
    first_ns: i64,
}

fn row(report: &Report<'_>, place: &Place, operation: &Operation, out: &mut impl Write) -> Result<()> {
    let &Place { refutation, index, culprit, first_ns } = place;
    let value = |value: &Value| match value {
        Value::Null => "<span class=\"nil\">nil</span>".to_owned(),
        value => format!("<bdi>{}</bdi>", html(&text::of_value(value, MAX_TABLE_CHARS))),
    };
    let process = report.history.processes.get(operation.process as usize).unwrap_or(&Value::Null);
    let (called, took) = if operation.called_ns == NO_TIME || first_ns == NO_TIME {
        (String::new(), String::new())
    } else {
        let took = operation.returned != NEVER && operation.returned_ns != NO_TIME;
        let took = took.then(|| duration(operation.returned_ns.saturating_sub(operation.called_ns)));
        (duration(operation.called_ns.saturating_sub(first_ns)), took.unwrap_or_default())
    };
    let events = match operation.returned {
        NEVER => format!("{}\u{2013}", operation.called),
        returned => format!("{}\u{2013}{returned}", operation.called),
    };
    let (class, mark) = if culprit { (" class=\"culprit\"", "has no place: ") } else { ("", "") };
    writeln!(
        out,
        "<tr{class} data-op=\"{index}\" data-refutation=\"{refutation}\"><th scope=\"row\"><span class=\"vh\">{mark}</span>\
         <button type=\"button\" class=\"goto\" data-op=\"{index}\" data-refutation=\"{refutation}\" \
         title=\"Show in the timeline\">{index}</button></th><td>{}</td><td>{}</td><td class=\"v\">{}</td>\
         <td class=\"v\">{}</td><td>{}</td><td class=\"n\">{called}</td><td class=\"n\">{took}</td><td class=\"n\">{events}</td></tr>",
        value(process),
        operation.function.name(),
        value(&operation.argument),
        value(&operation.result),
        match operation.outcome {
            Outcome::Ok => "ok",
            Outcome::Fail => "failed",
            Outcome::Unknown => "unknown",
        },
    )
}

fn invariants(invariants: &[Invariant], out: &mut impl Write) -> Result<()> {
    if invariants.is_empty() {
        return Ok(());
    }
    writeln!(out, "<section aria-labelledby=\"invariants\"><h2 id=\"invariants\">Invariants</h2>")?;
    writeln!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Invariants, table\"><table class=\"invariants\">"
    )?;
    writeln!(
        out,
        "<thead><tr><th scope=\"col\">id</th><th scope=\"col\">always holds</th><th scope=\"col\">in this run</th>\
         <th scope=\"col\">details</th></tr></thead>\n<tbody>"
    )?;
    for invariant in invariants {
        let (class, words) = match invariant.standing {
            Standing::Pass => ("pass", "pass"),
            Standing::Fail => ("fail", "FAIL"),
            Standing::NotExercised => ("idle", "not exercised"),
        };
        writeln!(
            out,
            "<tr class=\"{class}\"><th scope=\"row\">{}</th><td>{}</td><td><span class=\"standing\">{words}</span></td><td>{}</td></tr>",
            html(&invariant.id),
            html(&invariant.text),
            html(&invariant.details)
        )?;
    }
    writeln!(out, "</tbody></table></div></section>")
}
