//! What can be broken, and how each of it is mended.
//!
//! A fault is a [`Form`] of a [`Class`]: a function that breaks something of a run ([`Reach`]) and returns how it is
//! mended ([`Broken`]). Whoever breaks looks at once whether it is broken, whoever mends whether it is mended; so a fault
//! that was not met is known as such, and several can be there at once without knowing of each other.

pub mod asked;
mod clock;
mod compaction;
mod delay;
mod disk;
mod drift;
mod files;
mod kill;
mod loss;
mod membership;
mod operator;
mod partition;
mod pause;
mod power;
mod restart;
pub mod step;
mod strace;
mod transfer;
mod wipe;

use std::{
    collections::BTreeSet,
    fmt,
    rc::Rc,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    board::Shared,
    clocks::Kind,
    fleet::{Client, Gear, Servers},
    network::Impairment,
    place::{Host, NotAvailable, Place},
    target::Target,
};

/// So long it looks for a leader or a holder.
const FIND_WITHIN: Duration = Duration::from_secs(3);

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident = $key:literal in $file:ident,)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Class {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Class {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $key,)+ }
            }

            /// What it does, in a sentence.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The forms it has.
            #[must_use]
            pub fn forms(self) -> &'static [Form] {
                match self { $(Self::$name => $file::FORMS,)+ }
            }

            /// Whether it can be had in this place, with these servers.
            ///
            /// # Errors
            /// What is missing.
            pub fn available(self, place: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
                match self { $(Self::$name => $file::available(place, target),)+ }
            }
        }
    };
}

classes! {
    /// SIGSTOP, later SIGCONT.
    Pause = "pause" in pause,
    /// SIGKILL, later started again.
    Kill = "kill" in kill,
    /// Some do not hear others, later they do.
    Partition = "partition" in partition,
    /// Some packets are lost.
    Loss = "loss" in loss,
    /// Packets come late, or in another order.
    Delay = "delay" in delay,
    /// A server is replaced by a new one.
    Membership = "membership" in membership,
    /// Another server is to lead.
    Transfer = "transfer" in transfer,
    /// A server misses what the others no longer have in their logs.
    Compaction = "compaction" in compaction,
    /// Told to end, and started again, one after the other.
    Restart = "restart" in restart,
    /// A wall clock jumps ahead or back, drifts, or flickers; later it is right again.
    Clock = "clock" in clock,
    /// All that a server has for a clock goes too fast or too slow.
    Drift = "drift" in drift,
    /// A disk is full, slow, stuck or gone, or fails a write or a sync.
    Disk = "disk" in disk,
    /// Killed, and all that was not synced is gone; later started again.
    Power = "power" in power,
    /// A file of a server is damaged while it is down.
    Files = "files" in files,
    /// A server loses all that it had on its disk.
    Wipe = "wipe" in wipe,
}

/// Of two classes that cannot be had in one run, the one to leave out, and why.
#[must_use]
pub fn clash(asked: &BTreeSet<Class>, lacking: &BTreeSet<Class>) -> Option<(Class, NotAvailable)> {
    let both = [Class::Clock, Class::Drift].iter().all(|class| asked.contains(class) && !lacking.contains(class));
    let why = "in this run wall clocks are set, and a process has that alone or all its clocks changed";
    both.then(|| (Class::Drift, NotAvailable { what: "drift".into(), why: why.into() }))
}

/// What these groups need to be there from the beginning.
#[must_use]
pub fn gear(groups: &[Vec<Class>]) -> Gear {
    let any = |of: &[Class]| groups.iter().flatten().any(|class| of.contains(class));
    Gear {
        disks: any(&[Class::Disk, Class::Power]),
        clocks: if any(&[Class::Drift]) { Some(Kind::All) } else { any(&[Class::Clock]).then_some(Kind::Wall) },
        short_logs: any(&[Class::Compaction]),
    }
}

impl Class {
    /// What is missing if none of its forms makes sense with so few servers of ours.
    #[must_use]
    pub fn too_few(self, servers: usize) -> Option<NotAvailable> {
        let least = self.forms().iter().map(|form| form.servers_min).min().unwrap_or(0);
        let why = || format!("it needs {least} servers of the suite's, and there are {servers}");
        (servers < least).then(|| NotAvailable { what: self.name().into(), why: why() })
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|class| class.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|class| class.name() == text).copied();
        found.ok_or_else(|| format!("no fault is called {text:?}; there are {}; all, pairs, random, and none", names()))
    }
}

