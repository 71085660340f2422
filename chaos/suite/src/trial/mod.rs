//! Locks on trial: which lock is expected to break under which faults, and which to hold.
//!
//! A suite that acquits means something only if it convicts what is known to be bad, and does not convict what does as it
//! promises. So the table has both: locks whose faults are known from the literature, each as its own documentation tells
//! people to use it, and controls. A lock is convicted at the layer where it claims something: a grant beside one that was
//! neither given back nor run out (L1), or one that its holder was not told of in time (L2); or, where it claims to protect
//! a resource, an update lost there (L3).

pub mod page;

use std::str::FromStr as _;

use conclave_checker::report::Standing;

use crate::{nemesis::Class, suite::Came};

/// What a row is there to show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    /// This layer fails in some run: one suffices, as a lock that breaks once is broken.
    Convicted(&'static str),
    /// No layer fails in any run, and this one is exercised in some.
    Acquitted(&'static str),
}

impl Expected {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Convicted(_) => "convicted",
            Self::Acquitted(_) => "acquitted",
        }
    }
}

/// A lock under some faults.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, as for `--only`.
    pub name: &'static str,
    /// The options of `run` but for time, seed and report: so whatever `run` can do to a lock a trial can.
    pub line: &'static str,
    /// What should come out.
    pub expected: Expected,
    /// Why that, and who says so.
    pub why: &'static str,
}

/// The table.
pub const ROWS: &[Row] = &[
    Row {
        name: "redis-get-set",
        line: "--target redis-get-set --workload lock --keys 1 --nemesis none",
        expected: Expected::Convicted("L1"),
        why: "two clients find nothing before either of them sets; no fault is needed",
    },
    Row {
        name: "redis-setnx",
        line: "--target redis-setnx --workload lock --keys 1 --nemesis pause",
        expected: Expected::Convicted("L1"),
        why: "who comes back after its lease deletes the key of the next holder, and a third gets in beside that one (the \
              page of Redis's SET)",
    },
    Row {
        name: "redis-setnx-owner",
        line: "--target redis-setnx-owner --workload unfenced --keys 1 --nemesis pause",
        expected: Expected::Convicted("L3"),
        why: "who comes back after its lease writes what it computed before (Kleppmann, \"How to do distributed locking\")",
    },
    Row {
        name: "redis-failover",
        line: "--target redis-failover --workload lock --keys 1 --ttl 3s --nemesis partition",
        expected: Expected::Convicted("L1"),
        why: "replication is asynchronous: the replica that becomes primary does not know of the lock that was just granted \
              (\"Distributed Locks with Redis\"), and the old primary goes on granting to those that it still hears",
    },
    Row {
        name: "redlock-clock",
        line: "--target redlock --workload lock --keys 1 --nemesis clock",
        expected: Expected::Convicted("L1"),
        why: "leases run by the servers' wall clocks: a jump of some of them frees a majority early (Kleppmann)",
    },
    Row {
        name: "redlock-wipe",
        line: "--target redlock --workload lock --keys 1 --hold 200ms..1s --nemesis wipe",
        expected: Expected::Convicted("L1"),
        why: "a server that comes back empty grants again what it had granted; the page asks for delayed restarts, which \
              nothing enforces",
    },
    Row {
        name: "redlock-pause",
        line: "--target redlock --workload unfenced --keys 1 --nemesis pause",
        expected: Expected::Convicted("L3"),
        why: "without a fencing token a majority does not help against a client that stood still (Kleppmann)",
    },
    Row {
        name: "etcd-unfenced",
        line: "--target etcd --workload unfenced --keys 1 --nemesis pause",
        expected: Expected::Convicted("L3"),
        why: "the lease ends while its client stands still, and nothing tells the resource (Jepsen, \"etcd 3.4.3\")",
    },
    Row {
        name: "zookeeper-unfenced",
        line: "--target zookeeper --workload unfenced --keys 1 --nemesis pause",
        expected: Expected::Convicted("L3"),
        why: "the session ends while its client stands still, and nothing tells the resource",
    },
    Row {
        name: "lockfile",
        line: "--target lockfile --workload lock --keys 1 --nemesis pause",
        expected: Expected::Convicted("L1"),
        why: "who comes back after the time-out removes the file of the next holder; and two who find it old at once remove \
              each other's",
    },
    Row {
        name: "conclave-token-from-wall-clock",
        line: "--place auto --target conclave-planted:token-from-wall-clock --workload lock --nemesis clock",
        expected: Expected::Convicted("L1"),
        why: "planted: a client whose clock went back gets a smaller token than the holder before it",
    },
    Row {
        name: "conclave-release-without-owner-check",
        line: "--place auto --target conclave-planted:release-without-owner-check --workload lock --nemesis pause",
        expected: Expected::Convicted("L2"),
        why: "planted: who gives up waiting frees the lock of whoever holds it, and the next one gets in beside that one",
    },
    Row {
        name: "conclave-fence-accepts-lower",
        line: "--place auto --target conclave-planted:fence-accepts-lower --workload fenced --nemesis pause",
        expected: Expected::Convicted("L3"),
        why: "planted: the resource lets a holder in that stood still while the next one was there",
    },
    Row {
        name: "conclave-reply-before-fsync",
        line: "--place auto --target conclave-planted:reply-before-fsync --workload kv --nemesis power",
        expected: Expected::Convicted("I18"),
        why: "planted: what was acknowledged was never synced, and is gone with the power",
    },
    Row {
        name: "conclave-read-without-quorum",
        line: "--place auto --target conclave-planted:read-without-quorum --workload kv --nemesis partition",
        expected: Expected::Convicted("I17"),
        why: "planted: reads as under a lease without an allowance: a leader that is cut off answers what was true before",
    },
    Row {
        name: "conclave-no-check-after-wait",
        line: "--place auto --target conclave-planted:no-check-after-wait --workload lock --keys 1 --nemesis pause --form turn",
        expected: Expected::Convicted("I4"),
        why: "planted: who stood still from the moment of its grant is told of it although its session ended meanwhile",
    },
    Row {
        name: "conclave-no-drift-allowance",
        line: "--place auto --target conclave-planted:no-drift-allowance --workload lock --keys 1 --ttl 8s --hold 9s..10s \
               --nemesis drift+partition --form fast,client",
        expected: Expected::Convicted("L2"),
        why: "planted: who is cut off believes to the last moment of its lease, which the leader's clock, half a percent too \
              fast, has counted already",
    },
    Row {
        name: "conclave-at-its-turn",
        line: "--target conclave --workload lock --keys 1 --nemesis pause --form turn",
        expected: Expected::Acquitted("I4"),
        why: "control: the same pauses as of the planted no-check-after-wait",
    },
    Row {
        name: "conclave-little-drift",
        line: "--target conclave --workload lock --keys 1 --ttl 8s --hold 9s..10s --nemesis drift+partition --form fast,client",
        expected: Expected::Acquitted("L2"),
        why: "control: the same clocks and cuts as of the planted no-drift-allowance",
    },
    Row {
        name: "conclave",
        line: "--target conclave --workload fenced --keys 1 --nemesis pause,partition,kill",
        expected: Expected::Acquitted("L3"),
        why: "control: Conclave as it ships, its token compared at every touch",
    },
    Row {
        name: "etcd",
        line: "--target etcd --workload fenced --keys 1 --nemesis pause,partition,kill",
        expected: Expected::Acquitted("L3"),
        why: "control: the same with the revision at which etcd created the key as the token",
    },
    Row {
        name: "zookeeper",
        line: "--target zookeeper --workload fenced --keys 1 --nemesis pause,partition,kill",
        expected: Expected::Acquitted("L3"),
        why: "control: the same with the transaction that created the node (czxid) as the token",
    },
    Row {
        name: "redlock",
        line: "--target redlock --workload lock --keys 1 --nemesis kill,partition",
        expected: Expected::Acquitted("L1"),
        why: "control: within leases, with clocks that agree and disks that keep, Redlock does what it promises",
    },
    Row {
        name: "redis-one-server",
        line: "--target redis-setnx-owner --workload lock --keys 1 --nemesis pause,kill",
        expected: Expected::Acquitted("L1"),
        why: "control: within its lease one server that forgets nothing does what it promises",
    },
];

