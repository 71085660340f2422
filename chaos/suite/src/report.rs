//! The folder of a run: a page whose first screen is the verdict, and everything it rests on.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};
use conclave_checker::{History, Judgement, report as pages};

use crate::{
    client::Outcome,
    judge::{Row, Standing, beliefs::Cause},
    nemesis::Done,
    run::Summary,
    workload::Touched,
};

/// How pages look.
pub const STYLE: &str = include_str!("report.css");
/// Overlaps that are listed; the others are counted.
const OVERLAPS_LISTED: usize = 20;

/// Makes the folder; one that is there must have nothing in it.
///
/// # Errors
/// The disk's, or that it is not empty.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(empty, "{} is not empty", path.display());
    Ok(())
}

/// Writes `index.html`, and beside it the checker's `report.html`.
///
/// # Errors
/// The disk's.
pub fn write(summary: &Summary, history: &History, judgement: &Judgement, model: &str) -> anyhow::Result<()> {
    let dir = &summary.options.report;
    let title = match summary.options.nemeses.to_string().as_str() {
        "none" => format!("{} under no fault", summary.options.target),
        nemeses => format!("{} under {nemeses}", summary.options.target),
    };
    let replay = summary.replay();
    let invariants: Vec<_> = summary
        .rows
        .iter()
        .map(|row| pages::Invariant {
            id: row.id.into(),
            text: row.text.into(),
            standing: row.standing,
            details: row.details.clone(),
        })
        .collect();
    let facts = [("seed".to_owned(), summary.options.seed.to_string()), ("place".to_owned(), summary.place.to_owned())];
    let lanes: Vec<_> = (0..summary.nodes).map(|at| lane(at, &summary.faults)).collect();
    let mut page = pages::Report::new(&title, model, history, judgement);
    (page.invariants, page.facts, page.lanes, page.replay) = (&invariants, &facts, &lanes, Some(replay.as_str()));
    let file = fs::File::create(dir.join("report.html")).context("no file for the checker's report")?;
    pages::write(&page, file).context("the checker's report")?;
    fs::write(dir.join("index.html"), index(summary, &title, model)).context("index.html")
}

/// When a server stood still or was down.
fn lane(at: usize, faults: &[Done]) -> pages::Lane {
    let mut lane = pages::Lane { name: format!("server {}", at + 1), ..pages::Lane::default() };
    for fault in faults.iter().filter(|fault| fault.servers.contains(&at)) {
        let state = match fault.class {
            crate::nemesis::Class::Kill
            | crate::nemesis::Class::Power
            | crate::nemesis::Class::Files
            | crate::nemesis::Class::Wipe => pages::State::Down,
            _ => pages::State::Paused,
        };
        lane.spans.push(pages::Span {
            state,
            from_ns: fault.from_ns,
            until_ns: Some(fault.until_ns),
            text: fault.what.clone(),
        });
    }
    lane
}

/// For people: `1.25 s`, `12 ms`.
#[must_use]
pub fn time(ns: i64) -> String {
    let ms = ns as f64 / 1e6;
    if ms >= 1_000.0 { format!("{:.2} s", ms / 1e3) } else { format!("{ms:.0} ms") }
}

/// As text of a page.
#[must_use]
pub fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn headline(summary: &Summary) -> (&'static str, String) {
    let broken: Vec<_> = summary.rows.iter().filter(|row| row.standing == Standing::Fail).map(|row| row.id).collect();
    if !broken.is_empty() {
        return ("bad", format!("Broken: {}", broken.join(", ")));
    }
    match summary.exit_code() {
        0 => ("good", "Nothing was broken".into()),
        _ => ("unsure", "Not everything could be done or judged".into()),
    }
}

