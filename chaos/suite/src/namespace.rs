//! One node of somebody's cluster, which a run may fill and leaves as it was.

use std::{
    future::{Future, IntoFuture as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use conclave_client::{Client, Node, NodePath, Result};
use tokio::runtime::Runtime;

use crate::target::Own;

/// An answer comes within this time, or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What clients had under way when they ended has arrived after this long; it may make a node again.
const SETTLE: Duration = Duration::from_millis(500);
/// Whoever writes there for longer is none of ours.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);

/// The node. When this is dropped it is as it was before.
pub struct Namespace {
    runtime: Runtime,
    client: Client,
    path: String,
    was_there: bool,
    /// Nodes above it that are not there, the lowest first.
    above: Vec<NodePath>,
    left: bool,
}

impl Namespace {
    /// Sees to it that nothing is in it.
    ///
    /// # Errors
    /// If something is, or the servers do not answer.
    pub fn enter(own: &Own) -> anyhow::Result<Self> {
        let path = NodePath::parse(&own.namespace).with_context(|| format!("--namespace {}", own.namespace))?;
        ensure!(!path.is_root(), "--namespace is the root: name a node below it, which a run may fill and empty");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let client = {
            let _inside = runtime.enter();
            Client::new(own.access.config(own.endpoints.clone()))?
        };
        let above = Vec::new();
        let mut this = Self { runtime, client, path: own.namespace.clone(), was_there: false, above, left: true };
        if let Some(node) = this.get(&path)? {
            ensure!(
                node.child_count == 0 && node.data.is_empty(),
                "{path} is not empty ({} children, {} bytes): a run empties its namespace when it ends, so it begins only in \
                 one without anything. 'conclave del --recursive {path}' removes what a killed run left",
                node.child_count,
                node.data.len()
            );
            this.was_there = true;
        }
        let mut next = path.parent();
        // Who may not look there cannot make them either.
        while let Some(parent) = next.filter(|parent| matches!(this.get(parent), Ok(None))) {
            next = parent.parent();
            this.above.push(parent);
        }
        this.left = false;
        Ok(this)
    }

    /// Makes it what it was. To be called when all clients have ended.
    ///
    /// # Errors
    /// If the servers do not answer, or somebody goes on writing there.
    pub fn leave(mut self) -> anyhow::Result<()> {
        self.left = true;
        self.empty()
    }

    fn empty(&self) -> anyhow::Result<()> {
        let until = Instant::now() + EMPTY_WITHIN;
        let mut quiet = false;
        while !quiet {
            let removed = match self.wait(self.client.delete(&self.path).recursive().into_future()) {
                Ok(deleted) => deleted.count,
                // It may be much at once for servers that have just been troubled.
                Err(error) if Instant::now() < until => {
                    eprintln!("conclave-chaos: {error:#}; {} is being emptied again", self.path);
                    1
                }
                Err(error) => return Err(error).with_context(|| format!("{} could not be emptied", self.path)),
            };
            quiet = removed == 0;
            if !quiet {
                ensure!(Instant::now() < until, "somebody goes on writing below {}", self.path);
                thread::sleep(SETTLE);
            }
        }
        if self.was_there {
            self.wait(self.client.create(&self.path).create_parents().into_future())?;
        }
        for parent in &self.above {
            // Not if somebody else has put something there meanwhile.
            let _ = self.wait(self.client.delete(parent.as_str()).into_future());
        }
        Ok(())
    }

    fn get(&self, path: &NodePath) -> anyhow::Result<Option<Node>> {
        self.wait(self.client.get(path.as_str()).into_future())
    }

    fn wait<T>(&self, done: impl Future<Output = Result<T>>) -> anyhow::Result<T> {
        match self.runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, done).await }) {
            Ok(done) => Ok(done?),
            Err(_) => bail!("no answer within {ANSWER_WITHIN:?}"),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.left
            && let Err(error) = self.empty()
        {
            eprintln!("conclave-chaos: {error:#}; 'conclave del --recursive {}' does it by hand", self.path);
        }
    }
}
