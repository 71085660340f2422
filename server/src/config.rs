//! What a server is told at its start: flags over `CONCLAVE_*` environment over a TOML file over defaults.
//!
//! Every key of the file has a variable: `CONCLAVE_` and the key in capitals, with its section before it
//! (`CONCLAVE_RAFT_TICK`). Unknown keys are errors, in the file as in the sections' variables. Rules across fields are
//! checked in one place, [`Config::check`], which names every broken one.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use conclave_proto::ServerId;
use conclave_tls::{Files, Pair};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::raft;

/// A server's configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This server's number in its cluster, from 1. For ever the same on the same disk. `from-hostname`: one more than the
    /// number at the end of the machine's name, as StatefulSets name their pods (`conclave-0` is server 1).
    #[serde(deserialize_with = "id")]
    pub id: u64,
    /// The cluster's name. Disks and peers of another one are refused.
    pub cluster: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// For clients (gRPC); for peers, too, as long as they have no port of their own.
    pub listen_client: SocketAddr,
    /// For peers alone, 7402 by convention; empty: they come to `listen_client`.
    #[serde(with = "optional_address")]
    pub listen_peer: Option<SocketAddr>,
    /// For `/livez`, `/readyz`, `/metrics` and `/version`.
    pub listen_http: SocketAddr,
    /// host:port at which peers reach this server (`listen_peer`, or `listen_client` if that is empty); empty for what
    /// it listens on. Must be this server's address in `members`, if it is among them.
    pub advertise: String,
    /// The first members, the same on all of them; read only when a server starts with an empty disk. A server that is
    /// not among them waits to be added to a running cluster.
    pub members: Vec<Member>,
    /// Threads that serve clients; 0 for half as many as there are cores, 1 to 8.
    pub threads: usize,
    /// Consensus and disk.
    pub raft: Raft,
    /// Bounds.
    pub limits: Limits,
    /// Sessions.
    pub session: Session,
    /// TLS.
    pub tls: Tls,
    /// Other TLS files among peers.
    pub peer_tls: PeerTls,
    /// Who may come in.
    pub auth: Auth,
    /// What is written to the standard error.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: 0,
            cluster: String::new(),
            data_dir: PathBuf::new(),
            listen_client: SocketAddr::from(([127, 0, 0, 1], 7401)),
            listen_peer: None,
            listen_http: SocketAddr::from(([127, 0, 0, 1], 7481)),
            advertise: String::new(),
            members: Vec::new(),
            threads: 0,
            raft: Raft::default(),
            limits: Limits::default(),
            session: Session::default(),
            tls: Tls::default(),
            peer_tls: PeerTls::default(),
            auth: Auth::default(),
            log: Log::default(),
        }
    }
}

/// One of the first members.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// host:port at which other servers reach it.
    pub address: String,
    /// host:port at which clients reach it; empty for `address`.
    #[serde(default)]
    pub client_address: String,
}

/// Consensus and disk.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Raft's unit of time.
    pub tick: Period,
    /// Ticks of silence before an election; drawn anew each time from here to half as many more.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Most bytes of entries proposed but not committed; further proposals are refused as overload.
    pub uncommitted_bytes_max: Size,
    /// Most proposals that wait for their outcome on this server.
    pub proposals_max: usize,
    /// After this long a proposal is answered as unknown.
    pub proposal_timeout: Period,
    /// Most entries of log before it is compacted.
    pub log_entries_max: u64,
    /// Most bytes of log before it is compacted.
    pub log_bytes_max: Size,
    /// Entries kept by a compaction, for followers a little behind.
    pub log_entries_keep: u64,
    /// Most bytes of the log's newest entries kept in memory.
    pub log_cache_bytes_max: Size,
    /// Most bytes that wait for one peer; more are dropped, which Raft makes good.
    pub peer_queue_bytes_max: Size,
    /// A leader whose process provably is gone (its port refuses connections) is not waited for.
    pub early_elections: bool,
}

impl Default for Raft {
    fn default() -> Self {
        let options = raft::Options::new(ServerId(0), "", "", Vec::new());
        Self {
            tick: Period(options.tick),
            election_ticks: options.election_ticks,
            heartbeat_ticks: options.heartbeat_ticks,
            uncommitted_bytes_max: Size(options.uncommitted_bytes_max),
            proposals_max: options.waiters_max,
            proposal_timeout: Period(options.proposal_timeout),
            log_entries_max: options.log_entries_max,
            log_bytes_max: Size(options.log_bytes_max),
            log_entries_keep: options.log_entries_keep,
            log_cache_bytes_max: Size(options.log_cache_bytes_max),
            peer_queue_bytes_max: Size(options.peer_queue_bytes_max as u64),
            early_elections: options.early_elections,
        }
    }
}

