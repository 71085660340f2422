//! What a client's process has of the world: its clock, its roads to the servers, and chance of its own.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use conclave_client::{
    BootTime,
    sans_io::{self, Boxed, Incoming, Opening, Outgoing},
};
use conclave_proto::v1::{self, client_item::Item as Sent, server_item::Item as Told};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use prost::Message as _;

use super::{Shared, road::Reader, seat::Clock, seen::Listener};
use crate::{
    exec::{Process, Sim},
    time::{LocalClock, MS, Micros},
};

/// One start of a client.
pub struct Env {
    sim: Sim,
    clock: Clock,
    process: Process,
    /// The client's number.
    client: u64,
    shared: Arc<Shared>,
    /// Where it begins.
    first: usize,
    rng: Mutex<fastrand::Rng>,
    listener: Arc<Listener>,
}

impl Env {
    /// See the fields.
    #[must_use]
    pub fn new(
        shared: &Arc<Shared>,
        clock: LocalClock,
        process: Process,
        client: u64,
        first: usize,
        rng: fastrand::Rng,
        listener: Arc<Listener>,
    ) -> Self {
        let sim = shared.sim.clone();
        Self {
            clock: Clock { sim: sim.clone(), clock },
            sim,
            process,
            client,
            shared: shared.clone(),
            first,
            rng: Mutex::new(rng),
            listener,
        }
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl sans_io::Env for Env {
    fn now(&self) -> BootTime {
        BootTime::from_millis(self.clock.clock.at(self.sim.now()) / MS)
    }

    fn wall_ms(&self) -> u64 {
        self.clock.clock.wall_ms(self.sim.now())
    }

    fn sleep(&self, time: Duration) -> Boxed<()> {
        self.clock.after(time)
    }

    fn random(&self) -> u64 {
        self.rng.lock().u64(..)
    }

    fn spawn(&self, task: Boxed<()>) {
        self.sim.spawn(self.process, task);
    }

    fn endpoints(&self) -> Vec<String> {
        self.shared.servers.iter().map(|id| format!("server-{id}")).collect()
    }

    fn first(&self) -> Boxed<usize> {
        let first = self.first % self.shared.servers.len();
        Box::pin(async move { first })
    }

    fn after(&self, at: usize) -> Boxed<usize> {
        let next = (at + 1) % self.shared.servers.len();
        Box::pin(async move { next })
    }

    fn open(&self, at: usize, outgoing: Outgoing) -> Opening {
        let (shared, client, server) = (self.shared.clone(), self.client, self.shared.servers[at]);
        let (sim, process, clock) = (self.sim.clone(), self.process, self.clock.clone());
        let listener = self.listener.clone();
        let incoming = Box::pin(async move {
            let (reader, writer) = shared.roads.connect(client, server).await?;
            let stream = Arc::new(Ear { listener, clock, shared, client, process, heard: Mutex::default() });
            sim.spawn(process, writer.carry(Heard { outgoing, ear: stream.clone() }));
            let incoming: Incoming = Box::pin(Frames { reader, ear: stream });
            Ok(incoming)
        });
        Opening { connection: 0, incoming }
    }

    fn discard(&self, _: usize, _: usize) {}
}

/// Hears one stream for the oracles.
struct Ear {
    listener: Arc<Listener>,
    clock: Clock,
    shared: Arc<Shared>,
    client: u64,
    process: Process,
    heard: Mutex<HeardSoFar>,
}

#[derive(Default)]
struct HeardSoFar {
    session: u64,
    ttl_ms: u64,
    /// The hello that opens a session renews it, too: when it was sent.
    opening: Option<(u64, Micros)>,
    keep_alives: BTreeMap<u64, (u64, Micros)>,
}

impl Ear {
    fn sent(&self, frame: &[u8]) {
        let Ok(frame) = v1::ClientFrame::decode(frame) else { return };
        let now = self.clock.sim.now();
        let moment = (self.clock.clock.at(now) / MS, now);
        let mut heard = self.heard.lock();
        for item in frame.items {
            match item.item {
                Some(Sent::Hello(hello)) if hello.session == 0 => heard.opening = Some(moment),
                Some(Sent::KeepAlive(sent)) => {
                    heard.keep_alives.insert(sent.id, moment);
                }
                _ => {}
            }
        }
    }

    fn told(&self, frame: &v1::ServerFrame) {
        let mut heard = self.heard.lock();
        for item in &frame.items {
            let moment = match &item.item {
                Some(Told::Welcome(welcome)) => {
                    (heard.session, heard.ttl_ms) = (welcome.session, welcome.ttl_ms);
                    heard.opening.take()
                }
                Some(Told::QueueReady(_)) => {
                    self.shared.granted(self.client, self.process);
                    None
                }
                Some(Told::KeepAlive(ack)) => heard.keep_alives.remove(&ack.id),
                _ => None,
            };
            if let Some((local_ms, sent)) = moment {
                self.listener.confirmed(heard.session, heard.ttl_ms, local_ms, sent);
            }
        }
    }
}

struct Heard {
    outgoing: Outgoing,
    ear: Arc<Ear>,
}

impl Stream for Heard {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let frame = ready!(self.outgoing.poll_next_unpin(context));
        if let Some(frame) = &frame {
            self.ear.sent(frame);
        }
        Poll::Ready(frame)
    }
}

struct Frames {
    reader: Reader,
    ear: Arc<Ear>,
}

impl Stream for Frames {
    type Item = Result<v1::ServerFrame, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.reader.poll_next_unpin(context)) {
            None => None,
            Some(Err(why)) => Some(Err(why)),
            Some(Ok(bytes)) => Some(match v1::ServerFrame::decode(bytes) {
                Ok(frame) => {
                    self.ear.told(&frame);
                    Ok(frame)
                }
                Err(error) => Err(format!("the server's frame cannot be read: {error}")),
            }),
        })
    }
}
