//! A fence in SQLite: the token is compared in the very transaction that reads or writes.

use conclave_proto::FencingToken;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Stale, sql};

/// A late holder was turned away, or SQLite failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A larger token was seen.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// SQLite's own error.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Error {
    /// True where the token was too old, so that the holder must stop.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale(_))
    }
}

/// Keeps the largest token of each resource in the table `conclave_fence`.
///
/// ```
/// use conclave_client::{FencingToken, Revision, fence::sqlite};
/// use rusqlite::{Connection, TransactionBehavior};
///
/// let mut db = Connection::open_in_memory()?;
/// db.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, paid INTEGER)")?;
/// let fence = sqlite::Fence::new(&db)?;
///
/// let token = FencingToken::new(0, Revision(7)); // guard.token()
/// let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
/// fence.enter(&tx, "orders/42", token)?; // before the read already
/// let paid: i64 = tx.query_row("SELECT count(*) FROM orders WHERE id = 42", [], |row| row.get(0))?;
/// if paid == 0 {
///     tx.execute("INSERT INTO orders VALUES (42, 1)", [])?;
/// }
/// tx.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fence(());

impl Fence {
    /// Makes the table if it is not there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn new(connection: &Connection) -> rusqlite::Result<Self> {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS conclave_fence (resource TEXT PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID",
        )?;
        Ok(Self(()))
    }

    /// Raises the resource's fence to `token`, or refuses it. Call it inside the transaction that then reads or writes,
    /// first of all; a [`rusqlite::Transaction`] is a `&Connection` too. The transaction should be an immediate one: a deferred
    /// one may have to be repeated (`SQLITE_BUSY`) when two meet.
    ///
    /// # Errors
    /// [`Error::Stale`] if a larger token was seen; roll back then (dropping the transaction does).
    pub fn enter(&self, transaction: &Connection, resource: &str, token: FencingToken) -> Result<(), Error> {
        // One statement, so that it is atomic even outside of a transaction.
        let raised = transaction.prepare_cached(sql::RAISE)?.execute(params![resource, token.as_i64()])?;
        if sql::let_in(raised as u64) {
            return Ok(());
        }
        let seen = self.seen(transaction, resource)?.unwrap_or_default();
        Err(Stale { resource: resource.to_owned(), token, seen }.into())
    }

    /// The largest token seen, for people.
    ///
    /// # Errors
    /// SQLite's.
    pub fn seen(&self, connection: &Connection, resource: &str) -> rusqlite::Result<Option<u64>> {
        let token: Option<i64> =
            connection.prepare_cached(sql::SEEN)?.query_row([resource], |row| row.get(0)).optional()?;
        Ok(token.and_then(|token| u64::try_from(token).ok()))
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::Revision;
    use rusqlite::TransactionBehavior;

    use super::*;

    fn token(revision: u64) -> FencingToken {
        FencingToken::new(1, Revision(revision))
    }

    #[test]
    fn a_read_alone_keeps_the_earlier_holder_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("orders.db");
        let mut early = Connection::open(&path).expect("open");
        let mut late = Connection::open(&path).expect("open");
        let fence = Fence::new(&early).expect("table");

        let tx = early.transaction_with_behavior(TransactionBehavior::Immediate).expect("begin");
        fence.enter(&tx, "orders/42", token(7)).expect("first");
        tx.commit().expect("commit");

        let tx = late.transaction_with_behavior(TransactionBehavior::Immediate).expect("begin");
        fence.enter(&tx, "orders/42", token(9)).expect("the next holder reads");
        tx.commit().expect("commit");

        let tx = early.transaction_with_behavior(TransactionBehavior::Immediate).expect("begin");
        let error = fence.enter(&tx, "orders/42", token(7)).expect_err("stale");
        assert!(error.is_stale());
        assert!(error.to_string().contains(&format!("has seen {}", token(9))), "{error}");
        drop(tx);
        fence.enter(&early, "orders/43", token(7)).expect("another resource");
        assert_eq!(fence.seen(&early, "orders/42").expect("read"), Some(token(9).get()));
    }

    #[test]
    fn a_rolled_back_touch_leaves_no_trace() {
        let mut db = Connection::open_in_memory().expect("open");
        let fence = Fence::new(&db).expect("table");
        let tx = db.transaction().expect("begin");
        fence.enter(&tx, "a", token(9)).expect("enter");
        tx.rollback().expect("rollback");
        fence.enter(&db, "a", token(7)).expect("nothing was committed");
    }
}
