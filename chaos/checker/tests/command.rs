//! The command from outside: lines, exit codes, messages.
#![cfg(feature = "cli")]

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

const GOOD: &str = r#"{"process":0,"type":"invoke","f":"write","value":1}
{"process":0,"type":"ok","f":"write","value":1}
"#;
const BAD: &str = r#"{"process":0,"type":"invoke","f":"write","value":1}
{"process":0,"type":"ok","f":"write","value":1}
{"process":1,"type":"invoke","f":"read","value":null}

{"process":1,"type":"ok","f":"read","value":2}
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn run(arguments: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave-check"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without having read anything.
    let _ = child.stdin.take().unwrap().write_all(input.unwrap_or("").as_bytes());
    child.wait_with_output().unwrap()
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn check(files: &[&PathBuf]) -> (i32, String, String) {
    let mut arguments = vec!["check", "--model", "register"];
    arguments.extend(files.iter().map(|path| path.to_str().unwrap()));
    ended(&run(&arguments, None))
}

#[test]
fn a_line_a_file_and_a_code_for_all() {
    let files = Files::new();
    let (good, bad) = (files.with("good.jsonl", GOOD), files.with("bad.jsonl", BAD));
    let (code, out, err) = check(&[&good]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("{}: linearizable 1 operations ", good.display())), "{out}");
    assert!(out.ends_with(" MB peak\n"), "{out}");

    let (code, out, err) = check(&[&good, &bad, &good]);
    assert_eq!(code, 1);
    assert_eq!(out.lines().count(), 3);
    assert!(out.contains(": not-linearizable 2 operations "), "{out}");
    assert!(err.starts_with(&format!("{}:3: read 2 by process 1", bad.display())), "{err}");
}

#[test]
fn what_cannot_be_read_is_said() {
    let files = Files::new();
    let (good, bad) = (files.with("good.jsonl", GOOD), files.with("bad.jsonl", BAD));
    let torn = files.with("torn.jsonl", &GOOD[..GOOD.len() - 10]);
    let (code, out, err) = check(&[&torn, &bad, &good]);
    assert_eq!(code, 3);
    assert_eq!(out.lines().count(), 2);
    assert!(err.contains(&format!("{}: line 2: ", torn.display())), "{err}");

    let missing = files.0.path().join("missing");
    let (code, _, err) = check(&[&missing]);
    assert_eq!(code, 3);
    assert!(err.contains("missing: No such file"), "{err}");

    let foreign = files.with("foreign.edn", "\n{:process 0 :type :invoke :f :enqueue :value 1}");
    let (code, _, err) = check(&[&foreign]);
    assert_eq!(code, 3);
    assert!(err.contains("line 2: operation enqueue is not one of this model's: read, write"), "{err}");

    for arguments in [
        &["check", "--model", "regster", "x"][..],
        &["check", "x"],
        &["check", "--model", "register"],
        &["check", "--model", "kv", "--init", "1", "x"],
        &["check", "--model", "kv", "--timeout", "soon", "x"],
        &["check", "--model", "kv", "--report", "x.html", "x", "y"],
        &["check", "--help", "nothing"],
        &["nothing"],
    ] {
        let (code, out, err) = ended(&run(arguments, None));
        assert_eq!((code, out.as_str()), (3, ""), "{arguments:?}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn packed_files_and_standard_input_are_read() {
    let files = Files::new();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(BAD.as_bytes()).unwrap();
    let path = files.0.path().join("bad.jsonl.gz");
    std::fs::write(&path, gz.finish().unwrap()).unwrap();
    assert_eq!(check(&[&path]).0, 1);

    let edn = "[{:process 0 :type :invoke :f :read :value nil} {:process 0 :type :ok :f :read :value 7}]";
    for (init, code) in [("7", 0), ("\"7\"", 1)] {
        let arguments = ["check", "--model", "register", "--init", init, "-o", "json", "-"];
        let output = ended(&run(&arguments, Some(edn)));
        assert_eq!(output.0, code, "{output:?}");
        let said: serde_json::Value = serde_json::from_str(&output.1).unwrap();
        assert_eq!(said["verdict"], if code == 0 { "linearizable" } else { "not-linearizable" });
        assert_eq!(said["operations"], 1);
        assert_eq!(said["refutations"].as_array().unwrap().len(), code as usize);
    }
}

#[test]
fn a_limit_is_unknown() {
    let files = Files::new();
    let (good, bad) = (files.with("good.jsonl", GOOD), files.with("bad.jsonl", BAD));
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    // Sixteen unknown outcomes, and a sum that none of their subsets has, in any order.
    let mut hard = String::new();
    for process in 0..26 {
        let by = 1_i64 << (2 * process);
        hard += &format!("{{\"process\":{process},\"type\":\"invoke\",\"f\":\"add\",\"value\":{by}}}\n");
    }
    hard += "{\"process\":30,\"type\":\"invoke\",\"f\":\"read\"}\n{\"process\":30,\"type\":\"ok\",\"f\":\"read\",\"value\":2}\n";
    let hard = files.with("hard.jsonl", &hard);
    let hard = hard.to_str().unwrap();
    let (code, out, err) =
        ended(&run(&["check", "--model", "counter", "--timeout", "10m", "--memory", "4MiB", hard], None));
    assert_eq!(code, 2, "{out} {err}");
    assert!(out.contains(": unknown 27 operations "), "{out}");
    assert!(err.contains("the memory limit of 4 MiB was reached"), "{err}");
    let (code, out, err) = ended(&run(&["check", "--model", "counter", "--timeout", "50ms", hard], None));
    assert_eq!(code, 2, "{out} {err}");
    assert!(err.contains("the time limit of 50ms was reached"), "{err}");
    let (code, ..) = ended(&run(&["check", "--model", "register", good, bad], None));
    assert_eq!(code, 1);
}

#[test]
fn help_is_there_for_every_model() {
    for name in conclave_checker::Model::NAMES {
        let (code, out, err) = ended(&run(&["check", "--help", name], None));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.starts_with(&format!("{name}: ")) && out.contains("An example:"), "{out}");
    }
    let (code, out, _) = ended(&run(&["check", "--help"], None));
    assert_eq!(code, 0);
    assert!(out.contains("--model <MODEL>") && out.contains("Models: register, cas-register"), "{out}");
}

#[test]
fn a_report_is_drawn() {
    let files = Files::new();
    let bad = files.with("bad.jsonl", BAD);
    let page = files.0.path().join("page.html");
    let arguments = ["check", "--model", "register", "--report", page.to_str().unwrap(), bad.to_str().unwrap()];
    let (code, out, _) = ended(&run(&arguments, None));
    assert_eq!(code, 1);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("read 2 by process 1"));
    // The page and the terminal tell the same.
    let peak = out.trim_end().strip_suffix(" peak").and_then(|out| out.split(" s ").last()).unwrap();
    assert!(page.contains(&format!("<dt>peak memory</dt><dd><bdi>{peak}</bdi></dd>")), "{out}");
    assert!(!page.contains(" 0 B"));
}
