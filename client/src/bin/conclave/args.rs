//! The command line as people type it.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use conclave_proto::NodePath;

use crate::{
    exit,
    units::{Size, Span},
};

/// Where the servers of `make cluster` listen.
pub const ENDPOINTS_DEFAULT: &str = "http://127.0.0.1:7401,http://127.0.0.1:7402,http://127.0.0.1:7403";

/// Talk to a Conclave cluster: nodes, locks, sessions, servers.
#[derive(Debug, Parser)]
#[command(name = "conclave", version, after_long_help = exit::HELP, propagate_version = true, infer_subcommands = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Servers to talk to, separated by commas; one that answers is enough.
    #[arg(long, global = true, env = "CONCLAVE_ENDPOINTS", default_value = ENDPOINTS_DEFAULT, value_delimiter = ',', value_name = "URL,…", help_heading = "Global options")]
    pub endpoints: Vec<String>,
    /// Tables for people, or JSON whose fields stay what they are.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, env = "CONCLAVE_OUTPUT", value_name = "FORMAT", help_heading = "Global options")]
    pub output: Format,
    /// Time allowed for a request, retries included: 500ms, 10s, 1m.
    #[arg(
        long,
        global = true,
        default_value = "10s",
        env = "CONCLAVE_TIMEOUT",
        value_name = "TIME",
        help_heading = "Global options"
    )]
    pub timeout: Span,
    /// The CA (PEM) that signed the servers' certificates: for https, and for endpoints without http:// or https://.
    #[arg(long, global = true, env = "CONCLAVE_CA", value_name = "FILE", help_heading = "Global options")]
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) by which the servers know this client.
    #[arg(long, global = true, env = "CONCLAVE_CERT", value_name = "FILE", help_heading = "Global options")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, global = true, env = "CONCLAVE_KEY", value_name = "FILE", help_heading = "Global options")]
    pub key: Option<PathBuf>,
    /// A file with the token by which the servers know this client.
    #[arg(long, global = true, env = "CONCLAVE_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// JSON, for programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a node's data, making the node and its parents if they are missing.
    Put(Put),
    /// Print a node's data.
    Get(Get),
    /// Delete a node.
    Del(Del),
    /// List the children of a node.
    Ls(Ls),
    /// Show a node and what is below it.
    Tree(Tree),
    /// Print changes as they happen, one line each, until Ctrl-C.
    Watch(Watch),
    /// Compare, then write: all or nothing.
    #[command(after_long_help = crate::txn::HELP)]
    Txn(Txn),
    /// Run a command while holding a lock.
    #[command(after_long_help = crate::lock::HELP)]
    Lock(Lock),
    /// Show every lock: who holds it, since when, who waits.
    Locks(Locks),
    /// Show or end sessions.
    #[command(subcommand)]
    Session(Session),
    /// Look after the servers.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Who changed a node (and what is below it), and who held a lock, when.
    History(History),
    /// Write, lock, check that the token rises, read, and clean up: does the cluster do what it is there for?
    Verify,
    /// Make a CA and certificates to begin with.
    #[command(after_long_help = crate::cert::HELP)]
    Cert(Cert),
    /// Print a completion script for a shell.
    Completion(Completion),
}

/// `put`
#[derive(Args, Debug)]
pub struct Put {
    /// The node, such as /config/limits.
    pub path: NodePath,
    /// Its data, any bytes; `-` reads them from standard input.
    #[arg(allow_negative_numbers = true, required_unless_present = "file", conflicts_with = "file")]
    pub value: Option<OsString>,
    /// Take the data from this file.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only if the node does not exist.
    #[arg(long, conflicts_with = "if_version")]
    pub create: bool,
    /// Only if the node exists in this version.
    #[arg(long, value_name = "N")]
    pub if_version: Option<u64>,
    /// Fail if the parent is missing instead of making it.
    #[arg(long)]
    pub no_parents: bool,
}

