//! How long a service is away: the same losses, many times over, for several services in turn.
//!
//! Three losses are of the leader (killed, paused, cut off from the other servers) and end with the first write that is
//! acknowledged of those sent after it. One is of a client that dies holding a lock, and ends when another client has it.
//! Writes are sent every five milliseconds by a client that knows all servers, each without waiting for the one before.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    board::Shared,
    client::{Happened, Workload},
    clock::ns,
    disks::Room,
    fleet::Gear,
    nemesis::{Class, Form, step},
    place::namespaces::Namespaces,
    report,
    run::stage::{Setup, Stage},
    target::{Target, target},
};

/// How often the service is asked.
pub const PROBE_EVERY: Duration = Duration::from_millis(5);
/// A loss whose end does not come within this time is counted as never ended.
pub const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// Quiet after each healing, and up to as much again by chance: a loss may fall anywhere between two heartbeats.
const CALM: Duration = Duration::from_millis(500);
/// Clients of one lock, when its holder dies.
const CLIENTS: usize = 3;

/// What is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// SIGKILL.
    LeaderKilled,
    /// SIGSTOP.
    LeaderPaused,
    /// Cut off from the other servers; clients still reach it.
    LeaderCut,
    /// SIGKILL of a client that holds.
    HolderKilled,
}

impl Loss {
    /// All, in the order in which they are measured.
    pub const ALL: &[Self] = &[Self::LeaderKilled, Self::LeaderPaused, Self::LeaderCut, Self::HolderKilled];

    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::LeaderKilled => "leader killed: first write after",
            Self::LeaderPaused => "leader paused: first write after",
            Self::LeaderCut => "leader cut off from the others: first write after",
            Self::HolderKilled => "holder killed: next grant after",
        }
    }

    fn form(self) -> &'static Form {
        let (class, what) = match self {
            Self::LeaderKilled => (Class::Kill, "kill the leader"),
            Self::LeaderPaused => (Class::Pause, "pause the leader"),
            Self::LeaderCut => (Class::Partition, "cut the leader off from the other servers"),
            Self::HolderKilled => (Class::Kill, "kill the client that holds"),
        };
        class.forms().iter().find(|form| form.what == what).expect("a form of the class")
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of targets, measured in this order within each round.
    pub targets: Vec<String>,
    /// So often each.
    pub times: usize,
    /// Servers of each.
    pub nodes: usize,
    /// The lease or session time-out of locks; none for each target's own.
    pub ttl: Option<Duration>,
    /// Of the moments.
    pub seed: u64,
    /// The folder for logs; it must not have anything in it.
    pub report: PathBuf,
    /// The program whose hidden command `client` is a client.
    pub program: PathBuf,
}

/// What came of one kind of loss of one target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Figures {
    /// Whose.
    pub target: String,
    /// What.
    pub loss: Loss,
    /// The lease of its locks.
    pub lease: Duration,
    /// Nanoseconds, ascending; only those that ended.
    pub took_ns: Vec<i64>,
    /// Not ended within [`ENDED_WITHIN`], or not healed afterwards.
    pub never: usize,
}

impl Figures {
    /// The middle one, the lower of two; none if there is none.
    #[must_use]
    pub fn median_ns(&self) -> Option<i64> {
        self.took_ns.get(self.took_ns.len().saturating_sub(1) / 2).copied()
    }

    /// The longest.
    #[must_use]
    pub fn max_ns(&self) -> Option<i64> {
        self.took_ns.last().copied()
    }
}

/// Measures all, target by target; `told` is called with each loss and what it took, if it ended.
///
/// # Errors
/// If a target cannot be had here or does not come up.
pub fn measure(
    options: &Options,
    stop: &AtomicBool,
    told: &mut dyn FnMut(&str, Loss, Option<i64>),
) -> anyhow::Result<Vec<Figures>> {
    report::folder(&options.report)?;
    let mut all = Vec::new();
    for name in &options.targets {
        let target = target(name).with_context(|| format!("no target is called {name:?}"))?;
        let (least, most) = (target.nodes_min(), target.nodes_max());
        ensure!((least..=most).contains(&options.nodes), "{name} runs on {least} to {most} servers");
        for (clients, losses) in [(0, &Loss::ALL[..3]), (CLIENTS, &Loss::ALL[3..])] {
            all.extend(with(target.as_ref(), clients, losses, options, stop, told)?);
        }
    }
    Ok(all)
}

