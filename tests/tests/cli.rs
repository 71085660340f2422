//! The command line, against real servers: what it prints, how it ends, and that every mistake gets a helpful line.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{ffi::OsStringExt as _, process::ExitStatusExt as _},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use conclave_tests::{Cluster, PATIENCE, binary};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Runs `conclave` against one cluster (or none).
struct Cli {
    endpoints: String,
}

impl Cli {
    fn of(cluster: &Cluster) -> Self {
        Self { endpoints: cluster.endpoints().join(",") }
    }

    fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(binary("conclave").expect("built"));
        command.args(args).env("CONCLAVE_ENDPOINTS", &self.endpoints).env_remove("CONCLAVE_OUTPUT");
        command
    }

    fn run(&self, args: &[impl AsRef<OsStr>]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("it runs")
    }

    fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        // A command that refuses its input may be gone before it is written.
        let _ = child.stdin.take().expect("piped").write_all(input);
        child.wait_with_output().expect("it ends")
    }

    /// Words of a command that must succeed; what it printed.
    fn ok(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let output = self.run(&words);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, line: &str) -> Value {
        let printed = self.ok(&format!("{line} -o json"));
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{line}: {error}: {printed}"))
    }

    /// Words of a command that must fail with this code and say this.
    fn fails(&self, words: &[impl AsRef<OsStr>], code: i32, part: &str) {
        let output = self.run(words);
        let (line, said) =
            (words.iter().map(|w| format!("{:?}", w.as_ref())).collect::<Vec<_>>().join(" "), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(part), "{line}: expected {part:?} in: {said}");
        assert!(!said.contains("panicked"), "{line}: {said}");
    }

    /// A `lock` in the background.
    fn lock(&self, args: &[&str]) -> Background {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Background { child, lines }
    }
}

