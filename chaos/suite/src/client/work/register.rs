//! Values that are read, written, compared and set.
//!
//! A part of the writes belongs to no session: nobody repeats those, so their outcome can be unknown.

use conclave_client::{Compare, Relation, Session};
use serde_json::{Value, json};

use super::{
    Work,
    seat::{Answer, Seat},
};
use crate::client::{Happened, Outcome};

pub struct Register;

/// The number a node's data says.
pub fn number(data: &[u8]) -> Value {
    serde_json::from_slice(data).unwrap_or(Value::Null)
}

impl Work for Register {
    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let key = seat.rolling("register");
        let path = seat.path(&key);
        match seat.random.u32(..10) {
            0..4 => {
                let read = |node: &Option<conclave_client::Node>| {
                    (Outcome::Ok, node.as_ref().map_or(Value::Null, |node| number(&node.data)))
                };
                if let Some(node) = seat.ask("read", &key, Value::Null, session.get(&path), read).await.said() {
                    seat.known.retain(|known, _| *known == key);
                    seat.known.insert(key, node.map_or(Value::Null, |node| number(&node.data)));
                }
            }
            4..7 => {
                let value = seat.unique();
                let put = if seat.random.u32(..3) == 0 {
                    seat.client.put(&path, value.to_string())
                } else {
                    session.put(&path, value.to_string())
                };
                let put = put.create_parents();
                match seat.ask("write", &key, json!(value), put, |_| (Outcome::Ok, json!(value))).await {
                    Answer::Said(put) => seat.acknowledged(put.revision, &path, Some(value.to_string())),
                    Answer::Refused => seat.tell(Happened::Rejected { path, data: value.to_string() }),
                    Answer::Unknown => {}
                }
            }
            _ => {
                let old = seat.known.get(&key).cloned().unwrap_or(json!(0));
                let value = seat.unique();
                let argument = json!([old, value]);
                let compare = match &old {
                    Value::Null => Compare::missing(&path),
                    old => Compare::data(&path, Relation::Equal, old.to_string()),
                };
                let set = session.txn().when(compare).put(&path, value.to_string());
                let said = |result: &conclave_client::TxnResult| {
                    (if result.succeeded { Outcome::Ok } else { Outcome::Fail }, argument.clone())
                };
                match seat.ask("cas", &key, argument.clone(), set.commit(), said).await {
                    Answer::Said(result) if result.succeeded => {
                        seat.acknowledged(result.revision, &path, Some(value.to_string()));
                    }
                    Answer::Said(_) | Answer::Refused => {
                        seat.tell(Happened::Rejected { path, data: value.to_string() });
                    }
                    Answer::Unknown => {}
                }
            }
        }
    }
}
