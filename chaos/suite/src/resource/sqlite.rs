//! The counters in a file of SQLite's.

use std::path::Path;

use anyhow::Context as _;
use conclave_client::fence::sqlite;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{Asked, LOG, Logged, NOTE, READ, Store, WAIT_MAX, WRITE};
use crate::clock::now_ns;

pub(super) struct Sqlite {
    db: Connection,
    fence: Option<sqlite::Fence>,
}

impl Sqlite {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path, fenced: bool) -> anyhow::Result<Self> {
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
}

impl Store for Sqlite {
    fn touch(&mut self, touch: &Asked<'_>) -> anyhow::Result<Result<i64, String>> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(fence) = &self.fence {
            match fence.enter(&tx, touch.key, touch.token()?) {
                Ok(()) => {}
                Err(error) if error.is_stale() => return Ok(Err(error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
        let value = match touch.write {
            Some(value) => {
                tx.execute(WRITE, params![touch.key, value])?;
                value
            }
            None => tx.query_row(READ, [touch.key], |row| row.get(0))?,
        };
        let written = touch.write.is_some();
        tx.execute(NOTE, params![now_ns(), touch.key, touch.client, touch.number(), written, value])?;
        tx.commit()?;
        Ok(Ok(value))
    }

    fn log(&mut self) -> anyhow::Result<Vec<Logged>> {
        let mut rows = self.db.prepare(LOG)?;
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