/// `get`
#[derive(Args, Debug)]
pub struct Get {
    /// The node.
    pub path: NodePath,
    /// As it was at this revision.
    #[arg(long, value_name = "REVISION", conflicts_with = "stale")]
    pub rev: Option<u64>,
    /// Whatever the asked server has: cheaper, perhaps old.
    #[arg(long)]
    pub stale: bool,
}

/// `del`
#[derive(Args, Debug)]
pub struct Del {
    /// The node.
    pub path: NodePath,
    /// With everything below it.
    #[arg(long, short)]
    pub recursive: bool,
    /// Only if the node is in this version.
    #[arg(long, value_name = "N")]
    pub if_version: Option<u64>,
    /// A node that is not there is no failure.
    #[arg(long, short)]
    pub force: bool,
}

/// `ls`
#[derive(Args, Debug)]
pub struct Ls {
    /// The parent.
    #[arg(default_value = "/")]
    pub path: NodePath,
    /// With kind, owner, version, size and time.
    #[arg(long, short)]
    pub long: bool,
    /// As it was at this revision.
    #[arg(long, value_name = "REVISION", conflicts_with = "stale")]
    pub rev: Option<u64>,
    /// Whatever the asked server has: cheaper, perhaps old.
    #[arg(long)]
    pub stale: bool,
}

/// `tree`
#[derive(Args, Debug)]
pub struct Tree {
    /// The top.
    #[arg(default_value = "/")]
    pub path: NodePath,
    /// Levels below it, at the most.
    #[arg(long, short, default_value_t = 64, value_name = "LEVELS", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub depth: u32,
    /// With the beginning of each node's data.
    #[arg(long, short = 'v')]
    pub values: bool,
}

/// `watch`
#[derive(Args, Debug)]
pub struct Watch {
    /// The node.
    pub path: NodePath,
    /// Its direct children being made, changed and deleted.
    #[arg(long, conflicts_with = "subtree")]
    pub children: bool,
    /// The node and everything below it.
    #[arg(long)]
    pub subtree: bool,
    /// From this revision on, past ones included, instead of from now on.
    #[arg(long, value_name = "REVISION")]
    pub from: Option<u64>,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `txn`
#[derive(Args, Debug)]
pub struct Txn {
    /// A comparison, such as 'version(/a) = 3'. All must hold.
    #[arg(long = "if", value_name = "COMPARISON")]
    pub when: Vec<String>,
    /// An operation if they hold, such as 'put /a x'.
    #[arg(long, value_name = "OPERATION")]
    pub then: Vec<String>,
    /// An operation if one does not, such as 'get /a'.
    #[arg(long = "else", value_name = "OPERATION")]
    pub otherwise: Vec<String>,
}

/// `lock`
#[derive(Args, Debug)]
pub struct Lock {
    /// The lock: a path, or a plain name for one below /locks.
    pub name: String,
    /// Wait this long for the lock at the most; without it, as long as it takes.
    #[arg(long, value_name = "TIME", conflicts_with = "try_now")]
    pub wait: Option<Span>,
    /// Do not wait: hold it now or give up.
    #[arg(long = "try")]
    pub try_now: bool,
    /// Share it with others who share it (a read lock).
    #[arg(long)]
    pub shared: bool,
    /// How long the lock outlives a client that has died: 500ms to 24h.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub ttl: Span,
    /// What you are doing, for whoever looks at `conclave locks`.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Time between SIGTERM and SIGKILL when the lock is being lost, at most half the TTL.
    /// Default: a quarter of the TTL, at most 5s.
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Span>,
    /// What to run while holding it.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `locks`
#[derive(Args, Debug)]
pub struct Locks {
    /// Only those here and below.
    #[arg(default_value = "/")]
    pub prefix: NodePath,
    /// Only those somebody holds or waits for.
    #[arg(long)]
    pub held: bool,
}

/// `session`
#[derive(Debug, Subcommand)]
pub enum Session {
    /// List them.
    Ls,
    /// Everything about one, with the nodes it owns.
    Show {
        /// Its number, as `session ls` shows it.
        id: SessionNumber,
    },
    /// End one now: its ephemeral nodes, and so its locks, go.
    Kill {
        /// Its number, as `session ls` shows it.
        id: SessionNumber,
    },
}

/// A session's id: decimal, or hexadecimal after `0x`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionNumber(pub u64);

impl std::str::FromStr for SessionNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        match number {
            Ok(0) | Err(_) => Err(format!("{text:?} is no session id: `conclave session ls` lists them")),
            Ok(number) => Ok(Self(number)),
        }
    }
}

