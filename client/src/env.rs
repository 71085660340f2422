//! What a session needs from outside: time, chance, tasks, and streams to servers.
//!
//! Everything else of a session follows from what comes in here: a simulator that answers for all of it runs the same
//! sessions, locks and watches that production does.

use std::{pin::Pin, time::Duration};

use conclave_proto::v1;
use futures_util::Stream;

use crate::{BootTime, Error, ErrorKind, session::Outgoing};

/// A future that owns all it needs.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a server sends on one stream. An error says in words why nothing more comes.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, String>> + Send>>;

/// A stream that is being opened.
pub struct Opening {
    /// Which connection to the endpoint it is on, for [`Env::discard`].
    pub connection: usize,
    /// The server's side of it, or in words why there is none.
    pub incoming: Boxed<Result<Incoming, String>>,
}

/// See the module.
pub trait Env: Send + Sync + 'static {
    /// This moment; never before one that was returned earlier.
    fn now(&self) -> BootTime;
    /// Milliseconds since the Unix epoch by the wall clock. Nothing depends on it but a bug that is planted on purpose.
    fn wall_ms(&self) -> u64;
    /// Resolves after so much time, not before. Suspend need not count.
    fn sleep(&self, time: Duration) -> Boxed<()>;
    /// A random number, which spreads waits and decides nothing else.
    fn random(&self) -> u64;
    /// Runs a task until it ends.
    fn spawn(&self, task: Boxed<()>);
    /// The servers, by name; at least one.
    fn endpoints(&self) -> Vec<String>;
    /// The endpoint (counted from 0) that a session begins with.
    fn first(&self) -> Boxed<usize>;
    /// The endpoint that a session goes on with after `at`.
    fn after(&self, at: usize) -> Boxed<usize>;
    /// Opens a session stream. Dropping `outgoing` or the incoming side ends it.
    fn open(&self, at: usize, outgoing: Outgoing) -> Opening;
    /// The connection does not answer: nothing new goes over it.
    fn discard(&self, at: usize, connection: usize);
}

/// The outcome of `work`, or none if it takes longer than `time`.
pub(crate) async fn timeout<T>(env: &dyn Env, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let sleep = env.sleep(time);
    tokio::select! {
        biased;
        out = work => Some(out),
        () = sleep => None,
    }
}

/// No server answered; what each said.
pub(crate) fn unavailable(names: &[String], said: &[Option<String>]) -> Error {
    let each: Vec<_> = names
        .iter()
        .zip(said)
        .map(|(name, said)| {
            let said = said.as_deref().unwrap_or("not tried");
            if said.starts_with(name.as_str()) { said.to_owned() } else { format!("{name}: {said}") }
        })
        .collect();
    Error::new(ErrorKind::Unavailable, format!("no server answered: {}", each.join("; "))).with_retry()
}
