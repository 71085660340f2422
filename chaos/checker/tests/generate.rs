//! The command `generate`, from the outside: what it writes is what `check` reads.

#![cfg(feature = "cli")]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conclave-check")).args(arguments).output().expect("the command starts")
}

#[test]
fn a_history_is_good_and_a_spoiled_one_is_bad() {
    let place = tempfile::tempdir().expect("a place for files");
    for (name, more, code) in [
        ("good.jsonl", &[][..], 0),
        ("good.jsonl.gz", &["--unknown", "0.02", "--fail", "0.02"][..], 0),
        ("bad.jsonl", &["--mutate", "double-grant"][..], 1),
        ("bad.jsonl.gz", &["--mutate", "falling-token", "--unknown", "0.02"][..], 1),
    ] {
        let path = place.path().join(name);
        let path = path.to_str().expect("a plain name");
        let mut arguments = vec!["generate", "--model", "fenced-mutex", "--ops", "500", "--seed", "4", "-o", path];
        arguments.extend(more);
        let made = run(&arguments);
        assert!(made.status.success(), "{made:?}");
        let checked = run(&["check", "--model", "fenced-mutex", path]);
        assert_eq!(checked.status.code(), Some(code), "{name}: {checked:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would_be_right() {
    for (arguments, words) in [
        (&["generate", "--model", "rwlock", "--mutate", "stale-read"][..], "double-grant"),
        (&["generate", "--model", "register", "--mutate", "nonsense"][..], "stale-read"),
        (&["generate", "--model", "register", "--unknown", "2"][..], "from 0 to 1"),
        (&["generate", "--ops", "5"][..], "--model"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let kinds = run(&["generate", "--mutate", "help"]);
    assert!(kinds.status.success() && String::from_utf8_lossy(&kinds.stdout).contains("two-leaders"), "{kinds:?}");
}
