//! Watches: every change from a revision on, in order, or an explicit end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use conclave_proto::{
    Revision,
    v1::{self, store_client::StoreClient, watch_item::Item},
};
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Error, ErrorKind, Events, Result,
    client::{ClientInner, Repeat},
    config::MESSAGE_BYTES_MAX,
    requests::Via,
    session::{Handle, Polled, gone},
};

/// Items of a watch without a session that wait for its reader; then the server's stream does.
const ITEMS_MAX: usize = 16;

/// Asks for a watch. Covers the node alone unless [`WatchRequest::children`] or [`WatchRequest::subtree`].
#[must_use = "a watch does nothing until it is opened"]
pub struct WatchRequest {
    via: Via,
    open: v1::WatchOpen,
}

impl WatchRequest {
    pub(crate) fn new(via: Via, path: String) -> Self {
        Self { via, open: v1::WatchOpen { watch: 0, path, scope: v1::Scope::Node.into(), from_revision: 0 } }
    }

    /// Creation, change and deletion of direct children, instead of the node itself.
    pub fn children(mut self) -> Self {
        self.open.scope = v1::Scope::Children.into();
        self
    }

    /// The node and everything below it.
    pub fn subtree(mut self) -> Self {
        self.open.scope = v1::Scope::Subtree.into();
        self
    }

    /// The first revision to tell of; without it, the next one made after the watch is open.
    pub fn from(mut self, revision: Revision) -> Self {
        self.open.from_revision = revision.0;
        self
    }

    /// Opens it; returns once the server has accepted it, so that every later change will be told.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Compacted`] with the oldest revision known, [`crate::ErrorKind::InvalidArgument`],
    /// [`crate::ErrorKind::SessionLost`].
    pub async fn open(self) -> Result<Watch> {
        match self.via {
            Via::Session(session) => {
                let (waiter, opened) = oneshot::channel();
                let key = session.shared.with(|core, now| core.watch(now, self.open, waiter));
                // From here on dropped with everything else, should nobody wait.
                let watch = Watch(Source::Session { session, key });
                opened.await.unwrap_or_else(|_| Err(gone()))?;
                Ok(watch)
            }
            Via::Client(client) => {
                let (started, stream) = open_unary(&client, self.open.clone()).await?;
                let (sender, events) = mpsc::channel(ITEMS_MAX);
                let mut open = self.open;
                open.from_revision = started;
                tokio::spawn(follow(client, open, stream, sender));
                Ok(Watch(Source::Client { events, next: Revision(started) }))
            }
        }
    }
}

enum Source {
    Session { session: Arc<Handle>, key: u64 },
    Client { events: mpsc::Receiver<Result<Events>>, next: Revision },
}

/// A stream of [`Events`], one item a revision: in order, none twice, none missing, across reconnects. It ends after
/// one `Err` that says why. Dropping it ends the watch.
///
/// A reader that does not keep up holds a bounded number of bytes ([`crate::Config::with_watch_buffer_bytes`]); beyond
/// it the server holds events back, and nothing else of the session is delayed.
pub struct Watch(Source);

impl Watch {
    /// The next revision's events; `None` after the end.
    ///
    /// # Errors
    /// The reason of the end, once: [`crate::ErrorKind::Compacted`] and [`crate::ErrorKind::Lagging`] (with the revision
    /// to resume from), [`crate::ErrorKind::Denied`], [`crate::ErrorKind::SessionLost`].
    pub async fn next(&mut self) -> Option<Result<Events>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Every change before this revision has been returned by the stream: where another watch would go on.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        match &self.0 {
            Source::Session { session, key } => Revision(session.shared.with(|core, _| core.watch_next(*key))),
            Source::Client { next, .. } => *next,
        }
    }
}

