//! One run of the incident: the orders arrive, workers take them, and things happen to both.
//!
//! The dispatcher is an ordinary at-least-once queue: a delivery that is not acknowledged in time is delivered again, and
//! one in forty is delivered twice at once. So it is the lock, and nothing else, that keeps two workers apart.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use conclave_chaos::procs::{Cluster, Options, leashed, spawn};
use nix::sys::signal::Signal;

use crate::{
    crew::Crew,
    orders::{Change, Dice},
    shop::{Judgement, Shop},
    worker::{Job, Outcome, Report, now_ns},
};

/// One delivery in this many is made twice at once.
const TWICE_ONE_IN: u64 = 40;
/// Short pauses of a run: a garbage collection, a busy hypervisor.
const SHORT_PAUSES: u32 = 12;
/// How long each of them takes.
const SHORT_PAUSE: Duration = Duration::from_millis(300);
/// Beyond the TTL: until a delivery is made again, and at least this long stands the worker that is stopped for long.
const GRACE: Duration = Duration::from_millis(500);
/// A stopped worker is resumed by then even if nobody has taken its lock.
const LONG_PAUSE_MAX: Duration = Duration::from_secs(15);
/// Where in the run the worker is stopped for long, and the leader killed.
const LONG_PAUSE_AT: f64 = 0.15;
const KILL_AT: f64 = 0.55;
/// The killed server stays away this long.
const AWAY: Duration = Duration::from_secs(3);
/// Work between reading and writing an order, in milliseconds: from, and how many more at most.
const WORK_MS: (u64, u64) = (6, 10);
/// The run fails if it is not over this long after the last order came.
const OVERTIME_MAX: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(2);
const NEWS_EVERY: Duration = Duration::from_secs(4);

/// What both runs have in common.
pub struct Plan {
    pub changes: Vec<Change>,
    /// Times the usual rate.
    pub speed: f64,
    pub workers: usize,
    pub bin_dir: Option<std::path::PathBuf>,
    pub redis: Option<std::net::SocketAddr>,
    /// TTL of Conclave's sessions.
    pub ttl: Duration,
    /// TTL of the naive lock.
    pub naive_ttl: Duration,
}

impl Plan {
    /// When the change arrives.
    fn due(&self, change: &Change) -> Duration {
        change.at.div_f64(self.speed)
    }

    /// When the last one arrives.
    pub fn span(&self) -> Duration {
        self.changes.last().map_or(Duration::ZERO, |change| self.due(change))
    }
}

/// Which lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Conclave,
    Naive,
}

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The database was shown tokens.
    pub fenced: bool,
    pub judgement: Judgement,
    /// Deliveries made.
    pub deliveries: u64,
    /// Of these, found the change in the order already.
    pub duplicates: u64,
    /// Pairs of workers that were inside one order at the same time.
    pub overlaps: u64,
    /// Of these, the earlier one wrote, although the later one had read the order by then or was about to.
    pub unhindered: u64,
    /// Writes and reads that the database refused by token.
    pub stale: u64,
    /// Of these, the guard said lost as well.
    pub stale_and_told: u64,
    /// Handed back and delivered again.
    pub failed: u64,
    /// Short pauses that hit a worker between read and write.
    pub short_pauses: u32,
    /// The long one hit, and somebody else took the lock meanwhile.
    pub long_pause: bool,
    /// The longest time without an answer of the lock service around the kill.
    pub without_leader: Option<Duration>,
    /// The killed server serves again.
    pub came_back: bool,
    /// Waiting for a lock: median, 99th percentile.
    pub waited: (Duration, Duration),
    /// From the first order to the last one done.
    pub took: Duration,
}

/// Runs it.
///
/// # Errors
/// If it could not be run; what it came to is judged elsewhere.
pub async fn replay(plan: &Plan, kind: Kind, dir: &Path) -> anyhow::Result<Verdict> {
    let db = dir.join(format!("{kind:?}.db").to_lowercase());
    let shop = Shop::open(&db)?;
    let (service, lock) = match kind {
        Kind::Conclave => {
            let options = Options { cluster: "demo".into(), bin_dir: plan.bin_dir.clone(), ..Options::default() };
            let cluster = Cluster::start_with(options).await.context("three servers")?;
            let mut lock: Vec<String> =
                cluster.endpoints().into_iter().flat_map(|endpoint| ["--endpoint".into(), endpoint]).collect();
            lock.extend(["--ttl-ms".into(), plan.ttl.as_millis().to_string()]);
            (Service::Conclave(Box::new(cluster)), lock)
        }
        Kind::Naive => {
            let (service, address) = match plan.redis {
                Some(address) => (Service::Elsewhere, address),
                None => KeyValueServer::start().map(|(server, address)| (Service::Naive(server), address))?,
            };
            (
                service,
                vec!["--naive".into(), address.to_string(), "--ttl-ms".into(), plan.naive_ttl.as_millis().to_string()],
            )
        }
    };
    let crew = Crew::start(plan.workers, &db, &lock)?;
    let mut run = Run::new(plan, kind, shop, service, crew);
    run.all_ready().await?;
    run.go().await?;
    run.finish().await
}

