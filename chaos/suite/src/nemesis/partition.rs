//! Packets between some hosts are dropped, without a word to either side.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{Begin, Broken, FIND_WITHIN, Form, Reach};
use crate::{
    network::{
        self, Impairment,
        rules::{Edge, Treatment, both_ways, bridge, each_alone, majority_ring, one_way},
    },
    place::{Host, NotAvailable, Place},
    target::Target,
};

pub const FORMS: &[Form] = &[
    Form {
        what: "cut the leader off from the other servers",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| {
            // Clients still reach it.
            cut(reach, &both_ways(&[Host(at)], &reach.other_servers(at)), super::servers(&[at]))
        }),
    },
    Form {
        what: "cut a server off from everybody",
        servers_min: 1,
        begin: Begin::Server(|reach, at, _| {
            cut(reach, &both_ways(&[Host(at)], &reach.everybody_but(at)), super::servers(&[at]))
        }),
    },
    Form { what: "cut the network in halves", servers_min: 2, begin: Begin::Any(halves) },
    Form {
        what: "cut the client that holds off from the servers",
        servers_min: 1,
        begin: Begin::Any(|reach, _| holder(reach)),
    },
    Form {
        what: "let the leader speak to the other servers and not hear them",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| {
            cut(reach, &one_way(&reach.other_servers(at), &[Host(at)]), super::servers(&[at]))
        }),
    },
    Form {
        what: "let the leader hear the other servers and not be heard",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| {
            cut(reach, &one_way(&[Host(at)], &reach.other_servers(at)), super::servers(&[at]))
        }),
    },
    Form {
        what: "let a server speak to everybody and hear nobody",
        servers_min: 1,
        begin: Begin::Server(|reach, at, _| {
            cut(reach, &one_way(&reach.everybody_but(at), &[Host(at)]), super::servers(&[at]))
        }),
    },
    Form {
        what: "let only one server hear both halves of the others",
        servers_min: 3,
        begin: Begin::Server(|reach, at, _| {
            let edges = bridge(Host(at), &reach.all_servers());
            cut(reach, &edges, format!("{} between", super::servers(&[at])))
        }),
    },
    Form {
        what: "let each server hear another majority",
        servers_min: 4,
        begin: Begin::Any(|reach, roll| {
            let mut ring = reach.all_servers();
            fastrand::Rng::with_seed(roll).shuffle(&mut ring);
            let order: Vec<_> = ring.iter().map(|host| host.0).collect();
            cut(reach, &majority_ring(&ring), format!("{} in a ring", super::servers(&order)))
        }),
    },
    Form {
        what: "cut every server off from every other",
        servers_min: 2,
        begin: Begin::Any(|reach, _| cut(reach, &each_alone(&reach.all_servers()), "all servers".into())),
    },
    Form {
        what: "take a server off the network",
        servers_min: 1,
        begin: Begin::Server(|reach, at, _| {
            reach.place.unplug(Host(at))?;
            Ok(Broken::network(super::servers(&[at]), move |reach| reach.place.plug(Host(at))))
        }),
    },
];

pub fn available(place: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    network::available(place, "partition")
}

fn cut(reach: &Reach<'_, '_>, edges: &[Edge], who: String) -> anyhow::Result<Broken> {
    Ok(Broken::packets(who, Impairment::begin(reach.place, edges, Treatment::Drop)?))
}

/// Whoever began to hold last. Its session ends at the servers while it may still be at work.
fn holder(reach: &mut Reach<'_, '_>) -> anyhow::Result<Broken> {
    let until = Instant::now() + FIND_WITHIN;
    loop {
        let last = reach.board.lock().inside.iter().max_by_key(|(_, since)| **since).map(|(who, _)| *who);
        if let Some(who) = last {
            let client = &reach.clients[who];
            return cut(reach, &both_ways(&[client.process.host], &reach.all_servers()), client.name.clone());
        }
        ensure!(Instant::now() < until, "nobody held");
        thread::sleep(Duration::from_micros(500));
    }
}

/// A minority of the servers, and half of the clients.
fn halves(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    let mut random = fastrand::Rng::with_seed(roll);
    let mut order: Vec<usize> = (0..reach.servers.count()).collect();
    random.shuffle(&mut order);
    let (few, many) = order.split_at((order.len() - 1) / 2);
    let mut clients: Vec<usize> = (0..reach.clients.len()).collect();
    random.shuffle(&mut clients);
    let (with_few, with_many) = clients.split_at(clients.len() / 2);
    let hosts = |servers: &[usize], clients: &[usize]| -> Vec<Host> {
        let clients = clients.iter().map(|at| reach.clients[*at].process.host);
        servers.iter().copied().map(Host).chain(clients).collect()
    };
    let (mut one, mut other) = (hosts(few, with_few), hosts(many, with_many));
    other.push(reach.observer);
    if one.is_empty() {
        std::mem::swap(&mut one, &mut other);
    }
    let names = |servers: &[usize]| servers.iter().map(|at| (at + 1).to_string()).collect::<Vec<_>>().join(", ");
    let who = format!(
        "server {} with {} clients | server {} with {}",
        names(few),
        with_few.len(),
        names(many),
        with_many.len()
    );
    cut(reach, &both_ways(&one, &other), who)
}
