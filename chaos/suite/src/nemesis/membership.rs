//! A server is removed for good, and another takes its place: an empty disk, a new id, first a learner, then a voter, as
//! docs/operations.md tells.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    Begin, Broken, Form, Reach,
    operator::{self, Outcome, Vote},
};
use crate::{
    place::{NotAvailable, Place},
    target::Target,
};

/// By then all servers know that one is removed.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);
/// By then a newcomer votes.
const JOINED_WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub const FORMS: &[Form] = &[
    Form {
        what: "replace a server by a new one",
        servers_min: 3,
        begin: Begin::Server(|reach, at, _| replace(reach, at)),
    },
    Form {
        what: "replace the leader by a new server",
        servers_min: 3,
        begin: Begin::Leader(|reach, at, _| replace(reach, at)),
    },
];

pub fn available(place: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
    if place.containers().is_some() {
        return Err(NotAvailable {
            what: "membership".into(),
            why: "a container's server keeps its name and id".into(),
        });
    }
    operator::available("membership", target)
}

fn replace(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let broken = match remove(reach, at)? {
        Removed::Certainly => Broken::server(at, move |reach| join(reach, at)),
        // It may yet come to pass. Once the cluster works, it has or it never will.
        Removed::Perhaps(why) => Broken::network(format!("{} ({why})", super::servers(&[at])), move |reach| {
            if is_member(reach, at)? { Ok(()) } else { join(reach, at) }
        }),
    };
    Ok(Broken { needs_cluster: true, ..broken })
}

/// Whether a server was removed.
enum Removed {
    Certainly,
    /// Why nobody knows.
    Perhaps(String),
}

/// Removes a server from the cluster, waits until all others know, and ends it. One that is removed stays so.
///
/// # Errors
/// If it certainly is still a member.
fn remove(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Removed> {
    let id = reach.servers.id(at) as u64;
    let (why, refused) = match operator::cluster(reach, &["remove", &id.to_string()])? {
        Outcome::Done => ("not all others know".to_owned(), false),
        Outcome::Unknown(why) => (why, false),
        Outcome::Refused(why) => (why, true),
    };
    let until = Instant::now() + REMOVED_WITHIN;
    loop {
        let others = operator::status(reach)?;
        let others = others.iter().enumerate().filter(|(other, status)| *other != at && status.id.is_some());
        let mut knowing = others.map(|(_, status)| status.knows(id).is_some()).peekable();
        if knowing.peek().is_some() && !knowing.any(|knows| knows) {
            reach.servers.get(at).kill();
            return Ok(Removed::Certainly);
        }
        ensure!(!refused, why);
        if Instant::now() > until {
            return Ok(Removed::Perhaps(why));
        }
        thread::sleep(RETRY_AFTER);
    }
}

/// Removes a server that is lost, as soon as the cluster can, and lets another take its place.
///
/// # Errors
/// If it is not removed, or the other does not vote, within half a minute each.
pub fn replace_lost(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<()> {
    let until = Instant::now() + JOINED_WITHIN;
    loop {
        let why = match remove(reach, at) {
            Ok(Removed::Certainly) => return join(reach, at),
            Ok(Removed::Perhaps(why)) => why,
            // Nobody leads yet, for one.
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < until, "server {} is not removed: {why}", reach.servers.id(at));
        thread::sleep(RETRY_AFTER);
    }
}

/// Whether the server that was started last in this place is a member, by a leader that has a majority.
fn is_member(reach: &Reach<'_, '_>, at: usize) -> anyhow::Result<bool> {
    let until = Instant::now() + JOINED_WITHIN;
    loop {
        // A read that a majority stands behind: what was under way before it is done by then, or will never be.
        let tried = operator::works(reach).and_then(|()| operator::status(reach)).and_then(|status| {
            let (_, leader) = operator::leader(&status)?;
            Ok(leader.knows(reach.servers.id(at) as u64).is_some())
        });
        match tried {
            Ok(is) => return Ok(is),
            Err(error) => ensure!(Instant::now() < until, "who is a member? {error:#}"),
        }
        thread::sleep(RETRY_AFTER);
    }
}

/// Starts a server with an empty disk in the place of one that was removed, and waits until it votes.
///
/// # Errors
/// If it does not within half a minute: what was last in the way.
fn join(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<()> {
    let id = reach.servers.start_newcomer(at)? as u64;
    // Its peers and its clients reach it at the same.
    let address = reach.servers.endpoints()?[at].trim_start_matches("http://").to_owned();
    let (name, until) = (id.to_string(), Instant::now() + JOINED_WITHIN);
    loop {
        let tried = operator::status(reach).and_then(|status| {
            let (_, leader) = operator::leader(&status)?;
            match leader.knows(id) {
                Some(Vote::Voter) => return Ok(true),
                Some(Vote::Learner) => operator::cluster(reach, &["promote", &name])?,
                None => operator::cluster(reach, &["add-learner", &name, &address])?,
            }
            .done()
            .map(|()| false)
        });
        match tried {
            Ok(true) => return Ok(()),
            Ok(false) => continue,
            Err(error) => ensure!(Instant::now() < until, "server {id} does not vote: {error:#}"),
        }
        thread::sleep(RETRY_AFTER);
    }
}
