//! What is done to packets is done: measured with packets of our own between two or more hosts.
//!
//! They need root, iproute2, nftables and iptables, which `scripts/setup.sh --tests` installs; where one is missing they say
//! so and judge nothing.

use std::{
    fs::File,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use conclave_suite::{
    network::{
        self, Impairment,
        delay::{self, Delay, Lateness},
        rules::{Treatment, both_ways, bridge, each_alone, majority_ring, one_way},
    },
    place::{Host, Place as _, namespaces::Namespaces},
};
use nix::sched::{CloneFlags, setns};

/// Nothing that is neither lost nor late takes so long between two namespaces of one machine.
const SOON: Duration = Duration::from_secs(2);

/// A place with so many hosts, or what is missing, said.
fn place(hosts: usize) -> Option<Namespaces> {
    let place = Namespaces::make(hosts).map_err(|error| format!("{error:#}"));
    let place = place.and_then(|place| match network::available(&place, "partition").and(delay::available(&place)) {
        Ok(()) => Ok(place),
        Err(lacks) => Err(lacks.to_string()),
    });
    place.map_err(|why| eprintln!("NOT TESTED: {why}")).ok()
}

/// A socket of a host: opened by a thread in its network, it stays there.
fn socket(place: &Namespaces, host: Host) -> UdpSocket {
    let (network, address) = (place.network(host).expect("a network"), place.address(host));
    let open = move |network: PathBuf| {
        setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
        UdpSocket::bind((address, 0))
    };
    let socket = thread::spawn(move || open(network)).join().expect("no panic").expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a time-out");
    socket
}

/// Sockets of all hosts, and where they are.
struct Ends {
    sockets: Vec<UdpSocket>,
    addresses: Vec<SocketAddr>,
}

impl Ends {
    fn of(place: &Namespaces, hosts: usize) -> Self {
        let sockets: Vec<_> = (0..hosts).map(|host| socket(place, Host(host))).collect();
        let addresses = sockets.iter().map(|socket| socket.local_addr().expect("an address")).collect();
        let ends = Self { sockets, addresses };
        // A bridge that was just made may keep the first packets to itself.
        for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            let until = Instant::now() + Duration::from_secs(10);
            while !ends.heard(from, to) {
                assert!(Instant::now() < until, "{from} does not reach {to}");
            }
        }
        ends
    }

    /// Whether something that `from` says arrives at `to`: said often, so that only a rule stops all of it.
    fn heard(&self, from: usize, to: usize) -> bool {
        let socket = &self.sockets[to];
        socket.set_read_timeout(Some(Duration::from_millis(30))).expect("a time-out");
        let heard = (0..5).any(|_| {
            self.sockets[from].send_to(b"word", self.addresses[to]).expect("sent");
            socket.recv_from(&mut [0; 16]).is_ok_and(|(_, whose)| whose == self.addresses[from])
        });
        while socket.recv_from(&mut [0; 16]).is_ok() {}
        heard
    }

    /// Everybody who hears whom.
    fn hearing(&self) -> Vec<(usize, usize)> {
        let count = self.sockets.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to && self.heard(*from, *to)).collect()
    }
}

#[test]
fn a_cut_is_one_way_or_both_and_ends_without_a_trace() {
    let Some(place) = place(2) else { return };
    let ends = Ends::of(&place, 2);
    let (one, other) = ([Host(0)], [Host(1)]);
    let deaf = Impairment::begin(&place, &one_way(&one, &other), Treatment::Drop).expect("a cut");
    assert_eq!(ends.hearing(), [(1, 0)], "the second does not hear the first");
    assert!(deaf.met(&place).expect("counters")[&Host(1)] >= 5);
    // Another one beside it, which ends first.
    let both = Impairment::begin(&place, &both_ways(&one, &other), Treatment::Drop).expect("a cut");
    assert_eq!(ends.hearing(), []);
    both.end(&place).expect("joined");
    assert_eq!(ends.hearing(), [(1, 0)], "the first cut is still there");
    deaf.end(&place).expect("joined");
    assert_eq!(ends.hearing().len(), 2);
    assert!(deaf.met(&place).is_err(), "what is ended counts nothing");
}

#[test]
fn a_ring_is_a_ring_and_a_bridge_a_bridge() {
    let Some(place) = place(5) else { return };
    let ends = Ends::of(&place, 5);
    let all: Vec<_> = (0..5).map(Host).collect();
    let ring = Impairment::begin(&place, &majority_ring(&all), Treatment::Drop).expect("a ring");
    let neighbours = |from: usize, to: usize| (from + 1) % 5 == to || (to + 1) % 5 == from;
    let hearing = ends.hearing();
    assert_eq!(hearing.len(), 10, "{hearing:?}");
    assert!(hearing.iter().all(|(from, to)| neighbours(*from, *to)), "{hearing:?}");
    ring.end(&place).expect("joined");

    let between = Impairment::begin(&place, &bridge(Host(2), &all), Treatment::Drop).expect("a bridge");
    let halves = |one: usize, other: usize| one == 2 || other == 2 || (one < 2) == (other < 2);
    let hearing = ends.hearing();
    assert_eq!(hearing.len(), 12, "{hearing:?}");
    assert!(hearing.iter().all(|(from, to)| halves(*from, *to)), "{hearing:?}");
    between.end(&place).expect("joined");

    let alone = Impairment::begin(&place, &each_alone(&all), Treatment::Drop).expect("cuts");
    assert_eq!(ends.hearing(), []);
    alone.end(&place).expect("joined");
    assert_eq!(ends.hearing().len(), 20);
}

