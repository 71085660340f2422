//! The session stream: one task per stream, which receives and never waits for room.
//!
//! * Transactions are proposed as they come; their replies are completed by the node's thread.
//! * Linearizable reads of one frame share a read-index round; each is evaluated here when all earlier calls of the
//!   stream have been answered.
//! * Keep-alives that come while one is under way share the next round; they are acknowledged only when the leader,
//!   with its quorum, has renewed the session after receiving them.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use conclave_proto::v1::{client_item::Item, server_item::Item as Wire, session_ended::Reason};
use conclave_proto::{RequestNumber, Revision, SessionId, v1};
use conclave_state::{By, Command, EndReason, Outcome, Refusal};
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    Service,
    consensus::{Consensus, timeout},
    hub::{CatchUp, Hub, StreamId},
    outbox::{Outbox, ReadJob, SlotId},
    read, wire,
};
use crate::raft::{ConfirmError, ProposeError};

/// A stream without a Hello is over after this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a read or a resume may wait for its round, or for a revision.
pub(super) const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long an opening session waits for a leader to be elected.
const LEADER_WITHIN: Duration = Duration::from_secs(2);
/// Between attempts to renew a session or to end it.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Keep-alives that share a renewal; of more the oldest get no acknowledgement of their own.
const KEEP_ALIVES_MAX: usize = 64;
/// Unsent notices beyond those for calls and watches before a client that does not read is told to go.
const NOTICES_SPARE: usize = 1024;

/// Why the stream ends before its session, or instead of it.
struct End(Reason, String);

/// What background work of a stream came to.
enum Done {
    Confirmed(Vec<(SlotId, ReadJob)>, Result<(), ConfirmError>),
    /// A read that waited for its revision.
    Reached(SlotId, ReadJob, bool),
    Renewed(Vec<u64>, bool),
    Closed(Result<(), ProposeError>),
}

struct Session<C> {
    service: Arc<Service<C>>,
    outbox: Arc<Outbox>,
    stream: StreamId,
    id: SessionId,
    /// Of the process at the other end.
    run: u64,
    ttl: Duration,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    keep_alives: VecDeque<u64>,
    renewing: bool,
    closing: bool,
    /// Who is looked at first; see [`Session::next`].
    turn: usize,
}

/// What a stream's task has to do.
enum Next<F> {
    Attention,
    Done(Done),
    Frame(Option<F>),
}

/// Serves one stream until it ends. What the client is told is in `outbox`.
pub async fn serve<C, I>(service: Arc<Service<C>>, outbox: Arc<Outbox>, mut inbound: I)
where
    C: Consensus,
    I: Stream<Item = Result<v1::ClientFrame, Status>> + Unpin,
{
    service.counters.streams.inc();
    let stream = service.hub.attach(outbox.clone());
    let attached = Attached { hub: &service.hub, outbox: &outbox, stream };
    let stop = service.stop.clone();
    let ended = tokio::select! {
        biased;
        ended = converse(&service, &outbox, stream, &mut inbound) => ended,
        () = stop.cancelled() => Err(End(Reason::GoingAway, "the server is stopping".into())),
    };
    if let Err(End(reason, message)) = ended {
        tracing::debug!(?reason, message, "session stream ends");
        outbox.end(reason, message);
    } else {
        outbox.close();
    }
    drop(attached);
}

/// A stream that the hub knows. Even a panic leaves nothing of it behind, and its client hears that it has to go elsewhere.
struct Attached<'a> {
    hub: &'a Hub,
    outbox: &'a Outbox,
    stream: StreamId,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outbox.end(Reason::GoingAway, "an invariant of this server's is broken");
        }
        self.hub.detach(self.stream);
    }
}

