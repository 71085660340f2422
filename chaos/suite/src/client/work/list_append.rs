//! Numbers appended to lists, and lists read, several at a time: by reading, then writing if nothing that was read has
//! changed.

use conclave_client::{Compare, Error, OpResult, Relation, Session};
use serde_json::{Value, json};

use super::{
    Work,
    seat::{Answer, Seat},
};
use crate::client::Outcome;

/// So often it begins again when somebody was faster.
const TRIES_MAX: u32 = 8;

pub struct ListAppend;

/// What a transaction came to, and where it is to be found again.
struct Done {
    txn: Value,
    written: Option<(conclave_client::Revision, Vec<(String, String)>)>,
}

/// `[["append", key, number], ["r", key, null], …]`, each key once.
pub fn transaction(seat: &mut Seat, stem: &str) -> Vec<(bool, String, u64)> {
    let mut steps: Vec<(bool, String, u64)> = Vec::new();
    for _ in 0..seat.random.u32(1..=3) {
        let key = seat.rolling(stem);
        if steps.iter().all(|(_, taken, _)| *taken != key) {
            let number = seat.unique();
            steps.push((seat.random.bool(), key, number));
        }
    }
    steps
}

/// As the checker writes it; `lists` are what was read.
pub fn told(steps: &[(bool, String, u64)], lists: Option<&[Value]>) -> Value {
    let step = |(at, (append, key, number)): (usize, &(bool, String, u64))| match append {
        true => json!(["append", key, number]),
        false => json!(["r", key, lists.map_or(&Value::Null, |lists| &lists[at])]),
    };
    steps.iter().enumerate().map(step).collect()
}

async fn done(seat: &Seat, session: &Session, steps: &[(bool, String, u64)]) -> Result<Option<Done>, Error> {
    for _ in 0..TRIES_MAX {
        let read = steps.iter().fold(session.txn(), |txn, (_, key, _)| txn.get(seat.path(key)));
        let read = read.commit().await?;
        let mut txn = session.txn();
        let (mut lists, mut written) = (Vec::new(), Vec::new());
        for ((append, key, number), found) in steps.iter().zip(read.results) {
            let path = seat.path(key);
            let OpResult::Got(node) = found else { continue };
            let mut list = node.as_ref().map_or(json!([]), |node| super::register::number(&node.data));
            lists.push(list.clone());
            txn = txn.when(match &node {
                Some(node) => Compare::modify_revision(&path, Relation::Equal, node.modify_revision),
                None => Compare::missing(&path),
            });
            if *append && let Value::Array(list) = &mut list {
                list.push(json!(number));
                let text = Value::from(list.clone()).to_string();
                txn = txn.put(&path, text.clone());
                written.push((path, text));
            }
        }
        let result = txn.commit().await?;
        if result.succeeded {
            let written = (!written.is_empty()).then_some((result.revision, written));
            return Ok(Some(Done { txn: told(steps, Some(&lists)), written }));
        }
    }
    Ok(None)
}

impl Work for ListAppend {
    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let steps = transaction(seat, "list");
        let argument = told(&steps, None);
        let said = |done: &Option<Done>| match done {
            Some(done) => (Outcome::Ok, done.txn.clone()),
            None => (Outcome::Fail, argument.clone()),
        };
        let answer = seat.ask("txn", "", argument.clone(), done(seat, session, &steps), said).await;
        if let Answer::Said(Some(Done { written: Some((revision, written)), .. })) = answer {
            for (path, data) in written {
                seat.acknowledged(revision, &path, Some(data));
            }
        }
    }
}
