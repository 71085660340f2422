//! The cluster and what can be done to its servers.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use conclave_proto::v1::{self, admin_client::AdminClient, store_client::StoreClient};
use conclave_tls::{
    Dial, Files, Identity, Pair,
    make::{Authority, Made, Whose},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::{Channel, Endpoint};

use super::{PortBlock, binary, binary_in, leashed, spawn};

/// Most servers of one cluster: two ports each out of one block.
pub const SERVERS_MAX: usize = 8;
/// With ports of their own for peers there is room for fewer.
const SERVERS_WITH_PEER_PORTS_MAX: usize = 5;
/// What is made for a test lives no longer.
const CERTIFICATES_VALID: Duration = Duration::from_secs(86_400);
/// A server told to stop that has not ended by then is killed, and that is an error.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// One question to one server.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Lines of each log shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers it begins with, their ids counted from 1.
    pub servers: usize,
    /// Its cluster id.
    pub cluster: String,
    /// Added to every server's command line.
    pub args: Vec<String>,
    /// Added to every server's environment.
    pub env: Vec<(String, String)>,
    /// Text of a configuration file for every server (`--config`), below the flags; empty for none.
    pub config: String,
    /// Where the program lies; none to look for it (see [`binary`]).
    pub bin_dir: Option<PathBuf>,
    /// `conclaved`, or `conclaved-faulty` for a server that can be broken on purpose.
    pub program: String,
    /// Everything over TLS, with a CA of the cluster's own.
    pub tls: bool,
    /// Peers have ports of their own.
    pub peer_ports: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 3,
            cluster: "test".into(),
            args: Vec::new(),
            env: vec![("RUST_LOG".into(), "info".into())],
            config: String::new(),
            bin_dir: None,
            program: "conclaved".into(),
            tls: false,
            peer_ports: false,
        }
    }
}

/// Servers of one cluster id, as processes.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    program: PathBuf,
    ports: PortBlock,
    servers: Vec<Server>,
    /// Ids of the servers every one is told of at first start.
    founders: Vec<u64>,
    tls: Option<Tls>,
    // Last, so that the processes are gone before their files.
    dir: Option<tempfile::TempDir>,
}

/// The cluster's own CA, and who we are to its servers.
struct Tls {
    authority: Authority,
    identity: Arc<Identity>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Server {
    id: u64,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `servers` servers with default options and waits until each of them serves.
    ///
    /// # Errors
    /// As [`Cluster::start_with`].
    pub async fn start(servers: usize) -> anyhow::Result<Self> {
        Self::start_with(Options { servers, ..Options::default() }).await
    }

    /// Starts the servers and waits until each of them serves.
    ///
    /// # Errors
    /// If the binary is missing, a server ends at once, or they do not serve within a minute.
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(options)?;
        for id in cluster.ids() {
            cluster.start_server(id)?;
        }
        cluster.wait_healthy(Duration::from_secs(60)).await?;
        Ok(cluster)
    }

