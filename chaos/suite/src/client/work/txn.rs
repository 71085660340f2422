//! Lists made of sequential nodes, so that one transaction appends and reads without knowing anything before: what it
//! reads it sees after its own appends.

use conclave_client::{Op, OpResult, Session, TxnResult};
use serde_json::{Value, json};

use super::{
    Work,
    list_append::{told, transaction},
    seat::{Answer, Seat},
};
use crate::client::Outcome;

pub struct Txn;

/// The numbers of a list, in the order of its nodes: `7-0000000003` is number 7 in place 3.
fn numbers(names: &[String]) -> Value {
    let parse = |name: &String| name.split_once('-').and_then(|(n, at)| Some((at.parse().ok()?, n.parse().ok()?)));
    let mut found: Vec<(u64, u64)> = names.iter().filter_map(parse).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, number)| json!(number)).collect()
}

impl Work for Txn {
    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let steps = transaction(seat, "row");
        let mut txn = session.txn();
        for (_, key, _) in &steps {
            // Lists are there before they are read, empty if need be.
            txn = txn.then(Op::put(seat.path(key), "").create_parents());
        }
        for (append, key, number) in &steps {
            txn = match append {
                true => txn.then(Op::create(seat.path(&format!("{key}/{number}-")), number.to_string()).sequential()),
                false => txn.list(seat.path(key)),
            };
        }
        let own = steps.len();
        let said = |result: &TxnResult| {
            let list = |found: &OpResult| match found {
                OpResult::Listed(names) => numbers(names),
                _ => Value::Null,
            };
            let lists: Vec<_> = result.results[own..].iter().map(list).collect();
            (Outcome::Ok, told(&steps, Some(&lists)))
        };
        let answer = seat.ask("txn", "", told(&steps, None), txn.commit(), said).await;
        if let Answer::Said(result) = answer {
            for (found, (_, _, number)) in result.results[own..].iter().zip(&steps) {
                if let OpResult::Created { path, .. } = found {
                    seat.acknowledged(result.revision, path, Some(number.to_string()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_in_the_order_of_its_places() {
        let names = ["9-0000000002", "10-0000000000", "7-0000000001", "other"].map(String::from);
        assert_eq!(numbers(&names), json!([10, 7, 9]));
    }
}
