//! A cluster that is broken again and again, and the ledger that it must keep.

use std::{
    collections::BTreeMap,
    process::ExitStatus,
    time::{Duration, Instant},
};

use conclave_faults::{POINTS, Point, Then};
use conclave_proto::v1::{self, admin_client::AdminClient, client_item::Item as Say, store_client::StoreClient};
use conclave_tests::{
    Cluster, Options, PATIENCE, eventually,
    ledger::Ledger,
    metrics,
    wire::{self, Raw},
};

use super::ways::{Doing, Side, Way, way};

/// The log is short, so that being away a little is being away too long; little of it is in memory; and what is no
/// concern here does not make snapshots long.
const CONFIG: &str = "[raft]\nlog_entries_max = 200\nlog_entries_keep = 40\nlog_cache_bytes_max = \"1KiB\"\n\
                      [limits]\nhistory_revisions_max = 1000\n";
const WRITERS: u64 = 4;
/// Writes that must be acknowledged after each fault.
const WRITES_AFTER: u64 = 10;
/// One question to a server that may not answer.
const ASK_WITHIN: Duration = Duration::from_millis(400);

/// What is done at a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    Panic,
    Error,
    Delay,
}

impl Fault {
    fn action(self) -> &'static str {
        match self {
            Self::Panic => "1*panic",
            Self::Error => "1*return(EIO)",
            Self::Delay => "2*sleep(100)",
        }
    }

    /// Whether the server must end; none if there is no such fault at this point.
    pub fn stops(self, point: &Point) -> Option<bool> {
        match self {
            Self::Panic => Some(point.panic == Then::Stops),
            Self::Error => point.error.map(|then| then == Then::Stops),
            Self::Delay => Some(false),
        }
    }

    /// What the server must have said when it ended.
    fn reason(self, point: &Point) -> String {
        match self {
            Self::Panic => format!("failpoint {} panic", point.name),
            _ => "Input/output error".to_owned(),
        }
    }
}

/// See the module.
pub struct Yard {
    pub cluster: Cluster,
    pub ledger: Ledger,
    rows: Vec<[String; 4]>,
    written: usize,
    began: Instant,
}

impl Yard {
    pub async fn open() -> Self {
        let options = Options { program: "conclaved-faulty".into(), config: CONFIG.into(), ..Options::default() };
        let cluster = Cluster::start_with(options).await.expect("three servers");
        let ledger = Ledger::open(&cluster, WRITERS).await;
        ledger.goes_on(WRITES_AFTER).await;
        Self { cluster, ledger, rows: Vec::new(), written: 0, began: Instant::now() }
    }