fn index(summary: &Summary, title: &str, model: &str) -> String {
    let mut out = String::new();
    let (class, headline) = headline(summary);
    let options = &summary.options;
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{headline}: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"title\">{title}</p>\n<h1 class=\"{class}\">{headline}</h1>\n",
        title = html(title)
    );
    for row in summary.rows.iter().filter(|row| row.standing == Standing::Fail) {
        let _ = writeln!(
            out,
            "<p><b class=\"bad\">{}</b> should hold: {}. It did not: <b>{}</b>.</p>",
            row.id,
            html(row.text),
            html(row.details.trim_end_matches('.'))
        );
    }
    let _ = writeln!(
        out,
        "<p>{} clients used <b>{}</b> on {} ({}; lease {}) as the workload <code>{}</code> does, with {} key{}, while faults \
         began for {} s. Its lock: {}.</p>",
        options.clients,
        html(&options.target),
        html(&summary.on()),
        html(&summary.place),
        time(crate::clock::ns(summary.lease)),
        options.workload,
        options.keys,
        if options.keys == 1 { "" } else { "s" },
        options.time.as_secs(),
        html(&summary.about)
    );
    for lacks in &summary.not_available {
        let _ = writeln!(out, "<p class=\"bad\">{}</p>", html(&lacks.to_string()));
    }
    if summary.interrupted {
        out.push_str("<p class=\"bad\">It was stopped before its time.</p>\n");
    }
    out.push_str("<table>\n<thead><tr><th>layer</th><th>what should hold</th><th>verdict</th><th>figures</th></tr></thead>\n<tbody>\n");
    for row in &summary.rows {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"{}\">{}</td><td>{}</td></tr>",
            row.id,
            html(row.text),
            class_of(row),
            row.word(),
            html(&row.details)
        );
    }
    out.push_str("</tbody></table>\n");
    let _ = writeln!(out, "<p>To do it again: <code>{}</code></p>", html(&summary.replay()));
    faults(&mut out, summary);
    overlaps(&mut out, summary);
    operations(&mut out, summary);
    let _ = writeln!(
        out,
        "<h2>Files</h2>\n<ul>\n<li><a href=\"report.html\">report.html</a>: the checker's page, with every hold on a time line (model {model})</li>\n\
         <li><a href=\"history.jsonl\">history.jsonl</a>: what it judged; <code>conclave-chaos check --model {model} history.jsonl</code></li>\n\
         <li><a href=\"events.jsonl\">events.jsonl</a>: all that clients told</li>"
    );
    for at in 1..=summary.nodes {
        let _ = writeln!(out, "<li><a href=\"server-{at}.log\">server-{at}.log</a></li>");
    }
    if options.target == "conclave" {
        for at in 1..=summary.nodes {
            let _ = writeln!(
                out,
                "<li><a href=\"locks-server-{at}.jsonl\">locks-server-{at}.jsonl</a>: the locks by server {at}'s own account; \
                 <a href=\"metrics-server-{at}.txt\">metrics-server-{at}.txt</a></li>"
            );
        }
    }
    if options.workload.in_postgres() {
        out.push_str(
            "<li><a href=\"resource.jsonl\">resource.jsonl</a>: what the resource (PostgreSQL) let in; \
             <a href=\"postgres.log\">postgres.log</a></li>\n",
        );
    } else if options.workload.touched() != Touched::Nothing {
        out.push_str("<li><a href=\"resource.db\">resource.db</a>: the resource (SQLite), with its log</li>\n");
    }
    out.push_str("</ul>\n</main>\n</body>\n</html>\n");
    out
}

fn class_of(row: &Row) -> &'static str {
    match row.standing {
        Standing::Pass => "good",
        Standing::Fail => "bad",
        Standing::NotExercised => "unsure",
    }
}

fn faults(out: &mut String, summary: &Summary) {
    out.push_str("<h2>Faults</h2>\n");
    if summary.faults.is_empty() {
        out.push_str("<p>None.</p>\n");
        return;
    }
    out.push_str(
        "<table>\n<thead><tr><th>at</th><th>what</th><th>whom</th><th>for</th><th>first write after it began</th>\
         <th>healed within</th></tr></thead>\n<tbody>\n",
    );
    for fault in &summary.faults {
        let missed = |text: String| if fault.missed { "not met".to_owned() } else { text };
        let or = |length: Option<i64>, none: &str| length.map_or(none.to_owned(), time);
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            time(fault.from_ns - summary.began_ns),
            html(&fault.what),
            html(&fault.target),
            missed(time(fault.until_ns - fault.from_ns)),
            missed(or(fault.first_write_ns, "none")),
            missed(or(fault.healed_ns, fault.trouble.as_deref().unwrap_or("not in time"))),
        );
    }
    out.push_str("</tbody></table>\n");
}

fn overlaps(out: &mut String, summary: &Summary) {
    let all = &summary.overlaps;
    let _ = writeln!(out, "<h2>Two clients at once: {}</h2>", all.len());
    if all.is_empty() {
        return;
    }
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|overlap| std::cmp::Reverse(overlap.length_ns()));
    out.push_str("<table>\n<thead><tr><th>at</th><th>lock</th><th>first</th><th>second</th><th>for</th><th>cause</th></tr></thead>\n<tbody>\n");
    for overlap in sorted.iter().take(OVERLAPS_LISTED) {
        let cause = match overlap.cause {
            Some(Cause::Fault(at)) if summary.faults[at].beyond => {
                format!("clocks beyond what a lease allows for ({})", summary.faults[at].what)
            }
            Some(Cause::Fault(at)) => {
                format!("{} stood still ({})", summary.clients[overlap.first.client], summary.faults[at].what)
            }
            Some(Cause::Stall(ns)) => {
                format!("{} did not get to look at its lock for {}", summary.clients[overlap.first.client], time(ns))
            }
            None => "none: the first looked, and believed".to_owned(),
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            time(overlap.second.from_ns - summary.began_ns),
            html(&overlap.first.key),
            html(&summary.clients[overlap.first.client]),
            html(&summary.clients[overlap.second.client]),
            time(overlap.length_ns()),
            html(&cause)
        );
    }
    out.push_str("</tbody></table>\n");
    if all.len() > OVERLAPS_LISTED {
        let _ = writeln!(out, "<p>The {OVERLAPS_LISTED} longest are listed.</p>");
    }
}

fn operations(out: &mut String, summary: &Summary) {
    out.push_str("<h2>Operations</h2>\n<table>\n<thead><tr><th>operation</th><th>outcome</th><th>number</th></tr></thead>\n<tbody>\n");
    for (f, outcome, number) in &summary.outcomes {
        let outcome = match outcome {
            Outcome::Ok => "ok",
            Outcome::Fail => "failed",
            Outcome::Info => "unknown",
        };
        let _ = writeln!(out, "<tr><td>{}</td><td>{outcome}</td><td>{number}</td></tr>", html(f));
    }
    out.push_str("</tbody></table>\n");
}
