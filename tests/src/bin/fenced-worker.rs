//! A worker for the tests in `tests/fencing.rs`: takes a lock, reads a row of a SQLite database through the fence, and then
//! does what its standard input says, one word a line, telling what came of each.
//!
//! `write` writes the row through the fence, `held` asks the guard, `lost` waits for its loss, `txn` writes a node under
//! the guard, `release` releases it. It reads and writes on its main thread, blocking, as code does that knows nothing of
//! the lock.

use std::{io::BufRead as _, time::Duration};

use anyhow::{Context as _, bail};
use conclave_client::{Client, Guard, SessionOptions, fence::sqlite::Fence};
use rusqlite::{Connection, TransactionBehavior};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, lock, ttl_ms, db] = &arguments[..] else {
        bail!("usage: fenced-worker ENDPOINT,ENDPOINT LOCK TTL_MS DB");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ttl = Duration::from_millis(ttl_ms.parse().context("TTL_MS")?);
    let (_session, guard) = runtime.block_on(async {
        let client = Client::connect(endpoints.split(',').map(str::to_owned).collect::<Vec<_>>()).await?;
        let session = client.session(SessionOptions::new().ttl(ttl).name("fenced-worker")).await?;
        let guard = session.lock(lock.clone()).acquire().await?;
        anyhow::Ok((session, guard))
    })?;
    let mut db = Connection::open(db)?;
    db.busy_timeout(Duration::from_secs(10))?;
    let fence = Fence::new(&db)?;
    let value = touch(&mut db, fence, &guard, None)?;
    println!("entered {} {value}", guard.token());

    let mut guard = Some(guard);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let holder = guard.as_ref().context("it was released")?;
        match line.as_str() {
            "write" => match touch(&mut db, fence, holder, Some("late")) {
                Ok(_) => println!("written"),
                Err(error) => println!("refused {error}"),
            },
            "held" => println!("held {}", holder.is_held()),
            "lost" => println!("lost {}", runtime.block_on(holder.lost())),
            "txn" => match runtime.block_on(holder.txn().put("/written-by", "late").commit()) {
                Ok(_) => println!("committed"),
                Err(error) => println!("refused {:?} {error}", error.effect()),
            },
            "release" => match runtime.block_on(guard.take().expect("it is held").release()) {
                Ok(()) => println!("released"),
                Err(error) => println!("refused {:?} {error}", error.effect()),
            },
            other => bail!("what is {other:?}?"),
        }
    }
    Ok(())
}

/// Reads the row, or writes it; the fence first, in the same transaction.
fn touch(db: &mut Connection, fence: Fence, guard: &Guard, write: Option<&str>) -> anyhow::Result<String> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    fence.enter(&tx, "row", guard.token())?;
    if let Some(value) = write {
        tx.execute("UPDATE rows SET value = ?1", [value])?;
    }
    let value = tx.query_row("SELECT value FROM rows", [], |row| row.get(0))?;
    tx.commit()?;
    Ok(value)
}
