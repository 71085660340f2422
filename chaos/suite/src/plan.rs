//! What is broken, when and for how long: a list grown from the seed before anything runs.

use std::{fmt, str::FromStr, time::Duration};

/// A kind of fault.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// SIGKILL, later started again.
    Kill,
    /// Cut off from others, later joined.
    Partition,
}

impl Class {
    /// All, with their names.
    pub const ALL: &[(Self, &str)] = &[(Self::Pause, "pause"), (Self::Kill, "kill"), (Self::Partition, "partition")];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(class, _)| *class == self).map_or("?", |(_, name)| name)
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(class, _)| *class);
        found.ok_or_else(|| format!("no fault is called {text:?}; there are {}, and none", names()))
    }
}

/// A fault and whom it meets. Who leads or holds is looked up when it begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The client that holds a lock at that moment.
    PauseHolder,
    /// The server that leads.
    PauseLeader,
    /// The server of this number (from 0; modulo how many there are).
    PauseServer(usize),
    /// The server that leads.
    KillLeader,
    /// The server of this number.
    KillServer(usize),
    /// The leader from all other servers; clients still reach it.
    CutLeader,
    /// A server from everybody.
    CutServer(usize),
    /// Servers and clients in two halves; the number says how they are dealt.
    Halves(u64),
}

impl Fault {
    /// Its kind.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::PauseHolder | Self::PauseLeader | Self::PauseServer(_) => Class::Pause,
            Self::KillLeader | Self::KillServer(_) => Class::Kill,
            Self::CutLeader | Self::CutServer(_) | Self::Halves(_) => Class::Partition,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PauseHolder => "pause the client that holds",
            Self::PauseLeader => "pause the leader",
            Self::PauseServer(_) => "pause a server",
            Self::KillLeader => "kill the leader",
            Self::KillServer(_) => "kill a server",
            Self::CutLeader => "cut the leader off from the other servers",
            Self::CutServer(_) => "cut a server off from everybody",
            Self::Halves(_) => "cut the network in halves",
        })
    }
}

/// A fault with its times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// Quiet before it, after the fault before is healed.
    pub after: Duration,
    /// What.
    pub fault: Fault,
    /// So long.
    pub length: Duration,
}

/// The steps that may fit into a run, one fault at a time: each class in turn, in an order of the seed's, and within a
/// class each victim in turn. Same seed, same steps.
///
/// A fault lasts longer than the lease, or a lock service had nothing to decide.
#[must_use]
pub fn plan(seed: u64, classes: &[Class], servers: usize, lease: Duration, length: Duration) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut classes = classes.to_vec();
    classes.sort_unstable();
    classes.dedup();
    let mut bags: Vec<(Class, Vec<Fault>)> = classes.into_iter().map(|class| (class, Vec::new())).collect();
    let (mut steps, mut used) = (Vec::new(), Duration::ZERO);
    while used < length && !bags.is_empty() {
        random.shuffle(&mut bags);
        for (class, bag) in &mut bags {
            if bag.is_empty() {
                *bag = faults(*class, servers, &mut random);
                random.shuffle(bag);
            }
            let step = Step {
                after: Duration::from_millis(random.u64(500..1_500)),
                fault: bag.pop().expect("a class has faults"),
                length: lease + Duration::from_millis(random.u64(500..2_000)),
            };
            used += step.after + step.length;
            steps.push(step);
        }
    }
    steps
}

fn faults(class: Class, servers: usize, random: &mut fastrand::Rng) -> Vec<Fault> {
    let many = servers > 1;
    let server = random.usize(..servers);
    match class {
        Class::Pause if many => {
            vec![Fault::PauseHolder, Fault::PauseLeader, Fault::PauseHolder, Fault::PauseServer(server)]
        }
        Class::Pause => vec![Fault::PauseHolder, Fault::PauseHolder, Fault::PauseServer(0)],
        Class::Kill if many => vec![Fault::KillLeader, Fault::KillServer(server)],
        Class::Kill => vec![Fault::KillServer(0)],
        Class::Partition if many => vec![Fault::CutLeader, Fault::CutServer(server), Fault::Halves(random.u64(..))],
        Class::Partition => vec![Fault::CutServer(0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_that_fills_the_run_with_every_class() {
        let all = [Class::Pause, Class::Kill, Class::Partition];
        let (lease, length) = (Duration::from_millis(1_500), Duration::from_secs(60));
        let steps = plan(7, &all, 3, lease, length);
        assert_eq!(steps, plan(7, &[Class::Partition, Class::Pause, Class::Kill], 3, lease, length));
        assert_ne!(steps, plan(8, &all, 3, lease, length));
        assert!(steps.iter().map(|step| step.after + step.length).sum::<Duration>() >= length);
        assert!(steps.iter().all(|step| step.length > lease));
        for class in all {
            assert!(steps[..3].iter().any(|step| step.fault.class() == class), "{class:?} in {steps:?}");
        }
        assert!(plan(7, &[], 3, lease, length).is_empty());
    }

    #[test]
    fn a_single_server_has_no_leader_to_lose() {
        let all = [Class::Pause, Class::Kill, Class::Partition];
        for step in plan(1, &all, 1, Duration::from_secs(1), Duration::from_secs(120)) {
            assert!(
                matches!(
                    step.fault,
                    Fault::PauseHolder | Fault::PauseServer(0) | Fault::KillServer(0) | Fault::CutServer(0)
                ),
                "{:?}",
                step.fault
            );
        }
    }
}
