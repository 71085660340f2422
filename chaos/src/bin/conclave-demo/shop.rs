//! The resource that the locks protect: orders in a SQLite database, read and written the way applications do, in two
//! steps with work in between.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context as _;
use conclave_client::{
    FencingToken,
    fence::sqlite::{Error as FenceError, Fence},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::orders::Change;

/// How long SQLite waits for its own lock.
const BUSY_WITHIN: Duration = Duration::from_secs(10);

/// One process's connection.
pub struct Shop {
    db: Connection,
    fence: Fence,
}

/// An order as it was read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Order {
    total_cents: i64,
    /// Bit n - 1 for change n.
    done: i64,
}

impl Order {
    /// Whether this change is in it already.
    pub fn has(&self, change: u32) -> bool {
        self.done & bit(change) != 0
    }

    /// The order after this change.
    pub fn with(&self, change: &Change) -> Self {
        Self { total_cents: self.total_cents + change.amount_cents, done: self.done | bit(change.change) }
    }
}

fn bit(change: u32) -> i64 {
    1 << (change - 1)
}

/// Why an order was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// The fence refused the token.
    #[error(transparent)]
    Refused(#[from] FenceError),
    /// SQLite's own error.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl ShopError {
    /// Whether a larger token was seen before.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Refused(error) if error.is_stale())
    }
}

impl Shop {
    /// Opens the database, making it if it is new.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let db = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        db.busy_timeout(BUSY_WITHIN)?;
        // Durability of the demonstration's own database is beside the point; order between processes is not.
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "OFF")?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, total_cents INTEGER NOT NULL, done INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS charges (delivery INTEGER NOT NULL, order_id INTEGER NOT NULL, change INTEGER NOT NULL,
                 amount_cents INTEGER NOT NULL, worker TEXT NOT NULL, token INTEGER);
             CREATE INDEX IF NOT EXISTS charges_by_delivery ON charges (delivery);",
        )?;
        let fence = Fence::new(&db)?;
        Ok(Self { db, fence })
    }

    /// The first touch of an order. With a token it raises the fence already, although it only reads.
    ///
    /// # Errors
    /// [`ShopError::is_stale`] if a larger token was seen.
    pub fn read(&mut self, order: i64, token: Option<FencingToken>) -> Result<Order, ShopError> {
        let (tx, fence) = self.begin()?;
        enter(&tx, fence, order, token)?;
        let found = tx
            .prepare_cached("SELECT total_cents, done FROM orders WHERE id = ?1")?
            .query_row([order], |row| Ok(Order { total_cents: row.get(0)?, done: row.get(1)? }))
            .optional()?;
        tx.commit()?;
        Ok(found.unwrap_or_default())
    }

    /// Writes the order as it should be after a change that was worked out from what had been read, and charges the
    /// customer, in one transaction.
    ///
    /// # Errors
    /// [`ShopError::is_stale`] if a larger token was seen; nothing is written then.
    pub fn write(
        &mut self,
        delivery: i64,
        change: &Change,
        order: Order,
        worker: &str,
        token: Option<FencingToken>,
    ) -> Result<(), ShopError> {
        let (tx, fence) = self.begin()?;
        enter(&tx, fence, change.order, token)?;
        tx.prepare_cached(
            "INSERT INTO orders VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET total_cents = excluded.total_cents, done = excluded.done",
        )?
        .execute(params![change.order, order.total_cents, order.done])?;
        tx.prepare_cached("INSERT INTO charges VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            delivery,
            change.order,
            change.change,
            change.amount_cents,
            worker,
            token.map(FencingToken::as_i64)
        ])?;
        tx.commit()?;
        Ok(())
    }

    /// Whether a worker that was just stopped with this delivery in hand stands between its read and its write, without
    /// holding SQLite's own lock.
    pub fn stands_between(&mut self, delivery: i64) -> bool {
        let mut look = || -> rusqlite::Result<bool> {
            self.db.busy_timeout(Duration::from_millis(150))?;
            let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.query_row("SELECT count(*) = 0 FROM charges WHERE delivery = ?1", [delivery], |row| row.get(0))
        };
        let between = look().unwrap_or(false);
        self.db.busy_timeout(BUSY_WITHIN).is_ok() && between
    }

    /// Compares what the database holds with what the file asked for.
    ///
    /// # Errors
    /// SQLite's.
    pub fn judge(&self, changes: &[Change]) -> anyhow::Result<Judgement> {
        let mut charged: BTreeMap<(i64, u32), u64> = BTreeMap::new();
        let mut charges = self.db.prepare("SELECT order_id, change FROM charges")?;
        for row in charges.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            *charged.entry(row?).or_default() += 1;
        }
        let mut orders: BTreeMap<i64, Order> = BTreeMap::new();
        let mut rows = self.db.prepare("SELECT id, total_cents, done FROM orders")?;
        for row in rows.query_map([], |row| Ok((row.get(0)?, Order { total_cents: row.get(1)?, done: row.get(2)? })))? {
            let (id, order) = row?;
            orders.insert(id, order);
        }
        let mut wanted: BTreeMap<i64, Order> = BTreeMap::new();
        let mut judgement = Judgement::default();
        for change in changes {
            let order = wanted.entry(change.order).or_default();
            *order = order.with(change);
            match charged.get(&(change.order, change.change)) {
                None => judgement.never += 1,
                Some(1) => judgement.once += 1,
                Some(_) => judgement.more += 1,
            }
        }
        judgement.orders = wanted.len() as u64;
        judgement.wrong = wanted.iter().filter(|(id, order)| orders.get(id) != Some(order)).count() as u64;
        judgement.cents_off = wanted
            .iter()
            .map(|(id, order)| (orders.get(id).map_or(0, |found| found.total_cents) - order.total_cents).unsigned_abs())
            .sum();
        Ok(judgement)
    }

    fn begin(&mut self) -> rusqlite::Result<(Transaction<'_>, Fence)> {
        Ok((self.db.transaction_with_behavior(TransactionBehavior::Immediate)?, self.fence))
    }
}

