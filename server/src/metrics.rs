//! What an operator sees at `/metrics`. Most figures are read where they live, at each scrape; only what happens between
//! scrapes is counted here. Every server has a registry of its own.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
    },
    registry::Registry,
};

use crate::{
    raft::{ProposeError, Role},
    service::{Service, admit::Gate, door::Admission},
    timings::{Spread, Timings},
    tls::{Identities, seconds_left},
};

/// Results of proposals and calls, as the label says them.
const RESULTS: [&str; 7] =
    ["applied", "refused", "no_leader", "overloaded", "leadership_lost", "timeout", "unavailable"];

/// Counted as it happens. Cheap: a few atomic additions.
#[derive(Debug, Default)]
pub struct Counters {
    proposals: [Counter; RESULTS.len()],
    /// From the proposal to the answer.
    proposal_seconds: Spread,
    /// Reads answered.
    pub reads: Counter,
    /// Keep-alives acknowledged.
    pub keep_alives: Counter,
    /// Keep-alives that the leader could not confirm in time.
    pub keep_alives_unconfirmed: Counter,
    /// Session streams opened.
    pub streams: Counter,
}

impl Counters {
    /// A proposal was answered: applied (or refused by the state machine), or not.
    pub fn proposal(&self, result: Result<bool, ProposeError>, took: Duration) {
        let at = match result {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(ProposeError::NoLeader) => 2,
            Err(ProposeError::Overloaded) => 3,
            Err(ProposeError::LeadershipLost) => 4,
            Err(ProposeError::Timeout) => 5,
            Err(ProposeError::Stopping | ProposeError::Diverged) => 6,
        };
        self.proposals[at].inc();
        if result.is_ok() {
            self.proposal_seconds.observe(took);
        }
    }
}

/// How this server is protected.
pub struct Security {
    /// Certificates.
    pub identities: Identities,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Ports that speak plain text off this machine.
    pub plain_text: Vec<&'static str>,
}

/// A server's metrics.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Over the parts that are looked at.
    #[must_use]
    pub fn new(service: &Arc<Service>, admission: &Arc<Admission>, timings: &Arc<Timings>, security: Security) -> Self {
        let mut registry = Registry::with_prefix("conclave");
        let counters = &service.counters;
        registry.register("reads", "Reads answered by this server", counters.reads.clone());
        registry.register(
            "keep_alives",
            "Keep-alives acknowledged after the leader renewed the session with its quorum",
            counters.keep_alives.clone(),
        );
        registry.register(
            "keep_alives_unconfirmed",
            "Keep-alives not acknowledged because no leader confirmed them in time",
            counters.keep_alives_unconfirmed.clone(),
        );
        registry.register("streams", "Session streams opened on this server", counters.streams.clone());
        registry.register_collector(Box::new(Scrape {
            service: service.clone(),
            admission: admission.clone(),
            timings: timings.clone(),
            security,
        }));
        Self { registry }
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string has room");
        text
    }
}

