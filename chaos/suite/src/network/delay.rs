//! Packets that arrive late: the kernel hands them over (NFQUEUE), and takes them back when their time has come.
//!
//! There is no netem everywhere. A thread of ours answers for the packets of a host; when it is gone, the kernel lets
//! them through at once (`--queue-bypass`).

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nfq::{Message, Queue, Verdict};
use nix::sched::{CloneFlags, setns};

use super::{
    feed,
    rules::{Edge, by_hearer},
};
use crate::place::{Host, NotAvailable, Place};

/// How often it looks for packets that came and packets that are due: so much later than asked they may arrive.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Most packets held for a host; the kernel lets those beyond through at once.
const HELD_MAX: u32 = 16_384;
/// Of each packet we see so much; it stays whole in the kernel.
const SEEN_BYTES: u16 = 64;

/// How late packets arrive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lateness {
    /// Each by so much.
    pub latency: Duration,
    /// And by up to so much more, each by its own throw of the dice.
    pub jitter: Duration,
    /// Whether one may overtake another; otherwise it waits for those before it.
    pub overtaking: bool,
}

impl Lateness {
    /// When a packet that came now is due. `last` is when the one before it is.
    fn due(self, now: Instant, last: Option<Instant>, random: &mut fastrand::Rng) -> Instant {
        let jitter_us = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX);
        let due = now + self.latency + Duration::from_micros(random.u64(0..=jitter_us));
        match last {
            Some(last) if !self.overtaking => due.max(last),
            _ => due,
        }
    }
}

/// Whether packets can be delayed in this place.
///
/// # Errors
/// What is missing.
pub fn available(place: &dyn Place) -> Result<(), NotAvailable> {
    let tried = place.network(Host(0)).map_err(|lacks| lacks.why).and_then(|network| {
        let rules = Rules { network, chain: "chaos_trial".into() };
        rules.begin(&["127.0.0.1".into()], 0).and_then(|()| rules.end()).map_err(|error| {
            format!("{error:#}; Debian's package is iptables, and the kernel has to have its target NFQUEUE")
        })
    });
    tried.map_err(|why| NotAvailable { what: "delay".into(), why })
}

/// Some edges on which packets arrive late, until [`Delay::end`].
pub struct Delay {
    hearers: Vec<(Rules, Option<Holder>)>,
}

impl Delay {
    /// From now on packets on these edges are late.
    ///
    /// # Errors
    /// The tools'; nothing is changed then.
    pub fn begin(place: &dyn Place, edges: &[Edge], lateness: Lateness, seed: u64) -> anyhow::Result<Self> {
        static QUEUES: AtomicU16 = AtomicU16::new(1);
        ensure!(!edges.is_empty(), "nobody to hear late");
        let number = QUEUES.fetch_add(1, Ordering::Relaxed);
        let mut begun = Self { hearers: Vec::new() };
        for (hearer, sources) in by_hearer(edges) {
            let sources: Vec<_> = sources.into_iter().map(|host| place.address(host).to_string()).collect();
            let network = place.network(hearer)?;
            let seed = seed ^ u64::try_from(hearer.0).expect("a small number");
            // Somebody has to be there before the first packet.
            let begin = Holder::start(&network, number, lateness, seed).and_then(|holder| {
                let rules = Rules { network, chain: format!("chaos_{number}") };
                rules.begin(&sources, number)?;
                Ok((rules, Some(holder)))
            });
            match begin {
                Ok(hearer) => begun.hearers.push(hearer),
                Err(error) => {
                    begun.end()?;
                    return Err(error);
                }
            }
        }
        Ok(begun)
    }

    /// How many packets were or are late.
    #[must_use]
    pub fn met(&self) -> u64 {
        let holders = self.hearers.iter().filter_map(|(_, holder)| holder.as_ref());
        holders.map(|holder| holder.met.load(Ordering::Relaxed)).sum()
    }

    /// Ends it: what is held arrives now. Looks whether it is ended.
    ///
    /// # Errors
    /// The tools', or if a packet was lost on the way.
    pub fn end(&mut self) -> anyhow::Result<()> {
        // All are tried, whatever becomes of one.
        let ended: Vec<_> = self
            .hearers
            .iter_mut()
            .map(|(rules, holder)| rules.end().and(holder.take().map_or(Ok(()), Holder::end)))
            .collect();
        ended.into_iter().collect()
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // Whoever wants to know has called it.
        let _ = self.end();
    }
}

/// The rules that hand the packets over, in a chain of their own.
struct Rules {
    network: PathBuf,
    chain: String,
}

