//! Taking something, holding it, giving it back; each told.

use std::time::Duration;

use conclave_client::{Error, FencingToken, Guard, Session};
use serde_json::{Value, json};

use super::seat::{Answer, Seat};
use crate::{
    client::{
        Happened, Outcome,
        conclave::{PATIENCE, ended, granted, held},
    },
    clock::{now_ns, ns},
};

/// How often a holder looks whether it still holds.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Asks for it. The operation's value is the token.
pub async fn acquire<G, F>(
    seat: &Seat,
    session: &Session,
    f: &str,
    key: &str,
    asked: F,
    guard: impl Fn(&G) -> &Guard,
) -> Option<G>
where
    F: IntoFuture<Output = Result<G, Error>>,
{
    let said = |taken: &G| (Outcome::Ok, json!(guard(taken).token().as_i64()));
    match seat.ask(f, key, Value::Null, asked, said).await {
        Answer::Said(taken) => {
            granted(session, key, guard(&taken));
            Some(taken)
        }
        Answer::Refused | Answer::Unknown => None,
    }
}

/// Takes it for its own for a while; `room` as in [`Happened::Begin`]. Whether it still was at the end.
pub async fn hold(seat: &mut Seat, key: &str, guard: &Guard, room: u32) -> bool {
    let (from, to) = seat.spec.hold;
    let length = Duration::from_micros(seat.random.u64(from.as_micros() as u64..=to.as_micros() as u64));
    if !begin(seat, key, guard, room) {
        return false;
    }
    let (mut seen_ns, until) = (now_ns(), now_ns() + ns(length));
    let lost = loop {
        let at = now_ns();
        // Lost is lost for good: held after this moment is held at it.
        if !held(guard, seat.spec.ttl) {
            break true;
        }
        seen_ns = at;
        if at >= until {
            break false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    seat.tell(Happened::End { key: key.into(), lost, seen_ns });
    !lost
}

/// From here on it takes it for its own, unless it is lost already.
fn begin(seat: &Seat, key: &str, guard: &Guard, room: u32) -> bool {
    // Looked at after the moment that is told, so that it was true then.
    let at = now_ns();
    let held = held(guard, seat.spec.ttl);
    if held {
        let begin = Happened::Begin { key: key.into(), token: Some(guard.token().as_i64()), room };
        crate::client::tell_of(at, seat.task, begin);
    }
    held
}

/// Does it under the hold, which is looked at all the while.
pub async fn under<T>(seat: &Seat, key: &str, guard: &Guard, work: impl Future<Output = T>) -> Option<T> {
    if !begin(seat, key, guard, 1) {
        return None;
    }
    let mut seen_ns = now_ns();
    let look = async {
        loop {
            let at = now_ns();
            if !held(guard, seat.spec.ttl) {
                return;
            }
            seen_ns = at;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let mut work = std::pin::pin!(work);
    let early = tokio::select! {
        done = &mut work => Some(done),
        () = look => None,
    };
    seat.tell(Happened::End { key: key.into(), lost: early.is_none(), seen_ns });
    // Not cut short when it is lost: the servers refuse what comes too late.
    match early {
        Some(done) => Some(done),
        None => Some(work.await),
    }
}

/// Gives it back.
pub async fn release(
    seat: &Seat,
    f: &str,
    key: &str,
    token: FencingToken,
    released: impl Future<Output = Result<(), Error>>,
) {
    let token = json!(token.as_i64());
    seat.called(f, key, token.clone());
    let (outcome, error) = match tokio::time::timeout(PATIENCE, released).await {
        Ok(Ok(())) => (Outcome::Ok, None),
        Ok(Err(error)) => (ended(&error), Some(error.to_string())),
        Err(_) => (Outcome::Info, Some("no answer in time".into())),
    };
    seat.returned(f, key, outcome, token, error);
}
