//! Doing it.

use std::io::Read as _;

use conclave_client::{Client, Compare, Kind, Op, OpResult, Revision, SessionId, TxnResult};
use serde::Serialize;

use super::{Comparison, INPUT_BYTES_MAX, Operation, Relation, Script, Test, json, syntax};
use crate::{
    args,
    exit::{self, Failure},
    output::{NodeJson, Out, preview, printable},
};

/// Characters of data in a line.
const DATA_CHARS: usize = 60;

#[derive(Serialize)]
struct TxnJson {
    succeeded: bool,
    /// The first comparison that did not hold, from 0, and how it reads.
    failed_compare: Option<usize>,
    failed: Option<String>,
    revision: u64,
    results: Vec<ResultJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ResultJson {
    Created { path: String, sequence: Option<u64> },
    Put { created: bool, version: u64 },
    Deleted { count: u64 },
    Got(Option<NodeJson>),
    Listed { names: Vec<String> },
}

/// Reads, sends, tells. Ends with [`exit::NO`] if a comparison did not hold.
pub async fn run(client: &Client, args: &args::Txn, out: &mut Out) -> Result<(), Failure> {
    let script = script(args)?;
    let mut txn = client.txn();
    for comparison in &script.when {
        txn = txn.when(compare(comparison));
    }
    for operation in &script.then {
        txn = txn.then(op(operation));
    }
    for operation in &script.otherwise {
        txn = txn.otherwise(op(operation));
    }
    let done = txn.commit().await.map_err(|error| {
        let at = error.operation();
        let mut failure = Failure::from(error);
        if let Some(at) = at {
            // Only one branch was tried; its operations are counted from 0.
            let name = |list: &[Operation]| list.get(at).map(|op| format!("{op:?}", op = op.to_string()));
            let names: Vec<String> = [("then", &script.then), ("else", &script.otherwise)]
                .iter()
                .filter_map(|(branch, list)| name(list).map(|op| format!("{branch} {op}")))
                .collect();
            failure = failure.with_hint(format!(
                "operation {} was refused: {}; nothing was done",
                at + 1,
                names.join(" or ")
            ));
        }
        failure
    })?;
    let failed = done.failed_compare.and_then(|at| script.when.get(at)).map(ToString::to_string);
    let succeeded = done.succeeded;
    if out.is_json() {
        out.json(&to_json(done, failed))?;
    } else {
        let branch = if succeeded { &script.then } else { &script.otherwise };
        match &failed {
            None => out.line(format!("done at revision {}", done.revision))?,
            Some(comparison) if branch.is_empty() => {
                out.line(format!("not done: {} did not hold at revision {}", printable(comparison), done.revision))?;
            }
            Some(comparison) => {
                out.line(format!(
                    "{} did not hold; did the other at revision {}",
                    printable(comparison),
                    done.revision
                ))?;
            }
        }
        for (operation, result) in branch.iter().zip(&done.results) {
            for line in describe(operation, result) {
                out.line(line)?;
            }
        }
    }
    if succeeded { Ok(()) } else { Err(Failure::new(exit::NO, String::new())) }
}

fn script(args: &args::Txn) -> Result<Script, Failure> {
    if !(args.when.is_empty() && args.then.is_empty() && args.otherwise.is_empty()) {
        let place = |option: &'static str| move |e: syntax::SyntaxError| Failure::usage(format!("{option}: {e}"));
        return Ok(Script {
            when: args
                .when
                .iter()
                .map(|text| syntax::comparison(text))
                .collect::<Result<_, _>>()
                .map_err(place("--if"))?,
            then: args
                .then
                .iter()
                .map(|text| syntax::operation(text))
                .collect::<Result<_, _>>()
                .map_err(place("--then"))?,
            otherwise: args
                .otherwise
                .iter()
                .map(|text| syntax::operation(text))
                .collect::<Result<_, _>>()
                .map_err(place("--else"))?,
        });
    }
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::local("cannot read standard input", &error))?;
    if text.len() > INPUT_BYTES_MAX {
        return Err(Failure::usage(format!("standard input: more than {INPUT_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("standard input: not UTF-8 at byte {at}; in \"…\" write \\xNN, in JSON use \"base64\""))
    })?;
    let script = if text.trim_start().starts_with('{') { json::script(&text) } else { syntax::script(&text) };
    let script = script.map_err(|message| Failure::usage(format!("standard input: {message}")))?;
    if script == Script::default() {
        return Err(Failure::usage("the transaction is empty: no comparison and no operation")
            .with_hint("`conclave txn --help` shows how one is written"));
    }
    Ok(script)
}

