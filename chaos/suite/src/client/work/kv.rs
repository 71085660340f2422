//! Values with revisions: got, put, deleted. A second thread gets from one server after the other, each asked by itself,
//! so that a leader that was stopped and goes on is asked too.

use std::time::Duration;

use conclave_client::{Client, Deleted, Got, Put, Session};
use serde_json::{Value, json};

use super::{
    Work,
    register::number,
    seat::{Answer, Seat},
};
use crate::client::{Happened, Outcome, conclave::config};

/// So long one server may take: longer than it stands still, so that its late answer is seen.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct Kv {
    /// One for each server, to ask that one only.
    alone: Vec<Client>,
}

fn got(got: &Got) -> (Outcome, Value) {
    let value = got.node.as_ref().map_or(Value::Null, |node| json!([number(&node.data), node.modify_revision.0]));
    (Outcome::Ok, value)
}

impl Work for Kv {
    const TASKS: u32 = 2;

    fn new(seat: &Seat) -> Self {
        let alone = |endpoint: &String| {
            Client::new(config(&seat.spec).with_endpoints([endpoint]).with_request_timeout(ANSWER_WITHIN))
                .expect("as all of them")
        };
        Self { alone: seat.spec.endpoints.iter().map(alone).collect() }
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let key = seat.key().replace("lock", "key");
        let path = seat.path(&key);
        if seat.task == 1 {
            let server = &self.alone[seat.random.usize(..self.alone.len())];
            seat.ask("get", &key, Value::Null, server.get(&path).read(), got).await;
            return;
        }
        match seat.random.u32(..10) {
            0..4 => {
                seat.ask("get", &key, Value::Null, session.get(&path).read(), got).await;
            }
            4..9 => {
                let value = seat.unique();
                let put = if seat.random.u32(..3) == 0 {
                    seat.client.put(&path, value.to_string())
                } else {
                    session.put(&path, value.to_string())
                };
                let said = |put: &Put| (Outcome::Ok, json!([value, put.revision.0]));
                match seat.ask("put", &key, json!(value), put.create_parents(), said).await {
                    Answer::Said(put) => seat.acknowledged(put.revision, &path, Some(value.to_string())),
                    Answer::Refused => seat.tell(Happened::Rejected { path, data: value.to_string() }),
                    Answer::Unknown => {}
                }
            }
            _ => {
                let said =
                    |gone: &Deleted| (Outcome::Ok, if gone.count > 0 { json!(gone.revision.0) } else { Value::Null });
                let gone = seat.ask("delete", &key, Value::Null, session.delete(&path), said).await;
                if let Answer::Said(gone) = gone
                    && gone.count > 0
                {
                    seat.acknowledged(gone.revision, &path, None);
                }
            }
        }
    }
}
