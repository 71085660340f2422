//! Some packets between some hosts are lost, each by its own throw of the dice, or in rows.

use super::{Begin, Broken, Form, Reach};
use crate::{
    network::{
        self, Impairment,
        rules::{Edge, Treatment, both_ways, each_alone},
    },
    place::{Host, NotAvailable, Place},
    target::Target,
};

/// Of a hundred packets.
const PERCENT: std::ops::RangeInclusive<u8> = 5..=40;
/// Packets a second that get through where more are sent; a server in the middle of its work sends and hears hundreds.
const PER_SECOND: std::ops::RangeInclusive<u32> = 20..=100;
/// And so many at once.
const BURST: u32 = 20;

pub const FORMS: &[Form] = &[
    Form {
        what: "lose packets between servers",
        servers_min: 2,
        begin: Begin::Any(|reach, roll| {
            let edges = each_alone(&reach.all_servers());
            lose(reach, &edges, percent(roll), "all servers")
        }),
    },
    Form {
        what: "lose packets of a server",
        servers_min: 1,
        begin: Begin::Server(|reach, at, roll| {
            let edges = both_ways(&[Host(at)], &reach.everybody_but(at));
            lose(reach, &edges, percent(roll), &format!("server {}", at + 1))
        }),
    },
    Form {
        what: "lose packets between clients and servers",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| {
            let edges = both_ways(&reach.all_servers(), &reach.all_clients());
            lose(reach, &edges, percent(roll), "all clients")
        }),
    },
    Form {
        what: "lose what the leader hears in rows",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, roll| {
            let edges = network::rules::one_way(&reach.other_servers(at), &[Host(at)]);
            let per_second = fastrand::Rng::with_seed(roll).u32(PER_SECOND);
            let who = format!("server {}, all but {per_second} a second", at + 1);
            impair(reach, &edges, Treatment::Throttle { per_second, burst: BURST }, who)
        }),
    },
];

pub fn available(place: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    network::available(place, "loss")
}

fn percent(roll: u64) -> u8 {
    fastrand::Rng::with_seed(roll).u8(PERCENT)
}

fn lose(reach: &Reach<'_, '_>, edges: &[Edge], percent: u8, who: &str) -> anyhow::Result<Broken> {
    impair(reach, edges, Treatment::Lose { percent }, format!("{who}, {percent} %"))
}

fn impair(reach: &Reach<'_, '_>, edges: &[Edge], treatment: Treatment, who: String) -> anyhow::Result<Broken> {
    Ok(Broken::packets(who, Impairment::begin(reach.place, edges, treatment)?))
}