fn compare(comparison: &Comparison) -> Compare {
    let path = comparison.path.as_str();
    let relation = |relation| match relation {
        Relation::Equal => conclave_client::Relation::Equal,
        Relation::NotEqual => conclave_client::Relation::NotEqual,
        Relation::Less => conclave_client::Relation::Less,
        Relation::Greater => conclave_client::Relation::Greater,
    };
    match &comparison.test {
        Test::Exists(true) => Compare::exists(path),
        Test::Exists(false) => Compare::missing(path),
        Test::Version(r, n) => Compare::version(path, relation(*r), *n),
        Test::CreateRevision(r, n) => Compare::create_revision(path, relation(*r), Revision(*n)),
        Test::ModifyRevision(r, n) => Compare::modify_revision(path, relation(*r), Revision(*n)),
        Test::Data(r, data) => Compare::data(path, relation(*r), data.clone()),
        Test::Owner(0) => Compare::owner(path, None),
        Test::Owner(n) => Compare::owner(path, Some(SessionId(*n))),
    }
}

fn op(operation: &Operation) -> Op {
    match operation {
        Operation::Put { path, data } => Op::put(path.as_str(), data.clone()).create_parents(),
        Operation::Create { path, data, sequential, kind } => {
            let mut op = Op::create(path.as_str(), data.clone()).create_parents();
            if *sequential {
                op = op.sequential();
            }
            match kind {
                Kind::Container => op.container(),
                Kind::Ttl(ttl) => op.ttl(*ttl),
                Kind::Persistent | Kind::Ephemeral => op,
            }
        }
        Operation::Delete { path, recursive: false } => Op::delete(path.as_str()),
        Operation::Delete { path, recursive: true } => Op::delete_recursive(path.as_str()),
        Operation::Get { path } => Op::get(path.as_str()),
        Operation::List { path } => Op::list(path.as_str()),
    }
}

fn describe(operation: &Operation, result: &OpResult) -> Vec<String> {
    let head = printable(&operation.to_string());
    match result {
        OpResult::Created { path, .. } => vec![format!("{head}: created {}", printable(path))],
        OpResult::Put { created, version } => {
            vec![format!("{head}: {} version {version}", if *created { "created" } else { "changed" })]
        }
        OpResult::Deleted { count: 0 } => vec![format!("{head}: there was none")],
        OpResult::Deleted { count } => vec![format!("{head}: deleted {count}")],
        OpResult::Got(None) => vec![format!("{head}: no such node")],
        OpResult::Got(Some(node)) => {
            vec![format!("{head}: version {} = {}", node.version, preview(&node.data, DATA_CHARS))]
        }
        OpResult::Listed(names) => {
            let mut lines = vec![format!("{head}: {} children", names.len())];
            lines.extend(names.iter().map(|name| format!("  {}", printable(name))));
            lines
        }
    }
}

fn to_json(done: TxnResult, failed: Option<String>) -> TxnJson {
    let results = done
        .results
        .into_iter()
        .map(|result| match result {
            OpResult::Created { path, sequence } => ResultJson::Created { path, sequence },
            OpResult::Put { created, version } => ResultJson::Put { created, version },
            OpResult::Deleted { count } => ResultJson::Deleted { count },
            OpResult::Got(node) => ResultJson::Got(node.as_ref().map(NodeJson::full)),
            OpResult::Listed(names) => ResultJson::Listed { names },
        })
        .collect();
    TxnJson {
        succeeded: done.succeeded,
        failed_compare: done.failed_compare,
        failed,
        revision: done.revision.0,
        results,
    }
}