/// `cluster`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// What each server says of itself.
    Status,
    /// Checks the whole: exit code 0 if healthy, 1 if not, with the reasons.
    Health,
    /// Adds a server that copies but has no vote yet.
    AddLearner {
        /// Its id in its own configuration.
        id: ServerNumber,
        /// Where the other servers reach it, host:port.
        address: HostPort,
        /// Where clients reach it, if elsewhere.
        #[arg(long, value_name = "HOST:PORT")]
        client_address: Option<HostPort>,
    },
    /// Gives a learner that has caught up its vote.
    Promote {
        /// The learner.
        id: ServerNumber,
    },
    /// Removes a server from the cluster.
    Remove {
        /// The server.
        id: ServerNumber,
    },
    /// Hands leadership over.
    Transfer {
        /// To this server; without it, to whoever is most up to date.
        id: Option<ServerNumber>,
    },
}

/// A server's id: 1 or more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerNumber(pub u64);

impl std::str::FromStr for ServerNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err(format!("{text:?} is no server id: 1 or more, as in the server's configuration")),
            Ok(number) => Ok(Self(number)),
        }
    }
}

/// `host:port`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPort(pub String);

impl std::str::FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if good { Ok(Self(text.to_owned())) } else { Err(format!("{text:?} is not host:port, such as 10.0.0.4:7401")) }
    }
}

/// `bench`
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Replicated writes.
    Put(Load),
    /// Linearizable reads (local ones with --stale).
    Get {
        #[command(flatten)]
        load: Load,
        /// Read the replica that was asked, instead of linearizably.
        #[arg(long)]
        stale: bool,
    },
    /// Each client acquires and releases its own lock.
    LockOwn(Load),
    /// All clients acquire and release one lock: hand-offs per second.
    LockShared(Load),
    /// One writer, the clients watch its key: deliveries per second.
    Watch(Load),
    /// The clients are sessions that do nothing but live: keep-alives.
    Sessions {
        #[command(flatten)]
        load: Load,
        /// The sessions' TTL; each sends a keep-alive every third of it.
        #[arg(long, default_value = "3s", value_name = "TIME")]
        ttl: Span,
    },
    /// How long one synced write of 4 KiB takes on a disk here.
    Fsync {
        /// In this directory.
        #[arg(long, default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Options of a workload.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Clients, each a session of its own on one server, spread over the servers.
    #[arg(long, short, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Requests each client keeps in flight.
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: u32,
    /// Bytes of each value.
    #[arg(long, default_value = "256", value_name = "BYTES")]
    pub value_size: Size,
    /// Time measured.
    #[arg(long, short = 't', default_value = "10s", value_name = "TIME")]
    pub duration: Span,
    /// Time before it that does not count.
    #[arg(long, default_value = "2s", value_name = "TIME")]
    pub warmup: Span,
    /// Keys written or read, shared by all clients; each client its own range of them.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub keys: u32,
    /// Also measure this directory's disk (4 KiB write and fdatasync), before the load.
    #[arg(long, value_name = "DIR")]
    pub fsync_dir: Option<PathBuf>,
    /// A connection of its own for each client, instead of one for all clients on a server.
    #[arg(long)]
    pub own_connections: bool,
    /// Processes whose CPU time to measure too, such as the servers on this machine.
    #[arg(long, value_delimiter = ',', value_name = "PID,…")]
    pub pids: Vec<u32>,
    /// Same as `-o json`.
    #[arg(long)]
    pub json: bool,
}