impl Row {
    /// The value of an option of its line.
    #[must_use]
    pub fn option(&self, name: &str) -> &'static str {
        let words: Vec<_> = self.line.split_whitespace().collect();
        words.windows(2).find(|pair| pair[0] == name).map_or("", |pair| pair[1])
    }

    /// The faults that are not to be had in this program.
    #[must_use]
    pub fn unknown_faults(&self) -> Vec<&'static str> {
        let names = self.option("--nemesis").split([',', '+']);
        names.filter(|name| *name != "none" && Class::from_str(name).is_err()).collect()
    }
}

/// A run of a row.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its seed.
    pub seed: u64,
    /// The folder of its report, within the trial's.
    pub folder: String,
    /// What came of it, or why it could not begin.
    pub came: Result<Came, String>,
}

impl Tried {
    /// What failed, if anything did: the layers' figures.
    #[must_use]
    pub fn failed(&self) -> Vec<(&str, &str)> {
        let rows = self.came.iter().flat_map(|came| &came.rows);
        rows.filter(|row| row.standing == Standing::Fail).map(|row| (row.id, row.details.as_str())).collect()
    }

    fn stands(&self, layer: &str, as_: Standing) -> bool {
        self.came.iter().flat_map(|came| &came.rows).any(|row| row.id == layer && row.standing == as_)
    }
}

/// What came of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// What was expected.
    AsExpected,
    /// A known-bad lock that was not convicted, or a control that was.
    Otherwise(String),
    /// Nothing can be said, and why.
    Unjudged(String),
}

/// A row with its runs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Which.
    pub row: Row,
    /// In their order.
    pub tried: Vec<Tried>,
    /// What kept it from being tried.
    pub not_available: Option<String>,
}