/// `Ok` when there is nothing to say: the client went, or was told already.
async fn converse<C: Consensus>(
    service: &Arc<Service<C>>,
    outbox: &Arc<Outbox>,
    stream: StreamId,
    inbound: &mut (impl Stream<Item = Result<v1::ClientFrame, Status>> + Unpin),
) -> Result<(), End> {
    let first = timeout(&*service.time, HELLO_WITHIN, inbound.next())
        .await
        .ok_or_else(|| protocol(format!("no Hello within {} s", HELLO_WITHIN.as_secs())))?;
    let Some(frame) = first.transpose().map_err(|status| broken(&status))? else { return Ok(()) };
    let mut items = frame.items.into_iter();
    let Some(Item::Hello(hello)) = items.next().and_then(|item| item.item) else {
        return Err(protocol("the first item of a stream must be Hello"));
    };
    let run = hello.run;
    let (id, ttl_ms) = if hello.session == 0 {
        open(service, outbox, stream, hello).await?
    } else {
        resume(service, outbox, stream, hello).await?
    };
    let mut session = Session {
        service: service.clone(),
        outbox: outbox.clone(),
        stream,
        id,
        run,
        ttl: Duration::from_millis(ttl_ms),
        work: FuturesUnordered::new(),
        keep_alives: VecDeque::new(),
        renewing: false,
        closing: false,
        turn: 0,
    };
    session.receive(items.collect())?;
    loop {
        match session.next(Some(inbound)).await {
            Next::Attention => {
                if outbox.is_gone() || outbox.is_ended() {
                    return Ok(());
                }
                session.attend();
            }
            Next::Done(done) => session.done(done),
            Next::Frame(Some(Ok(frame))) => session.receive(frame.items)?,
            Next::Frame(Some(Err(status))) => return Err(broken(&status)),
            // The client sends no more; what it was promised still goes out while it listens.
            Next::Frame(None) => return session.finish().await,
        }
    }
}

fn protocol(message: impl Into<String>) -> End {
    End(Reason::Protocol, message.into())
}

/// A stream that cannot be read any more. (If its client is gone, nobody reads this.)
fn broken(status: &Status) -> End {
    protocol(super::door::explain(status.code(), status.message()).1)
}

fn away(message: impl std::fmt::Display) -> End {
    End(Reason::GoingAway, message.to_string())
}

fn welcome<C>(service: &Service<C>, machine: &conclave_state::Machine, session: &conclave_state::Session) -> Wire {
    Wire::Welcome(v1::Welcome {
        session: session.id.0,
        ttl_ms: session.ttl_ms,
        revision: machine.revision().0,
        fence_epoch: machine.fence_epoch(),
        server: service.id.0,
        last_number: session.last_number.0,
        in_flight_max: service.limits.in_flight_max,
        cluster: service.cluster.clone(),
    })
}

fn secret(hello: &v1::Hello) -> Result<[u8; 16], End> {
    hello.secret.as_ref().try_into().map_err(|_| {
        End(Reason::Refused, format!("bad request: the secret has {} bytes, it must have 16", hello.secret.len()))
    })
}

/// Opens a session: its id and TTL.
async fn open<C: Consensus>(
    service: &Arc<Service<C>>,
    outbox: &Arc<Outbox>,
    stream: StreamId,
    hello: v1::Hello,
) -> Result<(SessionId, u64), End> {
    let secret = secret(&hello)?;
    service.wait_for_leader(LEADER_WITHIN).await;
    let (sender, receiver) = oneshot::channel();
    let (run, ttl_ms) = (hello.run, hello.ttl_ms);
    let command = Command::OpenSession { secret, run, ttl_ms, name: hello.name };
    let (answerer, outbox) = (service.clone(), outbox.clone());
    service.handle.propose(
        command,
        Box::new(move |answer| {
            // Claimed while the state is locked, so that nothing can end the session unheard.
            let opened = match answer {
                Err(error) => Err(away(error)),
                Ok((machine, applied)) => match &applied.outcome {
                    Outcome::Opened { session } => match machine.session(*session) {
                        Some(session) => {
                            answerer.hub.claim(stream, session.id, run);
                            outbox.notice(welcome(&answerer, machine, session));
                            Ok((session.id, session.ttl_ms))
                        }
                        None => Err(away("the session ended while it was opened")),
                    },
                    Outcome::Refused(refusal) => Err(End(Reason::Refused, refusal.to_string())),
                    other => unreachable!("opening a session gave {other:?}"),
                },
            };
            let _ = sender.send(opened); // the client may have gone
        }),
    );
    receiver.await.unwrap_or_else(|_| Err(away("the server is stopping")))
}