enum Service {
    Conclave(Box<Cluster>),
    // Only held: it ends with the run.
    Naive(#[allow(dead_code)] KeyValueServer),
    Elsewhere,
}

/// The naive lock's server, a process of its own.
struct KeyValueServer(Child);

impl KeyValueServer {
    fn start() -> anyhow::Result<(Self, std::net::SocketAddr)> {
        // The socket is handed down as its standard input, so that the port is never free in between.
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the key-value server")?;
        let address = listener.local_addr().context("no address")?;
        let mut command = leashed(std::env::current_exe().context("where is this executable?")?);
        command.arg("key-value-server").stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null());
        Ok((Self(spawn(command).context("cannot start the key-value server")?), address))
    }
}

impl Drop for KeyValueServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Run<'a> {
    plan: &'a Plan,
    kind: Kind,
    shop: Shop,
    service: Service,
    crew: Crew,
    begun: Instant,
    /// The next change of the file that has not arrived.
    next: usize,
    /// Changes (by their place in the file) waiting for a worker.
    queue: VecDeque<usize>,
    idle: Vec<usize>,
    /// By delivery.
    outstanding: BTreeMap<i64, Outstanding>,
    completed: HashSet<usize>,
    /// Deliveries made so far; the last one's number.
    deliveries: i64,
    paused: Vec<Paused>,
    short_pauses_wanted: u32,
    long_pause: Step,
    kill: Step,
    away: Option<(u64, Instant)>,
    killed_ns: u64,
    last_news: Duration,
    dice: Dice,
    /// By order: who was inside, and when.
    inside: HashMap<i64, Vec<Stay>>,
    answers: Vec<u64>,
    waited_us: Vec<u64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Ahead,
    Wanted,
    Done,
}

struct Outstanding {
    /// Place of the change in the file.
    place: usize,
    since: Instant,
    /// Delivered again since.
    again: bool,
}

