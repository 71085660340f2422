//! The node's thread: takes requests from the mailbox, many at a time, and lets the core settle them together.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use conclave_faults::point;
use conclave_proto::{Index, ServerId, SessionId, peer::peer_item::Item};
use conclave_state::Machine;
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};

use super::{
    Answer, ChangeError, ConfirmError, MemberChange, ProposeError,
    confirm::{BarrierReply, RenewReply},
    core::{Core, Fatal, Outbound},
    mailbox::Mailbox,
};
use crate::storage::{SnapshotInfo, Store, StoreError};

/// What is asked of the node's thread.
pub(super) enum Request<I> {
    Propose {
        count: u64,
        data: Vec<u8>,
        answer: Answer,
    },
    Barrier {
        deadline_ms: u64,
        reply: BarrierReply,
    },
    Renew {
        session: SessionId,
        deadline_ms: u64,
        reply: RenewReply,
    },
    Remaining {
        reply: oneshot::Sender<Option<Vec<(SessionId, u64)>>>,
    },
    Change {
        what: MemberChange,
        reply: oneshot::Sender<Result<String, ChangeError>>,
    },
    Transfer {
        to: ServerId,
        reply: oneshot::Sender<Result<ServerId, String>>,
    },
    Stop {
        deadline_ms: u64,
        reply: oneshot::Sender<()>,
    },
    Raft(Message),
    Item(Item),
    Unreachable(ServerId),
    /// A peer's stream to us began; this is where it is reached.
    Introduced {
        peer: ServerId,
        address: String,
    },
    /// A peer's stream to us ended.
    StreamLost(ServerId),
    Gone(ServerId),
    Fetched {
        message: Message,
        machine: Box<Machine>,
        incoming: I,
    },
    FetchFailed {
        message: Message,
    },
    SnapshotTaken(Result<SnapshotInfo, StoreError>),
    SnapshotServed {
        to: ServerId,
        ok: bool,
    },
    /// What the server cannot do without panicked; its message was logged.
    Broken(&'static str),
}

impl<I> Request<I> {
    /// Nobody takes requests any more.
    pub(super) fn refuse(self) {
        match self {
            Self::Propose { answer, .. } => answer(Err(ProposeError::NoLeader)),
            Self::Barrier { reply, .. } => drop(reply.send(Err::<Index, _>(ConfirmError::Stopping))),
            Self::Renew { reply, .. } => drop(reply.send(Err(ConfirmError::Stopping))),
            // The others' callers see their channel closed.
            _ => {}
        }
    }
}

/// How the thread ended: `Err` says why it could not go on.
pub(super) type Ended = Option<Result<(), String>>;

pub(super) struct Node<S: Store, O> {
    pub(super) core: Core<S>,
    pub(super) mailbox: Arc<Mailbox<Request<S::Incoming>>>,
    pub(super) out: O,
    pub(super) started: Instant,
    pub(super) tick: Duration,
    pub(super) ended: watch::Sender<Ended>,
}

/// A turn that takes longer is worth a word: it delays heartbeats.
const SLOW: Duration = Duration::from_millis(500);

struct Stopping {
    deadline_ms: u64,
    replies: Vec<oneshot::Sender<()>>,
}

impl<S: Store, O: Outbound> Node<S, O> {
    /// Runs until it is told to stop or cannot go on; everybody who waits is answered then.
    pub(super) fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let (result, replies) = match result {
            Ok(Ok(replies)) => (Ok(()), replies),
            Ok(Err(fatal)) => (Err(crate::chain(&fatal)), Vec::new()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                (Err(format!("a broken invariant: {text}")), Vec::new())
            }
        };
        if let Err(why) = &result {
            tracing::error!(why, "the node cannot go on and stops");
        }
        let left = self.mailbox.close();
        // After a panic even this may fail; then the process ends with its callers unanswered, as in a crash.
        let _ = catch_unwind(AssertUnwindSafe(|| self.core.end()));
        for request in left {
            request.refuse();
        }
        let Self { core, out, ended, .. } = self;
        drop(core);
        drop(out);
        ended.send_replace(Some(result));
        for reply in replies {
            let _ = reply.send(());
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn serve(&mut self) -> Result<Vec<oneshot::Sender<()>>, Fatal> {
        let mut requests = Vec::new();
        let mut stopping: Option<Stopping> = None;
        let mut next_tick = Instant::now() + self.tick;
        point!("node-first-turn");
        self.core.settle(&mut self.out)?;
        loop {
            let until = self
                .core
                .wakes_at()
                .map_or(next_tick, |wake_ms| next_tick.min(self.started + Duration::from_millis(wake_ms)));
            self.mailbox.take(&mut requests, until);
            self.core.at(self.now_ms(), super::wall_clock_ms());
            for request in requests.drain(..) {
                self.take(request, &mut stopping)?;
            }
            let now = Instant::now();
            if now >= next_tick {
                self.core.tick()?;
                next_tick += self.tick;
                if next_tick < now {
                    // Ticks missed in a long fsync or a stopped process are not made up for: they would only make
                    // this server impatient.
                    next_tick = now + self.tick;
                }
            }
            if let Some(stop) = &mut stopping
                && (self.core.now_ms() >= stop.deadline_ms || !self.core.resign())
            {
                self.core.settle(&mut self.out)?;
                self.core.store_state()?;
                return Ok(std::mem::take(&mut stop.replies));
            }
            self.core.settle(&mut self.out)?;
            let took = now.elapsed();
            if took >= SLOW {
                tracing::warn!(took_ms = took.as_millis(), "the disk is slow, or this machine overloaded");
            }
        }
    }

    fn take(&mut self, request: Request<S::Incoming>, stopping: &mut Option<Stopping>) -> Result<(), Fatal> {
        let core = &mut self.core;
        match request {
            Request::Propose { count, data, answer } => {
                point!("node-propose", |_| {
                    answer(Err(ProposeError::Overloaded));
                    Ok(())
                });
                core.propose(count, data, answer);
            }
            Request::Barrier { deadline_ms, reply } => {
                point!("node-barrier", |_| {
                    let _ = reply.send(Err(ConfirmError::Timeout));
                    Ok(())
                });
                core.barrier(deadline_ms, reply);
            }
            Request::Renew { session, deadline_ms, reply } => {
                point!("node-renew", |_| {
                    let _ = reply.send(Err(ConfirmError::Timeout));
                    Ok(())
                });
                core.renew(session, deadline_ms, reply);
            }
            Request::Remaining { reply } => drop(reply.send(core.remaining())),
            Request::Change { what, reply } => {
                point!("node-members", |error| {
                    let _ = reply.send(Err(ChangeError::Refused(error.to_string())));
                    Ok(())
                });
                core.change_members(what, reply);
            }
            Request::Transfer { to, reply } => {
                point!("node-transfer", |error| {
                    let _ = reply.send(Err(error.to_string()));
                    Ok(())
                });
                core.transfer(to, reply);
            }
            Request::Stop { deadline_ms, reply } => {
                point!("node-stop");
                let stop = stopping.get_or_insert(Stopping { deadline_ms, replies: Vec::new() });
                stop.deadline_ms = stop.deadline_ms.min(deadline_ms);
                stop.replies.push(reply);
            }
            Request::Raft(message) => core.step_raft(message, &mut self.out)?,
            Request::Item(item) => core.step(item)?,
            Request::Unreachable(peer) => core.unreachable(peer),
            Request::Introduced { peer, address } => self.out.introduced(peer, address),
            Request::StreamLost(peer) => self.out.probe(peer),
            Request::Gone(peer) => core.gone(peer),
            Request::Fetched { message, machine, incoming } => {
                core.fetched(message, *machine, incoming, &mut self.out)?;
            }
            Request::FetchFailed { message } => core.fetch_failed(&message),
            Request::SnapshotTaken(result) => core.snapshot_taken(result),
            Request::SnapshotServed { to, ok } => core.snapshot_served(to, ok),
            Request::Broken(what) => return Err(Fatal::Broken(what)),
        }
        Ok(())
    }
}
