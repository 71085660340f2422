//! Unary calls without a session, for tools.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use conclave_faults::point;
use conclave_proto::{Revision, v1};
use conclave_state::{Command, Outcome};
use futures_util::Stream;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Service, codec,
    consensus::{self, Consensus},
    door,
    hub::CatchUp,
    outbox::{Drain, Item, Outbox},
    read,
    session::CONFIRM_WITHIN,
    wire::{self, definite},
};

impl<C: Consensus> Service<C> {
    /// Applies a transaction that belongs to no session.
    ///
    /// # Errors
    /// As they are told.
    pub async fn apply_txn(&self, txn: v1::Txn) -> Result<v1::TxnResult, v1::Error> {
        let _permit = self.permit()?;
        let txn = wire::txn(txn, self.bounds()).map_err(|refusal| wire::refusal(&refusal))?;
        match self.propose(Command::Txn { by: None, txn }).await.map_err(wire::propose_error)?.1 {
            Outcome::Txn(result) => Ok(wire::txn_result(&result)),
            Outcome::Refused(refusal) => Err(wire::refusal(&refusal)),
            other => unreachable!("a transaction gave {other:?}"),
        }
    }

    /// Answers a read that belongs to no session.
    ///
    /// # Errors
    /// As they are told.
    pub async fn query_state(&self, read: &v1::Read) -> Result<v1::ReadResult, v1::Error> {
        let _permit = self.permit()?;
        if read.stale_ok {
            let least = Revision(read.min_revision);
            let reached = self.hub.applied(|| self.handle.state(), least);
            consensus::timeout(&*self.time, CONFIRM_WITHIN, reached).await.ok_or_else(|| {
                let message = format!("revision {least} has not reached this server in time");
                definite(v1::Code::Timeout, true, message)
            })?;
            if self.handle.status().borrow().diverged {
                return Err(wire::confirm_error(crate::raft::ConfirmError::Diverged));
            }
        } else {
            self.handle.barrier(CONFIRM_WITHIN).await.map_err(wire::confirm_error)?;
        }
        self.counters.reads.inc();
        read::evaluate(|| self.handle.state(), read)
    }

    /// A place among the unary requests.
    pub(super) fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, v1::Error> {
        self.requests.try_acquire().map_err(|_| {
            let max = self.limits.requests_in_flight_max;
            let message = format!("limit reached: requests_in_flight_max is {max} on this server");
            definite(v1::Code::Overloaded, true, message)
        })
    }
}

/// `Store`, over the shared parts.
#[derive(Clone)]
pub(crate) struct Store(pub Arc<Service>);

#[tonic::async_trait]
impl v1::store_server::Store for Store {
    async fn apply(&self, request: Request<v1::Txn>) -> Result<Response<v1::TxnReply>, Status> {
        point!("unary-apply", |error| Err(Status::unavailable(error.to_string())));
        let body = match self.0.apply_txn(request.into_inner()).await {
            Ok(result) => v1::txn_reply::Body::Txn(result),
            Err(error) => v1::txn_reply::Body::Error(error),
        };
        Ok(Response::new(v1::TxnReply { body: Some(body) }))
    }

    async fn query(&self, request: Request<v1::Read>) -> Result<Response<v1::ReadReply>, Status> {
        point!("unary-query", |error| Err(Status::unavailable(error.to_string())));
        let body = match self.0.query_state(request.get_ref()).await {
            Ok(result) => v1::read_reply::Body::Read(result),
            Err(error) => v1::read_reply::Body::Error(error),
        };
        Ok(Response::new(v1::ReadReply { body: Some(body) }))
    }

    type WatchStream = WatchItems;

    async fn watch(&self, request: Request<v1::WatchOpen>) -> Result<Response<WatchItems>, Status> {
        point!("unary-watch", |error| Err(Status::unavailable(error.to_string())));
        let open = request.into_inner();
        let service = self.0.clone();
        // A watch opened after an answered write must not begin before it.
        service.handle.barrier(CONFIRM_WITHIN).await.map_err(|error| door::status(&wire::confirm_error(error)))?;
        let outbox = Outbox::new(service.limits.outbox_bytes_max.0 as usize);
        let stream = service.hub.attach(outbox.clone());
        {
            let state = service.handle.state();
            service.hub.open(stream, &state, &open).expect("the stream's first watch");
        }
        outbox.attention.notify_one();
        let drain = Drain(outbox.clone());
        self.0.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = outbox.attention.notified() => {
                        if outbox.is_gone() || outbox.is_ended() {
                            break;
                        }
                        if service.hub.catch_up(stream, || service.handle.state()) == CatchUp::More {
                            outbox.attention.notify_one();
                        }
                    }
                    () = service.stop.cancelled() => {
                        outbox.close();
                        break;
                    }
                }
            }
            service.hub.detach(stream);
        });
        Ok(Response::new(WatchItems { drain, items: VecDeque::new(), over: false }))
    }
}

/// What a watch without a session is told.
pub(crate) struct WatchItems {
    drain: Drain,
    items: VecDeque<Item>,
    over: bool,
}

impl Stream for WatchItems {
    type Item = Result<v1::WatchItem, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use v1::{server_item::Item as Wire, watch_item::Item as Told};
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            let told = match self.items.pop_front() {
                Some(Item::Events(events)) => {
                    let mut bytes = bytes::BytesMut::new();
                    codec::put_events(&events, &mut bytes);
                    let events = v1::Events::decode(bytes.freeze());
                    Told::Events(events.map_err(|error| Status::internal(error.to_string()))?)
                }
                Some(Item::Notice(Wire::WatchStarted(started))) => Told::Started(started),
                Some(Item::Notice(Wire::WatchEnded(ended))) => {
                    self.over = true;
                    Told::Ended(ended)
                }
                Some(Item::Notice(_)) => continue,
                None => match Pin::new(&mut self.drain).poll_next(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(outbox))) => {
                        outbox.take(&mut self.items);
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                    Poll::Ready(None) => {
                        self.over = true;
                        let status = Status::unavailable("the server is stopping: watch again on another one");
                        return Poll::Ready(Some(Err(status)));
                    }
                },
            };
            return Poll::Ready(Some(Ok(v1::WatchItem { item: Some(told) })));
        }
    }
}