    pub async fn leader(&self) -> u64 {
        self.cluster.wait_leader(PATIENCE).await.expect("a leader")
    }

    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.cluster.running().into_iter().find(|id| *id != leader).expect("a follower")
    }

    pub async fn arm(&self, id: u64, list: &str) {
        let http = self.cluster.http(id);
        metrics::ask(http, "POST", "/faults", &list.replace(';', "\n")).await.expect("fail points are armed");
    }

    /// How often each armed point was hit.
    pub async fn hits(&self, id: u64) -> BTreeMap<String, u64> {
        let text = metrics::get(self.cluster.http(id), "/faults").await.expect("the armed fail points");
        let each = text.lines().map(|line| line.split_once(' ').expect("a name and a count"));
        each.map(|(name, count)| (name.to_owned(), count.parse().expect("a count"))).collect()
    }

    /// How often the server has said that the point is hit.
    fn said(&self, id: u64, point: &str) -> usize {
        let line = format!("fail point {point} is hit");
        self.cluster.log(id).lines().filter(|found| **found == line).count()
    }

    pub fn row(&mut self, point: &str, fault: Fault, what: &str) {
        let fault = format!("{fault:?}").to_lowercase();
        self.rows.push([point.to_owned(), fault, "hit".to_owned(), what.to_owned()]);
    }

    pub fn kill(&mut self, id: u64) {
        self.cluster.kill(id).expect("it ran");
    }

    /// What was acknowledged since the last time is there.
    pub async fn judge(&mut self) {
        self.written += self.ledger.judge().await;
    }

    async fn healthy(&mut self) {
        self.cluster.wait_healthy(PATIENCE).await.expect("healthy");
    }

    pub async fn start_clean(&mut self, id: u64) {
        self.cluster.start_server(id).expect("it starts");
        self.healthy().await;
        self.judge().await;
    }

    /// The process ends by itself; how, and what it said since `from`.
    async fn see_it_end(&mut self, id: u64, from: usize) -> (ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.cluster.ended(id).expect("the system says") {
                self.cluster.kill(id).expect("its remains");
                return (status, self.cluster.log(id)[from..].to_owned());
            }
            assert!(Instant::now() < until, "server {id} has not ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn ended_well(&mut self, point: &Point, fault: Fault, status: ExitStatus, said: &str) {
        let name = point.name;
        assert!(said.contains(&format!("fail point {name} is hit")), "{name} was not hit; it ended with {status}");
        assert!(!status.success(), "{name}, {fault:?}: it ended as if nothing had happened");
        let reason = fault.reason(point);
        assert!(said.contains(&reason), "{name}, {fault:?}: it does not say {reason:?}");
        self.row(name, fault, &format!("ended, {status}"));
    }

    /// Starts a server that is down with this fault and sees it end; it is left down.
    pub async fn start_and_see_it_end(&mut self, id: u64, point: &Point, fault: Fault) {
        let from = self.cluster.log(id).len();
        let armed = format!("{}={}", point.name, fault.action());
        self.cluster.start_server_with(id, &[("FAILPOINTS", &armed)]).expect("it starts");
        let (status, said) = self.see_it_end(id, from).await;
        self.ended_well(point, fault, status, &said);
        self.ledger.goes_on(WRITES_AFTER).await;
    }

    /// Starts a server with all of these, none of which ends it, and sees each of them hit.
    pub async fn start_and_see_hits(&mut self, id: u64, points: &[&Point], fault: Fault) {
        let before: Vec<usize> = points.iter().map(|point| self.said(id, point.name)).collect();
        let armed: Vec<String> = points.iter().map(|point| format!("{}={}", point.name, fault.action())).collect();
        self.cluster.start_server_with(id, &[("FAILPOINTS", &armed.join(";"))]).expect("it starts");
        let until = Instant::now() + PATIENCE;
        for (point, before) in points.iter().zip(before) {
            while self.said(id, point.name) == before {
                assert_eq!(self.cluster.ended(id).expect("the system says"), None, "before {}", point.name);
                assert!(Instant::now() < until, "{} was never hit", point.name);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.row(point.name, fault, "went on");
        }
    }

    /// As [`Yard::start_and_see_hits`], and the server becomes healthy.
    pub async fn start_with_all(&mut self, id: u64, points: &[&Point], fault: Fault) {
        self.start_and_see_hits(id, points, fault).await;
        self.healthy().await;
        self.ledger.goes_on(WRITES_AFTER).await;
        self.judge().await;
    }

    /// Arms a point of a serving server, does what brings it there, and sees what follows.
    pub async fn strike(&mut self, point: &Point, fault: Fault) {
        let (side, doing) = match way(point.name) {
            Way::Serving(side, doing) => (side, doing),
            _ => (Side::Follower, Doing::Asking),
        };
        let victim = match side {
            Side::Leader => self.leader().await,
            Side::Follower => self.follower().await,
        };
        let (from, before) = (self.cluster.log(victim).len(), self.said(victim, point.name));
        self.arm(victim, &format!("{}={}", point.name, fault.action())).await;
        let until = Instant::now() + PATIENCE;
        while self.said(victim, point.name) == before {
            assert!(Instant::now() < until, "{} was never hit", point.name);
            self.provoke(victim, doing).await;
        }
        if fault.stops(point) == Some(true) {
            let (status, said) = self.see_it_end(victim, from).await;
            self.ended_well(point, fault, status, &said);
            self.ledger.goes_on(WRITES_AFTER).await;
            self.cluster.start_server(victim).expect("it starts");
        } else {
            self.ledger.goes_on(WRITES_AFTER).await;
            assert_eq!(self.cluster.ended(victim).expect("the system says"), None, "{} {fault:?}", point.name);
            eventually("nothing is armed any more", || async {
                let off = format!("{}=off", point.name);
                metrics::ask(self.cluster.http(victim), "POST", "/faults", &off).await.map_err(|e| format!("{e:#}"))
            })
            .await;
            self.row(point.name, fault, "went on");
        }
        self.healthy().await;
        self.judge().await;
    }

    async fn provoke(&mut self, victim: u64, doing: Doing) {
        match doing {
            Doing::Asking => self.ask_everything(victim).await,
            Doing::Members => {
                let request = v1::MemberRequest { id: 77, peer_address: "127.0.0.1:1".into(), ..Default::default() };
                let mut admin = AdminClient::new(self.channel(victim));
                let _ = tokio::time::timeout(ASK_WITHIN, admin.add_learner(request.clone())).await;
                let _ = tokio::time::timeout(ASK_WITHIN, admin.remove(request)).await;
            }
            Doing::Transfer => {
                let mut admin = AdminClient::new(self.channel(victim));
                let _ =
                    tokio::time::timeout(ASK_WITHIN, admin.transfer_leadership(v1::TransferRequest { id: 0 })).await;
            }
            Doing::Reconnect => {
                let http = self.cluster.http(victim);
                let breaks = "peer-send=1*return(x)\npeer-receive=1*return(x)";
                let _ = metrics::ask(http, "POST", "/faults", breaks).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn channel(&self, id: u64) -> tonic::transport::Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(self.cluster.endpoint(id)).expect("an endpoint");
        endpoint.connect_timeout(ASK_WITHIN).connect_lazy()
    }

    /// One of each kind of request, on connections of their own; answers do not matter.
    async fn ask_everything(&self, id: u64) {
        let within = |what| tokio::time::timeout(ASK_WITHIN, what);
        let session = async {
            if let Ok(mut raw) = Raw::open(&self.cluster.endpoint(id), Duration::from_secs(2)).await {
                raw.say(vec![Say::KeepAlive(v1::KeepAlive { id: 1 })]);
                let _ = raw.txn(wire::then(vec![wire::put("/asked/session", "x")])).await;
                let _ = raw.read(wire::get("/asked/session")).await;
                raw.say(vec![Say::Close(v1::Close {})]);
            }
        };
        let store = async {
            let mut store = StoreClient::new(self.channel(id));
            let _ = store.apply(wire::then(vec![wire::put("/asked/unary", "x")])).await;
            let _ = store.query(wire::get("/asked/unary")).await;
            let _ = store.watch(v1::WatchOpen { path: "/asked".into(), ..Default::default() }).await;
        };
        let admin = async {
            let mut admin = AdminClient::new(self.channel(id));
            let _ = admin.status(v1::StatusRequest {}).await;
            let _ = admin.sessions(v1::SessionsRequest::default()).await;
        };
        let http = async {
            let _ = metrics::get(self.cluster.http(id), "/readyz").await;
            let _ = metrics::get(self.cluster.http(id), "/metrics").await;
        };
        let all = async { tokio::join!(session, store, admin, http) };
        let _ = within(all).await;
    }

    /// Tells the leader to stop while this happens.
    pub async fn stop_with(&mut self, point: &Point, fault: Fault) {
        let leader = self.leader().await;
        let from = self.cluster.log(leader).len();
        self.arm(leader, &format!("{}={}", point.name, fault.action())).await;
        self.cluster.signal(leader, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let (status, said) = self.see_it_end(leader, from).await;
        assert!(said.contains(&format!("fail point {} is hit", point.name)), "{} was not hit", point.name);
        assert_eq!(status.success(), fault != Fault::Panic, "{} {fault:?}: {status}", point.name);
        self.row(point.name, fault, &format!("ended, {status}"));
        self.ledger.goes_on(WRITES_AFTER).await;
        self.start_clean(leader).await;
    }

    /// A follower is down, and the log does not reach back to it any more.
    pub async fn fall_behind(&mut self) -> u64 {
        let victim = self.follower().await;
        self.kill(victim);
        self.leave_behind().await;
        victim
    }

    async fn leave_behind(&self) {
        let leader = self.leader().await;
        let applied = self.cluster.status(leader).await.expect("a status").applied_index;
        eventually("the log does not reach back to the one that is down", || async {
            let status = self.cluster.status(leader).await.map_err(|error| format!("{error:#}"))?;
            if status.compacted_index > applied { Ok(()) } else { Err(format!("{}", status.compacted_index)) }
        })
        .await;
    }

    /// A follower returns by a snapshot until all of these were hit: at the leader, or at the follower itself.
    pub async fn snapshot_with_all(&mut self, points: &[&Point], fault: Fault, at_leader: bool) {
        let mut left: Vec<&Point> = points.to_vec();
        let until = Instant::now() + PATIENCE;
        while !left.is_empty() {
            let names: Vec<&str> = left.iter().map(|point| point.name).collect();
            assert!(Instant::now() < until, "never hit: {names:?}");
            let away = self.fall_behind().await;
            let leader = self.leader().await;
            let watched = if at_leader { leader } else { away };
            let before: Vec<usize> = left.iter().map(|point| self.said(watched, point.name)).collect();
            let armed: Vec<String> = left.iter().map(|point| format!("{}={}", point.name, fault.action())).collect();
            let armed = armed.join(";");
            if at_leader {
                self.arm(leader, &armed).await;
                self.cluster.start_server(away).expect("it starts");
            } else {
                self.cluster.start_server_with(away, &[("FAILPOINTS", &armed)]).expect("it starts");
            }
            self.healthy().await;
            if at_leader {
                let off: Vec<String> = left.iter().map(|point| format!("{}=off", point.name)).collect();
                self.arm(leader, &off.join(";")).await;
            }
            let mut missed = Vec::new();
            for (point, before) in left.into_iter().zip(before) {
                if self.said(watched, point.name) > before {
                    self.row(point.name, fault, "went on");
                } else {
                    missed.push(point);
                }
            }
            left = missed;
            self.judge().await;
        }
    }

    /// A follower needs a snapshot, and that is the leader's end.
    pub async fn snapshot_and_see_the_leader_end(&mut self, point: &Point, fault: Fault) {
        let away = self.fall_behind().await;
        let leader = self.leader().await;
        let from = self.cluster.log(leader).len();
        self.arm(leader, &format!("{}={}", point.name, fault.action())).await;
        self.cluster.start_server(away).expect("it starts");
        let (status, said) = self.see_it_end(leader, from).await;
        self.ended_well(point, fault, status, &said);
        self.ledger.goes_on(WRITES_AFTER).await;
        self.start_clean(leader).await;
    }

    /// A follower has fetched a snapshot of a leader that leads no more.
    pub async fn discard_with(&mut self, point: &Point, fault: Fault) {
        let away = self.fall_behind().await;
        let (from, before) = (self.cluster.log(away).len(), self.said(away, point.name));
        let armed = format!("fetch-check=1*sleep(1500);{}={}", point.name, fault.action());
        let checks = self.said(away, "fetch-check");
        self.cluster.start_server_with(away, &[("FAILPOINTS", &armed)]).expect("it starts");
        eventually("it is fetching", || async {
            if self.said(away, "fetch-check") > checks { Ok(()) } else { Err("not yet") }
        })
        .await;
        let old = self.leader().await;
        let mut admin = AdminClient::new(self.channel(old));
        let _ = admin.transfer_leadership(v1::TransferRequest { id: 0 }).await.expect("an answer");
        eventually("what was fetched is discarded", || async {
            if self.said(away, point.name) > before { Ok(()) } else { Err("not yet") }
        })
        .await;
        if fault.stops(point) == Some(true) {
            let (status, said) = self.see_it_end(away, from).await;
            self.ended_well(point, fault, status, &said);
            self.cluster.start_server(away).expect("it starts");
        } else {
            self.row(point.name, fault, "went on");
        }
        self.healthy().await;
        self.judge().await;
    }

    pub fn print(&self) {
        println!("{:<22} {:<6} {:<4} what happened", "point", "fault", "");
        for [point, fault, hit, what] in &self.rows {
            println!("{point:<22} {fault:<6} {hit:<4} {what}");
        }
        let (cases, seconds) = (self.rows.len(), self.began.elapsed().as_secs());
        println!(
            "{cases} cases of {} points, {} writes acknowledged and there, {seconds} s",
            POINTS.len(),
            self.written
        );
    }

    /// All replicas agree, and the table is printed.
    pub async fn close(mut self) {
        self.healthy().await;
        self.judge().await;
        for id in self.cluster.running() {
            assert!(!self.cluster.status(id).await.expect("a status").diverged, "server {id} has diverged");
        }
        self.print();
    }
}
