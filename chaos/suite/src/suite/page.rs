//! The page of a suite: its verdict first, then every run with a way to its own.

use std::fmt::Write as _;

use conclave_checker::report::Standing;

use super::Runs;
use crate::report::{STYLE, html, time};

/// As HTML, to lie beside the folders of the runs.
#[must_use]
pub fn page(runs: &Runs) -> String {
    let (class, headline) = match runs.exit_code() {
        0 => ("good", "Nothing was broken".to_owned()),
        1 => ("bad", format!("Broken in {} of {} runs", broken(runs), runs.all.len())),
        _ => ("unsure", "Not everything could be done or judged".to_owned()),
    };
    let mut out = String::new();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{headline}: {profile}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"title\">Chaos suite, profile {profile}</p>\n<h1 class=\"{class}\">{headline}</h1>\n",
        profile = html(&runs.profile)
    );
    let faults: usize = runs.faults().values().sum();
    let _ = writeln!(
        out,
        "<p>{} runs with {faults} faults in {:.0} minutes. Servers lost power {} times.</p>",
        runs.all.len(),
        runs.seconds / 60.0,
        runs.power_cuts()
    );
    for lacks in runs.not_available() {
        let _ = writeln!(out, "<p class=\"unsure\">{}</p>", html(&lacks));
    }
    out.push_str(
        "<table>\n<thead><tr><th>layer</th><th>what should hold</th><th>held</th><th>FAILED</th><th>not exercised</th>\
         <th>unknown</th></tr></thead>\n<tbody>\n",
    );
    for (id, text, [pass, fail, not, unknown]) in runs.standings() {
        let class = if fail > 0 {
            "bad"
        } else if pass > 0 {
            "good"
        } else {
            "unsure"
        };
        let _ = writeln!(
            out,
            "<tr><td class=\"{class}\">{id}</td><td>{}</td><td>{pass}</td><td>{fail}</td><td>{not}</td><td>{unknown}</td></tr>",
            html(text)
        );
    }
    out.push_str("</tbody></table>\n<h2>Runs</h2>\n<table>\n<thead><tr><th>run</th><th>seed</th><th>verdict</th><th>s</th></tr></thead>\n<tbody>\n");
    for ran in &runs.all {
        let (class, verdict) = match &ran.came {
            Err(why) => ("bad", format!("could not begin: {why}")),
            Ok(came) => {
                let failed = came.rows.iter().filter(|row| row.standing == Standing::Fail);
                let failed: Vec<_> = failed.map(|row| format!("{}: {}", row.id, row.details)).collect();
                match came.code {
                    0 => ("good", "nothing was broken".to_owned()),
                    1 => ("bad", failed.join("; ")),
                    _ => ("unsure", "not everything could be done or judged".to_owned()),
                }
            }
        };
        let _ = writeln!(
            out,
            "<tr><td><a href=\"{}/index.html\"><code>{}</code></a></td><td>{}</td><td class=\"{class}\">{}</td><td>{:.0}</td></tr>",
            html(&ran.folder),
            html(&ran.line),
            ran.seed,
            html(&verdict),
            ran.seconds
        );
    }
    out.push_str("</tbody></table>\n<h2>Faults</h2>\n<table>\n<thead><tr><th>class</th><th>met somebody</th></tr></thead>\n<tbody>\n");
    for (class, count) in runs.faults() {
        let _ = writeln!(out, "<tr><td>{class}</td><td>{count}</td></tr>");
    }
    out.push_str(
        "</tbody></table>\n<h2>From a fault to the first write after it</h2>\n<table>\n<thead><tr><th>fault</th><th>times</th>\
         <th>median</th><th>longest</th></tr></thead>\n<tbody>\n",
    );
    for (what, (count, median, max)) in runs.recoveries() {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{count}</td><td>{}</td><td>{}</td></tr>",
            html(&what),
            time(median),
            time(max)
        );
    }
    out.push_str("</tbody></table>\n</main>\n</body>\n</html>\n");
    out
}

fn broken(runs: &Runs) -> usize {
    runs.all.iter().filter(|ran| ran.came.as_ref().is_ok_and(|came| came.code == 1)).count()
}