/// Resumes a session: its id and TTL.
async fn resume<C: Consensus>(
    service: &Arc<Service<C>>,
    outbox: &Arc<Outbox>,
    stream: StreamId,
    hello: v1::Hello,
) -> Result<(SessionId, u64), End> {
    let secret = secret(&hello)?;
    let id = SessionId(hello.session);
    service.wait_for_leader(LEADER_WITHIN).await;
    service.handle.barrier(CONFIRM_WITHIN).await.map_err(away)?;
    let seen = service.hub.applied(|| service.handle.state(), Revision(hello.seen_revision));
    if timeout(&*service.time, CONFIRM_WITHIN, seen).await.is_none() {
        return Err(away(format!("revision {} has not reached this server", hello.seen_revision)));
    }
    match claim(service, outbox, stream, id, &hello, secret)? {
        Some(ttl_ms) => Ok((id, ttl_ms)),
        None => take_over(service, outbox, stream, id, hello.run).await,
    }
}

/// The TTL of a session that the stream may speak for at once; none if it is to be taken over from another process first.
fn claim<C: Consensus>(
    service: &Arc<Service<C>>,
    outbox: &Outbox,
    stream: StreamId,
    id: SessionId,
    hello: &v1::Hello,
    secret: [u8; 16],
) -> Result<Option<u64>, End> {
    let state = service.handle.state();
    let Some(session) = state.session(id) else {
        return Err(End(Reason::NoSession, Refusal::NoSession { session: id }.to_string()));
    };
    // Every byte is looked at, whatever the first ones are.
    let differs = session.secret.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b));
    if differs != 0 {
        return Err(End(Reason::WrongSecret, format!("the secret is not that of session {id:x}")));
    }
    if session.run != hello.run {
        return if hello.take_over { Ok(None) } else { Err(taken_over(id)) };
    }
    service.hub.claim(stream, id, hello.run);
    outbox.notice(welcome(service, &state, session));
    Ok(Some(session.ttl_ms))
}

fn taken_over(session: SessionId) -> End {
    End(Reason::Replaced, Refusal::TakenOver { session }.to_string())
}

/// Another process speaks for the session from now on; what its predecessor has under way will be refused.
async fn take_over<C: Consensus>(
    service: &Arc<Service<C>>,
    outbox: &Arc<Outbox>,
    stream: StreamId,
    id: SessionId,
    run: u64,
) -> Result<(SessionId, u64), End> {
    let (sender, receiver) = oneshot::channel();
    let (answerer, outbox) = (service.clone(), outbox.clone());
    service.handle.propose(
        Command::TakeOver { session: id, run },
        Box::new(move |answer| {
            let taken = match answer {
                Err(error) => Err(away(error)),
                // It may have ended, or been taken by a third, if this answer is to a repetition.
                Ok((machine, _)) => match machine.session(id) {
                    None => Err(End(Reason::NoSession, Refusal::NoSession { session: id }.to_string())),
                    Some(session) if session.run != run => Err(taken_over(id)),
                    Some(session) => {
                        answerer.hub.claim(stream, id, run);
                        outbox.notice(welcome(&answerer, machine, session));
                        Ok((id, session.ttl_ms))
                    }
                },
            };
            let _ = sender.send(taken); // the client may have gone
        }),
    );
    receiver.await.unwrap_or_else(|_| Err(away("the server is stopping")))
}

