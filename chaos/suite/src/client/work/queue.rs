//! A line for one lock, several of each client in it: some give up while they wait, some die (their session falls silent
//! in the middle of the line), the others take their turn.

use std::time::Duration;

use conclave_client::{Guard, Session};

use super::{
    Work,
    hold::{acquire, hold, release},
    seat::Seat,
};
use crate::client::Outcome;

pub struct Waiter;

impl Work for Waiter {
    const TASKS: u32 = 3;

    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        // Everybody in one line, or two.
        let key = seat.key();
        let lock = session.lock(seat.lock(&key));
        match seat.random.u32(..12) {
            0 => die(seat, session, &key).await,
            1..4 => {
                let soon = Duration::from_millis(seat.random.u64(5..250));
                take(seat, session, &key, lock.wait(soon)).await;
            }
            _ => take(seat, session, &key, lock.wait(seat.spec.wait)).await,
        }
    }
}

async fn take(seat: &mut Seat, session: &Session, key: &str, lock: conclave_client::LockRequest) {
    if let Some(guard) = acquire(seat, session, "acquire", key, lock, |guard: &Guard| guard).await {
        hold(seat, key, &guard, 1).await;
        release(seat, "release", key, guard.token(), guard.release()).await;
    }
}

/// Gets in line and falls silent: the session is let go without being ended, and its place is there until its TTL.
async fn die(seat: &mut Seat, session: &Session, key: &str) {
    seat.called("acquire", key, serde_json::Value::Null);
    let silent_after = Duration::from_millis(seat.random.u64(5..60));
    let asked = session.lock(seat.lock(key)).acquire();
    // Spawned, so that nothing of it is dropped, which would leave the line in good order.
    let waits = tokio::spawn(asked);
    tokio::time::sleep(silent_after).await;
    seat.abandon();
    session.clone().detach().await;
    let (outcome, value) = match waits.await {
        Ok(Ok(guard)) => (Outcome::Ok, serde_json::json!(guard.token().as_i64())),
        _ => (Outcome::Info, serde_json::Value::Null),
    };
    seat.returned("acquire", key, outcome, value, (outcome != Outcome::Ok).then(|| "it fell silent".into()));
}
