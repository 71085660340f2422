//! SIGSTOP: a process that stands still, keeps its connections, and goes on as if nothing had been.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{Begin, Broken, FIND_WITHIN, Form, Reach};
use crate::{
    board::Board,
    clock::now_ns,
    place::{NotAvailable, Place},
    target::Target,
};

/// A holder is met so soon after it began, or not at all: it is to be in the middle of something.
const FRESH_NS: i64 = 15_000_000;

pub const FORMS: &[Form] = &[
    Form { what: "pause the client that holds", servers_min: 0, begin: Begin::Any(|reach, _| holder(reach)) },
    Form { what: "pause the leader", servers_min: 2, begin: Begin::Leader(|reach, at, _| server(reach, at)) },
    Form { what: "pause a client that holds", servers_min: 0, begin: Begin::Any(|reach, _| holder(reach)) },
    Form { what: "pause a client that waits", servers_min: 0, begin: Begin::Any(waiter) },
    Form { what: "pause a client as its turn comes", servers_min: 0, begin: Begin::Any(turn) },
    Form { what: "pause a server", servers_min: 1, begin: Begin::Server(|reach, at, _| server(reach, at)) },
];

#[expect(clippy::unnecessary_wraps, reason = "as of every class")]
pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    Ok(())
}

fn server(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    reach.servers.get(at).stand(true)?;
    Ok(Broken::server(at, move |reach| {
        let server = reach.servers.get(at);
        // Another fault may have ended it meanwhile.
        if server.is_there() && server.ended().is_none() { server.stand(false) } else { Ok(()) }
    }))
}

/// Stops a client that has asked and not been answered: its turn comes, and is over, while it stands still.
fn waiter(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    let mut order: Vec<usize> = (0..reach.clients.len()).collect();
    fastrand::Rng::with_seed(roll).shuffle(&mut order);
    let until = Instant::now() + FIND_WITHIN;
    while Instant::now() < until {
        for who in &order {
            let who = *who;
            let Some(since) = reach.board.lock().asked_since(who) else { continue };
            if let Some(from_ns) = stop_while(reach, who, |board| board.asked_since(who) == Some(since))? {
                return Ok(paused(reach, who, from_ns));
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    anyhow::bail!("nobody waited")
}

/// A client stops itself as it is woken with a grant, before it has looked at it: when it does, the grant is old.
fn turn(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    ensure!(!reach.clients.is_empty(), "there are no clients");
    let who = usize::try_from(roll % reach.clients.len() as u64).expect("less than the count");
    reach.clients[who].stop_at_turn(true)?;
    let until = Instant::now() + FIND_WITHIN;
    let mut from_ns = now_ns();
    while Instant::now() < until {
        let now = now_ns();
        if reach.clients[who].process.stands()? {
            return Ok(paused(reach, who, from_ns));
        }
        from_ns = now;
        thread::sleep(Duration::from_micros(500));
    }
    reach.clients[who].stop_at_turn(false)?;
    // It may have stopped itself before it heard of that.
    thread::sleep(Duration::from_millis(20));
    reach.clients[who].process.stand(false)?;
    anyhow::bail!("its turn did not come")
}

fn paused(reach: &Reach<'_, '_>, who: usize, from_ns: i64) -> Broken {
    let name = reach.clients[who].name.clone();
    let mend = move |reach: &mut Reach<'_, '_>| reach.clients[who].process.stand(false);
    Broken { paused_client: Some(who), from_ns: Some(from_ns), ..Broken::network(name, mend) }
}

fn holder(reach: &mut Reach<'_, '_>) -> anyhow::Result<Broken> {
    let (who, from_ns) = stop_holder(reach)?;
    Ok(paused(reach, who, from_ns))
}

/// Stops a client that is in the middle of a hold: one that still was after it was stopped. Which one, and when.
pub(super) fn stop_holder(reach: &mut Reach<'_, '_>) -> anyhow::Result<(usize, i64)> {
    let until = Instant::now() + FIND_WITHIN;
    while Instant::now() < until {
        let now = now_ns();
        let fresh = |(who, since): (&usize, &i64)| (now - since < FRESH_NS).then_some((*who, *since));
        let found = reach.board.lock().inside.iter().find_map(fresh);
        if let Some((who, since)) = found
            && let Some(from_ns) = stop_while(reach, who, |board| board.inside.get(&who) == Some(&since))?
        {
            return Ok((who, from_ns));
        }
        thread::sleep(Duration::from_micros(500));
    }
    anyhow::bail!("nobody held")
}

/// Stops a client, and lets it go on if that is no longer true of it by then; otherwise the moment before it was stopped.
fn stop_while(reach: &mut Reach<'_, '_>, who: usize, still: impl Fn(&Board) -> bool) -> anyhow::Result<Option<i64>> {
    let from_ns = now_ns();
    reach.clients[who].process.stand(true)?;
    // What it told before it was stopped may still be on its way.
    thread::sleep(Duration::from_millis(20));
    if still(&reach.board.lock()) {
        return Ok(Some(from_ns));
    }
    reach.clients[who].process.stand(false)?;
    Ok(None)
}
