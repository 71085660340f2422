//! What servers say in numbers, and what the kernel says of them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Cluster, PATIENCE, eventually};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Everything `/metrics` told at one moment: `name` or `name{labels}` to its value.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Asks the server whose HTTP port is `http`.
    ///
    /// # Errors
    /// If it does not answer with metrics.
    pub async fn scrape(http: SocketAddr) -> anyhow::Result<Self> {
        let body = get(http, "/metrics").await?;
        let mut all = BTreeMap::new();
        for line in body.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("not a metric: {line:?}"))?;
            all.insert(name.to_owned(), value.parse().with_context(|| format!("not a metric: {line:?}"))?);
        }
        Ok(Self(all))
    }

    /// The metric called `name`, its label sets added up.
    ///
    /// # Panics
    /// If there is none: a test that reads a metric means one that exists.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let labelled = format!("{name}{{");
        let mut found = false;
        let mut sum = 0.0;
        for (key, value) in &self.0 {
            if key == name || key.starts_with(&labelled) {
                found = true;
                sum += value;
            }
        }
        assert!(found, "no metric {name}; there are {:?}", self.0.keys().collect::<Vec<_>>());
        sum
    }
}

/// Waits until this bound is in force on every running server: the leader tells the others of its configuration through
/// the log, a moment after it was elected.
///
/// # Panics
/// If it is not within [`PATIENCE`].
pub async fn wait_limit(cluster: &Cluster, limit: &str, value: u64) {
    let name = format!("conclave_limit{{limit=\"{limit}\"}}");
    eventually("a bound is in force", || async {
        for id in cluster.running() {
            let metrics = Metrics::scrape(cluster.http(id)).await.map_err(|error| format!("{error:#}"))?;
            match metrics.0.get(&name) {
                Some(found) if *found == value as f64 => {}
                found => return Err(format!("{name} is {found:?} on server {id}, not {value}, within {PATIENCE:?}")),
            }
        }
        Ok(())
    })
    .await;
}

/// The body of a successful GET over HTTP.
///
/// # Errors
/// If there is no answer, or its status is not 200.
pub async fn get(http: SocketAddr, path: &str) -> anyhow::Result<String> {
    ask(http, "GET", path, "").await
}

/// The body of a successful request over HTTP.
///
/// # Errors
/// If there is no answer, or its status is not 200.
pub async fn ask(http: SocketAddr, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let exchange = async {
        let mut tcp = TcpStream::connect(http).await.context("connect")?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n");
        let request = format!("{head}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}");
        tcp.write_all(request.as_bytes()).await.context("write")?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.context("read")?;
        let answer = String::from_utf8(answer).context("not text")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}: {body}", head.lines().next().unwrap_or_default());
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        if chunked { unchunk(body) } else { Ok(body.to_owned()) }
    };
    tokio::time::timeout(ANSWER_WITHIN, exchange).await.context("no answer in time")?
}

fn unchunk(mut body: &str) -> anyhow::Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk is short")?);
        body = rest.get(size + 2..).context("a chunk without an end")?;
    }
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// If it is gone.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().context("VmRSS")?;
    Ok(kib * 1024)
}