/// One way in which a class breaks something.
pub struct Form {
    /// In words.
    pub what: &'static str,
    /// Least number of servers with which it makes sense.
    pub servers_min: usize,
    /// Does it.
    pub begin: Begin,
}

/// How a fault begins, and whom it meets. The number at the end is the seed's, for whatever there is to choose.
pub enum Begin {
    /// The server that leads at that moment, by its place.
    Leader(fn(&mut Reach<'_, '_>, usize, u64) -> anyhow::Result<Broken>),
    /// A server of the seed's choice, by its place.
    Server(fn(&mut Reach<'_, '_>, usize, u64) -> anyhow::Result<Broken>),
    /// Whomever it finds or chooses.
    Any(fn(&mut Reach<'_, '_>, u64) -> anyhow::Result<Broken>),
}

impl Form {
    /// Does it. The number is the seed's.
    ///
    /// # Errors
    /// Why it met nobody, or could not be done.
    pub fn begin(&self, reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
        match self.begin {
            Begin::Leader(begin) => {
                let at = reach.leader()?;
                begin(reach, at, roll)
            }
            Begin::Server(begin) => {
                let at = reach.some_server(roll);
                begin(reach, at, roll)
            }
            Begin::Any(begin) => begin(reach, roll),
        }
    }

    /// Whether that is a word of its description.
    #[must_use]
    pub fn has_word(&self, word: &str) -> bool {
        self.what.split(' ').any(|own| own == word)
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

/// A fault that is to be.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its kind.
    pub class: Class,
    /// And form.
    pub form: &'static Form,
    /// Its choices.
    pub roll: u64,
    /// So long after the beginning of its step it begins.
    pub from: Duration,
    /// And it lasts so long.
    pub length: Duration,
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        let all = |fault: &Self| (fault.class, fault.form.what, fault.roll, fault.from, fault.length);
        all(self) == all(other)
    }
}

/// Undoes a fault.
pub type Mend = Box<dyn FnOnce(&mut Reach<'_, '_>) -> anyhow::Result<()>>;
/// Goes on with one.
pub type Meanwhile = Box<dyn FnMut(&mut Reach<'_, '_>)>;
/// Tells what one did.
pub type Evidence = Box<dyn Fn(&Reach<'_, '_>) -> anyhow::Result<String>>;

/// Something that is broken now.
pub struct Broken {
    /// Whom it met, in words.
    pub target: String,
    /// The client that stands still, by its place.
    pub paused_client: Option<usize>,
    /// The servers that stand still or are down, by their places.
    pub servers: Vec<usize>,
    /// The moment before it was done, if that was not the moment of asking.
    pub from_ns: Option<i64>,
    /// Called again and again while it lasts, where it is not done by being begun.
    pub meanwhile: Option<Meanwhile>,
    /// What it did, in figures; asked for before it is mended. An error says why it met nobody.
    pub evidence: Option<Evidence>,
    /// It takes away what a lease rests on, clocks that go at nearly the same speed: whatever two clients believe at once
    /// meanwhile is laid at it.
    pub beyond: bool,
    /// It can be mended only by a cluster that works: it is mended after all others of its step.
    pub needs_cluster: bool,
    /// Undoes it, and looks whether it is undone.
    pub mend: Mend,
}

impl Broken {
    /// Something about a server, which stands still or is down.
    pub fn server(at: usize, mend: impl FnOnce(&mut Reach<'_, '_>) -> anyhow::Result<()> + 'static) -> Self {
        Self::servers(vec![at], mend)
    }

    /// The same of several.
    pub fn servers(all: Vec<usize>, mend: impl FnOnce(&mut Reach<'_, '_>) -> anyhow::Result<()> + 'static) -> Self {
        Self { servers: all.clone(), ..Self::network(servers(&all), mend) }
    }