/// Of so many packets, how many arrive.
fn arrive(ends: &Ends, count: usize) -> usize {
    let (from, to) = (&ends.sockets[0], &ends.sockets[1]);
    to.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    (0..count)
        .map(|at| {
            from.send_to(b"word", ends.addresses[1]).expect("sent");
            // Now and then emptied, so that no buffer is what loses them.
            let mut heard = 0;
            if at % 50 == 49 || at + 1 == count {
                while to.recv_from(&mut [0; 16]).is_ok() {
                    heard += 1;
                }
            }
            heard
        })
        .sum()
}

#[test]
fn what_is_to_be_lost_is_lost_and_as_much_as_asked() {
    let Some(place) = place(2) else { return };
    let ends = Ends::of(&place, 2);
    assert_eq!(arrive(&ends, 100), 100);
    let edges = one_way(&[Host(0)], &[Host(1)]);
    let loss = Impairment::begin(&place, &edges, Treatment::Lose { percent: 30 }).expect("losses");
    let arrived = arrive(&ends, 1_000);
    let lost = usize::try_from(loss.met(&place).expect("counters")[&Host(1)]).expect("few");
    loss.end(&place).expect("ended");
    println!("asked to lose 30 %: {} of 1000 lost", 1_000 - arrived);
    assert_eq!(arrived + lost, 1_000, "what does not arrive is counted");
    // Six standard deviations (14.5) on either side: once in five hundred million tests.
    assert!((213..=387).contains(&lost), "{lost} of 1000 lost");

    // Those beyond a burst of ten are too many in one moment, whatever a second allows.
    let rows = Treatment::Throttle { per_second: 1, burst: 10 };
    let throttle = Impairment::begin(&place, &edges, rows).expect("losses");
    let arrived = arrive(&ends, 50);
    throttle.end(&place).expect("ended");
    assert!((10..50).contains(&arrived), "{arrived} of 50 arrived");
    assert_eq!(arrive(&ends, 100), 100);
}

/// One packet there and back, from the first host's side.
fn round_trip(ends: &Ends) -> Duration {
    let begun = Instant::now();
    for (from, to) in [(0, 1), (1, 0)] {
        ends.sockets[to].set_read_timeout(Some(SOON)).expect("a time-out");
        ends.sockets[from].send_to(b"word", ends.addresses[to]).expect("sent");
        ends.sockets[to].recv_from(&mut [0; 16]).expect("heard");
    }
    begun.elapsed()
}

#[test]
fn what_is_to_be_late_is_late_and_nothing_is_lost() {
    let Some(place) = place(2) else { return };
    let ends = Ends::of(&place, 2);
    let ms = Duration::from_millis;
    let edges = both_ways(&[Host(0)], &[Host(1)]);
    let even = Lateness { latency: ms(50), jitter: Duration::ZERO, overtaking: false };
    let mut delay = Delay::begin(&place, &edges, even, 1).expect("a delay");
    let mut took: Vec<_> = (0..20).map(|_| round_trip(&ends)).collect();
    took.sort_unstable();
    println!("asked for 50 ms each way: there and back {:?} to {:?}, middle {:?}", took[0], took[19], took[10]);
    // However busy the machine, none is early; how late they are besides is a figure.
    assert!(took[0] >= ms(100), "{took:?}");
    assert_eq!(delay.met(), 40);
    // What is held when it ends arrives.
    ends.sockets[0].send_to(b"last", ends.addresses[1]).expect("sent");
    delay.end().expect("ended");
    let mut heard = [0; 16];
    ends.sockets[1].set_read_timeout(Some(SOON)).expect("a time-out");
    assert_eq!(ends.sockets[1].recv_from(&mut heard).expect("heard").0, 4);
    assert_eq!(delay.met(), 0, "nobody holds anything any more");
    round_trip(&ends);
}

/// Numbers sent in their order, as they arrive.
fn order(ends: &Ends) -> Vec<u8> {
    for number in 0..100 {
        ends.sockets[0].send_to(&[number], ends.addresses[1]).expect("sent");
        thread::sleep(Duration::from_micros(200));
    }
    let (socket, mut heard) = (&ends.sockets[1], [0; 16]);
    socket.set_read_timeout(Some(SOON)).expect("a time-out");
    (0..100).map(|_| socket.recv_from(&mut heard).map(|_| heard[0]).expect("none is lost")).collect()
}

#[test]
fn with_jitter_packets_overtake_each_other_only_where_they_may() {
    let Some(place) = place(2) else { return };
    let ends = Ends::of(&place, 2);
    let edges = one_way(&[Host(0)], &[Host(1)]);
    for overtaking in [false, true] {
        let jitter = Duration::from_millis(50);
        let lateness = Lateness { latency: Duration::from_millis(1), jitter, overtaking };
        let mut delay = Delay::begin(&place, &edges, lateness, 7).expect("a delay");
        let arrived = order(&ends);
        delay.end().expect("ended");
        assert_eq!(!arrived.is_sorted(), overtaking, "{arrived:?}");
    }
}