impl<C: Consensus> Session<C> {
    /// What to do next. Neither requests nor watches that catch up starve the other: each look begins with another.
    async fn next<I: Stream + Unpin>(&mut self, mut inbound: Option<&mut I>) -> Next<I::Item> {
        const SOURCES: usize = 3;
        self.turn = (self.turn + 1) % SOURCES;
        let (first, work) = (self.turn, &mut self.work);
        let mut attention = pin!(self.outbox.attention.notified());
        poll_fn(|context| {
            for source in (first..first + SOURCES).map(|at| at % SOURCES) {
                match (source, &mut inbound) {
                    (0, _) => {
                        if attention.as_mut().poll(context).is_ready() {
                            return Poll::Ready(Next::Attention);
                        }
                    }
                    (1, _) => {
                        if let Poll::Ready(Some(done)) = Pin::new(&mut *work).poll_next(context) {
                            return Poll::Ready(Next::Done(done));
                        }
                    }
                    (_, Some(inbound)) => {
                        if let Poll::Ready(frame) = Pin::new(&mut **inbound).poll_next(context) {
                            return Poll::Ready(Next::Frame(frame));
                        }
                    }
                    (_, None) => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    fn receive(&mut self, items: Vec<v1::ClientItem>) -> Result<(), End> {
        let mut reads = Vec::new();
        for item in items {
            match item.item {
                Some(Item::Call(call)) => self.call(call, &mut reads)?,
                Some(Item::KeepAlive(keep_alive)) => {
                    if self.keep_alives.len() >= KEEP_ALIVES_MAX {
                        self.keep_alives.pop_front();
                    }
                    self.keep_alives.push_back(keep_alive.id);
                }
                Some(Item::Watch(open)) => {
                    let state = self.service.handle.state();
                    self.service.hub.open(self.stream, &state, &open).map_err(|error| protocol(error.to_string()))?;
                    drop(state);
                    self.outbox.attention.notify_one(); // it may have to catch up
                }
                Some(Item::QueueWatch(open)) => {
                    let state = self.service.handle.state();
                    let ready = self
                        .service
                        .hub
                        .open_queue(self.stream, &state, &open, &open.path, None)
                        .map_err(|error| protocol(error.to_string()))?;
                    let revision = state.revision().0;
                    drop(state);
                    if ready {
                        self.outbox.notice(Wire::QueueReady(v1::QueueReady { watch: open.watch, revision }));
                    }
                }
                Some(Item::Cancel(cancel)) => self.service.hub.cancel(self.stream, cancel.watch),
                Some(Item::Close(v1::Close {})) => self.close(),
                Some(Item::Hello(_)) => return Err(protocol("Hello can only be the first item of a stream")),
                None => return Err(protocol("an item of a kind this server does not know")),
            }
        }
        if !reads.is_empty() {
            let handle = self.service.handle.clone();
            self.work.push(Box::pin(async move {
                let confirmed = handle.barrier(CONFIRM_WITHIN).await;
                Done::Confirmed(reads, confirmed.map(drop))
            }));
        }
        self.renew();
        let backlog = self.outbox.backlog();
        let limits = &self.service.limits;
        let notices_max = 4 * limits.in_flight_max as usize + limits.watches_per_stream_max + NOTICES_SPARE;
        if backlog.notices > notices_max {
            return Err(protocol(format!(
                "{} answers wait to be read, the limit is {notices_max}: read what the server sends",
                backlog.notices
            )));
        }
        Ok(())
    }

    fn call(&mut self, call: v1::Call, reads: &mut Vec<(SlotId, ReadJob)>) -> Result<(), End> {
        let (slot, calls) = self.outbox.open_slot();
        let max = self.service.limits.in_flight_max as usize;
        if calls > max {
            // Each refusal takes a place itself: somebody who goes on regardless has to stop.
            if calls > 2 * max {
                return Err(protocol(format!("{calls} calls are unanswered, the limit is in_flight_max={max}")));
            }
            let message = format!("limit reached: in_flight_max is {max} calls of one stream, wait for replies");
            self.refuse(slot, call.id, wire::definite(v1::Code::Overloaded, true, message));
            return Ok(());
        }
        match call.body {
            Some(v1::call::Body::Read(read)) => self.read(slot, ReadJob { call: call.id, read }, reads),
            Some(v1::call::Body::Txn(txn)) => {
                if call.number == 0 {
                    let message = "bad request: a transaction needs a number: 1, 2, 3 … for each session";
                    self.refuse(slot, call.id, wire::definite(v1::Code::InvalidArgument, false, message));
                    return Ok(());
                }
                let by = self.by(call.number, call.acknowledged);
                let command = match wire::txn(txn, self.service.bounds()) {
                    Ok(txn) => Command::Txn { by: Some(by), txn },
                    Err(refusal) => Command::Refused { by, refusal },
                };
                self.propose(slot, call.id, command, call.queue, call.queue_op);
            }
            None => {
                let what = "the call has no body: use one of txn, read".to_owned();
                let refusal = Refusal::Invalid { what, op: None };
                if call.number == 0 {
                    self.refuse(slot, call.id, wire::refusal(&refusal));
                } else {
                    let by = self.by(call.number, call.acknowledged);
                    self.propose(slot, call.id, Command::Refused { by, refusal }, None, 0);
                }
            }
        }
        Ok(())
    }

    fn by(&self, number: u64, acknowledged: u64) -> By {
        let (number, acknowledged) = (RequestNumber(number), RequestNumber(acknowledged));
        By { session: self.id, run: self.run, number, acknowledged }
    }

    fn refuse(&self, slot: SlotId, call: u64, error: v1::Error) {
        let revision = self.service.handle.state().revision().0;
        let body = Some(v1::reply::Body::Error(error));
        self.outbox.complete(slot, v1::Reply { id: call, revision, body, queue_ready: false }, None);
    }

    fn propose(&self, slot: SlotId, call: u64, command: Command, queue: Option<v1::QueueWatch>, queue_op: u32) {
        let (service, outbox, stream) = (self.service.clone(), self.outbox.clone(), self.stream);
        let begun = std::time::Instant::now();
        self.service.handle.propose(
            command,
            Box::new(move |answer| {
                let mut reply = v1::Reply { id: call, ..Default::default() };
                let mut then = None;
                service.count(answer.map(|(_, applied)| &applied.outcome), begun);
                reply.body = Some(match answer {
                    Err(error) => v1::reply::Body::Error(wire::propose_error(error)),
                    Ok((machine, applied)) => {
                        reply.revision = machine.revision().0;
                        match &applied.outcome {
                            Outcome::Txn(result) => {
                                if let Some(queue) = queue {
                                    (reply.queue_ready, then) =
                                        service.watch_queue(stream, machine, slot, &queue, result, queue_op);
                                }
                                v1::reply::Body::Txn(wire::txn_result(result))
                            }
                            Outcome::Refused(refusal) => v1::reply::Body::Error(wire::refusal(refusal)),
                            other => unreachable!("a transaction gave {other:?}"),
                        }
                    }
                });
                outbox.complete(slot, reply, then);
            }),
        );
    }

    fn read(&mut self, slot: SlotId, job: ReadJob, reads: &mut Vec<(SlotId, ReadJob)>) {
        if !job.read.stale_ok {
            reads.push((slot, job));
            return;
        }
        let least = Revision(job.read.min_revision);
        if self.service.handle.state().revision() >= least {
            self.outbox.park_read(slot, job);
            self.attend();
            return;
        }
        let service = self.service.clone();
        self.work.push(Box::pin(async move {
            let reached = service.hub.applied(|| service.handle.state(), least);
            let reached = timeout(&*service.time, CONFIRM_WITHIN, reached).await.is_some();
            Done::Reached(slot, job, reached)
        }));
    }

    /// Something to do that is not a request: reads at the front, watches that are behind.
    fn attend(&mut self) {
        while let Some((slot, job)) = self.outbox.take_read() {
            self.answer(slot, &job);
        }
        // One chunk at a time, so that requests get their turn.
        let handle = &self.service.handle;
        if self.service.hub.catch_up(self.stream, || handle.state()) == CatchUp::More {
            self.outbox.attention.notify_one();
        }
    }

    fn answer(&self, slot: SlotId, job: &ReadJob) {
        self.service.counters.reads.inc();
        let (revision, body) = match read::evaluate(|| self.service.handle.state(), &job.read) {
            Ok(result) => (result.revision, v1::reply::Body::Read(result)),
            Err(error) => (self.service.handle.state().revision().0, v1::reply::Body::Error(error)),
        };
        let reply = v1::Reply { id: job.call, revision, body: Some(body), queue_ready: false };
        self.outbox.complete(slot, reply, None);
    }

    fn renew(&mut self) {
        if self.renewing || self.keep_alives.is_empty() {
            return;
        }
        self.renewing = true;
        let ids: Vec<u64> = self.keep_alives.drain(..).collect();
        let (service, session) = (self.service.clone(), self.id);
        // Worth trying while it could still reach the client in time; a later keep-alive tries again.
        let until = service.time.now() + (self.ttl / 2).min(CONFIRM_WITHIN);
        self.work.push(Box::pin(async move {
            loop {
                let within = until.saturating_sub(service.time.now());
                match service.handle.renew(session, within).await {
                    Ok(()) => return Done::Renewed(ids, true),
                    Err(ConfirmError::NoLeader | ConfirmError::Timeout) if service.time.now() + AGAIN_AFTER < until => {
                        service.time.sleep(AGAIN_AFTER).await;
                    }
                    Err(error) => {
                        tracing::debug!(%session, %error, "session not renewed");
                        return Done::Renewed(ids, false);
                    }
                }
            }
        }));
    }

    /// What ends the session, at its client's wish.
    fn end(&self) -> Command {
        Command::EndSession { session: self.id, run: Some(self.run), reason: EndReason::Closed }
    }

    fn close(&mut self) {
        if self.closing {
            return;
        }
        self.closing = true;
        let service = self.service.clone();
        let command = self.end();
        self.work.push(Box::pin(async move { Done::Closed(service.propose(command).await.map(drop)) }));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Confirmed(reads, Ok(())) => {
                for (slot, job) in reads {
                    self.outbox.park_read(slot, job);
                }
                self.attend();
            }
            Done::Confirmed(reads, Err(error)) => {
                for (slot, job) in reads {
                    self.refuse(slot, job.call, wire::confirm_error(error));
                }
            }
            Done::Reached(slot, job, true) => {
                self.outbox.park_read(slot, job);
                self.attend();
            }
            Done::Reached(slot, job, false) => {
                let message = format!("revision {} has not reached this server in time", job.read.min_revision);
                self.refuse(slot, job.call, wire::definite(v1::Code::Timeout, true, message));
            }
            Done::Renewed(ids, confirmed) => {
                self.renewing = false;
                let counters = &self.service.counters;
                let counter = if confirmed { &counters.keep_alives } else { &counters.keep_alives_unconfirmed };
                counter.inc_by(ids.len() as u64);
                if confirmed {
                    let told_revision = {
                        let state = self.service.handle.state();
                        self.service.hub.told_through(self.stream, &state).0
                    };
                    for id in ids {
                        self.outbox.notice(Wire::KeepAlive(v1::KeepAliveAck { id, told_revision }));
                    }
                }
                self.renew();
            }
            // The end of the session itself arrives as an applied entry, through the hub.
            Done::Closed(Ok(())) => {}
            Done::Closed(Err(error)) => {
                tracing::debug!(session = %self.id, %error, "closing the session again");
                let service = self.service.clone();
                let command = self.end();
                self.work.push(Box::pin(async move {
                    service.time.sleep(AGAIN_AFTER).await;
                    Done::Closed(service.propose(command).await.map(drop))
                }));
            }
        }
    }

    /// The client has sent its last: answers what it asked, and ends its session if it asked for that.
    async fn finish(mut self) -> Result<(), End> {
        let outbox = self.outbox.clone();
        loop {
            if !self.closing && self.work.is_empty() && outbox.is_idle_or_tells() {
                return Ok(());
            }
            match self.next(None::<&mut futures_util::stream::Pending<()>>).await {
                Next::Attention => {
                    if outbox.is_gone() || outbox.is_ended() {
                        return Ok(());
                    }
                    self.attend();
                }
                Next::Done(done) => self.done(done),
                Next::Frame(_) => unreachable!("nothing comes in any more"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_leaves_no_stream_behind() {
        let hub = Hub::new(10);
        let outbox = Outbox::new(1 << 20);
        let stream = hub.attach(outbox.clone());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _attached = Attached { hub: &hub, outbox: &outbox, stream };
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        assert!(panicked.is_err());
        assert_eq!(hub.sizes().streams, 0);
        assert!(outbox.is_ended());
    }
}