    /// Something about the network, or about processes that go on.
    pub fn network(target: String, mend: impl FnOnce(&mut Reach<'_, '_>) -> anyhow::Result<()> + 'static) -> Self {
        Self {
            target,
            paused_client: None,
            servers: Vec::new(),
            from_ns: None,
            meanwhile: None,
            evidence: None,
            needs_cluster: false,
            beyond: false,
            mend: Box::new(mend),
        }
    }

    /// Packets that do not arrive.
    fn packets(target: String, lost: Impairment) -> Self {
        let lost = Rc::new(lost);
        let counted = Rc::clone(&lost);
        let evidence = move |reach: &Reach<'_, '_>| {
            let met: u64 = counted.met(reach.place)?.values().sum();
            ensure!(met > 0, "no packet was lost");
            Ok(format!("{met} packets lost"))
        };
        Self {
            evidence: Some(Box::new(evidence)),
            ..Self::network(target, move |reach: &mut Reach<'_, '_>| lost.end(reach.place))
        }
    }
}

/// For people: `server 1`, `servers 1, 3`.
#[must_use]
pub fn servers(all: &[usize]) -> String {
    let numbers: Vec<_> = all.iter().map(|at| (at + 1).to_string()).collect();
    format!("server{} {}", if all.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// What faults can reach.
pub struct Reach<'run, 'servers> {
    /// The network.
    pub place: &'run dyn Place,
    /// The servers.
    pub servers: &'run mut Servers<'servers>,
    /// The clients, without the observer.
    pub clients: &'run mut [Client],
    /// Where the observer is.
    pub observer: Host,
    /// What is known.
    pub board: &'run Shared,
}

impl Reach<'_, '_> {
    /// The server that leads now, by its place.
    ///
    /// # Errors
    /// If none does within three seconds.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let until = Instant::now() + FIND_WITHIN;
        loop {
            if let Some(at) = self.board.lock().leader() {
                return Ok(at);
            }
            ensure!(Instant::now() < until, "nobody led");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A server of the seed's choice, by its place.
    #[must_use]
    pub fn some_server(&self, roll: u64) -> usize {
        let count = u64::try_from(self.servers.count()).expect("a small number");
        usize::try_from(roll % count).expect("less than the count")
    }

    /// All servers.
    #[must_use]
    pub fn all_servers(&self) -> Vec<Host> {
        (0..self.servers.count()).map(Host).collect()
    }

    /// All clients, and the observer.
    #[must_use]
    pub fn all_clients(&self) -> Vec<Host> {
        self.clients.iter().map(|client| client.process.host).chain([self.observer]).collect()
    }

    /// So many servers of the seed's choice, by their places in order; all if there are no more.
    #[must_use]
    pub fn some(&self, few: usize, roll: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.servers.count()).collect();
        fastrand::Rng::with_seed(roll).shuffle(&mut order);
        order.truncate(few);
        order.sort_unstable();
        order
    }

    /// All servers but one.
    #[must_use]
    pub fn other_servers(&self, at: usize) -> Vec<Host> {
        (0..self.servers.count()).filter(|other| *other != at).map(Host).collect()
    }

    /// Everybody but one server: servers, clients, the observer.
    #[must_use]
    pub fn everybody_but(&self, at: usize) -> Vec<Host> {
        [self.other_servers(at), self.all_clients()].concat()
    }
}

/// A fault that was.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Its kind.
    pub class: Class,
    /// In words.
    pub what: String,
    /// Whom it met; or why nobody.
    pub target: String,
    /// Nobody was met.
    pub missed: bool,
    /// The client that stood still, by its place.
    pub paused_client: Option<usize>,
    /// The servers that stood still or were down, by their places.
    pub servers: Vec<usize>,
    /// It took away what a lease rests on.
    pub beyond: bool,
    /// Begun.
    pub from_ns: i64,
    /// Undone.
    pub until_ns: i64,
    /// From its beginning to the first acknowledged write that was sent after it.
    pub first_write_ns: Option<i64>,
    /// From undoing it until all servers answered, one led and a write was taken; none: not within
    /// [`step::HEALED_WITHIN`], or something could not be undone.
    pub healed_ns: Option<i64>,
    /// What could not be undone.
    pub trouble: Option<String>,
}