struct Paused {
    worker: usize,
    delivery: i64,
    order: i64,
    since: Instant,
    long: bool,
    /// Somebody else has got the lock of this order since.
    succeeded: bool,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, kind: Kind, shop: Shop, service: Service, crew: Crew) -> Self {
        Self {
            plan,
            kind,
            shop,
            service,
            crew,
            begun: Instant::now(),
            next: 0,
            queue: VecDeque::new(),
            idle: Vec::new(),
            outstanding: BTreeMap::new(),
            completed: HashSet::new(),
            deliveries: 0,
            paused: Vec::new(),
            short_pauses_wanted: 0,
            long_pause: Step::Ahead,
            kill: if kind == Kind::Conclave { Step::Ahead } else { Step::Done },
            away: None,
            killed_ns: 0,
            last_news: Duration::ZERO,
            dice: Dice(7),
            inside: HashMap::new(),
            answers: Vec::new(),
            waited_us: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    fn say(&self, text: &str) {
        println!("  {:5.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    async fn all_ready(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.plan.workers {
            let told = tokio::time::timeout(Duration::from_secs(30), self.crew.reports.recv()).await;
            match told.context("the workers are not ready after 30 seconds")? {
                Some((worker, Some(Report::Ready))) => self.idle.push(worker),
                Some((worker, _)) => bail!("worker-{} could not begin", worker + 1),
                None => bail!("no workers"),
            }
        }
        Ok(())
    }

    async fn go(&mut self) -> anyhow::Result<()> {
        self.begun = Instant::now();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = self.crew.reports.recv() => {
                    let (worker, report) = told.context("no workers")?;
                    let report = report.with_context(|| format!("worker-{} died", worker + 1))?;
                    self.hear(worker, report)?;
                }
                _ = ticker.tick() => {
                    let elapsed = self.begun.elapsed();
                    self.arrive(elapsed);
                    self.deliver_again();
                    self.resume_paused()?;
                    self.disturb(elapsed).await?;
                    self.news(elapsed);
                    if self.is_over() {
                        self.verdict.took = elapsed;
                        return Ok(());
                    }
                    ensure!(elapsed < self.plan.span() + OVERTIME_MAX, "not over: {} of {} changes done, {} outstanding",
                        self.completed.len(), self.plan.changes.len(), self.outstanding.len());
                }
            }
            self.hand_out()?;
        }
    }

    fn is_over(&self) -> bool {
        self.completed.len() == self.plan.changes.len()
            && self.outstanding.is_empty()
            && self.paused.is_empty()
            && self.away.is_none()
            && self.kill == Step::Done
    }

    /// Changes whose time has come join the queue, some of them twice.
    fn arrive(&mut self, elapsed: Duration) {
        while let Some(change) = self.plan.changes.get(self.next)
            && self.plan.due(change) <= elapsed
        {
            self.queue.push_back(self.next);
            if self.dice.below(TWICE_ONE_IN) == 0 {
                self.queue.push_back(self.next);
            }
            self.next += 1;
        }
    }

    /// What was not acknowledged in time is delivered to somebody else.
    fn deliver_again(&mut self) {
        for outstanding in self.outstanding.values_mut() {
            if !outstanding.again && outstanding.since.elapsed() >= self.plan.ttl + GRACE {
                outstanding.again = true;
                self.queue.push_front(outstanding.place);
            }
        }
    }

    fn hand_out(&mut self) -> anyhow::Result<()> {
        while let Some(&worker) = self.idle.last()
            && let Some(place) = self.queue.pop_front()
        {
            self.idle.pop();
            let change = &self.plan.changes[place];
            self.deliveries += 1;
            let work_ms = WORK_MS.0 + Dice(self.deliveries.unsigned_abs()).below(WORK_MS.1);
            let (order, amount_cents) = (change.order, change.amount_cents);
            let job = Job { delivery: self.deliveries, order, change: change.change, amount_cents, work_ms };
            self.crew.hand(worker, &job)?;
            self.outstanding.insert(job.delivery, Outstanding { place, since: Instant::now(), again: false });
        }
        Ok(())
    }

    fn hear(&mut self, worker: usize, report: Report) -> anyhow::Result<()> {
        match report {
            Report::Ready => {}
            Report::Entered { delivery, token, waited_us, duplicate } => {
                self.waited_us.push(waited_us);
                let place = self.outstanding.get(&delivery).context("a delivery nobody made")?.place;
                let order = self.plan.changes[place].order;
                for paused in &mut self.paused {
                    paused.succeeded |= paused.order == order && paused.worker != worker;
                }
                if !duplicate {
                    self.perhaps_pause(worker, delivery, order, token)?;
                }
            }
            Report::Done { delivery, outcome, inside_ns, answers_ns, lost } => {
                let Outstanding { place, again, .. } =
                    self.outstanding.remove(&delivery).context("a delivery nobody made")?;
                let order = self.plan.changes[place].order;
                self.idle.insert(0, worker);
                self.answers.extend(answers_ns);
                if let Some((begin, end)) = inside_ns {
                    let wrote = outcome == Outcome::Applied;
                    self.inside.entry(order).or_default().push(Stay { begin, end, wrote });
                }
                match outcome {
                    Outcome::Applied => drop(self.completed.insert(place)),
                    Outcome::Duplicate => {
                        self.verdict.duplicates += 1;
                        self.completed.insert(place);
                    }
                    Outcome::Stale(why) => {
                        self.verdict.stale += 1;
                        self.verdict.stale_and_told += u64::from(lost.is_some());
                        self.say(&format!("worker-{} wrote late and was refused: {why}", worker + 1));
                        if let Some(lost) = lost {
                            self.say(&format!("worker-{}'s guard says lost: {lost}", worker + 1));
                        }
                        self.requeue(place, again);
                    }
                    Outcome::Failed(why) => {
                        self.verdict.failed += 1;
                        if self.verdict.failed <= 3 {
                            self.say(&format!("worker-{} handed order {order} back: {why}", worker + 1));
                        }
                        self.requeue(place, again);
                    }
                }
            }
        }
        Ok(())
    }

    fn requeue(&mut self, place: usize, again: bool) {
        if !again && !self.completed.contains(&place) {
            self.queue.push_back(place);
        }
    }

    /// Stops a worker that has just entered an order, if a pause is due and it hits between read and write.
    fn perhaps_pause(&mut self, worker: usize, delivery: i64, order: i64, token: Option<u64>) -> anyhow::Result<()> {
        let long = self.long_pause == Step::Wanted;
        if !long && (self.short_pauses_wanted == 0 || !self.is_contended(delivery, order)) {
            return Ok(());
        }
        self.crew.signal(worker, Signal::SIGSTOP)?;
        if !self.shop.stands_between(delivery) {
            // Too late, it is writing or has written. The next one then.
            return self.crew.signal(worker, Signal::SIGCONT);
        }
        self.paused.push(Paused { worker, delivery, order, since: Instant::now(), long, succeeded: false });
        if long {
            self.long_pause = Step::Done;
            let held = token.map_or("no token".into(), |token| format!("with token {token}"));
            self.say(&format!(
                "worker-{} stopped (SIGSTOP) halfway through order {order}, holding its lock, {held}",
                worker + 1
            ));
        } else {
            self.short_pauses_wanted -= 1;
            self.verdict.short_pauses += 1;
        }
        Ok(())
    }

    /// Whether another change of this order is on its way too.
    fn is_contended(&self, delivery: i64, order: i64) -> bool {
        let same = |place: usize| self.plan.changes[place].order == order;
        self.queue.iter().any(|&place| same(place))
            || self.outstanding.iter().any(|(&other, outstanding)| other != delivery && same(outstanding.place))
    }

    fn resume_paused(&mut self) -> anyhow::Result<()> {
        let mut index = 0;
        while let Some(paused) = self.paused.get(index) {
            let stood = paused.since.elapsed();
            let over = if paused.long {
                (stood >= self.plan.ttl + 2 * GRACE && paused.succeeded) || stood >= LONG_PAUSE_MAX
            } else {
                stood >= SHORT_PAUSE
            };
            if !over {
                index += 1;
                continue;
            }
            let paused = self.paused.swap_remove(index);
            self.crew.signal(paused.worker, Signal::SIGCONT)?;
            if paused.long {
                self.verdict.long_pause = paused.succeeded;
                if !paused.succeeded {
                    // Perhaps the whole machine stood still, and not only the worker. Once more, then.
                    self.long_pause = Step::Wanted;
                }
                let meanwhile = if paused.succeeded {
                    "another worker has had the lock meanwhile"
                } else {
                    "nobody has had the lock"
                };
                self.say(&format!(
                    "worker-{} resumed after {:.1} s; {meanwhile}",
                    paused.worker + 1,
                    stood.as_secs_f64()
                ));
                debug_assert!(self.outstanding.contains_key(&paused.delivery), "it could not have finished");
            }
        }
        Ok(())
    }

    /// Pauses that fall due, the kill, the return.
    async fn disturb(&mut self, elapsed: Duration) -> anyhow::Result<()> {
        let part = elapsed.as_secs_f64() / self.plan.span().as_secs_f64().max(0.001);
        let due = ((part * f64::from(SHORT_PAUSES + 1)) as u32).min(SHORT_PAUSES);
        let had = self.verdict.short_pauses + self.short_pauses_wanted;
        self.short_pauses_wanted += due.saturating_sub(had);
        if self.long_pause == Step::Ahead && part >= LONG_PAUSE_AT {
            self.long_pause = Step::Wanted;
        }
        let Service::Conclave(cluster) = &mut self.service else { return Ok(()) };
        if self.kill == Step::Ahead && part >= KILL_AT {
            self.kill = Step::Done;
            let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
            self.killed_ns = now_ns();
            cluster.kill(leader)?;
            self.away = Some((leader, Instant::now()));
            self.say(&format!("server {leader}, the leader, killed (kill -9)"));
        } else if let Some((id, since)) = self.away
            && since.elapsed() >= AWAY
        {
            cluster.start_server(id)?;
            self.away = None;
            self.say(&format!("server {id} started again"));
        }
        Ok(())
    }

    fn news(&mut self, elapsed: Duration) {
        if elapsed.saturating_sub(self.last_news) >= NEWS_EVERY {
            self.last_news = elapsed;
            let (done, all) = (self.completed.len(), self.plan.changes.len());
            self.say(&format!("{done} of {all} changes done, {} waiting", self.queue.len()));
        }
    }

    async fn finish(mut self) -> anyhow::Result<Verdict> {
        self.verdict.fenced = self.kind == Kind::Conclave;
        self.verdict.deliveries = self.deliveries.unsigned_abs();
        for stays in self.inside.values_mut() {
            let (all, unhindered) = overlaps(stays);
            self.verdict.overlaps += all;
            self.verdict.unhindered += unhindered;
        }
        self.verdict.waited = quantiles(&mut self.waited_us);
        if self.kind == Kind::Conclave {
            self.verdict.without_leader = longest_gap(&mut self.answers, self.killed_ns);
        }
        self.crew.end().await;
        if let Service::Conclave(mut cluster) = self.service {
            cluster.wait_healthy(Duration::from_secs(30)).await.context("after the killed server came back")?;
            self.verdict.came_back = cluster.running().len() == 3;
        }
        self.verdict.judgement = self.shop.judge(&self.plan.changes)?;
        Ok(self.verdict)
    }
}

