//! Packets between some hosts arrive late, evenly or not, in their order or not.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::ensure;

use super::{Begin, Broken, Form, Reach};
use crate::{
    network::{
        delay::{self, Delay, Lateness},
        rules::{Edge, both_ways, each_alone, one_way},
    },
    place::{Host, NotAvailable, Place},
    target::Target,
};

/// Shortest and longest latency, one way: from a neighbouring town to the other side of the earth.
const LATENCY_MS: std::ops::RangeInclusive<u64> = 10..=150;

pub const FORMS: &[Form] = &[
    Form {
        what: "delay packets between servers",
        servers_min: 2,
        begin: Begin::Any(|reach, roll| {
            let edges = each_alone(&reach.all_servers());
            late(reach, &edges, evenly(roll), roll, "all servers")
        }),
    },
    Form {
        what: "delay packets of a server by jitter",
        servers_min: 1,
        begin: Begin::Server(|reach, at, roll| {
            let edges = both_ways(&[Host(at)], &reach.everybody_but(at));
            late(reach, &edges, unevenly(roll, false), roll, &format!("server {}", at + 1))
        }),
    },
    Form {
        what: "reorder packets between servers",
        servers_min: 2,
        begin: Begin::Any(|reach, roll| {
            let edges = each_alone(&reach.all_servers());
            late(reach, &edges, unevenly(roll, true), roll, "all servers")
        }),
    },
    Form {
        what: "delay what the leader hears",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, roll| {
            let edges = one_way(&reach.everybody_but(at), &[Host(at)]);
            late(reach, &edges, evenly(roll), roll, &format!("server {}", at + 1))
        }),
    },
];

pub fn available(place: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    delay::available(place)
}

fn latency(roll: u64) -> Duration {
    Duration::from_millis(fastrand::Rng::with_seed(roll).u64(LATENCY_MS))
}

fn evenly(roll: u64) -> Lateness {
    Lateness { latency: latency(roll), jitter: Duration::ZERO, overtaking: false }
}

/// From almost nothing to twice the latency.
fn unevenly(roll: u64, overtaking: bool) -> Lateness {
    Lateness { latency: Duration::from_millis(1), jitter: latency(roll) * 2, overtaking }
}

fn late(reach: &Reach<'_, '_>, edges: &[Edge], lateness: Lateness, seed: u64, who: &str) -> anyhow::Result<Broken> {
    let delay = Rc::new(RefCell::new(Delay::begin(reach.place, edges, lateness, seed)?));
    let who = match lateness.jitter {
        Duration::ZERO => format!("{who}, by {:?}", lateness.latency),
        jitter => format!("{who}, by {:?} to {:?}", lateness.latency, lateness.latency + jitter),
    };
    let ended = Rc::clone(&delay);
    let evidence = move |_: &Reach<'_, '_>| {
        let met = delay.borrow().met();
        ensure!(met > 0, "no packet came by");
        Ok(format!("{met} packets late"))
    };
    Ok(Broken { evidence: Some(Box::new(evidence)), ..Broken::network(who, move |_| ended.borrow_mut().end()) })
}
