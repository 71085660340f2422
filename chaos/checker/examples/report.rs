//! Writes pages to look at: `cargo run -p conclave-checker --example report -- DIRECTORY [OPERATIONS]`.
//!
//! `OPERATIONS` is the size of the largest, 100,000 if not said.

#[path = "../tests/stories/mod.rs"]
mod stories;

use std::{env, error::Error, fs, path::PathBuf};

use conclave_checker::report::{Report, render};

fn main() -> Result<(), Box<dyn Error>> {
    let to = PathBuf::from(env::args_os().nth(1).ok_or("give the directory to write to")?);
    let largest = env::args().nth(2).map_or(Ok(100_000), |operations| operations.parse())?;
    fs::create_dir_all(&to)?;

    let (history, judgement) = stories::double_grant(7);
    let facts = [("seed".to_owned(), "7".to_owned()), ("elections".to_owned(), "3".to_owned())];
    let notes = ["Made up for this page: no server was harmed.".to_owned()];
    let page = render(&Report {
        facts: &facts,
        invariants: &stories::invariants(),
        lanes: &stories::servers(),
        replay: Some("conclave-chaos sim --replay 7 --profile default"),
        notes: &notes,
        ..Report::new("double-grant.jsonl", "fenced-mutex", &history, &judgement)
    });
    fs::write(to.join("lock.html"), page)?;

    for (name, operations, bad) in [("register", 600, true), ("good", 3_000, false), ("large", largest, true)] {
        let (history, judgement) = stories::registers(1, operations, 25, &["x", "y", "z"], bad);
        let title = format!("{name}.jsonl");
        fs::write(to.join(format!("{name}.html")), render(&Report::new(&title, "cas-register", &history, &judgement)))?;
    }
    Ok(())
}
