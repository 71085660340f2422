//! The table of a trial: as a page beside the reports, and as Markdown for the docs.

use std::fmt::Write as _;

use super::{Case, Expected, Verdict, exit_code};
use crate::report::{STYLE, html};

/// Longest text about what broke.
const BROKE_MAX: usize = 160;

fn verdict(case: &Case) -> (&'static str, String) {
    match case.verdict() {
        Verdict::AsExpected => ("good", case.row.expected.word().to_owned()),
        Verdict::Otherwise(why) => match case.row.expected {
            Expected::Convicted(_) => ("bad", format!("NOT CONVICTED: {why}")),
            Expected::Acquitted(_) => ("bad", format!("NOT ACQUITTED: {why}")),
        },
        Verdict::Unjudged(why) => ("unsure", why),
    }
}

/// Which faults, and which forms of them if not all.
fn faults(case: &Case) -> String {
    let (classes, forms) = (case.row.option("--nemesis"), case.row.option("--form"));
    let forms = if forms.is_empty() { String::new() } else { format!(" (of {})", forms.replace(',', ", ")) };
    format!("{}{forms}", classes.replace(',', ", "))
}

/// Where its servers lived.
fn place(case: &Case) -> String {
    let mut places: Vec<_> = case.tried.iter().flat_map(|tried| &tried.came).map(|came| came.place.as_str()).collect();
    places.dedup();
    places.join(", ")
}

/// How many runs showed it.
fn count(case: &Case) -> String {
    if case.tried.is_empty() { "-".into() } else { format!("{} of {}", case.showed(), case.tried.len()) }
}

/// What failed first, in words: of a lock that was to be convicted, at the layer that convicts it.
fn broke(case: &Case) -> String {
    let at = match case.row.expected {
        Expected::Convicted(layer) => Some(layer),
        Expected::Acquitted(_) => None,
    };
    let mut failed = case.tried.iter().flat_map(super::Tried::failed);
    let first = failed.find(|(id, _)| at.is_none_or(|layer| *id == layer));
    first.map_or_else(String::new, |(id, details)| {
        let short: String = details.chars().take(BROKE_MAX).collect();
        let more = if short.len() < details.len() { " …" } else { "" };
        format!("{id}: {short}{more}")
    })
}

/// As HTML, to lie beside the folders of the runs.
#[must_use]
pub fn page(cases: &[Case], command: &str, date: &str) -> String {
    let convicted = |case: &&Case| matches!(case.row.expected, Expected::Convicted(_));
    let as_expected = |case: &&Case| case.verdict() == Verdict::AsExpected;
    let bad: Vec<_> = cases.iter().filter(convicted).collect();
    let controls: Vec<_> = cases.iter().filter(|case| !convicted(case)).collect();
    let class = match exit_code(cases) {
        0 => "good",
        1 => "bad",
        _ => "unsure",
    };
    let headline = format!(
        "{} of {} known-bad locks convicted, {} of {} controls acquitted",
        bad.iter().filter(|case| as_expected(case)).count(),
        bad.len(),
        controls.iter().filter(|case| as_expected(case)).count(),
        controls.len()
    );
    let mut out = String::new();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{headline}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"title\">Locks on trial, {date}</p>\n<h1 class=\"{class}\">{headline}</h1>\n\
         <p>To do it again: <code>{command}</code></p>\n<table>\n<thead><tr><th>lock</th><th>servers in</th><th>workload</th><th>faults</th>\
         <th>expected</th><th>verdict</th><th>runs</th><th>what broke</th><th>reports</th><th>why it is here</th></tr></thead>\n<tbody>\n",
        command = html(command)
    );
    for case in cases {
        let (class, verdict) = verdict(case);
        let reports: Vec<_> = case
            .tried
            .iter()
            .map(|tried| {
                let (class, what) = if tried.failed().is_empty() { ("", "held") } else { ("bad", "broke") };
                let seed = tried.seed;
                format!("<a class=\"{class}\" href=\"{}/index.html\">seed {seed} {what}</a>", html(&tried.folder))
            })
            .collect();
        let _ = writeln!(
            out,
            "<tr><td class=\"name\">{}</td><td>{}</td><td class=\"word\">{}</td><td>{}</td><td class=\"word\">{}</td><td class=\"{class} name\">{}</td>\
             <td class=\"word\">{}</td><td class=\"text\">{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            html(case.row.option("--target")),
            html(&place(case)),
            html(case.row.option("--workload")),
            html(&faults(case)),
            case.row.expected.word(),
            html(&verdict),
            count(case),
            html(&broke(case)),
            reports.join(", "),
            html(case.row.why)
        );
    }
    out.push_str("</tbody></table>\n</main>\n</body>\n</html>\n");
    out
}

/// As Markdown.
#[must_use]
pub fn markdown(cases: &[Case], command: &str, date: &str) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut out = format!(
        "# Locks on trial\n\nWhat the [chaos suite](chaos.md) convicts, and what it acquits. Each lock is used as its own \
         documentation tells;\na conviction counts runs that broke it, and one suffices; a control has to hold in all of its \
         runs.\n\nWritten by `{command}` on {}. `make trial` writes it anew.\n\n\
         | lock | servers in | workload | faults | expected | verdict | runs | what broke | why it is here |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        date.split('T').next().unwrap_or(date)
    );
    for case in cases {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            case.row.option("--target"),
            place(case),
            case.row.option("--workload"),
            faults(case),
            case.row.expected.word(),
            cell(&verdict(case).1),
            count(case),
            cell(&broke(case)),
            cell(case.row.why)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use conclave_checker::report::Standing;

    use super::{
        super::{ROWS, Tried},
        *,
    };
    use crate::{judge::Row, suite::Came};

    #[test]
    fn a_conviction_is_counted_explained_and_linked() {
        let tried = |seed, standing| Tried {
            seed,
            folder: format!("lockfile-{seed}"),
            came: Ok(Came {
                place: "nowhere".into(),
                rows: vec![Row { id: "L1", text: "", standing, unknown: false, details: "a|b <two> holders".into() }],
                ..Came::default()
            }),
        };
        let row = *ROWS.iter().find(|row| row.name == "lockfile").expect("a row");
        let case = Case { row, tried: vec![tried(1, Standing::Pass), tried(2, Standing::Fail)], not_available: None };
        let text = markdown(std::slice::from_ref(&case), "trial", "2026-11-21T10:00:00Z");
        assert!(text.contains("| convicted | convicted | 1 of 2 | L1: a\\|b <two> holders |"), "{text}");
        assert!(text.contains("on 2026-11-21."), "{text}");
        assert!(text.contains("| lockfile | nowhere | lock | pause |"), "{text}");
        let page = page(&[case], "trial", "today");
        assert!(page.contains("1 of 1 known-bad locks convicted, 0 of 0 controls acquitted"), "{page}");
        assert!(page.contains("href=\"lockfile-2/index.html\"") && page.contains("&lt;two&gt;"), "{page}");
    }
}