/// Bounds. Those of the store are replicated: the leader's are in force on all servers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most bytes of one request.
    pub request_bytes_max: Size,
    /// Most connections, of clients and peers together.
    pub connections_max: usize,
    /// Most streams and requests under way on one connection.
    pub streams_per_connection_max: u32,
    /// Most calls of one session stream without a reply.
    pub in_flight_max: u32,
    /// Most unary requests under way.
    pub requests_in_flight_max: usize,
    /// Most watches, queue watches included, of one stream.
    pub watches_per_stream_max: usize,
    /// Most bytes of events that wait for one stream's reader; beyond, its watches catch up later.
    pub outbox_bytes_max: Size,
    /// Most bytes of one node's data.
    pub data_bytes_max: Size,
    /// Most operations, and most comparisons, of one transaction.
    pub txn_ops_max: u32,
    /// Most nodes.
    pub nodes_max: u64,
    /// Most bytes of all nodes' data and paths.
    pub store_bytes_max: Size,
    /// Nodes beyond `nodes_max` that only locks and other ephemeral nodes may use.
    pub headroom_nodes: u64,
    /// Bytes beyond `store_bytes_max` that only ephemeral nodes may use.
    pub headroom_bytes: Size,
    /// Most open sessions.
    pub sessions_max: u64,
    /// Most revisions of history.
    pub history_revisions_max: u64,
    /// Most bytes of history.
    pub history_bytes_max: Size,
    /// How long history is kept.
    pub history_age: Period,
    /// How long a container stays empty before it goes.
    pub container_grace: Period,
}

impl Default for Limits {
    fn default() -> Self {
        let store = conclave_state::Limits::default();
        let options = raft::Options::new(ServerId(0), "", "", Vec::new());
        Self {
            request_bytes_max: Size(2 << 20),
            connections_max: 10_000,
            streams_per_connection_max: 4_096,
            in_flight_max: store.answers_max,
            requests_in_flight_max: 4_096,
            watches_per_stream_max: 10_000,
            outbox_bytes_max: Size(1 << 20),
            data_bytes_max: Size(store.data_bytes_max),
            txn_ops_max: store.txn_ops_max,
            nodes_max: store.nodes_max,
            store_bytes_max: Size(store.store_bytes_max),
            headroom_nodes: store.headroom_nodes,
            headroom_bytes: Size(store.headroom_bytes),
            sessions_max: store.sessions_max,
            history_revisions_max: store.history_revisions_max,
            history_bytes_max: Size(store.history_bytes_max),
            history_age: Period(options.history_age),
            container_grace: Period(options.container_grace),
        }
    }
}

/// Sessions.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// Shortest TTL a client may ask for.
    pub ttl_min: Period,
    /// Longest TTL a client may ask for.
    pub ttl_max: Period,
    /// Most bytes of a session's name.
    pub name_bytes_max: u32,
}

impl Default for Session {
    fn default() -> Self {
        let store = conclave_state::Limits::default();
        Self {
            ttl_min: Period(Duration::from_millis(store.session_ttl_min_ms)),
            ttl_max: Period(Duration::from_millis(store.session_ttl_max_ms)),
            name_bytes_max: store.session_name_bytes_max,
        }
    }
}

/// TLS, with files in PEM form. All three of them, or none: then everything is plain text. They are read again when they
/// change.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// This server's certificate, with those between it and the CA's. For the hosts by which clients and peers reach it.
    pub cert_file: PathBuf,
    /// The certificate's private key.
    pub key_file: PathBuf,
    /// The certificates of the CA that signs those of servers and clients.
    pub ca_file: PathBuf,
    /// The HTTP port speaks TLS, too. Nobody is asked for a certificate there.
    pub http: bool,
    /// How often the files (and the tokens) are looked at; SIGHUP has it done at once.
    pub reload_every: Period,
}

impl Default for Tls {
    fn default() -> Self {
        let reload_every = Period(Duration::from_secs(10));
        let [cert_file, key_file, ca_file] = std::array::from_fn(|_| PathBuf::new());
        Self { cert_file, key_file, ca_file, http: false, reload_every }
    }
}

/// Among peers, where that is to differ: each file that is empty here is that of [`Tls`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerTls {
    /// As in [`Tls`].
    pub cert_file: PathBuf,
    /// As in [`Tls`].
    pub key_file: PathBuf,
    /// As in [`Tls`].
    pub ca_file: PathBuf,
}

/// Who may come in.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `open` or `required`.
    pub mode: AuthMode,
    /// Lines `NAME TOKEN`; `#` begins a comment. Read again when it changes.
    pub token_file: PathBuf,
}

/// Whether clients must say who they are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Whoever reaches the port may come in.
    #[default]
    Open,
    /// By certificate or by token.
    Required,
}