/// From holding an order's lock to having written, in nanoseconds of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Stay {
    begin: u64,
    end: u64,
    wrote: bool,
}

/// Stays that began while an earlier one of the same order had not ended; and how many of these began while one had not
/// ended that wrote.
fn overlaps(stays: &mut [Stay]) -> (u64, u64) {
    stays.sort_unstable();
    let (mut latest, mut latest_wrote) = (0, 0);
    let (mut all, mut unhindered) = (0, 0);
    for stay in stays {
        all += u64::from(stay.begin < latest);
        unhindered += u64::from(stay.begin < latest_wrote);
        latest = latest.max(stay.end);
        if stay.wrote {
            latest_wrote = latest_wrote.max(stay.end);
        }
    }
    (all, unhindered)
}

/// Median and 99th percentile of microseconds.
fn quantiles(values: &mut [u64]) -> (Duration, Duration) {
    values.sort_unstable();
    let at = |part: usize| values.get(values.len().saturating_sub(1) * part / 100).copied().unwrap_or_default();
    (Duration::from_micros(at(50)), Duration::from_micros(at(99)))
}

/// The longest time between two answers, one of which came after `around`; as far as the server stayed away.
fn longest_gap(answers: &mut [u64], around: u64) -> Option<Duration> {
    answers.sort_unstable();
    let until = around + u64::try_from(AWAY.as_nanos()).expect("seconds fit");
    let pairs = answers.windows(2).filter(|pair| pair[1] >= around && pair[0] <= until);
    pairs.map(|pair| Duration::from_nanos(pair[1] - pair[0])).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_count_every_late_comer_once() {
        let count = |stays: &[(u64, u64, bool)]| {
            overlaps(&mut stays.iter().map(|&(begin, end, wrote)| Stay { begin, end, wrote }).collect::<Vec<_>>())
        };
        assert_eq!(count(&[]), (0, 0));
        assert_eq!(count(&[(10, 20, true), (0, 10, true), (20, 30, true)]), (0, 0), "one ends as the next begins");
        assert_eq!(count(&[(0, 100, true), (10, 20, true), (30, 40, true)]), (2, 2), "the first stood still");
        assert_eq!(count(&[(0, 100, false), (10, 20, true), (30, 40, true)]), (2, 0), "and was refused");
        assert_eq!(count(&[(0, 100, false), (10, 20, true), (15, 40, true)]), (2, 1));
    }

    #[test]
    fn the_gap_is_looked_for_around_the_kill_only() {
        let second = 1_000_000_000;
        let mut answers = [1, 5 * second, 5 * second + 7, 6 * second, 20 * second, 50 * second];
        assert_eq!(longest_gap(&mut answers, 5 * second + 5), Some(Duration::from_secs(14)));
        let mut answers = [1, 9 * second, 9 * second + 300, 9 * second + 350];
        assert_eq!(longest_gap(&mut answers, 9 * second + 200), Some(Duration::from_nanos(300)));
        assert_eq!(longest_gap(&mut [], 5), None);
    }

    #[test]
    fn quantiles_of_few_and_many() {
        assert_eq!(quantiles(&mut []), (Duration::ZERO, Duration::ZERO));
        assert_eq!(quantiles(&mut [7]), (Duration::from_micros(7), Duration::from_micros(7)));
        let mut many: Vec<u64> = (0..=100).rev().collect();
        assert_eq!(quantiles(&mut many), (Duration::from_micros(50), Duration::from_micros(99)));
    }
}