/// A running `conclave`, killed when dropped.
struct Background {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Background {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("readable");
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("small")), signal).expect("it runs");
    }

    /// Its exit code and what it said.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ours") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status, said)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn alive(pid: &str) -> bool {
    // A zombie nobody has waited for yet runs no more.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_mistake_on_the_command_line_gets_a_helpful_line() {
    // Nobody listens here: whoever asks a server gets 69.
    let cli = Cli { endpoints: "http://127.0.0.1:1".to_owned() };
    let deep = "/x".repeat(65);
    let long = format!("/{}", "x".repeat(1024));
    let table: &[(&[&str], i32, &str)] = &[
        (&[], 64, "Usage"),
        (&["frobnicate"], 64, "unrecognized subcommand 'frobnicate'"),
        (&["get"], 64, "<PATH>"),
        (&["get", "a"], 64, "path must begin with '/': got \"a\", write \"/a\""),
        (&["get", ""], 64, "path must begin with '/'"),
        (&["get", "/a/"], 64, "must not end with '/'"),
        (&["get", "/a//b"], 64, "names nothing"),
        (&["get", "/a/../b"], 64, "names nothing"),
        (&["get", "/a\tb"], 64, "control character at byte 2"),
        (&["get", &deep], 64, "65 components, the limit is 64"),
        (&["get", &long], 64, "1025 bytes long, the limit is 1024"),
        (&["get", "/a", "--rev", "x"], 64, "invalid digit"),
        (&["get", "/a", "-o", "yaml"], 64, "table, json"),
        (&["get", "/a", "--timeout", "5"], 64, "has no unit: write 5s"),
        (&["get", "/a", "--endpoints", "localhost"], 64, "\"localhost\" is not host:port"),
        (&["get", "/a", "--endpoints", "https://a:1"], 64, "name the CA that signed the servers' certificates"),
        (&["put", "/a"], 64, "<VALUE>"),
        (&["put", "/a", "x", "--file", "f"], 64, "cannot be used with"),
        (&["put", "/a", "--file", "/nonexistent/file"], 74, "/nonexistent/file"),
        (&["watch", "/a", "--children", "--subtree"], 64, "cannot be used with"),
        (&["txn", "--if", "version(/a) >= 3"], 64, "--if: position 13: \">=\" compares nothing here"),
        (&["txn", "--then", "put a x"], 64, "--then: position 5: path must begin with '/'"),
        (&["txn", "--else", "pot /a"], 64, "--else: position 1: \"pot\" is no operation"),
        (&["txn"], 64, "the transaction is empty"),
        (&["lock", "deploy"], 64, "<CMD>"),
        (&["lock", "deploy", "true"], 64, "unexpected argument 'true'"),
        (&["lock", "/", "--", "true"], 64, "root is no lock"),
        (&["lock", "a//b", "--", "true"], 64, "names nothing"),
        (&["lock", "deploy", "--ttl", "100ms", "--", "true"], 64, "--ttl 100ms is not from 500ms to 24h"),
        (
            &["lock", "deploy", "--ttl", "2s", "--grace", "5s", "--", "true"],
            64,
            "--grace 5s is more than half of --ttl 2s",
        ),
        (&["lock", "deploy", "--try", "--wait", "1s", "--", "true"], 64, "cannot be used with"),
        (&["session", "show", "bob"], 64, "\"bob\" is no session id"),
        (&["session", "kill", "0"], 64, "is no session id"),
        (&["cluster", "promote", "0"], 64, "is no server id"),
        (&["cluster", "add-learner", "4", "nowhere"], 64, "\"nowhere\" is not host:port"),
        (&["bench", "put", "--clients", "0"], 64, "0 is not in 1..=10000"),
        (&["bench", "put", "--value-size", "1GB"], 64, "is no unit of size"),
        (&["bench", "fsync", "--dir", "/nonexistent"], 74, "/nonexistent"),
        (&["completion", "tcl"], 64, "bash"),
        (&["get", "/a", "--timeout", "300ms"], 69, "127.0.0.1:1"),
        (&["get", "/a", "--timeout", "300ms"], 69, "--endpoints"),
        (&["put", "/a", "x", "--timeout", "300ms"], 69, "127.0.0.1:1"),
        (&["locks", "--timeout", "300ms"], 69, "127.0.0.1:1"),
        (&["lock", "deploy", "--timeout", "300ms", "--", "true"], 69, "127.0.0.1:1"),
        (&["cluster", "status", "--timeout", "300ms"], 69, "no server answered"),
    ];
    for (words, code, part) in table {
        cli.fails(words, *code, part);
    }
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    cli.fails(&[raw(b"get"), raw(b"/a\xff")], 64, "argument 2 is not UTF-8: \"/a\\xff\"");
    cli.fails(&[raw(b"\xfe")], 64, "argument 1 is not UTF-8");
    cli.fails(&[raw(b"txn"), raw(b"--then"), raw(b"put /a \xff")], 64, "argument 3 is not UTF-8");
}

