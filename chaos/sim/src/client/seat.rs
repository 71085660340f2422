//! A server's service as its streams see it: the production session streams over a simulated node.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use conclave_proto::{Index, ServerId, SessionId, v1};
use conclave_server::{
    config::Limits,
    raft::{Answer, ConfirmError, Status},
    service::{
        Service,
        codec::FrameEncoder,
        consensus::{Consensus, Time},
        outbox::{Drain, Outbox},
        session::serve,
    },
};
use conclave_state::{Command, Machine};
use futures_util::{Stream, StreamExt as _, future::BoxFuture};
use parking_lot::RwLockReadGuard;
use prost::Message as _;
use tokio::sync::{oneshot, watch};

use super::road::{Reader, Roads, Writer};
use crate::{
    exec::{Process, Sim},
    node::{Ask, NodeHandle},
    time::LocalClock,
};

/// Consensus by a simulated node.
#[derive(Clone)]
pub struct Seat(pub Arc<NodeHandle>);

impl Seat {
    fn deadline_ms(&self, within: Duration) -> u64 {
        self.0.now_ms() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Consensus for Seat {
    fn state(&self) -> RwLockReadGuard<'_, Machine> {
        self.0.machine.read()
    }

    fn propose(&self, command: Command, answer: Answer) {
        self.0.propose(command, answer);
    }

    fn barrier(&self, within: Duration) -> impl Future<Output = Result<Index, ConfirmError>> + Send {
        let (reply, answer) = oneshot::channel();
        self.0.ask(Ask::Barrier { deadline_ms: self.deadline_ms(within), reply });
        async { answer.await.unwrap_or(Err(ConfirmError::Stopping)) }
    }

    fn renew(&self, session: SessionId, within: Duration) -> impl Future<Output = Result<(), ConfirmError>> + Send {
        let (reply, answer) = oneshot::channel();
        self.0.ask(Ask::Renew { session, deadline_ms: self.deadline_ms(within), reply });
        async { answer.await.unwrap_or(Err(ConfirmError::Stopping)) }
    }

    fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.0.status.clone()
    }
}

/// A process's clock and its timers.
#[derive(Clone)]
pub struct Clock {
    /// The simulator.
    pub sim: Sim,
    /// The process's.
    pub clock: LocalClock,
}

impl Clock {
    /// What it shows.
    #[must_use]
    pub fn local(&self) -> Duration {
        Duration::from_micros(self.clock.at(self.sim.now()))
    }

    /// Resolves after so long by this clock.
    pub fn after(&self, time: Duration) -> BoxFuture<'static, ()> {
        let until = self.clock.at(self.sim.now()) + u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 1);
        let this = self.clone();
        Box::pin(async move {
            // The clock may be made slower meanwhile.
            while this.clock.at(this.sim.now()) < until {
                this.sim.sleep_until(this.clock.when(until)).await;
            }
        })
    }
}

impl Time for Clock {
    fn now(&self) -> Duration {
        self.local()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.after(time)
    }
}

/// What a client sends, decoded.
struct Inbound(Reader);

impl Stream for Inbound {
    type Item = Result<v1::ClientFrame, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frame = ready!(self.0.poll_next_unpin(context));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(bytes) => v1::ClientFrame::decode(bytes).map_err(|error| tonic::Status::internal(error.to_string())),
            Err(why) => Err(tonic::Status::unavailable(why)),
        }))
    }
}

/// What a client is told, as the production encoder writes it.
struct Outbound {
    drain: Drain,
    encoder: FrameEncoder,
}

impl Stream for Outbound {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        Poll::Ready(match ready!(this.drain.poll_next_unpin(context)) {
            Some(Ok(outbox)) => {
                let mut bytes = BytesMut::new();
                this.encoder.write(&outbox, &mut bytes);
                Some(bytes.freeze())
            }
            Some(Err(_)) | None => None,
        })
    }
}

/// Lets a node that has just started serve clients.
pub fn open(sim: &Sim, roads: &Roads, node: &Arc<NodeHandle>, limits: Limits) {
    let process = Process::Server(node.id, node.start);
    let time = Arc::new(Clock { sim: sim.clone(), clock: node.clock.clone() });
    let (hub, id) = (node.hub.clone(), ServerId(node.id));
    let outbox_bytes = usize::try_from(limits.outbox_bytes_max.0).expect("a bound of memory");
    let service = Service::timed(Seat(node.clone()), time, hub, id, "simulated".to_owned(), limits);
    let sim = sim.clone();
    roads.listen(
        node.id,
        Arc::new(move |reader: Reader, writer: Writer| {
            let outbox = Outbox::new(outbox_bytes);
            let outbound = Outbound { drain: Drain(outbox.clone()), encoder: FrameEncoder::default() };
            sim.spawn(process, writer.carry(outbound));
            sim.spawn(process, serve(service.clone(), outbox, Inbound(reader)));
        }),
    );
}
