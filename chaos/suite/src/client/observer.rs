//! A client that watches the service: who leads, and since when writes are taken again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use conclave_client::{Client, Config, Role};

use super::{Happened, Recipe, ServerView, Spec, conclave::runtime, redis::connect, tell};
use crate::clock::now_ns;

/// How often it writes. Each write is a task of its own, so that one that hangs hides nothing.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// How often it asks every server what it is.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// After this long a server does not answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_000);
/// Most writes under way.
const WRITES_MAX: usize = 64;

pub fn run(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    if spec.recipe == Recipe::Conclave { conclave(spec, stop) } else { redis(spec, stop) }
}

fn conclave(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let config = Config::new(spec.endpoints.clone()).with_request_timeout(ANSWER_WITHIN);
        let client = Client::new(config)?;
        let asking = client.clone();
        tokio::spawn(async move {
            loop {
                let servers = asking.admin().status().await;
                let servers = servers.into_iter().map(|server| match server.status {
                    Ok(status) => ServerView {
                        answers: true,
                        leads: status.role == Role::Leader,
                        term: status.term.0,
                        applied: status.applied.0,
                        hash: status.state_hash,
                    },
                    Err(_) => ServerView::default(),
                });
                tell(Happened::Servers { servers: servers.collect() });
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        let room = Arc::new(tokio::sync::Semaphore::new(WRITES_MAX));
        tell(Happened::Ready);
        while !stop.load(Ordering::Relaxed) {
            if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                let client = client.clone();
                tokio::spawn(async move {
                    let sent_ns = now_ns();
                    if client.put("/chaos/probe", "written").create_parents().await.is_ok() {
                        tell(Happened::Written { sent_ns });
                    }
                    drop(permit);
                });
            }
            tokio::time::sleep(WRITE_EVERY).await;
        }
        // It goes on asking: at the end all servers have to be in the same state, and nobody writes any more.
        std::future::pending::<()>().await;
        Ok(())
    })
}

fn redis(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let client = redis::Client::open(spec.endpoints[0].as_str())?;
    let mut connection = None;
    tell(Happened::Ready);
    loop {
        thread::sleep(WRITE_EVERY);
        if connection.is_none() {
            connection = connect(&client).ok();
        }
        let Some(open) = &mut connection else {
            tell(Happened::Servers { servers: vec![ServerView::default()] });
            continue;
        };
        let sent_ns = now_ns();
        let command = if stop.load(Ordering::Relaxed) { "PING" } else { "INCR" };
        let mut asked = redis::cmd(command);
        if command == "INCR" {
            asked.arg("chaos:probe");
        }
        let answers = asked.query::<redis::Value>(open).is_ok();
        if answers && command == "INCR" {
            tell(Happened::Written { sent_ns });
        }
        if !answers {
            connection = None;
        }
        tell(Happened::Servers { servers: vec![ServerView { answers, ..ServerView::default() }] });
    }
}