impl Rules {
    fn begin(&self, sources: &[String], number: u16) -> anyhow::Result<()> {
        let (chain, sources) = (&self.chain, sources.join(","));
        self.restore(&format!(
            "*filter\n:{chain} - [0:0]\n-A {chain} -s {sources} -j NFQUEUE --queue-num {number} --queue-bypass\n\
             -I INPUT -j {chain}\nCOMMIT\n"
        ))
    }

    fn end(&self) -> anyhow::Result<()> {
        let chain = &self.chain;
        self.restore(&format!("*filter\n-D INPUT -j {chain}\n-F {chain}\n-X {chain}\nCOMMIT\n"))
    }

    fn restore(&self, script: &str) -> anyhow::Result<()> {
        let mut tool = Command::new("iptables-restore");
        tool.args(["--noflush", "--wait", "5"]);
        feed(&self.network, &tool, script).map(drop)
    }
}

/// A thread that holds a host's packets back.
struct Holder {
    stop: Arc<AtomicBool>,
    met: Arc<AtomicU64>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Holder {
    fn start(network: &Path, number: u16, lateness: Lateness, seed: u64) -> anyhow::Result<Self> {
        let (stop, met) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ready, is_ready) = mpsc::channel();
        let (network, stopped, meets) = (network.to_owned(), Arc::clone(&stop), Arc::clone(&met));
        let thread = thread::Builder::new().name("delay".into()).spawn(move || match open(&network, number) {
            Ok(queue) => {
                let _ = ready.send(Ok(()));
                hold(queue, lateness, &mut fastrand::Rng::with_seed(seed), &stopped, &meets)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        })?;
        is_ready.recv().context("the thread that holds packets back ended")?.context("no queue for packets")?;
        Ok(Self { stop, met, thread })
    }

    fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the thread that held packets back panicked")?.context("packets were lost")
    }
}

/// The queue of this number in this network. The thread stays in that network.
fn open(network: &Path, number: u16) -> io::Result<Queue> {
    setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    let mut queue = Queue::open()?;
    queue.bind(number)?;
    queue.set_queue_max_len(number, HELD_MAX)?;
    queue.set_fail_open(number, true)?;
    queue.set_copy_range(number, SEEN_BYTES)?;
    queue.set_recv_gso(number, true)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn hold(
    mut queue: Queue,
    lateness: Lateness,
    random: &mut fastrand::Rng,
    stop: &AtomicBool,
    met: &AtomicU64,
) -> io::Result<()> {
    // By when they are due, then by their order.
    let mut held = BTreeMap::<(Instant, u64), Message>::new();
    let (mut count, mut last) = (0, None);
    loop {
        // Looked at before the queue is emptied, so that nothing is left in it.
        let stopping = stop.load(Ordering::Relaxed);
        loop {
            match queue.recv() {
                Ok(mut packet) => {
                    packet.set_verdict(Verdict::Accept);
                    let due = lateness.due(Instant::now(), last, random);
                    (count, last) = (count + 1, Some(due));
                    held.insert((due, count), packet);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        met.store(count, Ordering::Relaxed);
        let now = Instant::now();
        while let Some(next) = held.first_entry()
            && (stopping || next.key().0 <= now)
        {
            match queue.verdict(next.remove()) {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        if stopping {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A packet is gone that a verdict was for: with its interface, or a process. The kernel may say so later, too.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_order_unless_they_may_overtake() {
        let mut random = fastrand::Rng::with_seed(3);
        let (begun, jitter) = (Instant::now(), Duration::from_millis(40));
        let mut dues = |overtaking| {
            let lateness = Lateness { latency: Duration::from_millis(20), jitter, overtaking };
            let mut last = None;
            let due = |at| {
                let due = lateness.due(begun + Duration::from_millis(at), last, &mut random);
                last = Some(due);
                due - begun - Duration::from_millis(at)
            };
            (0..100).map(due).collect::<Vec<_>>()
        };
        let (loose, strict) = (dues(true), dues(false));
        let range = Duration::from_millis(20)..=Duration::from_millis(60);
        assert!(loose.iter().all(|late| range.contains(late)), "{loose:?}");
        let overtaken =
            |late: &[Duration]| (1..late.len()).any(|at| late[at] + Duration::from_millis(1) < late[at - 1]);
        assert!(overtaken(&loose) && !overtaken(&strict));
        assert!(strict.iter().all(|late| *late >= Duration::from_millis(20)));
    }
}
