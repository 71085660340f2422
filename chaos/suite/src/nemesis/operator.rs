//! What an operator does to a cluster of Conclave, by its command line, `conclave`, on the observer's host.

use std::{
    io::Read as _,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::Reach;
use crate::{binary::binary, client::Recipe, place::NotAvailable, target::Target};

/// The command line gives up a request after this long.
const REQUEST_WITHIN: &str = "1s";
/// And is ended after this long, whatever it does.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// What one server says of the cluster; as `conclave cluster status --output json`.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// None: it did not answer.
    pub id: Option<u64>,
    #[serde(default)]
    pub role: String,
    #[serde(default)]
    pub term: u64,
    #[serde(default)]
    pub applied_index: u64,
    #[serde(default)]
    pub last_index: u64,
    #[serde(default)]
    pub compacted_index: u64,
    #[serde(default)]
    pub members: Vec<Member>,
}

/// A server as another knows it.
#[derive(Debug, Deserialize)]
pub struct Member {
    pub id: u64,
    pub learner: bool,
}

impl Status {
    /// Whether it knows this server as a voter; as a learner; or not at all.
    pub fn knows(&self, id: u64) -> Option<Vote> {
        let member = self.members.iter().find(|member| member.id == id)?;
        Some(if member.learner { Vote::Learner } else { Vote::Voter })
    }
}

/// A member's part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vote {
    Learner,
    Voter,
}

/// Whether these servers have such an operator.
///
/// # Errors
/// What is missing, for this kind of fault.
pub fn available(what: &str, target: &dyn Target) -> Result<(), NotAvailable> {
    let lacks = |why: String| NotAvailable { what: what.into(), why };
    if target.recipe() != Recipe::Conclave {
        return Err(lacks(format!("the servers of {} have no such operation", target.name())));
    }
    binary("conclave").map(drop).map_err(|error| lacks(format!("{error:#}")))
}

/// The exit code of an operation of which nobody knows whether it was done, or will be.
const UNKNOWN: i32 = 79;

/// What became of an operation.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// It certainly was not done: why.
    Refused(String),
    /// It may have been, or may yet be: why nobody knows.
    Unknown(String),
}

impl Outcome {
    /// # Errors
    /// If it was not certainly done.
    pub fn done(self) -> anyhow::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Refused(why) | Self::Unknown(why) => bail!(why),
        }
    }
}

/// `conclave cluster` with these arguments.
///
/// # Errors
/// If it cannot be run, or does not end.
pub fn cluster(reach: &Reach<'_, '_>, args: &[&str]) -> anyhow::Result<Outcome> {
    let (code, _, error) = run(reach, &[&["cluster"], args].concat())?;
    let why = || format!("conclave cluster {}: {}", args.join(" "), first_line(&error));
    Ok(match code {
        Some(0) => Outcome::Done,
        Some(UNKNOWN) => Outcome::Unknown(why()),
        _ => Outcome::Refused(why()),
    })
}

/// Hints follow it.
fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// What the servers say, in their order.
///
/// # Errors
/// If nobody does.
pub fn status(reach: &Reach<'_, '_>) -> anyhow::Result<Vec<Status>> {
    // Its exit code tells whether all is well, which is not the question.
    let (_, out, error) = run(reach, &["cluster", "status"])?;
    let status: Vec<Status> =
        serde_json::from_str(&out).with_context(|| format!("conclave cluster status: {}", first_line(&error)))?;
    ensure!(status.iter().any(|server| server.id.is_some()), "no server answers");
    Ok(status)
}

/// Whether a majority stands behind a read.
///
/// # Errors
/// If not: what is wrong.
pub fn works(reach: &Reach<'_, '_>) -> anyhow::Result<()> {
    let (code, _, error) = run(reach, &["get", "/"])?;
    ensure!(code == Some(0), "conclave get /: {}", first_line(&error));
    Ok(())
}

/// The status of the leader, by what it says itself, in the newest term; and its place.
///
/// # Errors
/// If none leads.
pub fn leader(status: &[Status]) -> anyhow::Result<(usize, &Status)> {
    let leads = status.iter().enumerate().filter(|(_, server)| server.role == "leader");
    leads.max_by_key(|(_, server)| server.term).context("nobody leads")
}

fn run(reach: &Reach<'_, '_>, args: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let mut command = reach.place.command(reach.observer, &binary("conclave")?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CONCLAVE_")) {
        command.env_remove(name);
    }
    command.args(["--endpoints", &reach.servers.endpoints()?.join(","), "--timeout", REQUEST_WITHIN]);
    command.args(["--output", "json"]).args(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let until = Instant::now() + ENDED_WITHIN;
    // What it says is less than a pipe holds, so that it can end before anybody reads.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            bail!("conclave {} has not ended within {ENDED_WITHIN:?}", args.join(" "));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (mut out, mut error) = (String::new(), String::new());
    child.stdout.take().context("it is piped")?.read_to_string(&mut out)?;
    child.stderr.take().context("it is piped")?.read_to_string(&mut error)?;
    Ok((status.code(), out, error))
}
