//! Ten thousand waiters that leave at any moment leave nothing behind.

use std::time::Duration;

use conclave_client::{Client, Config, SessionOptions};
use conclave_tests::{Cluster, Options, PATIENCE, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const SESSIONS: usize = 10;
const WAITERS: usize = 10_000;
/// Rounds that fill buffers and pools that stay, RocksDB's above all.
const WARM_UP: usize = 10;
const ROUNDS: usize = WARM_UP + 6;
/// What the rounds after them may add: far less than a kilobyte for each of their waiters, more than what those buffers
/// come and go by.
const GROWTH_MAX_KIB: u64 = 32 << 10;

async fn metric(cluster: &Cluster, name: &str) -> u64 {
    let mut stream = TcpStream::connect(cluster.http(1)).await.expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes().get(name.len()) == Some(&b' '));
    let line = line.unwrap_or_else(|| panic!("no metric {name} in:\n{text}"));
    line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
}

fn resident_kib(cluster: &Cluster) -> u64 {
    let pid = cluster.pid(1).expect("runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelling_waiters_leave_nothing() {
    // History would grow with every one that comes and goes; here it is short.
    let options = Options {
        servers: 1,
        config: "[limits]\nhistory_revisions_max = 1000\n[raft]\nlog_entries_max = 2000\nlog_entries_keep = 1000\n"
            .into(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(options).await.expect("a server");
    let client = Client::new(Config::new(cluster.endpoints())).expect("endpoints");
    let options = || SessionOptions::new().ttl(PATIENCE);
    let holder = client.session(options()).await.expect("a session");
    let guard = holder.lock("/locks/busy").await.expect("free");
    let nodes = metric(&cluster, "conclave_nodes").await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(client.session(options()).await.expect("a session"));
    }
    let mut most = 0;
    for round in 0..ROUNDS {
        let mut waiters = JoinSet::new();
        for waiter in 0..WAITERS {
            let session = sessions[waiter % SESSIONS].clone();
            // From at once to long after the place in line is taken.
            let patience = Duration::from_micros((waiter as u64 * 7919) % 400_000);
            waiters.spawn(async move {
                let acquire = session.lock("/locks/busy").acquire();
                assert!(timeout(patience, acquire).await.is_err(), "it is held throughout");
            });
        }
        while let Some(waiter) = timeout(PATIENCE, waiters.join_next()).await.expect("in time") {
            waiter.expect("no panic");
        }
        eventually("nobody is left", || async {
            let (left, watches) =
                (metric(&cluster, "conclave_nodes").await, metric(&cluster, "conclave_queue_watches").await);
            if (left, watches) == (nodes, 0) { Ok(()) } else { Err(format!("{left} nodes, {watches} queue watches")) }
        })
        .await;
        let now = resident_kib(&cluster);
        eprintln!("round {round}: {now} KiB");
        if round < WARM_UP {
            most = now.max(most);
        } else {
            assert!(now <= most + GROWTH_MAX_KIB, "round {round}: {now} KiB, at most {most} KiB while warming up");
        }
    }
    guard.verify().await.expect("held throughout");
    assert_eq!(client.queues("/locks").await.expect("read").queues[0].entries.len(), 1);
}