/// An address that may be missing, written as an empty text.
mod optional_address {
    use std::net::SocketAddr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "" => Ok(None),
            address => address
                .parse()
                .map(Some)
                .map_err(|_| D::Error::custom(format!("{address:?} is not ip:port, such as 0.0.0.0:7402, nor empty"))),
        }
    }
}

/// What stands for an id that comes from the machine's name.
const FROM_HOSTNAME: &str = "from-hostname";

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(u64),
        Text(String),
    }
    match Given::deserialize(deserializer) {
        Ok(Given::Number(id)) => Ok(id),
        Ok(Given::Text(text)) => id_from_text(&text).map_err(de::Error::custom),
        Err(_) => Err(de::Error::custom(format!("id is a whole number, or {FROM_HOSTNAME:?}"))),
    }
}

fn id_from_text(text: &str) -> Result<u64, String> {
    if text.trim() == FROM_HOSTNAME {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| format!("this machine's name cannot be read: {error}"))?;
        return id_of_hostname(name.trim());
    }
    text.trim().parse().map_err(|_| format!("expected a whole number, or {FROM_HOSTNAME}"))
}

/// `conclave-2` is server 3: pods are counted from 0, servers from 1.
fn id_of_hostname(name: &str) -> Result<u64, String> {
    let first = name.split('.').next().unwrap_or_default();
    let number: Option<u64> = first.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    number.and_then(|number| number.checked_add(1)).ok_or_else(|| {
        format!(
            "{FROM_HOSTNAME}: this machine is called {name:?}, which does not end in -NUMBER as a StatefulSet's pods do"
        )
    })
}

/// What is written to the standard error.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// What is logged: `info`, `debug`, or by target, as in `info,conclave_server=debug`. The Raft library's own lines have the target `raft`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info,raft=warn".to_owned() }
    }
}

/// How a line of log looks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A duration as people write it: `250ms`, `10s`, `5m`, `1h`, `2d`, or several together, largest first: `1m30s`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Period(pub Duration);

/// A number of bytes as people write it: `512B`, `64KiB`, `1MiB`, `4GiB`; `KB`, `MB` and `GB` are powers of ten.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