/// `history`
#[derive(Args, Debug)]
pub struct History {
    /// The node; what is below it belongs to it.
    pub path: NodePath,
    /// From this revision on, instead of from the oldest known.
    #[arg(long, value_name = "REVISION")]
    pub from: Option<u64>,
    /// The newest N changes only.
    #[arg(long, short = 'n', value_name = "N")]
    pub last: Option<usize>,
}

/// `cert`
#[derive(Args, Debug)]
pub struct Cert {
    /// Write ca.crt, ca.key, server.crt, server.key and the clients' files here. A CA that is there is used.
    #[arg(long, value_name = "DIR", required_unless_present = "to_secret", conflicts_with = "to_secret")]
    pub dir: Option<PathBuf>,
    /// In a pod: make these Kubernetes Secrets, NAME for the servers and NAME-ca for the CA, where they are missing.
    #[arg(long, value_name = "NAME")]
    pub to_secret: Option<String>,
    /// The Secrets' namespace; without it, the pod's own.
    #[arg(long, value_name = "NAMESPACE", requires = "to_secret")]
    pub namespace: Option<String>,
    /// A DNS name (perhaps *.name) or IP address at which the servers are reached; again for each. With neither --name
    /// nor --client: this machine's own addresses.
    #[arg(long = "name", value_name = "DNS-OR-IP")]
    pub names: Vec<String>,
    /// A client to make a certificate for; again for each.
    #[arg(long = "client", value_name = "NAME", conflicts_with = "to_secret")]
    pub clients: Vec<String>,
    /// Days for which the certificates are valid; a new CA is for ten years.
    #[arg(long, default_value_t = 365, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Where the pod's service account lies.
    #[arg(long, hide = true, default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub service_account: PathBuf,
}

/// `completion`
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// What runs between `lock` and its command; no subcommand, so that help and completion do not know it.
#[derive(Debug, Parser)]
pub struct Child {
    /// The process that must be the parent.
    pub parent: i32,
    /// Standard input is a terminal that is the command's to use.
    #[arg(long)]
    pub terminal: bool,
    /// What to become.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_typed_is_what_is_meant() {
        for (line, part) in [
            ("put /a x", "value: Some(\"x\")"),
            ("put /a -5", "value: Some(\"-5\")"),
            ("put /a -", "value: Some(\"-\")"),
            ("put /a --file f", "file: Some(\"f\")"),
            ("get /a --rev 3 -o json", "output: Json"),
            ("--timeout 3s get /a", "timeout: Span(3s)"),
            ("get /a --endpoints a:1,b:2", "endpoints: [\"a:1\", \"b:2\"]"),
            ("ls", "path: \"/\""),
            ("lock deploy --wait 30s -- make -j2 all", "command: [\"make\", \"-j2\", \"all\"]"),
            ("lock deploy --try --shared --ttl 3s --grace 1s -- x -- y", "command: [\"x\", \"--\", \"y\"]"),
            ("session kill 0x1f", "SessionNumber(31)"),
            ("cluster add-learner 4 127.0.0.1:7404", "HostPort(\"127.0.0.1:7404\")"),
            ("bench put -c 128 --value-size 1KiB", "value_size: Size(1024)"),
            ("completion bash", "shell: Bash"),
            ("get /a --ca ca.crt --cert a.crt --key a.key", "key: Some(\"a.key\")"),
            ("cert --dir d --name a --name 10.0.0.1 --client bob", "names: [\"a\", \"10.0.0.1\"]"),
            ("cert --to-secret t --namespace n --name a", "namespace: Some(\"n\")"),
        ] {
            let cli = Cli::try_parse_from(format!("conclave {line}").split(' ')).expect(line);
            let debug = format!("{cli:?}");
            assert!(debug.contains(part), "{line}: {debug}");
        }
    }
}
