//! A cluster of nodes in one process: disks in a temporary directory, peers over loopback sockets.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use conclave_proto::{Index, NodePath, ServerId};
use conclave_server::raft::{self, Handle, Member, Options, ProposeError, Publish};
use conclave_state::{Applied, Command, Machine, Op, Outcome, Txn};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Deaf;

impl Publish for Deaf {
    fn publish(&mut self, _: &Machine, _: Index, _: &Applied) {}
    fn replaced(&mut self, _: &Machine) {}
}

pub struct Running {
    pub handle: Handle,
    server: JoinHandle<()>,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    pub members: Vec<Member>,
    nodes: BTreeMap<u64, Running>,
    change: fn(&mut Options),
}

pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An address nobody listens at, for the moment.
pub async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub async fn propose(handle: &Handle, command: Command) -> Result<Outcome, ProposeError> {
    let (sender, receiver) = oneshot::channel();
    handle.propose(
        command,
        Box::new(move |result| {
            let _ = sender.send(result.map(|(_, applied)| applied.outcome.clone()));
        }),
    );
    receiver.await.expect("answered")
}

pub fn put_command(path: &str, data: &[u8]) -> Command {
    let op = Op::Put { path: NodePath::parse(path).unwrap(), data: data.to_vec().into(), create_parents: true };
    Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } }
}

/// Writes, again and again as long as the failure is one of the moment.
pub async fn put(handle: &Handle, path: &str, data: &[u8]) -> Result<Outcome, ProposeError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match propose(handle, put_command(path, data)).await {
            Err(error) if !error.is_indefinite() && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
}

impl Cluster {
    pub async fn start(size: u64) -> Self {
        Self::start_with(size, |_| {}).await
    }

    pub async fn start_with(size: u64, change: fn(&mut Options)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut members = Vec::new();
        let mut listeners = Vec::new();
        for id in 1..=size {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            listeners.push(listener);
            let client_address = address.clone();
            members.push(Member { id: ServerId(id), peer_address: address, client_address, learner: false });
        }
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { dir, members, nodes: BTreeMap::new(), change };
        for (id, listener) in (1..=size).zip(listeners) {
            cluster.start_node(id, listener);
        }
        cluster
    }

    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn start_node(&mut self, id: u64, listener: TcpListener) {
        let mut options = Options::new(ServerId(id), "test", self.data_dir(id), self.members.clone());
        (self.change)(&mut options);
        self.start_with_options(options, listener);
    }

    pub fn start_with_options(&mut self, options: Options, listener: TcpListener) {
        let id = options.id.0;
        let (handle, service) = raft::start(options, Box::new(Deaf)).expect("starts");
        let server = tonic::transport::Server::builder()
            .add_service(service.server())
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.expect("serves") });
        self.nodes.insert(id, Running { handle, server });
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.id.0).collect()
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Running> {
        self.nodes.values()
    }

    pub fn node(&self, id: u64) -> &Running {
        &self.nodes[&id]
    }

    /// The one server that leads and that the others follow.
    pub async fn leader(&self) -> u64 {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen: Vec<_> = self.nodes.values().map(|node| node.handle.status().borrow().clone()).collect();
            let term = seen.iter().map(|status| status.term).max().unwrap_or_default();
            let leader = seen[0].leader;
            if self.nodes.contains_key(&leader.0)
                && seen.iter().all(|status| status.leader == leader && status.term == term)
            {
                return leader.0;
            }
            assert!(Instant::now() < end, "nobody leads: {seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends a server without handing anything over, and closes its port.
    pub async fn kill(&mut self, id: u64) {
        let running = self.nodes.remove(&id).expect("running");
        running.server.abort();
        let _ = running.server.await;
        running.handle.stop(Duration::ZERO).await;
    }

    pub async fn stop(&mut self, id: u64) {
        let running = self.nodes.remove(&id).expect("running");
        running.handle.stop(PATIENCE).await;
        running.server.abort();
        let _ = running.server.await;
    }

    pub async fn restart(&mut self, id: u64) {
        let address = self.members.iter().find(|member| member.id.0 == id).unwrap().peer_address.clone();
        let end = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(&address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.start_node(id, listener);
    }
}
