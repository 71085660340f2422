//! A client's watches: read to the end at moments that the oracles care for.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use conclave_client::{EventKind, Revision, Session, Watch};
use conclave_proto::{NodePath, SessionId};
use futures_util::StreamExt as _;
use parking_lot::Mutex;

use super::{
    actor::Actor,
    seen::{ClientSeen, Scope, Told},
};
use crate::time::Micros;

/// One watch of a session.
struct Slot {
    id: u64,
    session: SessionId,
    watch: Watch,
    /// Whoever reads it.
    reader: Option<Waker>,
    /// Nothing more comes: where another would go on, and whether something is left out by that.
    over: Option<Option<Revision>>,
    told: u64,
}

/// All of a client's.
#[derive(Default)]
pub struct Watching(Mutex<Vec<(Arc<Mutex<Slot>>, bool)>>);

impl Watching {
    /// The reply to `op` on this session reflected this revision: what it reveals must have been told by the watches
    /// that were open before the call.
    pub fn beside(&self, actor: &Actor, op: u64, session: SessionId, revision: u64) {
        for (slot, eager) in self.0.lock().clone() {
            let mut slot = slot.lock();
            if eager && slot.id < op && slot.session == session && slot.over.is_none() {
                slot.drain(actor);
                if slot.over.is_none() {
                    actor.listener.tell(&ClientSeen::WatchBeside { watch: slot.id, revision });
                }
            }
        }
    }

    /// Everything is quiet: what has happened must have been told.
    pub fn quiet(&self, actor: &Actor) {
        for (slot, eager) in self.0.lock().clone() {
            let mut slot = slot.lock();
            slot.drain(actor);
            if eager && slot.over.is_none() {
                actor.listener.tell(&ClientSeen::WatchQuiet { watch: slot.id });
            }
        }
    }
}

impl Slot {
    /// Reads what is there; pending once nothing is.
    fn read(&mut self, actor: &Actor, context: &mut Context<'_>) -> Poll<()> {
        if self.over.is_some() {
            return Poll::Ready(());
        }
        let Poll::Ready(item) = self.watch.poll_next_unpin(context) else { return Poll::Pending };
        match item {
            Some(Ok(events)) => {
                self.told += 1;
                actor.shared.count("watch items");
                let told = events.events.into_iter().map(|event| Told {
                    path: event.node.path,
                    deleted: event.kind == EventKind::Deleted,
                    modified: event.node.modify_revision.0,
                });
                let seen =
                    ClientSeen::WatchTold { watch: self.id, revision: events.revision.0, events: told.collect() };
                actor.listener.tell(&seen);
            }
            Some(Err(error)) => {
                self.over = Some(error.resume_revision());
                if error.resume_revision().is_some() {
                    actor.shared.count("watches compacted or lagging");
                }
                actor.listener.tell(&ClientSeen::WatchEnded { watch: self.id });
            }
            None => self.over = Some(None),
        }
        Poll::Ready(())
    }

    fn drain(&mut self, actor: &Actor) {
        let mut context = Context::from_waker(Waker::noop());
        while self.over.is_none() && self.read(actor, &mut context).is_ready() {}
        // Its reader has to come again: the library wakes only the last who asked.
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What to watch, and how.
#[derive(Clone)]
pub struct Wish {
    /// Where.
    pub path: NodePath,
    /// What of it.
    pub scope: Scope,
    /// From which revision on; none for the next.
    pub from: Option<u64>,
    /// Until when, by the true time.
    pub until: Micros,
    /// Between two events.
    pub slow: Micros,
}

/// Watches until the time is up, on one session after the other, without leaving anything out where that can be.
pub async fn watch(actor: &Arc<Actor>, mut wish: Wish) {
    let sim = actor.shared.sim.clone();
    while sim.now() < wish.until {
        let Some(session) = actor.session().await else { return };
        let Some(next) = on_session(actor, &session, &wish).await else { return };
        wish.from = next;
        actor.shared.count("watches resumed");
        sim.sleep(crate::time::MS).await;
    }
}

/// Watches on one session. Some if it is to go on elsewhere, and from which revision.
async fn on_session(actor: &Arc<Actor>, session: &Session, wish: &Wish) -> Option<Option<u64>> {
    let sim = &actor.shared.sim;
    let request = session.watch(wish.path.as_str());
    let request = match wish.scope {
        Scope::Node => request,
        Scope::Children => request.children(),
        Scope::Subtree => request.subtree(),
    };
    let request = match wish.from {
        Some(from) => request.from(Revision(from)),
        None => request,
    };
    let watch = match request.open().await {
        Ok(watch) => watch,
        Err(error) => return error.resume_revision().map(|revision| Some(revision.0)),
    };
    actor.shared.count("watches opened");
    let id = actor.shared.number();
    actor.listener.tell(&ClientSeen::WatchOpened {
        watch: id,
        path: wish.path.clone(),
        scope: wish.scope,
        asked: wish.from,
        next: if wish.from.is_some() { wish.from.unwrap_or_default() } else { watch.next_revision().0 },
    });
    let slot = Slot { id, session: session.id(), watch, reader: None, over: None, told: 0 };
    let slot = Arc::new(Mutex::new(slot));
    actor.watching.0.lock().push((slot.clone(), wish.slow == 0 && !actor.small));
    let over = loop {
        let mut rest = sim.sleep_until(wish.until);
        let due = std::future::poll_fn(|context| {
            let mut slot = slot.lock();
            if slot.over.is_some() {
                return Poll::Ready(true);
            }
            slot.reader = Some(context.waker().clone());
            match slot.read(actor, context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => std::pin::Pin::new(&mut rest).poll(context).map(|()| false),
            }
        })
        .await;
        if !due || sim.now() >= wish.until {
            break None;
        }
        let over = {
            let mut now = slot.lock();
            now.reader = None;
            now.over.map(|resume| resume.or_else(|| Some(now.watch.next_revision()).filter(|next| next.0 > 0)))
        };
        if over.is_some() {
            break over;
        }
        if wish.slow > 0 {
            actor.clock().after(Duration::from_micros(wish.slow)).await;
        }
    };
    actor.watching.0.lock().retain(|(other, _)| !Arc::ptr_eq(other, &slot));
    match over {
        None => {
            actor.listener.tell(&ClientSeen::WatchEnded { watch: id });
            None
        }
        Some(next) => Some(next.map(|revision| revision.0)),
    }
}
