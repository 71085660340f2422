//! What the lock protects: counters in a database, and a log of every touch that was let in.
//!
//! A section reads a counter, works, and writes it back, one larger. If two sections overlap, one of the two updates is
//! lost, and the counter is smaller than the number of writes.
//!
//! There are two databases: a file of SQLite, and a PostgreSQL server of the run's own ([`server`]), where what is compared is
//! compared at somebody else's, over a connection that a stopped client leaves open in the middle of whatever it did.

mod postgres;
pub mod server;
mod sqlite;

use std::{path::PathBuf, thread, time::Duration};

use conclave_client::FencingToken;
use serde::{Deserialize, Serialize};

use self::{postgres::Postgres, sqlite::Sqlite};

/// A client that is stopped in the middle of a transaction keeps the others waiting so long, and not for ever.
const WAIT_MAX: Duration = Duration::from_secs(30);

// What both databases are told alike.
const READ: &str = "SELECT coalesce(max(value), 0) FROM counter WHERE key = $1";
const WRITE: &str =
    "INSERT INTO counter (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const NOTE: &str = "INSERT INTO log (at_ns, key, client, token, is_write, value) VALUES ($1, $2, $3, $4, $5, $6)";
const LOG: &str = "SELECT key, client, token, is_write, value, at_ns FROM log ORDER BY seq";

/// Which database, and where.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// A file of SQLite's.
    Sqlite(PathBuf),
    /// The directory in which a PostgreSQL server has its socket.
    Postgres(PathBuf),
}

/// A client's way to the counters.
pub struct Resource {
    store: Box<dyn Store>,
}

/// A database that has the counters, with a fence or without.
trait Store {
    /// One transaction; the inner error is the fence's.
    fn touch(&mut self, touch: &Asked<'_>) -> anyhow::Result<Result<i64, String>>;

    /// See [`Resource::log`].
    fn log(&mut self) -> anyhow::Result<Vec<Logged>>;
}

/// A touch that somebody asks for.
struct Asked<'a> {
    client: &'a str,
    key: &'a str,
    token: Option<FencingToken>,
    /// The value to write; else it is a read.
    write: Option<i64>,
}

/// What became of a section.
pub enum Touch {
    /// Read and written.
    Done,
    /// A larger token was seen before: nothing (more) was done.
    Refused(String),
}

/// A touch that was let in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Logged {
    /// Which counter.
    pub key: String,
    /// Whose.
    pub client: String,
    /// Shown with it; none where there are none.
    pub token: Option<i64>,
    /// Else it was a read.
    pub write: bool,
    /// Read or written.
    pub value: i64,
    /// When.
    pub at_ns: i64,
}

impl Resource {
    /// Opens it, and makes its tables if they are not there.
    ///
    /// # Errors
    /// The database's.
    pub fn open(address: &Address, fenced: bool) -> anyhow::Result<Self> {
        let store: Box<dyn Store> = match address {
            Address::Sqlite(file) => Box::new(Sqlite::open(file, fenced)?),
            Address::Postgres(socket) => Box::new(Postgres::open(socket, fenced)?),
        };
        Ok(Self { store })
    }

    /// Reads the counter, works, writes it back one larger. Where it is fenced, the token is compared at both.
    ///
    /// # Errors
    /// The database's.
    pub fn section(
        &mut self,
        client: &str,
        key: &str,
        token: Option<FencingToken>,
        work: Duration,
        read: impl FnOnce(),
    ) -> anyhow::Result<Touch> {
        let found = match self.store.touch(&Asked { client, key, token, write: None })? {
            Ok(found) => found,
            Err(stale) => return Ok(Touch::Refused(stale)),
        };
        read();
        thread::sleep(work);
        Ok(match self.store.touch(&Asked { client, key, token, write: Some(found + 1) })? {
            Ok(_) => Touch::Done,
            Err(stale) => Touch::Refused(stale),
        })
    }

    /// Everything that was let in, in its order.
    ///
    /// # Errors
    /// The database's.
    pub fn log(&mut self) -> anyhow::Result<Vec<Logged>> {
        self.store.log()
    }
}

impl Asked<'_> {
    /// What a fence compares.
    fn token(&self) -> anyhow::Result<FencingToken> {
        anyhow::Context::context(self.token, "a fence compares tokens, and this lock gives none")
    }

    /// As the log has it.
    fn number(&self) -> Option<i64> {
        self.token.map(FencingToken::as_i64)
    }
}