const PERIODS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];
const PERIOD_FORM: &str = "a duration such as \"250ms\", \"10s\", \"1m30s\" or \"24h\"";
const SIZE_FORM: &str = "a number of bytes such as \"512B\", \"64KiB\", \"1MiB\" or \"4GiB\"";

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {PERIOD_FORM}");
        let mut rest = text.trim();
        let mut ms = 0_u64;
        let mut last = u64::MAX;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (_, unit) = PERIODS.iter().find(|(name, _)| *name == &rest[..end]).ok_or_else(wrong)?;
            if *unit >= last {
                return Err(wrong());
            }
            last = *unit;
            ms = number.checked_mul(*unit).and_then(|more| ms.checked_add(more)).ok_or_else(wrong)?;
            rest = &rest[end..];
        }
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in PERIODS {
            if ms >= unit {
                write!(f, "{}{name}", ms / unit)?;
                ms %= unit;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {SIZE_FORM}");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let (_, unit) = SIZES.iter().find(|(name, _)| *name == text[digits..].trim_start()).ok_or_else(wrong)?;
        number.checked_mul(*unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = SIZES
            .into_iter()
            .filter(|(name, _)| name.len() != 2)
            .find(|&(_, unit)| self.0 >= unit && self.0.is_multiple_of(unit))
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<T: std::str::FromStr<Err = String>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($type:ident, $form:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($form, std::marker::PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

as_text!(Period, PERIOD_FORM);
as_text!(Size, SIZE_FORM);

/// Why a configuration is none.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or value that is none of ours.
    #[error("{place}: {message}")]
    Syntax {
        /// The file.
        place: String,
        /// What, and where in it.
        message: String,
    },
    /// A variable or flag has a value that cannot be.
    #[error("{name}={value:?}: {message}")]
    Value {
        /// The variable or flag.
        name: String,
        /// Its value.
        value: String,
        /// What would be right.
        message: String,
    },
    /// A variable of a section that has no such key.
    #[error("{name} is no setting; known are {}", .known.join(", "))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// Those of the same section.
        known: Vec<String>,
    },
    /// Rules across fields.
    #[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
    Rules(Vec<String>),
}

/// A setting from a flag: its name for messages, its key, its value.
pub struct Flag {
    /// As written on the command line.
    pub name: &'static str,
    /// As in the file; with its section before a dot.
    pub key: &'static str,
    /// Its value as text.
    pub value: String,
}

/// Settings of the file are read in this order, later ones win.
impl Config {
    /// From a file's text (if there is a file), variables, and flags.
    ///
    /// # Errors
    /// See [`ConfigError`]. Rules across fields are not checked yet: [`Config::check`] does.
    pub fn load(
        file: Option<(&str, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = Flag>,
    ) -> Result<Self, ConfigError> {
        let mut config = match file {
            None => Self::default(),
            Some((place, text)) => toml::from_str(text).map_err(|error| ConfigError::Syntax {
                place: place.to_owned(),
                message: error.to_string().trim_end().to_owned(),
            })?,
        };
        let keys = keys();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("CONCLAVE_") else { continue };
            if let Some(key) = keys.get(rest) {
                config = config.set(key, &value).map_err(|message| ConfigError::Value { name, value, message })?;
            } else if let Some(section) = SECTIONS.iter().find(|section| rest.starts_with(**section)) {
                let known = keys.keys().filter(|key| key.starts_with(section)).map(|key| format!("CONCLAVE_{key}"));
                return Err(ConfigError::UnknownVariable { name, known: known.collect() });
            } // others belong to the client: CONCLAVE_ENDPOINTS, CONCLAVE_FENCING_TOKEN …
        }
        for Flag { name, key, value } in flags {
            config = config.set(key, &value).map_err(|message| {
                let name = name.to_owned();
                ConfigError::Value { name, value, message }
            })?;
        }
        Ok(config)
    }

    /// As a file that says everything, defaults too.
    ///
    /// # Panics
    /// Never: every configuration can be written.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration can be written")
    }

    /// This configuration with one setting from text.
    fn set(self, key: &str, text: &str) -> Result<Self, String> {
        match key {
            "members" => return Ok(Self { members: members(text)?, ..self }),
            "id" => return Ok(Self { id: id_from_text(text)?, ..self }),
            _ => {}
        }
        let mut table = toml::Table::try_from(&self).map_err(|error| error.to_string())?;
        let (section, name) = key.split_once('.').map_or((None, key), |(section, name)| (Some(section), name));
        let inside = match section {
            None => &mut table,
            Some(section) => match table.get_mut(section) {
                Some(toml::Value::Table(inside)) => inside,
                _ => unreachable!("sections are tables"),
            },
        };
        let value = match inside.get(name) {
            Some(toml::Value::Integer(_)) => {
                toml::Value::Integer(text.trim().parse().map_err(|_| "expected a whole number".to_owned())?)
            }
            Some(toml::Value::Boolean(_)) => {
                toml::Value::Boolean(text.trim().parse().map_err(|_| "expected true or false".to_owned())?)
            }
            _ => toml::Value::String(text.to_owned()),
        };
        inside.insert(name.to_owned(), value);
        table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// Every rule across fields, all broken ones at once.
    ///
    /// # Errors
    /// [`ConfigError::Rules`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut broken = Vec::new();
        let mut rule = |holds: bool, words: String| {
            if !holds {
                broken.push(words);
            }
        };
        rule(self.id != 0, "id: give every server a number of its own, from 1 (id = 1, --id 1)".into());
        rule(
            !self.cluster.is_empty() && self.cluster.len() <= 64,
            "cluster: give the cluster a name of 1 to 64 bytes, the same on all servers (--cluster demo)".into(),
        );
        rule(
            !self.data_dir.as_os_str().is_empty(),
            "data_dir: say where everything is kept (--data-dir /var/lib/conclave)".into(),
        );
        for (name, address) in [("advertise", &self.advertise)] {
            if !address.is_empty()
                && let Err(words) = check_address(name, address)
            {
                rule(false, words);
            }
        }
        rule(
            self.listen_client.port() == 0 || self.listen_client != self.listen_http,
            format!("listen_client and listen_http are both {}", self.listen_client),
        );
        if let Some(peer) = self.listen_peer {
            for (name, other) in [("listen_client", self.listen_client), ("listen_http", self.listen_http)] {
                rule(peer.port() == 0 || peer != other, format!("listen_peer and {name} are both {peer}"));
            }
        }
        self.check_security(&mut rule);
        rule(
            !self.members.is_empty(),
            format!(
                "members: name the first members (--members {}={},2=…); a server that joins a running cluster names those \
             of that cluster",
                self.id.max(1),
                self.listen_client
            ),
        );
        for (n, member) in self.members.iter().enumerate() {
            rule(member.id != 0, format!("members: the one at {} has id 0, ids begin with 1", member.address));
            for (name, address) in [("address", &member.address), ("client_address", &member.client_address)] {
                if (name == "address" || !address.is_empty())
                    && let Err(words) = check_address(name, address)
                {
                    rule(false, format!("members: {}: {words}", member.id));
                }
            }
            for other in &self.members[..n] {
                rule(member.id != other.id, format!("members: id {} is there twice", member.id));
                rule(
                    member.address != other.address,
                    format!("members: {} and {} have the same address {}", other.id, member.id, member.address),
                );
            }
            if member.id == self.id && !self.advertise.is_empty() {
                rule(
                    member.address == self.advertise,
                    format!("advertise is {}, but members says {}={}", self.advertise, member.id, member.address),
                );
            }
        }
        let (raft, limits, session) = (&self.raft, &self.limits, &self.session);
        rule(raft.tick.0 >= Duration::from_millis(1), format!("raft.tick is {}, the least is 1ms", raft.tick));
        rule(
            raft.heartbeat_ticks >= 1 && raft.election_ticks >= 4 * raft.heartbeat_ticks,
            format!(
                "raft.election_ticks is {} and raft.heartbeat_ticks {}: an election must take at least four heartbeats",
                raft.election_ticks, raft.heartbeat_ticks
            ),
        );
        rule(
            raft.log_entries_keep < raft.log_entries_max,
            format!(
                "raft.log_entries_keep is {}, it must be less than raft.log_entries_max, {}",
                raft.log_entries_keep, raft.log_entries_max
            ),
        );
        for (name, value) in [
            ("raft.proposals_max", raft.proposals_max as u64),
            ("limits.connections_max", limits.connections_max as u64),
            ("limits.streams_per_connection_max", limits.streams_per_connection_max.into()),
            ("limits.in_flight_max", limits.in_flight_max.into()),
            ("limits.requests_in_flight_max", limits.requests_in_flight_max as u64),
            ("limits.watches_per_stream_max", limits.watches_per_stream_max as u64),
            ("limits.txn_ops_max", limits.txn_ops_max.into()),
            ("limits.nodes_max", limits.nodes_max),
            ("limits.sessions_max", limits.sessions_max),
            ("limits.history_revisions_max", limits.history_revisions_max),
        ] {
            rule(value > 0, format!("{name} is 0, the least is 1"));
        }
        rule(
            limits.data_bytes_max.0 < limits.request_bytes_max.0,
            format!(
                "limits.data_bytes_max is {}, it must be less than limits.request_bytes_max, {}",
                limits.data_bytes_max, limits.request_bytes_max
            ),
        );
        rule(
            limits.request_bytes_max.0 <= 64 << 20,
            format!("limits.request_bytes_max is {}, the most is 64MiB", limits.request_bytes_max),
        );
        rule(
            raft.uncommitted_bytes_max.0 >= 2 * limits.request_bytes_max.0,
            format!(
                "raft.uncommitted_bytes_max is {}, it must have room for two requests of limits.request_bytes_max, {}",
                raft.uncommitted_bytes_max, limits.request_bytes_max
            ),
        );
        rule(
            limits.outbox_bytes_max.0 >= 64 << 10,
            format!("limits.outbox_bytes_max is {}, the least is 64KiB", limits.outbox_bytes_max),
        );
        rule(
            session.ttl_min.0 >= Duration::from_millis(100) && session.ttl_min <= session.ttl_max,
            format!(
                "session.ttl_min is {} and session.ttl_max {}: 100ms ≤ ttl_min ≤ ttl_max",
                session.ttl_min, session.ttl_max
            ),
        );
        rule(
            raft.proposal_timeout.0 >= raft.tick.0 * u32::try_from(raft.election_ticks).unwrap_or(u32::MAX),
            format!("raft.proposal_timeout is {}, it must be at least an election", raft.proposal_timeout),
        );
        if broken.is_empty() { Ok(()) } else { Err(ConfigError::Rules(broken)) }
    }

    fn check_security(&self, rule: &mut impl FnMut(bool, String)) {
        let (tls, peer) = (&self.tls, &self.peer_tls);
        let (mut set, mut missing) = (Vec::new(), Vec::new());
        for (name, file) in [("cert_file", &tls.cert_file), ("key_file", &tls.key_file), ("ca_file", &tls.ca_file)] {
            if file.as_os_str().is_empty() { &mut missing } else { &mut set }.push(name);
        }
        rule(
            set.is_empty() || missing.is_empty(),
            format!(
                "tls: {} given, {} not: give all of cert_file, key_file and ca_file, or none for plain text",
                set.join(" and "),
                missing.join(" and ")
            ),
        );
        let on = missing.is_empty();
        rule(on || !tls.http, "tls.http is true, but tls.cert_file, key_file and ca_file are not given".into());
        let given = |file: &PathBuf| !file.as_os_str().is_empty();
        let own = [given(&peer.cert_file), given(&peer.key_file), given(&peer.ca_file)];
        rule(
            !own.contains(&true) || self.listen_peer.is_some(),
            "peer_tls needs listen_peer: on listen_client peers and clients see the same certificate".into(),
        );
        rule(own[0] == own[1], "peer_tls: cert_file and key_file belong together: give both, or neither".into());
        rule(
            on || !own.contains(&true) || own == [true; 3],
            "peer_tls: without tls, give all of cert_file, key_file and ca_file".into(),
        );
        rule(
            tls.reload_every.0 >= Duration::from_millis(100),
            format!("tls.reload_every is {}, the least is 100ms", tls.reload_every),
        );
        rule(
            self.auth.mode == AuthMode::Open || on || given(&self.auth.token_file),
            "auth.mode is required, but nobody could come in: give tls files, for certificates, or auth.token_file"
                .into(),
        );
    }

    /// The TLS files of the client port; none for plain text.
    #[must_use]
    pub fn tls_files(&self) -> Option<Files> {
        let Tls { cert_file, key_file, ca_file, .. } = &self.tls;
        files(cert_file, key_file, ca_file)
    }

    /// The TLS files among peers; none for plain text.
    #[must_use]
    pub fn peer_tls_files(&self) -> Option<Files> {
        let (own, tls) = (&self.peer_tls, &self.tls);
        let or = |own: &PathBuf, other: &PathBuf| if own.as_os_str().is_empty() { other.clone() } else { own.clone() };
        files(&or(&own.cert_file, &tls.cert_file), &or(&own.key_file, &tls.key_file), &or(&own.ca_file, &tls.ca_file))
    }

    /// What the node is told.
    #[must_use]
    pub fn options(&self) -> raft::Options {
        let members = self
            .members
            .iter()
            .map(|member| raft::Member {
                id: ServerId(member.id),
                peer_address: member.address.clone(),
                client_address: match &*member.client_address {
                    "" => member.address.clone(),
                    other => other.to_owned(),
                },
                learner: false,
            })
            .collect();
        let raft = &self.raft;
        let mut options = raft::Options::new(ServerId(self.id), &*self.cluster, &self.data_dir, members);
        options.tick = raft.tick.0;
        options.election_ticks = raft.election_ticks;
        options.heartbeat_ticks = raft.heartbeat_ticks;
        options.uncommitted_bytes_max = raft.uncommitted_bytes_max.0;
        options.waiters_max = raft.proposals_max;
        options.proposal_timeout = raft.proposal_timeout.0;
        options.log_entries_max = raft.log_entries_max;
        options.log_bytes_max = raft.log_bytes_max.0;
        options.log_entries_keep = raft.log_entries_keep;
        options.log_cache_bytes_max = raft.log_cache_bytes_max.0;
        options.peer_queue_bytes_max = raft.peer_queue_bytes_max.0 as usize;
        options.early_elections = raft.early_elections;
        options.limits = self.store_limits();
        options.container_grace = self.limits.container_grace.0;
        options.history_age = self.limits.history_age.0;
        options
    }

    /// The bounds that are replicated.
    #[must_use]
    pub fn store_limits(&self) -> conclave_state::Limits {
        let (limits, session) = (&self.limits, &self.session);
        let ms = |period: Period| u64::try_from(period.0.as_millis()).unwrap_or(u64::MAX);
        conclave_state::Limits {
            data_bytes_max: limits.data_bytes_max.0,
            txn_ops_max: limits.txn_ops_max,
            nodes_max: limits.nodes_max,
            store_bytes_max: limits.store_bytes_max.0,
            headroom_nodes: limits.headroom_nodes,
            headroom_bytes: limits.headroom_bytes.0,
            sessions_max: limits.sessions_max,
            answers_max: limits.in_flight_max,
            history_revisions_max: limits.history_revisions_max,
            history_bytes_max: limits.history_bytes_max.0,
            session_ttl_min_ms: ms(session.ttl_min),
            session_ttl_max_ms: ms(session.ttl_max),
            session_name_bytes_max: session.name_bytes_max,
            ..conclave_state::Limits::default()
        }
    }
}

fn files(cert: &std::path::Path, key: &std::path::Path, ca: &std::path::Path) -> Option<Files> {
    if [cert, key, ca].iter().any(|path| path.as_os_str().is_empty()) {
        return None;
    }
    Some(Files { ca: ca.to_owned(), pair: Some(Pair { cert: cert.to_owned(), key: key.to_owned() }) })
}

/// Sections, as variables begin.
const SECTIONS: [&str; 7] = ["RAFT_", "LIMITS_", "SESSION_", "TLS_", "PEER_TLS_", "AUTH_", "LOG_"];

/// Every key, by the end of its variable's name.
fn keys() -> BTreeMap<String, String> {
    let table = toml::Table::try_from(Config::default()).expect("a configuration is a table");
    let mut keys = BTreeMap::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inside) => {
                for key in inside.keys() {
                    keys.insert(format!("{name}_{key}").to_uppercase(), format!("{name}.{key}"));
                }
            }
            _ => {
                keys.insert(name.to_uppercase(), name);
            }
        }
    }
    keys
}