fn enter(tx: &Transaction<'_>, fence: Fence, order: i64, token: Option<FencingToken>) -> Result<(), FenceError> {
    match token {
        Some(token) => fence.enter(tx, &format!("orders/{order}"), token),
        None => Ok(()),
    }
}

/// What became of the orders.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Judgement {
    /// Orders in the file.
    pub orders: u64,
    /// Changes charged exactly once.
    pub once: u64,
    /// Changes charged twice or more.
    pub more: u64,
    /// Changes never charged.
    pub never: u64,
    /// Orders that do not say what the file says: a change is missing from them, or their total is wrong.
    pub wrong: u64,
    /// By how much the totals are wrong, all together.
    pub cents_off: u64,
}

#[cfg(test)]
mod tests {
    use conclave_client::Revision;

    use super::*;

    fn change(order: i64, change: u32, amount_cents: i64) -> Change {
        Change { at: Duration::ZERO, order, change, item: "beans".into(), amount_cents }
    }

    fn token(revision: u64) -> Option<FencingToken> {
        Some(FencingToken::new(0, Revision(revision)))
    }

    fn shop() -> (tempfile::TempDir, Shop, Shop) {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Shop::open(&dir.path().join("orders.db")).expect("open");
        let (one, two) = (open(), open());
        (dir, one, two)
    }

    #[test]
    fn without_a_token_the_late_writer_wins_and_the_judge_sees_it() {
        let (_dir, mut paused, mut next) = shop();
        let changes = [change(7, 1, 500), change(7, 2, 300)];
        let old = paused.read(7, None).expect("read");
        let fresh = next.read(7, None).expect("read");
        next.write(1, &changes[1], fresh.with(&changes[1]), "next", None).expect("write");
        let fresh = next.read(7, None).expect("read");
        next.write(2, &changes[0], fresh.with(&changes[0]), "next", None).expect("write");
        assert_eq!(next.judge(&changes).expect("judge"), Judgement { orders: 1, once: 2, ..Judgement::default() });

        paused.write(3, &changes[0], old.with(&changes[0]), "paused", None).expect("nothing stops it");
        let judgement = next.judge(&changes).expect("judge");
        assert_eq!(judgement, Judgement { orders: 1, once: 1, more: 1, never: 0, wrong: 1, cents_off: 300 });
    }

    #[test]
    fn with_a_token_the_next_holders_read_alone_stops_the_late_writer() {
        let (_dir, mut paused, mut next) = shop();
        let one = change(7, 1, 500);
        let old = paused.read(7, token(10)).expect("read");
        let fresh = next.read(7, token(12)).expect("read");
        let refused = paused.write(1, &one, old.with(&one), "paused", token(10)).expect_err("stale");
        assert!(refused.is_stale(), "{refused}");
        next.write(2, &one, fresh.with(&one), "next", token(12)).expect("write");
        assert_eq!(next.judge(&[one]).expect("judge"), Judgement { orders: 1, once: 1, ..Judgement::default() });
    }

    #[test]
    fn a_change_that_never_came_is_seen() {
        let (_dir, shop, _) = shop();
        let judgement = shop.judge(&[change(7, 1, 500)]).expect("judge");
        assert_eq!(judgement, Judgement { orders: 1, never: 1, wrong: 1, cents_off: 500, ..Judgement::default() });
    }

    #[test]
    fn standing_between_means_not_written_and_not_writing() {
        let (_dir, mut worker, mut judge) = shop();
        let one = change(7, 1, 500);
        let order = worker.read(7, None).expect("read");
        assert!(judge.stands_between(1));
        worker.db.execute_batch("BEGIN IMMEDIATE").expect("begin");
        assert!(!judge.stands_between(1), "it would stop everybody");
        worker.db.execute_batch("ROLLBACK").expect("rollback");
        worker.write(1, &one, order.with(&one), "worker", None).expect("write");
        assert!(!judge.stands_between(1), "it has written");
    }
}