impl Case {
    /// Runs that did what the row is there to show: convicted; or acquitted.
    #[must_use]
    pub fn showed(&self) -> usize {
        let shows = |tried: &&Tried| match self.row.expected {
            Expected::Convicted(layer) => tried.stands(layer, Standing::Fail),
            Expected::Acquitted(_) => tried.came.is_ok() && tried.failed().is_empty(),
        };
        self.tried.iter().filter(shows).count()
    }

    /// Whether more seeds can say no more: a lock that broke once is broken.
    #[must_use]
    pub fn settled(&self) -> bool {
        matches!(self.row.expected, Expected::Convicted(_)) && self.showed() > 0
    }

    /// What came of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if let Some(why) = &self.not_available {
            return Verdict::Unjudged(why.clone());
        }
        if self.settled() {
            return Verdict::AsExpected;
        }
        let broken = self.tried.iter().find(|tried| !tried.failed().is_empty());
        if let (Expected::Acquitted(_), Some(broken)) = (self.row.expected, broken) {
            let layers: Vec<_> = broken.failed().iter().map(|(id, _)| *id).collect();
            return Verdict::Otherwise(format!("{} failed with seed {}", layers.join(", "), broken.seed));
        }
        let lacks = self.tried.iter().find_map(|tried| match &tried.came {
            Err(why) => Some(why.clone()),
            Ok(came) => came.not_available.first().cloned(),
        });
        if let Some(why) = lacks {
            return Verdict::Unjudged(why);
        }
        match self.row.expected {
            Expected::Convicted(layer) => {
                Verdict::Otherwise(format!("{layer} failed in none of {} runs", self.tried.len()))
            }
            Expected::Acquitted(layer) if self.tried.iter().any(|tried| tried.stands(layer, Standing::Pass)) => {
                Verdict::AsExpected
            }
            Expected::Acquitted(layer) => Verdict::Unjudged(format!("{layer} was exercised in no run")),
        }
    }
}

/// 0: every known-bad lock was convicted and every control acquitted. 1: one was not. 2: of one nothing can be said.
#[must_use]
pub fn exit_code(cases: &[Case]) -> u8 {
    let is = |wanted: fn(&Verdict) -> bool| cases.iter().any(|case| wanted(&case.verdict()));
    if is(|verdict| matches!(verdict, Verdict::Otherwise(_))) {
        1
    } else if is(|verdict| matches!(verdict, Verdict::Unjudged(_))) {
        2
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge;

    fn row(name: &str) -> Row {
        *ROWS.iter().find(|row| row.name == name).expect("a row")
    }

    fn tried(rows: &[(&'static str, Standing)]) -> Tried {
        let row = |id, standing| judge::Row { id, text: "", standing, unknown: false, details: String::new() };
        let rows = rows.iter().map(|(id, standing)| row(*id, *standing));
        Tried { seed: 1, folder: String::new(), came: Ok(Came { rows: rows.collect(), ..Came::default() }) }
    }

    fn case(name: &str, tried: Vec<Tried>) -> Case {
        Case { row: row(name), tried, not_available: None }
    }

    #[test]
    fn names_are_unique_and_say_what_is_on_trial() {
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            assert!(crate::target::target(row.option("--target")).is_some(), "{}", row.line);
        }
    }

    #[test]
    fn one_conviction_at_its_layer_suffices_and_another_layer_does_not() {
        let pass = || tried(&[("L1", Standing::Pass)]);
        let l1 = tried(&[("L1", Standing::Fail), ("I15", Standing::Fail)]);
        let other = tried(&[("L1", Standing::Pass), ("I15", Standing::Fail)]);
        assert_eq!(case("lockfile", vec![pass(), l1]).verdict(), Verdict::AsExpected);
        assert!(matches!(case("lockfile", vec![pass(), other]).verdict(), Verdict::Otherwise(_)));
    }

    #[test]
    fn a_control_has_to_be_exercised_and_to_hold_in_every_layer() {
        let held = || tried(&[("L1", Standing::Pass), ("L3", Standing::Pass)]);
        let idle = || tried(&[("L1", Standing::Pass), ("L3", Standing::NotExercised)]);
        let broken = tried(&[("L1", Standing::Pass), ("L2", Standing::Fail), ("L3", Standing::Pass)]);
        assert_eq!(case("etcd", vec![idle(), held()]).verdict(), Verdict::AsExpected);
        assert!(matches!(case("etcd", vec![idle(), idle()]).verdict(), Verdict::Unjudged(_)));
        assert!(matches!(case("etcd", vec![held(), broken]).verdict(), Verdict::Otherwise(_)));
    }

    #[test]
    fn what_could_not_be_tried_is_neither_convicted_nor_acquitted() {
        let could_not = Tried { came: Err("no java".into()), ..tried(&[]) };
        let case_ = case("zookeeper-unfenced", vec![could_not]);
        assert_eq!(case_.verdict(), Verdict::Unjudged("no java".into()));
        assert_eq!(exit_code(std::slice::from_ref(&case_)), 2);
        let missed = case("lockfile", vec![tried(&[("L1", Standing::Pass)])]);
        assert_eq!(exit_code(&[case_, missed]), 1);
        assert_eq!(exit_code(&[]), 0);
    }
}
