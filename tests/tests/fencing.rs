//! A holder that is stopped past its TTL and resumed: what it writes late is refused, its guard says lost, and whoever
//! came after it has a larger token.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use conclave_client::{Client, FencingToken, Session, SessionOptions, fence::sqlite::Fence};
use conclave_tests::{Cluster, PATIENCE, eventually, leashed, spawn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rusqlite::{Connection, TransactionBehavior};

const LOCK: &str = "/locks/row";
/// Short, since the tests wait for it to pass.
const TTL: Duration = Duration::from_secs(1);
/// Long enough that nothing in a test outlasts it.
const LONG_TTL: Duration = Duration::from_secs(60);

/// The process that gets stopped.
struct Worker {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    /// The token it holds the lock with.
    token: u64,
}

impl Worker {
    fn start(cluster: &Cluster, ttl: Duration, db: &Path) -> Self {
        let mut command = leashed(env!("CARGO_BIN_EXE_fenced-worker"));
        command.args([&cluster.endpoints().join(","), LOCK, &ttl.as_millis().to_string()]).arg(db);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command).expect("the worker starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut worker = Self { child, input, lines, token: 0 };
        let entered = worker.hear();
        let words: Vec<&str> = entered.split(' ').collect();
        let ["entered", token, "first"] = words[..] else { panic!("the worker said {entered:?}") };
        worker.token = token.parse().expect("a token");
        worker
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("a signal");
    }

    fn say(&mut self, word: &str) {
        writeln!(self.input, "{word}").expect("the worker listens");
    }

    fn hear(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the worker answers")
    }

    fn ask(&mut self, word: &str) -> String {
        self.say(word);
        self.hear()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resource: one row, and its fence.
struct Row(PathBuf);

impl Row {
    fn new(cluster: &Cluster) -> Self {
        let path = cluster.dir().join("row.db");
        let db = Connection::open(&path).expect("open");
        db.execute_batch("CREATE TABLE rows (value TEXT); INSERT INTO rows VALUES ('first')").expect("a table");
        Self(path)
    }

    /// Reads it as a holder does: the fence goes up.
    fn enter(&self, token: FencingToken) -> String {
        let mut db = Connection::open(&self.0).expect("open");
        let fence = Fence::new(&db).expect("a fence");
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).expect("begin");
        fence.enter(&tx, "row", token).expect("the newest token");
        let value = tx.query_row("SELECT value FROM rows", [], |row| row.get(0)).expect("a row");
        tx.commit().expect("commit");
        value
    }

    /// Looks at it as nobody's holder.
    fn peek(&self) -> String {
        let db = Connection::open(&self.0).expect("open");
        db.query_row("SELECT value FROM rows", [], |row| row.get(0)).expect("a row")
    }
}

async fn begin() -> (Cluster, Row, Client, Session) {
    let cluster = Cluster::start(3).await.expect("three servers");
    let row = Row::new(&cluster);
    let client = Client::connect(cluster.endpoints()).await.expect("a client");
    let session = client.session(SessionOptions::new().ttl(LONG_TTL).name("next")).await.expect("a session");
    (cluster, row, client, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_stopped_past_its_ttl_writes_in_vain() {
    let (cluster, row, client, session) = begin().await;
    let mut worker = Worker::start(&cluster, TTL, &row.0);
    worker.signal(Signal::SIGSTOP);

    // Granted at all only because the stopped one's session has ended.
    let next = session.lock(LOCK).wait(PATIENCE).acquire().await.expect("the next holder");
    assert!(next.token().get() > worker.token, "tokens rise: {} then {}", worker.token, next.token());
    assert_eq!(row.enter(next.token()), "first", "only a read, and that raises the fence");

    // It wakes up in the middle of its work: the word to write is there before anything else can happen.
    worker.say("write");
    worker.signal(Signal::SIGCONT);
    let refused = worker.hear();
    assert!(refused.starts_with("refused stale fencing token"), "{refused}");
    assert_eq!(row.peek(), "first");

    assert_eq!(worker.ask("held"), "held false");
    let lost = worker.ask("lost");
    assert!(lost.starts_with("lost session lost"), "{lost}");
    // What it writes to the cluster under its guard is refused as well, and certainly has no effect.
    let refused = worker.ask("txn");
    assert!(refused.starts_with("refused None"), "{refused}");
    assert!(client.get("/written-by").await.expect("get").is_none());
    // Its release is too late to free anything: least of all the next holder's lock.
    let refused = worker.ask("release");
    assert!(refused.starts_with("refused None"), "{refused}");
    next.verify().await.expect("still held");
    next.txn().put("/written-by", "next").commit().await.expect("still held");

    let token = next.token();
    next.release().await.expect("release");
    let third = session.lock(LOCK).acquire().await.expect("free again");
    assert!(third.token() > token, "tokens rise: {token} then {}", third.token());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_asked_first_thing_after_the_pause_says_lost() {
    let (cluster, row, client, _session) = begin().await;
    let mut worker = Worker::start(&cluster, TTL, &row.0);
    worker.signal(Signal::SIGSTOP);
    // Nobody else wants the lock; it goes with its session.
    eventually("the stopped holder's node goes", || async {
        let waiting = client.list(LOCK).await.map(|listing| listing.nodes.len());
        match waiting {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    worker.say("held");
    worker.signal(Signal::SIGCONT);
    assert_eq!(worker.hear(), "held false", "the clock is looked at before anything else");
    let lost = worker.ask("lost");
    assert!(lost.starts_with("lost session lost"), "{lost}");
    // The fence refuses those whom somebody overtook. Nobody did, so this is no conflict, and it is let through.
    assert_eq!(worker.ask("write"), "written");
    assert_eq!(row.peek(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_shorter_than_the_ttl_costs_nothing() {
    let (cluster, row, client, session) = begin().await;
    let mut worker = Worker::start(&cluster, LONG_TTL, &row.0);
    worker.signal(Signal::SIGSTOP);
    let refused = session.lock(LOCK).wait(Duration::from_millis(700)).acquire().await;
    assert!(refused.is_err(), "two hold it");
    worker.say("write");
    worker.signal(Signal::SIGCONT);
    assert_eq!(worker.hear(), "written");
    assert_eq!(worker.ask("held"), "held true");
    assert_eq!(worker.ask("txn"), "committed");
    assert_eq!(worker.ask("release"), "released");
    assert_eq!(row.peek(), "late");
    assert_eq!(client.get("/written-by").await.expect("get").expect("written").data, "late");
    let next = session.lock(LOCK).wait(PATIENCE).acquire().await.expect("it was released");
    assert!(next.token().get() > worker.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holders_lock_passes_on_with_a_larger_token() {
    let (cluster, row, _client, session) = begin().await;
    let mut worker = Worker::start(&cluster, TTL, &row.0);
    worker.child.kill().expect("kill");
    let next = session.lock(LOCK).wait(PATIENCE).acquire().await.expect("the next holder");
    assert!(next.token().get() > worker.token);
    assert_eq!(row.enter(next.token()), "first");
}
