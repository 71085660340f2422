//! The last client of a run: asks for every lock there was, and says which it got.

use bytes::Bytes;
use conclave_proto::{NodePath, RequestNumber, SessionId};
use conclave_state::{By, Command, Kind, Op, OpResult, Outcome, QueuePlace, Txn};
use tokio::sync::oneshot;

use crate::{
    bare::{Surroundings, within},
    node::Ask,
    profile::PATIENCE,
    time::{MS, SECOND},
};

/// So long each of them may take.
const WITHIN_TRIES: u32 = 40;

async fn propose(around: &Surroundings, server: &mut usize, command: &Command) -> Option<Outcome> {
    let nodes: Vec<_> = around.directory.lock().values().cloned().collect();
    let node = nodes.get(*server % nodes.len().max(1))?;
    let (sender, receiver) = oneshot::channel();
    node.propose(
        command.clone(),
        Box::new(move |result| {
            let _ = sender.send(result.ok().map(|(_, applied)| applied.outcome.clone()));
        }),
    );
    let answer = within(&around.sim, PATIENCE, receiver).await;
    let outcome = answer.and_then(Result::ok).flatten();
    if outcome.is_none() {
        *server += 1;
        around.sim.sleep(50 * MS).await;
    }
    outcome
}

/// Whether each lock could be obtained.
pub async fn obtain(around: Surroundings, locks: Vec<NodePath>) -> Vec<(String, bool)> {
    let mut server = 0;
    let mut session = SessionId(0);
    for _ in 0..WITHIN_TRIES {
        let open = Command::OpenSession { secret: [7; 16], run: 0, ttl_ms: 60_000, name: "the last one".to_owned() };
        if let Some(Outcome::Opened { session: opened }) = propose(&around, &mut server, &open).await {
            session = opened;
            break;
        }
    }
    let mut results = Vec::new();
    let mut number = 0;
    for lock in locks {
        number += 1;
        let obtained = one(&around, &mut server, session, number, &lock).await;
        results.push((lock.to_string(), obtained));
    }
    results
}

async fn one(around: &Surroundings, server: &mut usize, session: SessionId, number: u64, lock: &NodePath) -> bool {
    let create = Op::Create {
        path: NodePath::parse(&format!("{lock}/lock-")).expect("a path"),
        data: Bytes::new(),
        kind: Kind::Ephemeral,
        sequential: true,
        create_parents: Some(Kind::Container),
    };
    let by = By { session, run: 0, number: RequestNumber(number), acknowledged: RequestNumber(number - 1) };
    let command = Command::Txn { by: Some(by), txn: Txn { then: vec![create], ..Txn::default() } };
    let mut node_path = None;
    for _ in 0..WITHIN_TRIES {
        if let Some(Outcome::Txn(result)) = propose(around, server, &command).await {
            if let Some(OpResult::Created { path, .. }) = result.results.into_iter().next() {
                node_path = Some(path);
            }
            break;
        }
    }
    let Some(path) = node_path else { return false };
    for _ in 0..WITHIN_TRIES {
        let nodes: Vec<_> = around.directory.lock().values().cloned().collect();
        let Some(node) = nodes.get(*server % nodes.len().max(1)) else { return false };
        let (reply, answer) = oneshot::channel();
        node.ask(Ask::Barrier { deadline_ms: node.now_ms() + 1_000, reply });
        if let Some(Ok(Ok(_))) = within(&around.sim, SECOND, answer).await
            && node.machine.read().queue_place(&path, 1, "") == QueuePlace::Ready
        {
            return true;
        }
        *server += 1;
        around.sim.sleep(100 * MS).await;
    }
    false
}
