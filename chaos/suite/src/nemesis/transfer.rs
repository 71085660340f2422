//! Leadership is handed over, as an operator does before maintenance.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{Begin, Broken, Form, Reach, operator};
use crate::{
    place::{NotAvailable, Place},
    target::Target,
};

/// By then another leads.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);

pub const FORMS: &[Form] = &[
    Form { what: "hand leadership over", servers_min: 2, begin: Begin::Any(once) },
    Form { what: "hand leadership round and round", servers_min: 2, begin: Begin::Any(round) },
];

pub fn available(_: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
    operator::available("transfer", target)
}

/// To whom the seed says; who leads afterwards.
fn hand_over(reach: &Reach<'_, '_>, roll: u64) -> anyhow::Result<(usize, usize)> {
    let from = reach.leader()?;
    let count = reach.servers.count();
    let step = 1 + usize::try_from(roll % (count as u64 - 1)).expect("less than the count");
    let to = (from + step) % count;
    operator::cluster(reach, &["transfer", &reach.servers.id(to).to_string()])?.done()?;
    let until = Instant::now() + TAKEN_WITHIN;
    loop {
        match reach.board.lock().leader() {
            Some(leads) if leads != from => return Ok((from, leads)),
            _ => ensure!(Instant::now() < until, "server {} did not take over from server {}", to + 1, from + 1),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn once(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    let (from, to) = hand_over(reach, roll)?;
    Ok(Broken::network(format!("server {} to server {}", from + 1, to + 1), |_| Ok(())))
}

/// Again as soon as the last one is done.
fn round(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    let mut random = fastrand::Rng::with_seed(roll);
    let (from, to) = hand_over(reach, random.u64(..))?;
    let times = std::rc::Rc::new(std::cell::Cell::new(1));
    let counted = std::rc::Rc::clone(&times);
    let again = move |reach: &mut Reach<'_, '_>| {
        // Another fault may be in the way of one; the next finds out.
        if hand_over(reach, random.u64(..)).is_ok() {
            times.set(times.get() + 1);
        }
    };
    Ok(Broken {
        meanwhile: Some(Box::new(again)),
        evidence: Some(Box::new(move |_| Ok(format!("{} times", counted.get())))),
        ..Broken::network(format!("from server {} to server {} and on", from + 1, to + 1), |_| Ok(()))
    })
}