/// Reads figures where they live.
struct Scrape {
    service: Arc<Service>,
    admission: Arc<Admission>,
    timings: Arc<Timings>,
    security: Security,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = ConstCounter::new(value);
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

fn spread(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, spread: &Spread) -> fmt::Result {
    let (sum, count, buckets) = spread.read();
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn labelled<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, number) in values {
        let number = ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        number.encode(metric.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let service = &self.service;
        let status = service.handle.status().borrow().clone();
        let (counts, applied, revision, oldest, epoch, limits) = {
            let state = service.handle.state();
            (
                state.counts(),
                state.applied(),
                state.revision(),
                state.oldest_revision(),
                state.fence_epoch(),
                state.limits().clone(),
            )
        };
        let sizes = service.hub.sizes();

        let role = |role: Role| u64::from(status.role == role);
        labelled(
            to,
            ("role", "1 for the part this server plays in Raft"),
            "role",
            [
                ("leader", role(Role::Leader)),
                ("follower", role(Role::Follower)),
                ("candidate", role(Role::Candidate)),
                ("learner", role(Role::Learner)),
            ],
        )?;
        gauge(to, "has_leader", "1 if this server knows a leader", u64::from(status.leader.0 != 0))?;
        gauge(
            to,
            "diverged",
            "1 if this replica's state differs from its peers'; it serves nothing then: \
            replace its disk",
            u64::from(status.diverged),
        )?;
        gauge(to, "term", "Raft's term; it rises with every election", status.term.0)?;
        gauge(to, "members", "Members of the cluster, learners included", status.members.len() as u64)?;
        gauge(to, "committed_index", "Last log index known to be committed", status.committed.0.max(applied.0))?;
        gauge(to, "applied_index", "Last log index applied to the state", applied.0)?;
        gauge(to, "last_index", "Last index in this server's log", status.last.0.max(applied.0))?;
        gauge(to, "log_compacted_index", "The log begins after this index", status.compacted.0)?;
        gauge(to, "snapshot_index", "Index of the newest snapshot taken or installed", status.snapshot.0)?;
        let behind: Vec<(String, u64)> = status
            .progress
            .iter()
            .map(|(id, matched, _)| (id.to_string(), status.last.0.saturating_sub(matched.0)))
            .collect();
        labelled(
            to,
            ("follower_behind_entries", "On the leader: entries that a member's log lacks"),
            "member",
            behind.iter().map(|(id, behind)| (id.as_str(), *behind)),
        )?;

        gauge(to, "revision", "The store's newest revision", revision.0)?;
        gauge(to, "oldest_revision", "The oldest revision that can be read and watched from", oldest.0)?;
        gauge(to, "fence_epoch", "The upper bits of every fencing token; rises with a restore", epoch)?;
        gauge(to, "nodes", "Nodes in the store", counts.nodes)?;
        gauge(to, "store_bytes", "Bytes of all nodes' data and paths", counts.store_bytes)?;
        gauge(
            to,
            "ephemeral_nodes",
            "Nodes that die with their session: held and awaited locks among them",
            counts.ephemerals,
        )?;
        gauge(to, "queues", "Locks, semaphores and elections that somebody holds or waits for", counts.queues)?;
        gauge(to, "queue_entries", "Who holds or waits for one of them", counts.queue_entries)?;
        gauge(to, "sessions", "Open sessions of the whole cluster", counts.sessions)?;
        gauge(to, "answers", "Answers kept for retries", counts.answers)?;
        gauge(to, "history_revisions", "Revisions of history kept", counts.history_revisions)?;
        gauge(to, "history_bytes", "Bytes of history kept", counts.history_bytes)?;

        gauge(to, "connections", "Connections to this server, peers included", self.admission.open() as u64)?;
        counter(
            to,
            "connections_refused",
            "Connections closed, or told of the limit, because there were too many",
            self.admission.refused(),
        )?;
        self.security(to)?;
        gauge(to, "streams_open", "Streams to this server: sessions and watches of tools", sizes.streams as u64)?;
        gauge(to, "sessions_here", "Sessions whose stream is on this server", sizes.sessions as u64)?;
        gauge(to, "calls_in_flight", "Calls on this server's streams without a reply", sizes.calls as u64)?;
        gauge(to, "watches", "Watches on this server", sizes.watches as u64)?;
        gauge(
            to,
            "watches_behind",
            "Watches that catch up from history, as their reader is slow or they began in \
            the past",
            sizes.behind as u64,
        )?;
        gauge(
            to,
            "queue_watches",
            "Waiters for a lock, permit or leadership with their stream on this server",
            sizes.queue_watches as u64,
        )?;
        gauge(to, "outbox_bytes", "Bytes that wait for the readers of all streams", sizes.outbox_bytes as u64)?;
        gauge(to, "outbox_bytes_largest", "Bytes that wait for the slowest reader", sizes.outbox_bytes_largest as u64)?;
        counter(to, "watch_events", "Items of events put into outboxes", sizes.totals.events)?;
        counter(
            to,
            "watches_fell_behind",
            "Times that a stream's reader was so slow that its watches fell behind",
            sizes.totals.fell_behind,
        )?;
        counter(
            to,
            "watches_compacted",
            "Watches ended or refused because history did not reach back to them",
            sizes.totals.compacted,
        )?;
        counter(to, "queue_ready", "Waiters told that they stand at the front", sizes.totals.queue_ready)?;

        let kind = ConstCounter::new(0_u64).metric_type();
        let mut proposals =
            to.encode_descriptor("proposals", "Commands proposed on this server, by result", None, kind)?;
        for (result, count) in RESULTS.iter().zip(&service.counters.proposals) {
            let count = ConstCounter::new(count.get());
            count.encode(proposals.encode_family(&[("result", *result)])?)?;
        }

        spread(
            to,
            "proposal_seconds",
            "Time from proposing a command on this server to its answer, for commands that were applied or refused",
            &service.counters.proposal_seconds,
        )?;
        let timings = &self.timings;
        spread(
            to,
            "log_sync_seconds",
            "Time to store entries that came together until they survive a crash; the disk's own sync is most of it",
            &timings.log_sync,
        )?;
        let entries = timings.log_entries.load(Relaxed);
        counter(to, "log_entries_stored", "Entries stored; by log_sync_seconds_count, how many share a sync", entries)?;
        spread(
            to,
            "apply_seconds",
            "Time to apply committed entries that came together, tell watches and answer callers",
            &timings.apply,
        )?;
        counter(to, "entries_applied", "Entries applied to the state", timings.applied.load(Relaxed))?;
        counter(to, "snapshots_taken", "Snapshots taken by this server", timings.snapshots_taken.load(Relaxed))?;
        counter(
            to,
            "snapshots_installed",
            "Snapshots of a leader installed, as this server had been away too long",
            timings.snapshots_installed.load(Relaxed),
        )?;

        let here = &service.limits;
        labelled(
            to,
            ("limit", "Bounds in force, by their name in the configuration"),
            "limit",
            [
                ("request_bytes_max", here.request_bytes_max.0),
                ("connections_max", here.connections_max as u64),
                ("streams_per_connection_max", here.streams_per_connection_max.into()),
                ("in_flight_max", here.in_flight_max.into()),
                ("requests_in_flight_max", here.requests_in_flight_max as u64),
                ("watches_per_stream_max", here.watches_per_stream_max as u64),
                ("outbox_bytes_max", here.outbox_bytes_max.0),
                ("data_bytes_max", limits.data_bytes_max),
                ("txn_ops_max", limits.txn_ops_max.into()),
                ("nodes_max", limits.nodes_max),
                ("store_bytes_max", limits.store_bytes_max),
                ("headroom_nodes", limits.headroom_nodes),
                ("headroom_bytes", limits.headroom_bytes),
                ("sessions_max", limits.sessions_max),
                ("history_revisions_max", limits.history_revisions_max),
                ("history_bytes_max", limits.history_bytes_max),
            ],
        )?;
        labelled(to, ("build", "1, with the version of this server"), "version", [(env!("CARGO_PKG_VERSION"), 1)])?;
        process(to)
    }
}

impl Scrape {
    fn security(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Security { identities, gate, plain_text } = &self.security;
        let failed = self.admission.handshakes_failed();
        counter(to, "tls_handshakes_failed", "TLS handshakes with clients and peers that came to nothing", failed)?;
        let failures = identities.each().map(|(_, identity)| identity.failures()).sum();
        counter(
            to,
            "tls_reload_failures",
            "New certificate files that could not be used; the old ones serve on",
            failures,
        )?;
        counter(
            to,
            "unauthenticated",
            "Requests turned away because their caller is not known: no certificate, no token, or a wrong one",
            gate.refused(),
        )?;
        let kind = ConstGauge::new(0_i64).metric_type();
        let about = "Seconds until this server's certificate ends, negative after that; by what it is used for";
        let mut expiry = to.encode_descriptor("tls_certificate_expiry_seconds", about, None, kind)?;
        for (usage, identity) in identities.each() {
            if let Some(own) = identity.own() {
                let left = ConstGauge::new(seconds_left(own.not_after_seconds()));
                left.encode(expiry.encode_family(&[("use", usage)])?)?;
            }
        }
        labelled(
            to,
            ("plain_text", "1 for each port that speaks plain text to other machines"),
            "port",
            plain_text.iter().map(|port| (*port, 1)),
        )
    }
}

/// The process's own figures, under their customary names.
fn process(to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(line) = status.lines().find(|line| line.starts_with("VmRSS:"))
        && let Some(kib) = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok())
    {
        gauge(to, "process_resident_memory_bytes", "Memory of this process", kib * 1024)?;
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        gauge(to, "process_open_fds", "Open file descriptors of this process", fds.count() as u64)?;
    }
    Ok(())
}
