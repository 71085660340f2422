//! The command `conclaved`: flags, logging, signals.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use conclave_faults::point;
use conclave_tls::{First, Identity};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};

use crate::{
    config::{Config, ConfigError, Flag, LogFormat},
    run::{RunError, Sockets, run},
    tls::Wire,
};

/// The configuration cannot be used.
const EXIT_CONFIG: u8 = 78;
/// The server could not start or go on.
const EXIT_FAILED: u8 = 1;

/// `healthcheck` waits so long for an answer.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);

/// A server of a Conclave cluster.
///
/// Settings come from flags, over CONCLAVE_* variables (CONCLAVE_ID, CONCLAVE_RAFT_TICK …), over the file, over defaults.
#[derive(Parser)]
#[command(name = "conclaved", version, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Do>,
}

#[derive(Subcommand)]
enum Do {
    /// Checks the configuration, prints it with its defaults, and ends.
    CheckConfig,
    /// Asks the server of this configuration whether it is ready (its HTTP port's /readyz), and ends with 0 if it is.
    Healthcheck,
}

#[derive(Args)]
struct Settings {
    /// The configuration, in TOML.
    #[arg(long, global = true, env = "CONCLAVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// This server's number in its cluster, from 1; from-hostname: the number at the end of the machine's name, and 1.
    #[arg(long, global = true, value_name = "N")]
    id: Option<String>,
    /// The cluster's name; disks and peers of another one are refused.
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// Where everything is kept.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address for clients (gRPC), and for peers without --listen-peer.
    #[arg(long, global = true, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Address for peers alone.
    #[arg(long, global = true, value_name = "IP:PORT")]
    listen_peer: Option<String>,
    /// Address for /livez, /readyz, /metrics and /version.
    #[arg(long, global = true, value_name = "IP:PORT")]
    http: Option<String>,
    /// The address at which peers reach this server.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The first members of the cluster, the same on all: 1=host:port,2=host:port;
    /// host:port/host:port where clients reach one elsewhere than peers.
    #[arg(long, global = true, value_name = "ID=HOST:PORT,…")]
    members: Option<String>,
    /// text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: info, debug, or by target, as in info,conclave_server=debug.
    #[arg(long, global = true, value_name = "LEVELS")]
    log_level: Option<String>,
}

impl Settings {
    fn load(self) -> Result<Config, ConfigError> {
        let flags = [
            ("--id", "id", self.id),
            ("--cluster", "cluster", self.cluster),
            ("--data-dir", "data_dir", self.data_dir),
            ("--listen", "listen_client", self.listen),
            ("--listen-peer", "listen_peer", self.listen_peer),
            ("--http", "listen_http", self.http),
            ("--advertise", "advertise", self.advertise),
            ("--members", "members", self.members),
            ("--log-format", "log.format", self.log_format),
            ("--log-level", "log.level", self.log_level),
        ];
        let flags = flags.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key, value: value? }));
        let text = match &self.config {
            None => None,
            Some(path) => {
                point!("config-read", |source| Err(ConfigError::Read { path: path.clone(), source }));
                Some(std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?)
            }
        };
        let place = self.config.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        Config::load(text.as_deref().map(|text| (&*place, text)), variables, flags)
    }
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(why) = break_on_purpose() {
        eprintln!("conclaved: {why}");
        return ExitCode::from(EXIT_CONFIG);
    }
    let config = match cli.settings.load() {
        Ok(config) => config,
        Err(error) => return complain(&error, EXIT_CONFIG),
    };
    // A health check in a container knows the environment and the file, not the flags that the server was started with.
    if !matches!(cli.command, Some(Do::Healthcheck))
        && let Err(error) = config.check()
    {
        return complain(&error, EXIT_CONFIG);
    }
    match cli.command {
        Some(Do::CheckConfig) => {
            print!("{}", config.to_toml());
            ExitCode::SUCCESS
        }
        Some(Do::Healthcheck) => match healthcheck(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("conclaved: {why}");
                ExitCode::from(EXIT_FAILED)
            }
        },
        None => serve(config),
    }
}

/// What the environment says is to be broken on purpose in this process; nothing in a release.
fn break_on_purpose() -> Result<(), String> {
    conclave_faults::plant_from_environment()?;
    conclave_faults::arm_from_environment()
}

/// Half the cores, between 1 and 8: the node's own thread and the disk want the rest, and on few cores every thread
/// more is a wake-up more in the way of each request.
fn threads_of_this_machine() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 8)
}

/// An error and what led to it, on one line.
fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("conclaved: {}", crate::chain(error));
    ExitCode::from(code)
}

fn serve(config: Config) -> ExitCode {
    if let Err(why) = log_as(&config) {
        eprintln!("conclaved: log.level is {:?}: {why}", config.log.level);
        return ExitCode::from(EXIT_CONFIG);
    }
    #[cfg(feature = "faults")]
    warn_of_faults();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(if config.threads > 0 { config.threads } else { threads_of_this_machine() });
    let runtime = match runtime.enable_all().thread_name("serve").build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, EXIT_FAILED),
    };
    let result: Result<(), RunError> = runtime.block_on(async {
        let sockets = Sockets::bind(&config).await?;
        run(config, sockets, stop_signal()).await
    });
    // Nothing of importance is left: what was acknowledged is on the disk.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (RunError::Config(_) | RunError::Tls(_) | RunError::Tokens(_))) => complain(&error, EXIT_CONFIG),
        Err(error) => complain(&error, EXIT_FAILED),
    }
}

/// Nobody should take such a server for a real one.
#[cfg(feature = "faults")]
fn warn_of_faults() {
    tracing::warn!("this build can be broken on purpose: it is for tests, never for data that matters");
    for bug in conclave_faults::Bug::ALL.iter().filter(|bug| conclave_faults::active(**bug)) {
        tracing::warn!(bug = bug.key(), about = bug.about(), "A BUG IS PLANTED: this server is broken on purpose");
    }
    for point in conclave_faults::armed() {
        tracing::warn!(point = point.name, "A FAIL POINT IS ARMED: this server fails on purpose");
    }
}

fn log_as(config: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level).map_err(|error| error.to_string())?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Resolves with the first SIGTERM or SIGINT; the second ends the process at once.
async fn stop_signal() {
    let listen = |kind| signal(kind).expect("a handler for a signal that can be handled");
    let (mut term, mut int) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        eprintln!("conclaved: second signal, ending at once");
        std::process::exit(130);
    });
}

/// Asks `/readyz`.
fn healthcheck(config: &Config) -> Result<(), String> {
    let mut address = config.listen_http;
    // Listening everywhere means being reachable here.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let scheme = if config.tls.http { "https" } else { "http" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let answer = runtime
        .block_on(async { tokio::time::timeout(HEALTH_WITHIN, ask_ready(config, address)).await })
        .unwrap_or_else(|_| Err("timed out".to_owned()))
        .map_err(|error| format!("no answer from {scheme}://{address}/readyz: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("not ready: {}", body.trim())) }
}

async fn ask_ready(config: &Config, address: SocketAddr) -> Result<String, String> {
    let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let files = config.tls_files().filter(|_| config.tls.http);
    let mut stream: Box<dyn Wire> = match files {
        None => Box::new(tcp),
        Some(files) => {
            // By the name that its own certificate has; the address asked is this machine's.
            let identity = Identity::load(files).map_err(|error| error.to_string())?;
            let name = identity.own().and_then(|own| own.some_host());
            let name = name.unwrap_or_else(|| address.ip().to_string());
            Box::new(identity.connect(tcp, &name, First::Client).await.map_err(|error| error.to_string())?)
        }
    };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}