    /// Everything but the processes.
    ///
    /// # Errors
    /// If the binary is missing or no ports are free.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        ensure!((1..=SERVERS_MAX).contains(&options.servers), "a cluster here has 1 to {SERVERS_MAX} servers");
        ensure!(
            !options.peer_ports || options.servers <= SERVERS_WITH_PEER_PORTS_MAX,
            "with ports for peers, a cluster here has 1 to {SERVERS_WITH_PEER_PORTS_MAX} servers"
        );
        let program = match &options.bin_dir {
            Some(dir) => binary_in(dir, &options.program)?,
            None => binary(&options.program)?,
        };
        let dir = tempfile::Builder::new().prefix("conclave-").tempdir().context("no directory for the servers")?;
        let founders: Vec<u64> = (1..=options.servers as u64).collect();
        let servers = founders.iter().map(|&id| Server { id, child: None }).collect();
        let ports = PortBlock::take()?;
        let mut cluster = Self { options, program, ports, servers, founders, tls: None, dir: Some(dir) };
        if cluster.options.tls {
            cluster.make_certificates()?;
        }
        Ok(cluster)
    }

    fn make_certificates(&mut self) -> anyhow::Result<()> {
        let authority = Authority::new("a test's CA", CERTIFICATES_VALID)?;
        fs::create_dir(self.tls_dir()).context("no directory for certificates")?;
        fs::write(self.ca(), &authority.made().cert).context("no CA")?;
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        self.write_certificate("server", &authority.issue(Whose::Server(&names), CERTIFICATES_VALID)?)?;
        let pair = self.write_certificate("probe", &authority.issue(Whose::Client("probe"), CERTIFICATES_VALID)?)?;
        let identity = Identity::load(Files { ca: self.ca(), pair: Some(pair) })?;
        self.tls = Some(Tls { authority, identity });
        Ok(())
    }

    fn write_certificate(&self, name: &str, made: &Made) -> anyhow::Result<Pair> {
        let pair = self.pair(name);
        fs::write(&pair.key, &made.key).context("no key")?;
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).context("no key of our own")?;
        fs::write(&pair.cert, &made.cert).context("no certificate")?;
        Ok(pair)
    }

    fn tls_dir(&self) -> PathBuf {
        self.dir().join("tls")
    }

    /// The certificate of the cluster's CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.tls_dir().join("ca.crt")
    }

    /// Where the certificate and key of this name are: `server`, `probe`, and what was [made](Cluster::certify).
    #[must_use]
    pub fn pair(&self, name: &str) -> Pair {
        let at = |end: &str| self.tls_dir().join(format!("{name}.{end}"));
        Pair { cert: at("crt"), key: at("key") }
    }

    /// Has the cluster's CA make a certificate. `server` takes effect on all servers when they look at their files.
    ///
    /// # Errors
    /// If there is no CA, or no disk.
    pub fn certify(&self, name: &str, whose: Whose<'_>) -> anyhow::Result<Pair> {
        self.write_certificate(name, &self.authority()?.issue(whose, CERTIFICATES_VALID)?)
    }

    /// The cluster's CA.
    ///
    /// # Errors
    /// If it has none.
    pub fn authority(&self) -> anyhow::Result<&Authority> {
        self.tls.as_ref().map(|tls| &tls.authority).context("a cluster without TLS")
    }

    /// Ids of all servers, running or not.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.servers.iter().map(|server| server.id).collect()
    }

    /// Ids of the servers whose process was started and neither stopped nor killed. A paused one counts.
    #[must_use]
    pub fn running(&self) -> Vec<u64> {
        self.servers.iter().filter(|server| server.child.is_some()).map(|server| server.id).collect()
    }

    /// Where server `id` serves clients and its peers: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self, id: u64) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.port(place(id) * 2)))
    }

    /// Where server `id` serves `/readyz` and `/metrics`.
    #[must_use]
    pub fn http(&self, id: u64) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.port(place(id) * 2 + 1)))
    }

    /// Where server `id` serves its peers: `127.0.0.1:port`.
    #[must_use]
    pub fn peer_address(&self, id: u64) -> SocketAddr {
        match self.options.peer_ports {
            true => {
                SocketAddr::from(([127, 0, 0, 1], self.ports.port(2 * SERVERS_WITH_PEER_PORTS_MAX as u16 + place(id))))
            }
            false => self.address(id),
        }
    }

    /// What a client of server `id` connects to.
    #[must_use]
    pub fn endpoint(&self, id: u64) -> String {
        format!("{}://{}", if self.options.tls { "https" } else { "http" }, self.address(id))
    }

    /// What a client of the cluster connects to: all its servers.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.endpoint(id)).collect()
    }

    /// Where all files of the cluster lie; goes with it.
    ///
    /// # Panics
    /// Never: the directory goes in `drop` only.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is taken in drop only").path()
    }

    /// Where the disk of server `id` is.
    #[must_use]
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir().join(format!("server-{id}"))
    }

    /// Everything server `id` has said on both its outputs, over all its starts.
    #[must_use]
    pub fn log(&self, id: u64) -> String {
        fs::read(self.log_path(id)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The process id of server `id`, if it runs.
    #[must_use]
    pub fn pid(&self, id: u64) -> Option<u32> {
        self.server(id).child.as_ref().map(Child::id)
    }

    /// Starts server `id`, for the first time or again, and does not wait for it to serve.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_server(&mut self, id: u64) -> anyhow::Result<()> {
        self.start_server_with(id, &[])
    }

    /// As [`Cluster::start_server`], with more in its environment, this time only.
    ///
    /// # Errors
    /// As [`Cluster::start_server`].
    pub fn start_server_with(&mut self, id: u64, env: &[(&str, &str)]) -> anyhow::Result<()> {
        ensure!(self.server(id).child.is_none(), "server {id} runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path(id)).context("no log file")?;
        let mut command = leashed(&self.program);
        command
            .args(["--id", &id.to_string(), "--cluster", &self.options.cluster])
            .args(["--listen", &self.address(id).to_string(), "--http", &self.http(id).to_string()])
            .args(["--members", &self.members()])
            .arg("--data-dir")
            .arg(self.data_dir(id))
            .args(&self.options.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("no log file")?)
            .stderr(log);
        // A server takes its configuration from such variables too; ours are meant for this process.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CONCLAVE_")) {
            command.env_remove(name);
        }
        if self.options.peer_ports {
            command.args(["--listen-peer", &self.peer_address(id).to_string()]);
        }
        if self.options.tls {
            let pair = self.pair("server");
            command.env("CONCLAVE_TLS_CA_FILE", self.ca());
            command.env("CONCLAVE_TLS_CERT_FILE", pair.cert).env("CONCLAVE_TLS_KEY_FILE", pair.key);
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command.envs(env.iter().copied());
        if !self.options.config.is_empty() {
            // A file each: writing one while another server reads it would give that one half a configuration.
            let path = self.dir().join(format!("server-{id}.toml"));
            fs::write(&path, &self.options.config).context("no configuration file")?;
            command.arg("--config").arg(path);
        }
        let child = spawn(command).with_context(|| format!("cannot start {}", self.program.display()))?;
        self.server_mut(id).child = Some(child);
        Ok(())
    }

    /// Makes room for one more server than the cluster began with and returns its id. It is neither started nor a
    /// member yet.
    ///
    /// # Panics
    /// If there are `SERVERS_MAX` already.
    pub fn add_server(&mut self) -> u64 {
        let id = self.servers.len() as u64 + 1;
        assert!(id <= SERVERS_MAX as u64, "at most {SERVERS_MAX} servers");
        self.servers.push(Server { id, child: None });
        id
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, id: u64) -> anyhow::Result<()> {
        let mut child = self.server_mut(id).child.take().with_context(|| format!("server {id} does not run"))?;
        child.kill().context("kill")?;
        child.wait().context("wait")?;
        Ok(())
    }

    /// `kill -9` of several at the same moment.
    ///
    /// # Errors
    /// If one does not run.
    pub fn kill_all(&mut self, ids: &[u64]) -> anyhow::Result<()> {
        for &id in ids {
            self.signal(id, Signal::SIGKILL)?;
        }
        for &id in ids {
            self.kill(id)?;
        }
        Ok(())
    }

    /// Asks server `id` to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or has to be killed after 15 seconds.
    pub fn stop(&mut self, id: u64) -> anyhow::Result<ExitStatus> {
        self.signal(id, Signal::SIGTERM)?;
        let mut child = self.server_mut(id).child.take().with_context(|| format!("server {id} does not run"))?;
        let until = Instant::now() + STOP_WITHIN;
        loop {
            if let Some(status) = child.try_wait().context("wait")? {
                return Ok(status);
            }
            if Instant::now() >= until {
                let _ = child.kill();
                let _ = child.wait();
                bail!("server {id} did not stop within {STOP_WITHIN:?} of SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP: the process stands still, its connections stay open.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, id: u64) -> anyhow::Result<()> {
        self.signal(id, Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self, id: u64) -> anyhow::Result<()> {
        self.signal(id, Signal::SIGCONT)
    }

    /// Sends server `id` a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, id: u64, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid(id).with_context(|| format!("server {id} does not run"))?;
        kill(pid_of(pid), signal).with_context(|| format!("{signal} to server {id}"))
    }

    /// What server `id` says of itself.
    ///
    /// # Errors
    /// If it does not answer within two seconds.
    pub async fn status(&self, id: u64) -> anyhow::Result<v1::StatusReply> {
        let mut admin = AdminClient::new(self.channel(id));
        Ok(within(admin.status(v1::StatusRequest {})).await?.into_inner())
    }

    /// Asks server `id` for a linearizable read, so that it answers only with a quorum behind it.
    ///
    /// # Errors
    /// What it said, or that it said nothing within two seconds.
    pub async fn probe(&self, id: u64) -> anyhow::Result<()> {
        let mut store = StoreClient::new(self.channel(id));
        let read = v1::Read { query: Some(v1::read::Query::Get("/".into())), ..v1::Read::default() };
        match within(store.query(read)).await?.into_inner().body {
            Some(v1::read_reply::Body::Read(_)) => Ok(()),
            Some(v1::read_reply::Body::Error(error)) => bail!("{}", error.message),
            None => bail!("an empty reply"),
        }
    }

    /// Waits until every running server answers a linearizable read, and all of them name the same leader.
    ///
    /// # Errors
    /// If that takes longer than `limit`, or a server's process ended; with what each of them said last.
    pub async fn wait_healthy(&mut self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        loop {
            let mut complaints = Vec::new();
            let mut leaders = Vec::new();
            for id in self.running() {
                if let Some(status) = self.ended(id)? {
                    bail!("server {id} ended by itself with {status}; its log ends:\n{}", tail(&self.log(id)));
                }
                match self.status(id).await {
                    Ok(status) if status.leader == 0 => complaints.push(format!("server {id} knows no leader")),
                    Ok(status) => leaders.push(status.leader),
                    Err(error) => complaints.push(format!("server {id}: {error:#}")),
                }
                if complaints.is_empty()
                    && let Err(error) = self.probe(id).await
                {
                    complaints.push(format!("server {id}: {error:#}"));
                }
            }
            leaders.dedup();
            if complaints.is_empty() && leaders.len() == 1 {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!("not healthy within {limit:?}: {} (leaders named: {leaders:?})", complaints.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// The server that leads, in the newest term any running server tells of; none if nobody does.
    pub async fn leader(&self) -> Option<u64> {
        let mut newest: Option<v1::StatusReply> = None;
        for id in self.running() {
            if let Ok(status) = self.status(id).await
                && status.role() == v1::Role::Leader
                && newest.as_ref().is_none_or(|other| status.term > other.term)
            {
                newest = Some(status);
            }
        }
        newest.map(|status| status.id)
    }

    /// As [`Cluster::leader`], but waits for one.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub async fn wait_leader(&self, limit: Duration) -> anyhow::Result<u64> {
        let until = Instant::now() + limit;
        loop {
            if let Some(id) = self.leader().await {
                return Ok(id);
            }
            ensure!(Instant::now() < until, "no leader within {limit:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How a server's process ended, if it did so without being told to. It counts as running until it is
    /// [killed](Cluster::kill), which is how its remains are taken away.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self, id: u64) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.server_mut(id).child {
            Some(child) => Ok(child.try_wait().context("wait")?),
            None => Ok(None),
        }
    }

    fn members(&self) -> String {
        let each = self.founders.iter().map(|&id| match self.options.peer_ports {
            true => format!("{id}={}/{}", self.peer_address(id), self.address(id)),
            false => format!("{id}={}", self.address(id)),
        });
        each.collect::<Vec<_>>().join(",")
    }

    fn channel(&self, id: u64) -> Channel {
        let endpoint = Endpoint::from_shared(self.endpoint(id)).expect("an address is an endpoint");
        let endpoint = endpoint.connect_timeout(ASK_WITHIN);
        match &self.tls {
            Some(tls) => endpoint.connect_with_connector_lazy(Dial(tls.identity.clone())),
            None => endpoint.connect_lazy(),
        }
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.dir().join(format!("server-{id}.log"))
    }

    fn server(&self, id: u64) -> &Server {
        self.servers.iter().find(|server| server.id == id).expect("an id of this cluster")
    }

    fn server_mut(&mut self, id: u64) -> &mut Server {
        self.servers.iter_mut().find(|server| server.id == id).expect("an id of this cluster")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut child) = server.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for id in self.ids() {
                eprintln!("---- the log of server {id} ends:\n{}", tail(&self.log(id)));
            }
            if std::env::var_os("CONCLAVE_KEEP").is_some()
                && let Some(dir) = self.dir.take()
            {
                eprintln!("---- everything is kept in {}", dir.keep().display());
            } else {
                eprintln!("---- with CONCLAVE_KEEP=1 the directory of a failed test is kept");
            }
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(ASK_WITHIN, call).await.context("no answer within two seconds")?;
    answer.map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))
}

fn place(id: u64) -> u16 {
    u16::try_from(id - 1).expect("an id of this cluster")
}

/// As [`kill`] wants it.
fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id fits"))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
