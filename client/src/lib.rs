//! Conclave's client: sessions, watches, and locks with fencing tokens.
//!
//! A lock is only half of the protection: a process can be stopped (by the scheduler, a debugger, a virtual machine's
//! migration) right after it looked whether it still holds the lock, and write long after somebody else got it. So every hold
//! carries a [`FencingToken`], larger than that of every earlier holder, and the token travels to whatever the lock
//! protects, which refuses smaller ones. Module [`fence`] has fenced resources ready to use.
//!
//! ```no_run
//! use std::time::Duration;
//! use conclave_client::{Client, SessionOptions, fence::{Fence, Fenced}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["http://127.0.0.1:7401", "http://127.0.0.1:7402", "http://127.0.0.1:7403"]).await?;
//! let session = client.session(SessionOptions::new().ttl(Duration::from_secs(10)).name("billing-7")).await?;
//! let mut orders = Fence::default(); // stands for the database that keeps the orders
//!
//! let guard = session.lock("/locks/orders/42").wait(Duration::from_secs(30)).await?;
//! orders.enter("orders/42", guard.token())?; // before the first read: the resource compares tokens
//! guard.run(async { /* work, dropped if the lock is lost */ }).await?;
//! guard.txn().put("/orders/42", "paid").commit().await?; // refused unless this hold is still ours
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is here
//! * [`Client`]: a cluster. Calls without a session, and what operators ask ([`Client::admin`]).
//! * [`Session`]: a claim to be alive, kept up in the background. Survives lost connections, dead servers and changes of
//!   leader; calls under way are repeated, and each takes effect once. Nodes can hang on it
//!   ([`CreateRequest::ephemeral`]), and locks do.
//! * [`Session::lock`], [`Session::semaphore`], [`Session::election`]: first come, first served; one round trip if free.
//!   Any future can be dropped at any await: nothing is left in line.
//! * [`Watch`]: every change from a revision on, in order, without gaps, or an explicit end.
//! * [`Error`]: what happened, in words, and whether it can have had an effect.
//!
//! # Time
//! The client counts a session's deadline from when it *sent* the last keep-alive that was acknowledged, on the clock that
//! keeps running while the machine sleeps, less a margin for drift. So a healthy client learns of the loss before the
//! servers can give its locks away. [`SessionState`] tells of trouble before that.
//!
//! # Features
//! * `sqlite`: a fence for SQLite databases, [`fence::sqlite`](crate::fence).
//! * `postgres`: one for PostgreSQL by `tokio-postgres`, [`fence::postgres`](crate::fence).
//! * `cli`: what the `conclave` command needs; the library does without.

#![warn(missing_docs)]

mod admin;
mod client;
mod clock;
mod config;
mod endpoints;
mod env;
mod error;
pub mod fence;
mod link;
mod model;
mod recipes;
mod requests;
#[cfg(feature = "sans-io")]
#[doc(hidden)]
pub mod sans_io;
mod session;
mod txn;
mod watch;

pub use admin::{Admin, EndpointStatus, Member, Progress, Role, ServerStatus, SessionInfo};
pub use client::Client;
pub use clock::BootTime;
pub use conclave_proto::{FencingToken, Index, NodePath, PathError, Revision, ServerId, SessionId, Term};
pub use config::{
    CALLS_MAX_DEFAULT, CONNECT_TIMEOUT_DEFAULT, CheckedConfig, Config, IntoConfig, REQUEST_TIMEOUT_DEFAULT,
    WATCH_BUFFER_BYTES_DEFAULT,
};
pub use error::{Effect, Error, ErrorKind, Result};
pub use model::{
    Created, Deleted, Event, EventKind, Events, Got, History, Kind, Listing, Node, Put, Queue, QueueEntry, Queues,
};
pub use recipes::{Election, Guard, Leader, Leaders, Leadership, LockRequest, Lost, SemaphoreRequest};
pub use requests::{
    CreateRequest, DeleteRequest, GetRequest, HistoryRequest, ListRequest, PutRequest, QueuesRequest, RequestFuture,
};
pub use session::{Credentials, LostReason, Session, SessionOptions, SessionState, TTL_DEFAULT};
pub use txn::{Compare, Op, OpResult, Relation, TxnBuilder, TxnResult};
pub use watch::{Watch, WatchRequest};