fn with(
    target: &dyn Target,
    clients: usize,
    losses: &[Loss],
    options: &Options,
    stop: &AtomicBool,
    told: &mut dyn FnMut(&str, Loss, Option<i64>),
) -> anyhow::Result<Vec<Figures>> {
    let lease = options.ttl.unwrap_or(target.lease());
    let room = Room::make(false)?;
    let place = Namespaces::make(options.nodes + clients + 1)?;
    let report = options.report.join(format!("{}-{clients}-clients", target.name()));
    fs::create_dir_all(&report)?;
    let setup = Setup {
        target,
        nodes: options.nodes,
        clients,
        keys: 1,
        workload: Workload::Lock,
        lease,
        wait: ENDED_WITHIN,
        hold: (Duration::from_millis(20), Duration::from_millis(80)),
        probe_every: PROBE_EVERY,
        seed: options.seed,
        resource: None,
        gear: Gear::default(),
        report: &report,
        program: &options.program,
    };
    let mut stage = Stage::set(&setup, &place, &room, stop)?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let figures =
        |loss: &Loss| Figures { target: target.name().into(), loss: *loss, lease, took_ns: Vec::new(), never: 0 };
    let mut all: Vec<Figures> = losses.iter().map(figures).collect();
    for _ in 0..options.times {
        // In turn, so that whatever the machine does besides meets all of them.
        for figures in &mut all {
            ensure!(!stop.load(Ordering::Relaxed), "interrupted");
            thread::sleep(CALM + CALM.mul_f64(random.f64()));
            let took = once(&mut stage, figures.loss, random.u64(..))?;
            told(target.name(), figures.loss, took);
            match took {
                Some(took) => figures.took_ns.push(took),
                None => figures.never += 1,
            }
        }
    }
    for figures in &mut all {
        figures.took_ns.sort_unstable();
    }
    Ok(all)
}

/// One loss, its end, and its healing.
fn once(stage: &mut Stage<'_>, loss: Loss, roll: u64) -> anyhow::Result<Option<i64>> {
    let asked_ns = crate::clock::now_ns();
    let broken = loss.form().begin(&mut stage.reach(), roll).with_context(|| loss.text())?;
    let (from_ns, there_ns) = (broken.from_ns.unwrap_or(asked_ns), crate::clock::now_ns());
    let until = Instant::now() + ENDED_WITHIN;
    let ended_ns = loop {
        let ended = match loss {
            Loss::HolderKilled => granted(&stage.board, from_ns),
            // What was written before the loss was there says nothing, and that it took counts.
            _ => stage.board.lock().written_since(there_ns),
        };
        if ended.is_some() || Instant::now() >= until {
            break ended;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let mended_ns = crate::clock::now_ns();
    (broken.mend)(&mut stage.reach())?;
    let healed = step::healed(&stage.reach(), mended_ns, &mut |_| {});
    ensure!(healed.is_some(), "{}: it did not heal", loss.text());
    // What was told so far is not looked at again.
    let mut board = stage.board.lock();
    board.told.clear();
    board.writes.clear();
    Ok(ended_ns.map(|ended| ended - from_ns).filter(|took| *took <= ns(ENDED_WITHIN)))
}

/// When another client had the lock whose holder died.
fn granted(board: &Shared, from_ns: i64) -> Option<i64> {
    let board = board.lock();
    let begun = board.told.iter().filter(|(_, told)| matches!(told.happened, Happened::Begin { .. }));
    begun.map(|(_, told)| told.at_ns).find(|at| *at > from_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_is_a_form_that_there_is() {
        for loss in Loss::ALL {
            assert!(!loss.form().what.is_empty());
        }
    }

    #[test]
    fn the_median_is_a_measured_one() {
        let of = |took_ns: &[i64]| Figures {
            target: "a".into(),
            loss: Loss::LeaderKilled,
            lease: Duration::ZERO,
            took_ns: took_ns.into(),
            never: 0,
        };
        assert_eq!(of(&[1, 2, 9]).median_ns(), Some(2));
        assert_eq!(of(&[1, 2, 9, 10]).median_ns(), Some(2));
        assert_eq!((of(&[]).median_ns(), of(&[]).max_ns()), (None, None));
    }
}
