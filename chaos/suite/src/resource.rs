//! What the lock protects: counters in an SQLite file, and a log of every touch that was let in.
//!
//! A section reads a counter, works, and writes it back, one larger. If two sections overlap, one of the two updates is
//! lost, and the counter is smaller than the number of writes.

use std::{path::Path, thread, time::Duration};

use anyhow::Context as _;
use conclave_client::{FencingToken, fence::sqlite};
use rusqlite::{Connection, TransactionBehavior, params};

use crate::clock::now_ns;

/// A client that is stopped in the middle of a transaction keeps the others waiting so long, and not for ever.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A client's way to the counters.
pub struct Resource {
    db: Connection,
    fence: Option<sqlite::Fence>,
}

/// What became of a section.
pub enum Touch {
    /// Read and written.
    Done,
    /// A larger token was seen before: nothing (more) was done.
    Refused(String),
}

/// A touch that was let in.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path, fenced: bool) -> anyhow::Result<Self> {
        let db = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        db.busy_timeout(WAIT_MAX)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // Nobody cuts the power here; a process that dies loses nothing of what it committed.
        db.pragma_update(None, "synchronous", "off")?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL,
                 key TEXT NOT NULL, client TEXT NOT NULL, token INTEGER, is_write INTEGER NOT NULL, value INTEGER NOT NULL);",
        )?;
        let fence = if fenced { Some(sqlite::Fence::new(&db)?) } else { None };
        Ok(Self { db, fence })
    }

    /// Reads the counter, works, writes it back one larger. Where it is fenced, the token is compared at both.
    ///
    /// # Errors
    /// SQLite's.
    pub fn section(
        &mut self,
        client: &str,
        key: &str,
        token: Option<FencingToken>,
        work: Duration,
        read: impl FnOnce(),
    ) -> anyhow::Result<Touch> {
        let found = match self.touch(client, key, token, None)? {
            Ok(found) => found,
            Err(stale) => return Ok(Touch::Refused(stale)),
        };
        read();
        thread::sleep(work);
        Ok(match self.touch(client, key, token, Some(found + 1))? {
            Ok(_) => Touch::Done,
            Err(stale) => Touch::Refused(stale),
        })
    }

    /// Reads, or writes this value; the inner error is the fence's.
    fn touch(
        &mut self,
        client: &str,
        key: &str,
        token: Option<FencingToken>,
        write: Option<i64>,
    ) -> anyhow::Result<Result<i64, String>> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(fence) = &self.fence {
            let token = token.context("a fence compares tokens, and this lock gives none")?;
            match fence.enter(&tx, key, token) {
                Ok(()) => {}
                Err(error) if error.is_stale() => return Ok(Err(error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
        let value = match write {
            Some(value) => {
                tx.execute("INSERT OR REPLACE INTO counter VALUES (?1, ?2)", params![key, value])?;
                value
            }
            None => {
                tx.query_row("SELECT coalesce(max(value), 0) FROM counter WHERE key = ?1", [key], |row| row.get(0))?
            }
        };
        tx.execute(
            "INSERT INTO log (at_ns, key, client, token, is_write, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![now_ns(), key, client, token.map(FencingToken::as_i64), write.is_some(), value],
        )?;
        tx.commit()?;
        Ok(Ok(value))
    }

    /// Everything that was let in, in its order.
    ///
    /// # Errors
    /// SQLite's.
    pub fn log(&self) -> anyhow::Result<Vec<Logged>> {
        let mut rows = self.db.prepare("SELECT key, client, token, is_write, value, at_ns FROM log ORDER BY seq")?;
        let rows = rows.query_map([], |row| {
            Ok(Logged {
                key: row.get(0)?,
                client: row.get(1)?,
                token: row.get(2)?,
                write: row.get(3)?,
                value: row.get(4)?,
                at_ns: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
