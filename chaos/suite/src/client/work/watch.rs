//! Watches of every kind, over what transactions of several nodes write: of a session that writes and reads itself, of a
//! session that reads slowly, without a session, and ended and resumed again and again.

use std::time::Duration;

use conclave_client::{Client, Event, EventKind, Events, Op, Revision, Session, Watch};
use serde_json::json;

use super::{
    Work,
    seat::{Answer, Seat},
};
use crate::client::{Change, Happened, Outcome, conclave::config};

/// What is written and watched.
const ROOT: &str = "watched";
const NODES: u32 = 4;
/// A turn of a watch.
const TURN: Duration = Duration::from_millis(200);
/// What a slow reader's client keeps for it.
const SLOW_BYTES: usize = 4_096;

/// What a thread's watch is like.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    /// Of the session that writes.
    Own,
    /// Without a session.
    Bare,
    /// Read slowly.
    Slow,
}

pub struct Watcher {
    root: String,
    kind: Kind,
    slow: Client,
    open: Option<(String, Watch)>,
    /// Where to go on.
    next: Option<Revision>,
}

pub fn change(revision: Revision, event: Event) -> Change {
    Change {
        revision: revision.0,
        kind: match event.kind {
            EventKind::Created => "created",
            EventKind::Changed => "changed",
            EventKind::Deleted => "deleted",
        }
        .into(),
        data: String::from_utf8_lossy(&event.node.data).into_owned(),
        owner: event.node.owner.map(|owner| owner.0),
        sequence: event.node.sequence,
        made: event.node.create_revision.0,
        path: event.node.path,
    }
}

impl Work for Watcher {
    const TASKS: u32 = 3;
    const REST_MS: u64 = 5;

    fn new(seat: &Seat) -> Self {
        let slow = config(&seat.spec).with_watch_buffer_bytes(SLOW_BYTES);
        Self {
            root: seat.path(ROOT),
            kind: [Kind::Own, Kind::Bare, Kind::Slow][seat.task as usize],
            slow: Client::new(slow).expect("as the other"),
            open: None,
            next: None,
        }
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        if self.open.is_none() && !self.begin(seat, session).await {
            tokio::time::sleep(TURN / 4).await;
            return;
        }
        match self.kind {
            Kind::Own => {
                self.write(seat, session).await;
                tokio::time::sleep(TURN / 2).await;
                self.drain(seat).await;
            }
            Kind::Bare => self.read(seat, usize::MAX).await,
            Kind::Slow => {
                self.read(seat, 1).await;
                tokio::time::sleep(TURN).await;
            }
        }
        // The slow one never catches up while it is resumed.
        if seat.random.u32(..8) == 0 && self.kind != Kind::Slow {
            self.end(seat).await;
        }
    }

    /// Ends the watch; it goes on from where it was.
    async fn end(&mut self, seat: &mut Seat) {
        if let Some((watch, open)) = self.open.take() {
            let next = open.next_revision();
            drop(open);
            self.next = Some(next);
            seat.tell(Happened::Unwatched { watch, next: next.0, error: None });
        }
    }
}

impl Watcher {
    async fn begin(&mut self, seat: &mut Seat, session: &Session) -> bool {
        let request = match self.kind {
            Kind::Own => session.watch(&self.root),
            Kind::Bare => seat.client.watch(&self.root),
            Kind::Slow => self.slow.watch(&self.root),
        };
        let request = if self.kind == Kind::Bare { request.children() } else { request.subtree() };
        let request = match self.next {
            Some(next) => request.from(next),
            None => request,
        };
        match tokio::time::timeout(TURN * 10, request.open()).await {
            Ok(Ok(open)) => {
                let name = seat.unique().to_string();
                let scope = if self.kind == Kind::Bare { "children" } else { "subtree" };
                let from = self.next.unwrap_or_else(|| open.next_revision()).0;
                seat.tell(Happened::Watching {
                    watch: name.clone(),
                    path: self.root.clone(),
                    scope: scope.into(),
                    from,
                });
                self.open = Some((name, open));
                true
            }
            Ok(Err(error)) => {
                if let Some(resume) = error.resume_revision() {
                    self.next = Some(resume);
                }
                false
            }
            Err(_) => false,
        }
    }

    /// One that comes within a turn, up to so many.
    async fn read(&mut self, seat: &Seat, most: usize) {
        let until = tokio::time::Instant::now() + TURN;
        for _ in 0..most {
            let Some((_, open)) = &mut self.open else { return };
            match tokio::time::timeout_at(until, open.next()).await {
                Ok(item) => self.take(seat, item),
                Err(_) => return,
            }
        }
    }

    /// All that is there already.
    async fn drain(&mut self, seat: &Seat) {
        loop {
            let Some((_, open)) = &mut self.open else { return };
            let item = tokio::select! {
                biased;
                item = open.next() => item,
                () = std::future::ready(()) => return,
            };
            self.take(seat, item);
        }
    }

    fn take(&mut self, seat: &Seat, item: Option<Result<Events, conclave_client::Error>>) {
        let Some((watch, open)) = &self.open else { return };
        let (watch, next) = (watch.clone(), open.next_revision());
        match item {
            Some(Ok(events)) => {
                let revision = events.revision;
                let changes = events.events.into_iter().map(|event| change(revision, event)).collect();
                seat.tell(Happened::Seen { watch, revision: revision.0, changes });
            }
            Some(Err(error)) => {
                self.next = Some(error.resume_revision().unwrap_or(next).max(next));
                seat.tell(Happened::Unwatched { watch, next: next.0, error: Some(error.to_string()) });
                self.open = None;
            }
            None => self.open = None,
        }
    }

    /// Writes several nodes at once; by the time of the reply the session's own watch must have told of it.
    async fn write(&mut self, seat: &mut Seat, session: &Session) {
        let value = seat.unique();
        let first = seat.random.u32(..NODES);
        let mut txn = session.txn();
        let mut paths = Vec::new();
        for at in 0..seat.random.u32(1..=3) {
            let path = format!("{}/{}", self.root, (first + at) % NODES);
            txn = if at > 0 && seat.random.u32(..4) == 0 {
                txn.then(Op::delete(&path))
            } else {
                paths.push(path.clone());
                txn.then(Op::put(&path, value.to_string()).create_parents())
            };
        }
        // For the history it is a put of the whole tree: revisions have to rise as time does.
        let said = |result: &conclave_client::TxnResult| (Outcome::Ok, json!([value, result.revision.0]));
        let answer = seat.ask("put", "tree", json!(value), txn.commit(), said).await;
        let Answer::Said(result) = answer else { return };
        for path in paths {
            seat.acknowledged(result.revision, &path, Some(value.to_string()));
        }
        let before = self.open.is_some();
        self.drain(seat).await;
        let Some((_, open)) = &self.open else { return };
        let broken = (before && open.next_revision() <= result.revision && session.is_alive()).then(|| {
            format!(
                "revision {} was in a reply before its event: the watch is at {}",
                result.revision,
                open.next_revision()
            )
        });
        seat.tell(Happened::Judged { invariant: "I19".into(), broken });
        // What was told of can be read, also from the replica nearby.
        let told = open.next_revision();
        if let Ok(got) = session.get(&self.root).stale_ok().read().await
            && got.revision.0 + 1 < told.0
        {
            let broken =
                Some(format!("a watch told of what is before {told}, and a later read is of {}", got.revision));
            seat.tell(Happened::Judged { invariant: "I19".into(), broken });
        }
    }
}