impl Stream for Watch {
    type Item = Result<Events>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Source::Session { session, key } => {
                match session.shared.with(|core, _| core.poll_watch(*key, context.waker())) {
                    Polled::Events(events) => Poll::Ready(Some(Ok(events.into()))),
                    Polled::End(error) => Poll::Ready(Some(Err(error))),
                    Polled::Over => Poll::Ready(None),
                    Polled::Pending => Poll::Pending,
                }
            }
            Source::Client { events, next } => {
                let item = std::task::ready!(events.poll_recv(context));
                if let Some(Ok(events)) = &item {
                    *next = events.revision.next();
                }
                Poll::Ready(item)
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Source::Session { session, key } = &self.0 {
            session.shared.with(|core, _| core.drop_watch(*key));
        }
    }
}

type Items = tonic::Streaming<v1::WatchItem>;

/// Opens a watch without a session on whichever server answers; returns where it begins.
async fn open_unary(client: &ClientInner, open: v1::WatchOpen) -> Result<(u64, Items)> {
    let opened = client.call(Repeat::Safe, |channel| {
        let open = open.clone();
        async move {
            let mut store = StoreClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = store.watch(open).await?.into_inner();
            match stream.message().await?.and_then(|first| first.item) {
                Some(Item::Started(started)) => Ok(Ok(Ok((started.from_revision, stream)))),
                Some(Item::Ended(ended)) => Ok(Ok(Err(ended_error(ended)))),
                Some(Item::Events(_)) => Err(tonic::Status::internal("events of a watch that has not started")),
                None => Err(tonic::Status::unavailable("the server closed the watch before it started")),
            }
        }
    });
    opened.await?
}

/// Goes on with a watch without a session wherever it can, until its reader goes away.
async fn follow(
    client: Arc<ClientInner>,
    mut open: v1::WatchOpen,
    mut stream: Items,
    out: mpsc::Sender<Result<Events>>,
) {
    loop {
        let item = tokio::select! {
            item = stream.message() => item,
            () = out.closed() => return,
        };
        match item.map(|item| item.and_then(|item| item.item)) {
            Ok(Some(Item::Events(events))) => {
                if events.revision < open.from_revision {
                    continue;
                }
                open.from_revision = events.revision + 1;
                if out.send(Ok(events.into())).await.is_err() {
                    return;
                }
            }
            Ok(Some(Item::Started(_))) => {}
            Ok(Some(Item::Ended(ended))) if !resumable(&ended, open.from_revision) => {
                let _ = out.send(Err(ended_error(ended))).await;
                return;
            }
            Ok(Some(Item::Ended(_)) | None) | Err(_) => loop {
                let opened = tokio::select! {
                    opened = open_unary(&client, open.clone()) => opened,
                    () = out.closed() => return,
                };
                match opened {
                    Ok((started, _)) if started > open.from_revision => {
                        let _ =
                            out.send(Err(compacted("history was forgotten before the watch came back", started))).await;
                        return;
                    }
                    Ok((_, again)) => {
                        stream = again;
                        break;
                    }
                    // Nobody answers: that is no reason to end a watch.
                    Err(error) if error.is_retryable() => tracing::debug!(%error, path = open.path, "watch waits"),
                    Err(error) => {
                        let _ = out.send(Err(error)).await;
                        return;
                    }
                }
            },
        }
    }
}

/// Nothing was left out.
fn resumable(ended: &v1::WatchEnded, next: u64) -> bool {
    use v1::watch_ended::Reason;
    matches!(ended.reason(), Reason::Lagging | Reason::Cancelled) && ended.resume_revision <= next
}

pub(crate) fn ended_error(ended: v1::WatchEnded) -> Error {
    use v1::watch_ended::Reason;
    match ended.reason() {
        Reason::Compacted => compacted(&ended.message, ended.resume_revision),
        Reason::Denied => Error::new(ErrorKind::Denied, ended.message),
        Reason::Lagging | Reason::Cancelled => {
            Error::new(ErrorKind::Lagging, ended.message).with_resume(Revision(ended.resume_revision))
        }
        Reason::Invalid | Reason::Gone => Error::new(ErrorKind::InvalidArgument, ended.message),
    }
}

pub(crate) fn compacted(message: &str, resume: u64) -> Error {
    let message = if message.is_empty() { "the watch's history is forgotten" } else { message };
    Error::new(ErrorKind::Compacted, format!("{message}; the oldest revision known is {resume}"))
        .with_resume(Revision(resume))
}
