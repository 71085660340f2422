//! Transfers between accounts, under the locks of both, taken in order.
//!
//! A transfer leaves a record of its own in the same transaction, made only if it is not there. So one whose outcome is
//! unknown is tried again, by a later session if need be, and pays once.

use conclave_client::{Compare, Effect, Error, Guard, Op, OpResult, Relation, Session};

use super::{
    Work,
    hold::{acquire, release, under},
    seat::Seat,
};
use crate::client::Happened;

/// In every account, to begin with.
pub const AT_FIRST: i64 = 100;
/// Accounts are below.
pub const ACCOUNTS: &str = "bank/accounts";
/// Records of transfers are below.
pub const TRANSFERS: &str = "bank/transfers";

#[derive(Clone)]
struct Transfer {
    id: u64,
    from: String,
    to: String,
    amount: i64,
}

pub struct Teller {
    opened: bool,
    /// Of unknown outcome.
    pending: Option<Transfer>,
}

fn account(seat: &Seat, key: &str) -> String {
    seat.path(&format!("{ACCOUNTS}/{key}"))
}

fn balance(result: &OpResult) -> i64 {
    match result {
        OpResult::Got(Some(node)) => {
            std::str::from_utf8(&node.data).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    }
}

impl Work for Teller {
    fn new(_: &Seat) -> Self {
        Self { opened: false, pending: None }
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        if !self.opened {
            self.opened = open(seat, session).await.is_ok();
            return;
        }
        if seat.random.u32(..4) == 0 {
            return look(seat, session).await;
        }
        let transfer = match self.pending.take() {
            Some(pending) => pending,
            None => {
                let (from, to) = (seat.key(), seat.key());
                if from == to {
                    return;
                }
                Transfer { id: seat.unique(), from, to, amount: seat.random.i64(1..10) }
            }
        };
        // Everybody takes the smaller name first: nobody waits for one who waits for him.
        let (first, second) =
            (transfer.from.clone().min(transfer.to.clone()), transfer.from.clone().max(transfer.to.clone()));
        self.pending = Some(transfer.clone());
        let Some(one) = take(seat, session, &first).await else { return };
        let paid = under(seat, &first, &one, async {
            let other = take(seat, session, &second).await?;
            let paid = under(seat, &second, &other, pay(seat, &one, &other, &transfer)).await;
            release(seat, "release", &second, other.token(), other.release()).await;
            paid
        });
        if paid.await == Some(Some(true)) {
            self.pending = None;
        }
        release(seat, "release", &first, one.token(), one.release()).await;
    }
}

async fn open(seat: &Seat, session: &Session) -> Result<(), Error> {
    let first = account(seat, &seat.spec.keys[0]);
    let txn = seat.spec.keys.iter().fold(session.txn().when(Compare::missing(&first)), |txn, key| {
        txn.then(Op::put(account(seat, key), AT_FIRST.to_string()).create_parents())
    });
    txn.then(Op::put(seat.path(TRANSFERS), "").create_parents()).commit().await.map(drop)
}

/// The total, read at one moment.
async fn look(seat: &Seat, session: &Session) {
    let keys = &seat.spec.keys;
    let read = keys.iter().fold(session.txn(), |txn, key| txn.get(account(seat, key)));
    if let Ok(result) = read.commit().await {
        let (total, owed) = (result.results.iter().map(balance).sum::<i64>(), AT_FIRST * keys.len() as i64);
        let broken = (total != owed).then(|| format!("a read found {total} in all accounts, not {owed}"));
        seat.tell(Happened::Judged { invariant: "bank".into(), broken });
    }
}

async fn take(seat: &Seat, session: &Session, key: &str) -> Option<Guard> {
    let lock = session.lock(seat.lock(key)).wait(seat.spec.wait);
    let guard = acquire(seat, session, "acquire", key, lock, |guard: &Guard| guard).await?;
    Some(guard)
}

/// Whether it is certain what became of it.
async fn pay(seat: &Seat, one: &Guard, other: &Guard, transfer: &Transfer) -> bool {
    let Transfer { id, from, to, amount } = transfer;
    let record = seat.path(&format!("{TRANSFERS}/{id}"));
    let text = format!("{from} {to} {amount}");
    let read = match one.txn().get(account(seat, from)).get(account(seat, to)).commit().await {
        Ok(read) => read,
        Err(_) => return false,
    };
    let (has, gets) = (balance(&read.results[0]), balance(&read.results[1]));
    let txn = one
        .txn()
        .when(Compare::held_since(other.node_path(), other.create_revision()))
        .when(Compare::missing(&record))
        .when(Compare::data(account(seat, from), Relation::Equal, has.to_string()))
        .when(Compare::data(account(seat, to), Relation::Equal, gets.to_string()))
        .put(account(seat, from), (has - amount).to_string())
        .put(account(seat, to), (gets + amount).to_string())
        .create(&record, text.clone());
    match txn.commit().await {
        Ok(result) if result.succeeded => {
            seat.acknowledged(result.revision, &record, Some(text));
            true
        }
        // It was paid the first time.
        Ok(result) if result.failed_compare == Some(1) => true,
        Ok(result) => {
            // Both locks are held, and still somebody changed an account.
            if result.failed_compare != Some(0) {
                let broken = Some(format!("an account changed under its lock during transfer {id}"));
                seat.tell(Happened::Judged { invariant: "bank".into(), broken });
            }
            false
        }
        Err(error) => {
            if error.effect() == Effect::Unknown {
                seat.tell(Happened::Trouble { error: format!("transfer {id}: {error}") });
            }
            false
        }
    }
}