#[test]
fn help_and_completion_need_no_server() {
    let cli = Cli { endpoints: "http://127.0.0.1:1".to_owned() };
    assert!(cli.ok("--help").contains("Exit codes:"));
    assert!(cli.ok("lock --help").contains("CONCLAVE_FENCING_TOKEN"));
    assert!(cli.ok("txn --help").contains("version(PATH) = 3"));
    assert!(cli.ok("--version").starts_with("conclave "));
    for shell in ["bash", "zsh", "fish"] {
        let script = cli.ok(&format!("completion {shell}"));
        assert!(script.contains("conclave") && script.contains("locks"), "{shell}");
        assert!(!script.contains("__become"), "{shell}: what is hidden stays hidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_written_read_listed_watched_and_deleted() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let cli = Cli::of(&cluster);

    assert!(cli.ok("put /app/config/limit 250").starts_with("created /app/config/limit version 0 at revision "));
    assert_eq!(cli.ok("get /app/config/limit"), "250", "the data as it is, no newline added");
    assert!(cli.ok("put /app/config/limit 300").starts_with("changed /app/config/limit version 1 "));
    let put = cli.json("put /app/config/limit 350");
    assert_eq!((put["created"].as_bool(), put["version"].as_u64()), (Some(false), Some(2)));
    let revision = put["revision"].as_u64().expect("a revision");
    assert_eq!(cli.ok(&format!("get /app/config/limit --rev {}", revision - 1)), "300");

    let bytes: Vec<u8> = (0..=255).collect();
    assert!(cli.run_with_input(&["put", "/app/raw", "-"], &bytes).status.success());
    assert_eq!(cli.run(&["get", "/app/raw"]).stdout, bytes);
    let node = cli.json("get /app/raw");
    assert_eq!((node["data"]["size"].as_u64(), node["data"]["text"].as_str()), (Some(256), None));
    let raw = [OsString::from("put"), OsString::from("/app/arg"), OsString::from_vec(vec![0xff])];
    assert!(cli.run(&raw).status.success(), "a value may be any bytes");
    assert_eq!(cli.run(&["get", "/app/arg"]).stdout, [0xff]);

    assert_eq!(cli.ok("ls /app"), "arg\nconfig\nraw\n");
    assert_eq!(cli.ok("ls /app/config/limit"), "");
    assert!(cli.ok("ls /app --long").contains("256 B"));
    assert_eq!(cli.ok("tree /app"), "/app\n├── arg\n├── config\n│   └── limit\n└── raw\n");
    let names: Vec<String> = cli.json("ls /app")["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| node["path"].as_str().expect("a path").to_owned())
        .collect();
    assert_eq!(names, ["/app/arg", "/app/config", "/app/raw"]);

    let events = cli.ok(&format!("watch /app/config --subtree --from {revision} --count 1 -o json"));
    let event: Value = serde_json::from_str(events.trim()).expect("one event");
    assert_eq!((event["event"].as_str(), event["node"]["path"].as_str()), (Some("changed"), Some("/app/config/limit")));
    assert_eq!(event["revision"].as_u64(), Some(revision));

    let history = cli.json("history /app/config/limit");
    let kinds: Vec<&str> =
        history["changes"].as_array().expect("changes").iter().filter_map(|c| c["event"].as_str()).collect();
    assert_eq!(kinds, ["created", "changed", "changed"]);

    cli.fails(&["get", "/app/config/limits"], 66, "/app/config exists");
    cli.fails(&["ls", "/nowhere"], 66, "no node /nowhere");
    cli.fails(&["put", "/app/config/limit", "x", "--if-version", "7"], 1, "in version 2, not 7");
    cli.fails(&["put", "/app/config/limit", "x", "--create"], 65, "/app/config/limit");
    cli.fails(&["put", "/no/where", "x", "--no-parents"], 65, "/no");
    cli.fails(&["put", "/conclave/x", "x"], 77, "/conclave");
    cli.fails(&["del", "/app"], 65, "--recursive");
    cli.fails(&["del", "/nowhere"], 66, "no node /nowhere");
    cli.fails(&["get", "/app/raw", "--rev", "999999"], 65, "999999");
    let big = cli.run_with_input(&["put", "/big", "-"], &vec![0; (1 << 20) + 1]);
    assert_eq!(big.status.code(), Some(65), "{}", text(&big.stderr));
    assert!(text(&big.stderr).contains("1048576"), "the limit is named: {}", text(&big.stderr));

    assert!(cli.ok("del /app --recursive").starts_with("deleted /app and 4 below it"));
    assert_eq!(cli.ok("del /app --force"), "there was no /app\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_do_all_or_nothing_and_say_which_comparison_failed() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    cli.ok("put /a one");
    let done = cli.run(&[
        "txn",
        "--if",
        "version(/a) = 0",
        "--if",
        "missing(/b)",
        "--then",
        "put /a two",
        "--then",
        "put /b/c x",
    ]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!((cli.ok("get /a"), cli.ok("get /b/c")), ("two".to_owned(), "x".to_owned()));

    let not = cli.run(&["txn", "--if", "version(/a) = 0", "--then", "put /a three", "--else", "get /a"]);
    assert_eq!(not.status.code(), Some(1));
    assert!(text(&not.stdout).contains("version(/a) = 0 did not hold"), "{}", text(&not.stdout));
    assert!(text(&not.stdout).contains("get /a: version 1 = two"), "{}", text(&not.stdout));

    let script = br#"{"if": [{"path": "/a", "text": "two"}], "then": [{"put": {"path": "/a", "text": "three"}}, {"list": {"path": "/b"}}]}"#;
    let json = cli.run_with_input(&["txn", "-o", "json"], script);
    let result: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(result["succeeded"], true, "{result}");
    assert_eq!(result["results"][1]["listed"]["names"][0], "c", "{result}");

    let refused = cli.run(&["txn", "--then", "put /a four", "--then", "del /b"]);
    assert_eq!(refused.status.code(), Some(65));
    assert!(text(&refused.stderr).contains("operation 2 was refused"), "{}", text(&refused.stderr));
    assert_eq!(cli.ok("get /a"), "three", "nothing of it was done");
    let mistake = cli.run_with_input(&["txn"], b"then put /a x\nthen pot /b y\n");
    assert_eq!(mistake.status.code(), Some(64));
    assert!(text(&mistake.stderr).contains("line 2, position 1: \"pot\""), "{}", text(&mistake.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_gives_its_command_a_token_and_passes_its_exit_code_on() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    let first =
        cli.run(&["lock", "deploy", "--", "sh", "-c", "echo $CONCLAVE_FENCING_TOKEN $CONCLAVE_LOCK $CONCLAVE_SESSION"]);
    let words: Vec<String> = text(&first.stdout).split_whitespace().map(str::to_owned).collect();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(words[1], "/locks/deploy");
    assert!(words[2].parse::<u64>().expect("a session") > 0);
    let second = cli.run(&["lock", "/locks/deploy", "--", "sh", "-c", "echo $CONCLAVE_FENCING_TOKEN"]);
    let (first, second): (u64, u64) =
        (words[0].parse().expect("a token"), text(&second.stdout).trim().parse().expect("a token"));
    assert!(second > first && first > 0, "{first} then {second}");

    for (command, code) in [
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["sh", "-c", "kill -9 $$"], 137),
        (vec!["/nonexistent/x"], 127),
        (vec!["/etc/passwd"], 126),
    ] {
        let args: Vec<&str> = ["lock", "deploy", "--"].into_iter().chain(command).collect();
        let output = cli.run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    }
    let odd =
        [b"lock".as_slice(), b"deploy", b"--", b"printf", b"%s", b"\xff"].map(|word| OsString::from_vec(word.to_vec()));
    assert_eq!(cli.run(&odd).stdout, [0xff], "the command's words may be any bytes");
    // Released each time: nobody is left in the queue.
    let free = cli.run(&["lock", "deploy", "--try", "--", "true"]);
    assert_eq!(free.status.code(), Some(0), "{}", text(&free.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_are_shown_and_a_taken_lock_is_not_acquired() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    let mut holder = cli.lock(&[
        "lock",
        "deploy",
        "--label",
        "release 42",
        "--",
        "sh",
        "-c",
        "echo $CONCLAVE_FENCING_TOKEN; exec sleep 600",
    ]);
    let token: u64 = holder.line().parse().expect("a token");
    for refused in [
        &["lock", "deploy", "--try", "--", "true"][..],
        &["lock", "deploy", "--wait", "200ms", "--shared", "--", "true"],
    ] {
        cli.fails(refused, 75, "release 42");
    }
    let mut waiter = cli.lock(&["lock", "deploy", "--", "sh", "-c", "echo $CONCLAVE_FENCING_TOKEN"]);
    eventually("the waiter is in line", || {
        cli.json("locks")["locks"][0]["waiters"].as_array().is_some_and(|w| w.len() == 1)
    });
    let locks = cli.json("locks /locks");
    let lock = &locks["locks"][0];
    assert_eq!((lock["path"].as_str(), lock["holders"].as_array().map(Vec::len)), (Some("/locks/deploy"), Some(1)));
    let held = &lock["holders"][0];
    assert_eq!((held["token"].as_u64(), held["label"].as_str()), (Some(token), Some("release 42")), "{locks}");
    assert!(held["since"].is_string() && held["mode"] == "exclusive" && held["session_name"].is_string(), "{locks}");
    let table = cli.ok("locks");
    assert!(table.contains("holds") && table.contains("waits #1") && table.contains("release 42"), "{table}");
    let session = held["session"].as_u64().expect("a session");
    let shown = cli.json(&format!("session show {session}"));
    assert_eq!(shown["owned"], 1, "{shown}");

    // Its session is ended: the command is killed, the code says lost, and the next one holds with a larger token.
    cli.ok(&format!("session kill {session}"));
    let (status, said) = holder.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(said.contains("lock /locks/deploy lost"), "{said}");
    assert!(waiter.line().parse::<u64>().expect("a token") > token);
    assert_eq!(waiter.end().0.code(), Some(0));
    cli.fails(&["session", "show", "999999"], 66, "no session 999999");
    cli.fails(&["session", "kill", "999999"], 66, "no session 999999");
    let holds = cli.json("history /locks/deploy");
    let tokens: Vec<u64> =
        holds["holds"].as_array().expect("holds").iter().filter_map(|h| h["token"].as_u64()).collect();
    assert_eq!(tokens.first(), Some(&token), "{holds}");
    assert!(tokens.len() >= 2 && tokens.is_sorted(), "{holds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_go_to_the_command_and_a_cancelled_waiter_leaves_the_queue() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    let script = "trap 'echo got TERM; exit 3' TERM; trap 'echo got HUP' HUP; echo ready; while :; do sleep 0.05; done";
    let mut holder = cli.lock(&["lock", "deploy", "--", "sh", "-c", script]);
    assert_eq!(holder.line(), "ready");
    let waiter = cli.lock(&["lock", "deploy", "--", "true"]);
    eventually("the waiter is in line", || {
        cli.json("locks")["locks"][0]["waiters"].as_array().is_some_and(|w| w.len() == 1)
    });
    waiter.signal(Signal::SIGINT);
    assert_eq!(waiter.end().0.code(), Some(130));
    eventually("it left the line", || cli.json("locks")["locks"][0]["waiters"].as_array().is_some_and(Vec::is_empty));
    holder.signal(Signal::SIGHUP);
    assert_eq!(holder.line(), "got HUP");
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.line(), "got TERM");
    assert_eq!(holder.end().0.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_conclave_takes_its_command_along() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    let mut holder = cli.lock(&["lock", "deploy", "--", "sh", "-c", "echo $$; exec sleep 600"]);
    let pid = holder.line();
    assert!(alive(&pid));
    holder.signal(Signal::SIGKILL);
    assert_eq!(holder.child.wait().expect("ours").signal(), Some(9));
    eventually("the command is gone", || !alive(&pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_ended_before_the_lock_can_be_lost() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    // It ignores SIGTERM, so only SIGKILL ends it.
    let script = "trap 'echo asked' TERM; echo $$; while :; do sleep 0.05; done";
    let mut holder = cli.lock(&["lock", "deploy", "--ttl", "3s", "--", "sh", "-c", script]);
    let pid = holder.line();
    // Without a quorum nobody confirms the session, and nobody can give the lock away either.
    for id in [1, 2] {
        cluster.kill(id).expect("killed");
    }
    assert_eq!(holder.line(), "asked");
    let (status, said) = holder.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(said.contains("ending the command") && said.contains("lost"), "{said}");
    assert!(!alive(&pid), "the command ended before conclave did");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conclave_that_slept_past_its_deadline_kills_its_command_on_waking() {
    let cluster = Cluster::start(1).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    let mut holder = cli.lock(&["lock", "deploy", "--ttl", "1s", "--", "sh", "-c", "echo $$; exec sleep 600"]);
    let pid = holder.line();
    holder.signal(Signal::SIGSTOP);
    // Granted only once the sleeper's session has expired.
    let next = cli.run(&["lock", "deploy", "--", "true"]);
    assert_eq!(next.status.code(), Some(0), "{}", text(&next.stderr));
    assert!(alive(&pid), "nobody could end it while conclave slept: that takes the token");
    holder.signal(Signal::SIGCONT);
    let (status, said) = holder.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(!alive(&pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_and_its_health_checked() {
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    // A new leader has heard of nobody for a moment, and says so.
    eventually("healthy", || cli.run(&["cluster", "status"]).status.success());
    let status = cli.json("cluster status");
    assert!(status[0]["tls"] == false && status[0]["caller"] == "anonymous", "{status}");
    let roles: Vec<&str> = status.as_array().expect("a list").iter().filter_map(|s| s["role"].as_str()).collect();
    assert_eq!(roles.len(), 3, "{status}");
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{status}");
    eventually("healthy", || cli.run(&["cluster", "health"]).status.success());
    let leader = status[0]["leader"].as_u64().expect("a leader");
    let other = (1..=3).find(|id| *id != leader).expect("three servers");
    cli.ok(&format!("cluster transfer {other}"));
    let status = || cli.run(&["cluster", "status", "-o", "json"]);
    eventually("the other leads", || {
        let answers: Value = serde_json::from_slice(&status().stdout).expect("JSON");
        answers[0]["leader"].as_u64() == Some(other)
    });
    cluster.kill(leader).expect("killed");
    let sick = status();
    assert_eq!(sick.status.code(), Some(1));
    assert!(text(&sick.stderr).contains("does not answer"), "{}", text(&sick.stderr));
    let sick = cli.run(&["cluster", "health", "-o", "json"]);
    assert_eq!(sick.status.code(), Some(1));
    let health: Value = serde_json::from_slice(&sick.stdout).expect("JSON");
    assert_eq!(health["healthy"], false);
    assert!(health["problems"][0].as_str().is_some_and(|p| p.contains("does not answer")), "{health}");
    let stranger = cli.run(&["cluster", "promote", "9"]);
    // Refused by the servers: definite.
    assert_eq!(stranger.status.code(), Some(65), "{}", text(&stranger.stderr));
    assert!(text(&stranger.stderr).contains("server 9 is not a member"), "{}", text(&stranger.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_benchmark_runs_and_leaves_nothing_behind() {
    let cluster = Cluster::start(3).await.expect("a cluster");
    let cli = Cli::of(&cluster);
    for workload in ["put", "get", "get --stale", "lock-own", "lock-shared", "watch", "sessions"] {
        let depth = if workload == "sessions" { "" } else { " --depth 2" };
        let line = format!("bench {workload} --clients 4{depth} --keys 16 --duration 500ms --warmup 100ms --json");
        let report: Value = serde_json::from_str(&cli.ok(&line)).expect("JSON");
        assert!(report["operations"].as_u64().is_some_and(|n| n > 0), "{line}: {report}");
        assert_eq!(report["errors"], 0, "{line}: {report}");
        let latency = &report["latency_us"];
        assert!(
            latency["p50"].as_u64() <= latency["p99"].as_u64() && latency["p99"].as_u64() <= latency["max"].as_u64()
        );
    }
    assert_eq!(cli.ok("ls /bench"), "");
    assert!(cli.ok("bench put --clients 1 --duration 300ms --warmup 0s").contains("replicated writes/s"));
}
