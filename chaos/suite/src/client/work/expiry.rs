//! Sessions with nodes of their own that are closed, go on in other hands, or fall silent; a watch sees when their nodes
//! go.

use std::time::Duration;

use conclave_client::{BootTime, EventKind, Op, Session, Watch};
use serde_json::{Value, json};

use super::{Work, seat::Seat};
use crate::{
    client::{Happened, Outcome, conclave::PATIENCE, tell_of},
    clock::{now_ns, ns},
};

/// Nodes of each.
const NODES: usize = 3;
/// Waits for a silent session's nodes to go, beyond its TTL.
const GONE_WITHIN: Duration = Duration::from_secs(20);

pub struct Expiry;

impl Work for Expiry {
    const TASKS: u32 = 2;

    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let number = seat.unique();
        let root = seat.path(&format!("expiry/{number}"));
        // The steady session makes the parent and watches it.
        if session.put(&root, "").create_parents().await.is_err() {
            return;
        }
        let Ok(watch) = session.watch(&root).children().open().await else { return };
        live(seat, watch, &root).await;
        let _ = session.delete(&root).recursive().await;
    }
}

/// One session's life.
async fn live(seat: &mut Seat, watch: Watch, root: &str) {
    let called_ns = now_ns();
    let opened = tokio::time::timeout(PATIENCE, seat.client.session(seat.options())).await;
    let Ok(Ok(mortal)) = opened else { return };
    let (key, ttl) = (mortal.id().to_string(), mortal.ttl());
    let ttl_ms = json!(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let call = |at, f: &str, value: Value| {
        tell_of(at, seat.task, Happened::Call { f: f.into(), key: key.clone(), value });
    };
    call(called_ns, "open", ttl_ms.clone());
    seat.returned("open", &key, Outcome::Ok, ttl_ms.clone(), None);
    let opened_ns = now_ns();
    let made = (0..NODES).fold(mortal.txn(), |txn, at| txn.then(Op::create(format!("{root}/{at}"), "").ephemeral()));
    if made.commit().await.is_err() {
        return;
    }
    // Sometimes long enough for keep-alives, sometimes not.
    tokio::time::sleep(Duration::from_millis(seat.random.u64(0..1_200))).await;
    match seat.random.u32(..5) {
        0 => {
            call(now_ns(), "close", Value::Null);
            let closed = tokio::time::timeout(PATIENCE, mortal.close()).await;
            let outcome = if matches!(closed, Ok(Ok(()))) { Outcome::Ok } else { Outcome::Info };
            let error = (outcome != Outcome::Ok).then(|| "nobody confirmed it".to_owned());
            seat.returned("close", &key, outcome, Value::Null, error);
        }
        1 => {
            let credentials = mortal.detach().await;
            call(now_ns(), "renew", Value::Null);
            match tokio::time::timeout(PATIENCE, seat.client.resume(credentials)).await {
                Ok(Ok(again)) => {
                    seat.returned("renew", &key, Outcome::Ok, Value::Null, None);
                    let there = seat.client.list(root).await;
                    if let Ok(there) = there
                        && there.nodes.len() != NODES
                        && again.is_alive()
                    {
                        let broken = Some(format!("{} of {NODES} nodes of a session that goes on", there.nodes.len()));
                        seat.tell(Happened::Judged { invariant: "I7".into(), broken });
                    }
                    silence(seat, watch, again, &key, now_ns()).await;
                }
                _ => seat.returned("renew", &key, Outcome::Info, Value::Null, Some("not taken up".into())),
            }
        }
        _ => silence(seat, watch, mortal, &key, opened_ns).await,
    }
}

/// Lets it fall silent, and sees its nodes go. Until `told_ns` all is told.
async fn silence(seat: &Seat, mut watch: Watch, mortal: Session, key: &str, told_ns: i64) {
    let (id, ttl) = (mortal.id().0, mortal.ttl());
    if !mortal.is_alive() {
        return;
    }
    // The last acknowledged keep-alive was sent a TTL before, or a little later.
    let deadline = mortal.deadline();
    let deadline_ns = now_ns() + ns(deadline.since(BootTime::now()));
    let sent_ns = deadline_ns - ns(ttl);
    if sent_ns > told_ns {
        tell_of(sent_ns, seat.task, Happened::Call { f: "renew".into(), key: key.into(), value: Value::Null });
        seat.returned("renew", key, Outcome::Ok, Value::Null, None);
    }
    let silent_ns = now_ns();
    mortal.detach().await;
    seat.called("expire", key, Value::Null);
    let (mut gone, mut revisions) = (0, 0);
    let until = tokio::time::Instant::now() + ttl + GONE_WITHIN;
    let mut told = true;
    while gone < NODES {
        match tokio::time::timeout_at(until, watch.next()).await {
            Ok(Some(Ok(events))) => {
                let deleted = events.events.iter().filter(|event| event.kind == EventKind::Deleted).count();
                gone += deleted;
                revisions += usize::from(deleted > 0);
            }
            Ok(Some(Err(_)) | None) => {
                // The steady session is lost, by a fault perhaps: nobody saw.
                told = false;
                break;
            }
            Err(_) => break,
        }
    }
    let all = gone == NODES;
    let outcome = if all { Outcome::Ok } else { Outcome::Info };
    seat.returned("expire", key, outcome, Value::Null, (!all).then(|| "not seen".to_owned()));
    if told {
        let gone_ns = all.then(now_ns);
        seat.tell(Happened::Lapsed { session: id, silent_ns, deadline_ns, gone_ns, revisions });
    }
}