/// `1=host:port,2=host:port`, each perhaps followed by `/client-host:port`.
fn members(text: &str) -> Result<Vec<Member>, String> {
    let form = "expected id=host:port for each member, as in 1=127.0.0.1:7401,2=127.0.0.1:7402";
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let wrong = || format!("{part:?}: {form}");
            let (id, rest) = part.split_once('=').ok_or_else(wrong)?;
            let (address, client_address) = rest.split_once('/').unwrap_or((rest, ""));
            let id = id.trim().parse().map_err(|_| wrong())?;
            check_address("address", address).map_err(|_| wrong())?;
            Ok(Member { id, address: address.to_owned(), client_address: client_address.to_owned() })
        })
        .collect()
}

/// host:port.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(name: &str, text: &str) -> Result<(), String> {
    let wrong = |why: &str| format!("{name} is {text:?}, which {why}: write host:port, as in 10.0.0.7:7401");
    let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    if host.is_empty() {
        return Err(wrong("has no host"));
    }
    if host.contains('/') || host.contains(char::is_whitespace) || (host.contains(':') && !host.starts_with('[')) {
        return Err(wrong("has no proper host"));
    }
    port.parse::<u16>().map_err(|_| wrong("has no proper port"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        id = 1
        cluster = "demo"
        data_dir = "/var/lib/conclave"
        members = [{ id = 1, address = "127.0.0.1:7401" }, { id = 2, address = "127.0.0.1:7402" }]
        [raft]
        tick = "20ms"
        [limits]
        data_bytes_max = "512KiB"
    "#;

    fn load(text: &str, variables: &[(&str, &str)], flags: Vec<Flag>) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(Some(("test.toml", text)), variables, flags).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn later_sources_win() {
        let config = load(GOOD, &[], vec![]).expect("good");
        assert_eq!(config.raft.tick.0, Duration::from_millis(20));
        assert_eq!(config.options().limits.data_bytes_max, 512 << 10);
        let variables = [
            ("CONCLAVE_RAFT_TICK", "30ms"),
            ("CONCLAVE_LIMITS_NODES_MAX", "7"),
            ("CONCLAVE_MEMBERS", "3=h:1,4=h:2/c:3"),
            ("CONCLAVE_RAFT_EARLY_ELECTIONS", "false"),
            ("CONCLAVE_ENDPOINTS", "the client's"),
            ("HOME", "/"),
        ];
        let tick = Flag { name: "--tick", key: "raft.tick", value: "40ms".into() };
        let config = load(GOOD, &variables, vec![tick]).expect("good");
        assert_eq!(config.raft.tick.0, Duration::from_millis(40));
        assert_eq!((config.limits.nodes_max, config.raft.early_elections), (7, false));
        assert_eq!(config.members[1], Member { id: 4, address: "h:2".into(), client_address: "c:3".into() });
    }

    /// What each bad configuration is answered: all of these words.
    #[test]
    fn bad_configurations_are_told_what_is_wrong() {
        let with = |more: &str| format!("{GOOD}\n{more}");
        for (text, words) in [
            (with("nodes = 5"), vec!["test.toml", "line", "unknown field `nodes`", "`nodes_max`"]),
            (with("[rafft]"), vec!["unknown field `rafft`", "`raft`"]),
            (with("[session]\nttl_min = 500"), vec!["invalid type: integer `500`", "\"10s\""]),
            (with("[session]\nttl_min = \"500\""), vec!["\"500\" is not a duration"]),
            (with("history_bytes_max = \"1 Mb\""), vec!["\"1 Mb\" is not a number of bytes", "MiB"]),
            (with("[session]\nttl_min = \"2h\"\nttl_max = \"1h\""), vec!["ttl_min is 2h and session.ttl_max 1h"]),
            (with("request_bytes_max = \"512KiB\""), vec!["data_bytes_max is 512KiB", "request_bytes_max, 512KiB"]),
            (with("connections_max = 0"), vec!["limits.connections_max is 0"]),
            (with("connections_max = -1"), vec!["connections_max", "-1"]),
            (with("[log]\nformat = \"xml\""), vec!["xml", "text", "json"]),
            (GOOD.replace("id = 1\n", ""), vec!["id: give every server a number"]),
            (GOOD.replace("\"demo\"", "\"\""), vec!["cluster: give the cluster a name"]),
            (GOOD.replace("id = 2", "id = 1"), vec!["id 1 is there twice"]),
            (GOOD.replace("7402", "7401"), vec!["1 and 2 have the same address 127.0.0.1:7401"]),
            (GOOD.replace(":7402", ""), vec!["members: 2: address is \"127.0.0.1\", which has no port"]),
            (format!("advertise = \"h:9\"\n{GOOD}"), vec!["advertise is h:9, but members says 1=127.0.0.1:7401"]),
            (with("[tls]\ncert_file = \"a\"\nca_file = \"c\""), vec!["tls: cert_file and ca_file given, key_file not"]),
            (with("[tls]\nhttp = true"), vec!["tls.http is true"]),
            (with("[tls]\nreload_every = \"1ms\""), vec!["tls.reload_every is 1ms"]),
            (with("[peer_tls]\nca_file = \"c\""), vec!["peer_tls needs listen_peer", "without tls, give all"]),
            (with("[peer_tls]\nkey_file = \"c\""), vec!["cert_file and key_file belong together"]),
            (with("[auth]\nmode = \"required\""), vec!["nobody could come in"]),
            (with("[auth]\nmode = \"closed\""), vec!["closed", "required"]),
            (format!("listen_peer = \"127.0.0.1:7401\"\n{GOOD}"), vec!["listen_peer and listen_client are both"]),
            (format!("listen_peer = \"7402\"\n{GOOD}"), vec!["\"7402\" is not ip:port"]),
            (GOOD.replace("id = 1\n", "id = \"one\"\n"), vec!["expected a whole number, or from-hostname"]),
            (String::new(), vec!["id:", "cluster:", "data_dir:", "members:"]),
        ] {
            let error = load(&text, &[], vec![]).expect_err(&text);
            for words in words {
                assert!(error.contains(words), "{words:?} is not in:\n{error}");
            }
        }
        for (name, value, words) in [
            ("CONCLAVE_RAFT_TIK", "1s", "CONCLAVE_RAFT_TICK"),
            ("CONCLAVE_RAFT_TICK", "1", "CONCLAVE_RAFT_TICK=\"1\": \"1\" is not a duration"),
            ("CONCLAVE_ID", "one", "CONCLAVE_ID=\"one\": expected a whole number, or from-hostname"),
            ("CONCLAVE_PEER_TLS_CERT", "x", "CONCLAVE_PEER_TLS_CERT_FILE"),
            ("CONCLAVE_LISTEN_PEER", "peer", "\"peer\" is not ip:port"),
            ("CONCLAVE_MEMBERS", "1:h:2", "expected id=host:port"),
        ] {
            let error = load(GOOD, &[(name, value)], vec![]).expect_err(name);
            assert!(error.contains(words), "{words:?} is not in:\n{error}");
        }
    }

    #[test]
    fn a_pod_knows_its_number() {
        assert_eq!(id_of_hostname("conclave-0"), Ok(1));
        assert_eq!(id_of_hostname("my-conclave-12.headless.ns.svc"), Ok(13));
        for name in ["conclave", "conclave-", "conclave-x", "", "conclave-18446744073709551615"] {
            assert!(id_of_hostname(name).expect_err(name).contains("does not end in -NUMBER"));
        }
    }

    #[test]
    fn peers_have_the_files_of_clients_where_they_have_none_of_their_own() {
        let tls = "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nca_file = \"a\"";
        let config = load(&format!("{GOOD}\n{tls}"), &[], vec![]).expect("good");
        assert_eq!(config.peer_tls_files(), config.tls_files());
        assert!(config.tls_files().is_some());
        let variables = [("CONCLAVE_LISTEN_PEER", "127.0.0.1:7402"), ("CONCLAVE_PEER_TLS_CA_FILE", "b")];
        let config = load(&format!("{GOOD}\n{tls}"), &variables, vec![]).expect("good");
        let peers = config.peer_tls_files().expect("three files");
        assert_eq!((&peers.ca, &peers.pair), (&"b".into(), &config.tls_files().expect("three files").pair));
        assert_eq!(load(GOOD, &[], vec![]).expect("good").peer_tls_files(), None);
    }

    #[test]
    fn durations_and_sizes_are_written_as_they_are_read() {
        for text in ["1ms", "250ms", "10s", "1m30s", "1d", "2h5ms"] {
            assert_eq!(text.parse::<Period>().expect(text).to_string(), text);
        }
        for text in ["1B", "1000B", "64KiB", "1MiB", "3GiB", "1025B"] {
            assert_eq!(text.parse::<Size>().expect(text).to_string(), text);
        }
        assert_eq!("2MB".parse::<Size>(), Ok(Size(2_000_000)));
        for bad in ["", "5", "s", "5x", "1s1m", "-1s", "99999999999999999999s", "1.5s"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        for bad in ["", "5", "MiB", "5X", "18446744073709551615GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_defaults_can_be_written_and_read() {
        let text = toml::to_string(&Config::default()).expect("writes");
        assert_eq!(toml::from_str::<Config>(&text).expect("reads"), Config::default());
    }
}
