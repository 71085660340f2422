//! A server is away until the others no longer have in their logs what it missed: it has to be sent a snapshot, while
//! writes go on. The servers' logs are short when this is asked for.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{Begin, Broken, Form, Reach, operator};
use crate::{
    network::{Impairment, rules::Treatment, rules::both_ways},
    place::{Host, NotAvailable, Place},
    target::Target,
};

/// By then it has what the leader had when it came back.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20);

pub const FORMS: &[Form] = &[
    Form {
        what: "keep a server down until it needs a snapshot",
        servers_min: 2,
        begin: Begin::Server(|reach, at, _| down(reach, at)),
    },
    Form {
        what: "keep the leader down until it needs a snapshot",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| down(reach, at)),
    },
    Form {
        what: "keep a server cut off until it needs a snapshot",
        servers_min: 2,
        begin: Begin::Server(|reach, at, _| cut_off(reach, at)),
    },
];

pub fn available(_: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
    operator::available("compaction", target)
}

fn down(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let had = last(reach, at)?;
    reach.servers.get(at).kill();
    Ok(missing(
        at,
        had,
        Broken::server(at, move |reach| {
            reach.servers.start_one(at)?;
            caught_up(reach, at)
        }),
    ))
}

fn cut_off(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let had = last(reach, at)?;
    let edges = both_ways(&[Host(at)], &reach.everybody_but(at));
    let cut = Impairment::begin(reach.place, &edges, Treatment::Drop)?;
    Ok(missing(
        at,
        had,
        Broken::network(super::servers(&[at]), move |reach| {
            cut.end(reach.place)?;
            caught_up(reach, at)
        }),
    ))
}

/// With the evidence that the others' logs begin after what the server had.
fn missing(at: usize, had: u64, broken: Broken) -> Broken {
    let evidence = move |reach: &Reach<'_, '_>| {
        let status = operator::status(reach)?;
        let others = status.iter().enumerate().filter(|(other, status)| *other != at && status.id.is_some());
        let begins = others.map(|(_, status)| status.compacted_index).min().context("nobody else answers")?;
        ensure!(begins > had, "the others still had what it missed: it had {had}, their logs begin after {begins}");
        Ok(format!("it had {had}, the others' logs begin after {begins}"))
    };
    Broken { evidence: Some(Box::new(evidence)), needs_cluster: true, ..broken }
}

/// The last entry in its log.
fn last(reach: &Reach<'_, '_>, at: usize) -> anyhow::Result<u64> {
    let status = operator::status(reach)?;
    let server = status.get(at).filter(|server| server.id.is_some());
    Ok(server.with_context(|| format!("server {} does not answer", at + 1))?.last_index)
}

/// Waits until it has applied what the leader has by now.
fn caught_up(reach: &Reach<'_, '_>, at: usize) -> anyhow::Result<()> {
    let (mut goal, until) = (None, Instant::now() + CAUGHT_UP_WITHIN);
    loop {
        if let Ok(status) = operator::status(reach) {
            if goal.is_none() {
                goal = operator::leader(&status).ok().map(|(_, leader)| leader.applied_index);
            }
            let has = status.get(at).filter(|server| server.id.is_some()).map(|server| server.applied_index);
            if goal.is_some_and(|goal| has.is_some_and(|has| has >= goal)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "server {} has {has:?} of {goal:?} entries", at + 1);
        }
        ensure!(Instant::now() < until, "no server answers");
        thread::sleep(Duration::from_millis(100));
    }
}
