//! Who hears whom how, as rules of nftables. Pure: text from edges.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::place::Host;

/// `to` does not hear `from` as it should. The other direction is another edge.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Edge {
    /// Who sends.
    pub from: Host,
    /// Who should hear it.
    pub to: Host,
}

/// What becomes of packets on an edge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Treatment {
    /// None arrives.
    Drop,
    /// So many of a hundred do not, each by its own throw of the dice.
    Lose {
        /// 1 to 100.
        percent: u8,
    },
    /// Those beyond so many a second do not, once a first burst is through: losses come in rows.
    Throttle {
        /// Let through each second.
        per_second: u32,
        /// And so many at once.
        burst: u32,
    },
}

/// Every one of `from` is not heard by any of `to`.
#[must_use]
pub fn one_way(from: &[Host], to: &[Host]) -> Vec<Edge> {
    let pairs = from.iter().flat_map(|from| to.iter().map(|to| Edge { from: *from, to: *to }));
    pairs.filter(|edge| edge.from != edge.to).collect()
}

/// Every one of `ones` and every one of `others` do not hear each other.
#[must_use]
pub fn both_ways(ones: &[Host], others: &[Host]) -> Vec<Edge> {
    [one_way(ones, others), one_way(others, ones)].concat()
}

/// None of them hears any other.
#[must_use]
pub fn each_alone(hosts: &[Host]) -> Vec<Edge> {
    one_way(hosts, hosts)
}

/// The first and the second half of the others hear only each among themselves, and `bridge`, who hears both.
#[must_use]
pub fn bridge(bridge: Host, others: &[Host]) -> Vec<Edge> {
    let others: Vec<_> = others.iter().copied().filter(|host| *host != bridge).collect();
    let (ones, rest) = others.split_at(others.len() / 2);
    both_ways(ones, rest)
}

/// In the order of `hosts`, as in a ring, each hears just so many neighbours on either side that they are a majority with
/// it; so no two see the same one. With fewer than four hosts everybody is everybody's neighbour, and there is no edge.
#[must_use]
pub fn majority_ring(hosts: &[Host]) -> Vec<Edge> {
    let count = hosts.len();
    // A majority, less oneself, from two sides.
    let reach = (count / 2).div_ceil(2);
    let distance = |one: usize, other: usize| one.abs_diff(other).min(count - one.abs_diff(other));
    let far = |(at, to): (usize, &Host)| {
        let from = hosts.iter().enumerate().filter(move |(other, _)| distance(at, *other) > reach);
        from.map(|(_, from)| Edge { from: *from, to: *to }).collect::<Vec<_>>()
    };
    hosts.iter().enumerate().flat_map(far).collect()
}

/// For every host that does not hear well: whom.
#[must_use]
pub fn by_hearer(edges: &[Edge]) -> BTreeMap<Host, BTreeSet<Host>> {
    let mut hearers = BTreeMap::<_, BTreeSet<_>>::new();
    for edge in edges {
        hearers.entry(edge.to).or_default().insert(edge.from);
    }
    hearers
}

/// The name of the counter of packets that a table met.
pub const COUNTER: &str = "met";

/// For `nft -f`: a table of this name in which packets from `sources` that arrive are treated so, and those dropped are counted. Tables do
/// not know of each other: a packet that any of them drops is dropped.
#[must_use]
pub fn table(name: &str, sources: &[Ipv4Addr], treatment: Treatment) -> String {
    let sources = sources.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let which = match treatment {
        Treatment::Drop => String::new(),
        Treatment::Lose { percent } => format!("numgen random mod 100 < {percent} "),
        Treatment::Throttle { per_second, burst } => {
            format!("limit rate over {per_second}/second burst {burst} packets ")
        }
    };
    format!(
        "table inet {name} {{
            counter {COUNTER} {{ }}
            chain in {{ type filter hook input priority 0; ip saddr {{ {sources} }} {which}counter name {COUNTER} drop; }}
        }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<Host> {
        (0..count).map(Host).collect()
    }

    fn hears(edges: &[Edge], to: Host, from: Host) -> bool {
        !edges.contains(&Edge { from, to })
    }

    #[test]
    fn a_cut_is_one_way_or_both_and_never_of_oneself() {
        let (one, other) = (Host(0), Host(1));
        assert_eq!(one_way(&[one], &[one, other]), [Edge { from: one, to: other }]);
        let both = both_ways(&[one], &[other]);
        assert!(!hears(&both, one, other) && !hears(&both, other, one));
        assert_eq!(each_alone(&hosts(3)).len(), 6);
    }

    #[test]
    fn a_bridge_hears_both_halves_and_they_only_it() {
        for count in 3..=7 {
            let edges = bridge(Host(1), &hosts(count));
            let everybody = hosts(count);
            assert!(everybody.iter().all(|host| hears(&edges, Host(1), *host) && hears(&edges, *host, Host(1))));
            let (first, last) = (Host(0), Host(count - 1));
            assert!(!hears(&edges, first, last) && !hears(&edges, last, first), "{count}: {edges:?}");
        }
    }

    #[test]
    fn in_a_ring_each_hears_another_majority_and_hearing_is_mutual() {
        for count in 4..=7 {
            let (all, mut seen) = (hosts(count), BTreeSet::new());
            let edges = majority_ring(&all);
            for to in &all {
                let heard: Vec<_> = all.iter().filter(|from| hears(&edges, *to, **from)).copied().collect();
                assert!(heard.len() > count / 2, "{to:?} of {count} hears {heard:?}");
                assert!(heard.len() < count, "{to:?} of {count} hears everybody");
                assert!(heard.iter().all(|from| hears(&edges, *from, *to)));
                assert!(seen.insert(heard), "two of {count} hear the same");
            }
        }
        assert!(majority_ring(&hosts(3)).is_empty(), "of three each has two neighbours");
    }

    #[test]
    fn rules_are_where_packets_arrive_and_name_whom_they_come_from() {
        let edges = both_ways(&[Host(0)], &[Host(1), Host(2)]);
        let hearers = by_hearer(&edges);
        assert_eq!(hearers[&Host(0)], BTreeSet::from([Host(1), Host(2)]));
        assert_eq!(hearers[&Host(2)], BTreeSet::from([Host(0)]));
        let deaf = by_hearer(&one_way(&[Host(0)], &[Host(1), Host(2)]));
        assert_eq!(deaf.into_keys().collect::<Vec<_>>(), [Host(1), Host(2)], "who sends has no rule");
        let sources = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
        let rule = |treatment| {
            let text = table("t", &sources, treatment);
            let from = text.find("ip saddr").expect("a rule");
            text[from..].split(';').next().expect("its end").to_owned()
        };
        let who = "ip saddr { 10.77.0.1, 10.77.0.2 } ";
        assert_eq!(rule(Treatment::Drop), format!("{who}counter name met drop"));
        let lost = rule(Treatment::Lose { percent: 30 });
        assert_eq!(lost, format!("{who}numgen random mod 100 < 30 counter name met drop"));
        let bursts = rule(Treatment::Throttle { per_second: 50, burst: 20 });
        assert_eq!(bursts, format!("{who}limit rate over 50/second burst 20 packets counter name met drop"));
    }
}
