//! The processes of a run: servers and clients on their hosts, and what clients tell.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    client::{Happened, PASS_TURN, Recipe, STOP_AT_TURN, ServerView, Spec, Told},
    clock::now_ns,
    clocks::{Clock, Kind},
    disks::{Disk, Room},
    place::{Host, Place, containers::alias},
    spawn::spawn,
    target::Target,
};

/// The hidden command of the running program that makes it a client.
pub const CLIENT: &str = "client";

/// What faults need to be there from the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Gear {
    /// Logs that are compacted every few seconds.
    pub short_logs: bool,
    /// A disk of its own for each server.
    pub disks: bool,
    /// Clocks of its own for each process; of all kinds only for servers, as clients' stamps have to be true.
    pub clocks: Option<Kind>,
}

/// What runs on a host: a process that we started, or a container.
pub trait Running: Send {
    /// Its (first) process, as this machine counts them.
    fn pid(&self) -> u32;

    /// How it ended, if it did.
    fn ended(&mut self) -> Option<ExitStatus>;

    /// SIGKILL, and waits until it is gone.
    fn kill(&mut self);

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    fn stand(&self, still: bool) -> anyhow::Result<()> {
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).with_context(|| format!("{signal}"))
    }

    /// Whether it was stopped, by whomever.
    ///
    /// # Errors
    /// If it does not run.
    fn stands(&self) -> anyhow::Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("it is gone")?;
        Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')))
    }
}

impl Running for Child {
    fn pid(&self) -> u32 {
        self.id()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.try_wait().ok().flatten()
    }

    fn kill(&mut self) {
        let _ = Child::kill(self);
        let _ = self.wait();
    }
}

/// A process that can be stopped, killed and started again.
pub struct Process {
    /// Where.
    pub host: Host,
    /// Its clock, where it has one of its own.
    pub clock: Option<Clock>,
    /// It may have ended by itself: what was done to it is reason enough.
    pub may_end: bool,
    /// So many faults keep it from running.
    held: usize,
    running: Option<Box<dyn Running>>,
}

impl Process {
    fn new(host: Host, clock: Option<Clock>) -> Self {
        Self { host, clock, may_end: false, held: 0, running: None }
    }

    /// Its id on this machine.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running()?.pid())
    }

    fn running(&self) -> anyhow::Result<&dyn Running> {
        self.running.as_deref().context("it does not run")
    }

    /// Stops it where it is or lets it go on, and looks whether it does.
    ///
    /// # Errors
    /// If it does not run, or does not follow within a second.
    pub fn stand(&self, still: bool) -> anyhow::Result<()> {
        let running = self.running()?;
        running.stand(still)?;
        let until = Instant::now() + Duration::from_secs(1);
        while running.stands()? != still {
            ensure!(Instant::now() < until, "it does not {}", if still { "stop" } else { "go on" });
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether it was stopped, by whomever.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stands(&self) -> anyhow::Result<bool> {
        self.running()?.stands()
    }

    /// Whether it was started and not killed since; it may have ended by itself.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.running.is_some()
    }

    /// SIGTERM: it is told to end, and is not waited for.
    ///
    /// # Errors
    /// If it does not run.
    pub fn terminate(&self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGTERM).context("SIGTERM")
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.ended()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers, in their order.
pub struct Servers<'a> {
    target: &'a dyn Target,
    place: &'a dyn Place,
    dir: PathBuf,
    logs: PathBuf,
    gear: Gear,
    processes: Vec<Process>,
    // After the processes, which are gone before their disks.
    disks: Vec<Disk>,
    /// Their ids; at first they count from 1 on.
    ids: Vec<usize>,
}

impl<'a> Servers<'a> {
    /// Starts them on the first hosts of the place. Their data is in `room`, their logs in `logs`.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(
        target: &'a dyn Target,
        place: &'a dyn Place,
        count: usize,
        room: &Room,
        logs: &Path,
        gear: Gear,
    ) -> anyhow::Result<Self> {
        let mut servers = Self {
            target,
            place,
            dir: room.path().into(),
            logs: logs.into(),
            gear,
            processes: Vec::new(),
            disks: Vec::new(),
            ids: (1..=count).collect(),
        };
        for at in 0..count {
            let dir = servers.dir(at);
            fs::create_dir_all(&dir).context("no directory for a server")?;
            if gear.disks {
                servers.disks.push(Disk::make(&dir)?);
            }
            let clock = gear.clocks.map(|kind| Clock::new(&dir.with_extension("clock"), kind)).transpose()?;
            servers.processes.push(Process::new(Host(at), clock));
        }
        for at in 0..count {
            servers.start_one(at)?;
        }
        Ok(servers)
    }

    /// None at all.
    #[cfg(test)]
    pub(crate) fn none(target: &'a dyn Target, place: &'a dyn Place) -> Self {
        Self {
            target,
            place,
            dir: PathBuf::new(),
            logs: PathBuf::new(),
            gear: Gear::default(),
            processes: Vec::new(),
            disks: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Where a server has its data.
    #[must_use]
    pub fn dir(&self, at: usize) -> PathBuf {
        self.dir.join(format!("server-{}", at + 1))
    }

    /// A server's disk.
    ///
    /// # Errors
    /// If it has none of its own.
    pub fn disk(&self, at: usize) -> anyhow::Result<&Disk> {
        self.disks.get(at).context("the servers have no disks of their own")
    }

    /// Kills a server and keeps it from being started, by whomever, until [`Servers::release`].
    pub fn hold(&mut self, at: usize) {
        self.processes[at].kill();
        self.processes[at].held += 1;
    }

    /// Ends what [`Servers::hold`] began: starts it, unless another fault still holds it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn release(&mut self, at: usize) -> anyhow::Result<()> {
        self.processes[at].held -= 1;
        self.start_one(at)
    }

    /// Starts a server, for the first time or again; one that runs is left alone, and so is one that a fault holds.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_one(&mut self, at: usize) -> anyhow::Result<()> {
        let server = &mut self.processes[at];
        if server.held > 0 || server.is_there() && server.ended().is_none() {
            return Ok(());
        }
        // What is left of one that ended by itself is in the way.
        self.processes[at].kill();
        let addresses: Vec<_> = (0..self.processes.len()).map(|at| self.place.address(Host(at))).collect();
        let dir = self.dir(at);
        let path = self.logs.join(format!("server-{}.log", at + 1));
        let log = fs::OpenOptions::new().create(true).append(true).open(path).context("no log file")?;
        if let Some(containers) = self.place.containers() {
            let names: Vec<_> = (0..self.processes.len()).map(|at| alias(Host(at))).collect();
            ensure!(self.is_founder(at), "nobody can be added to containers");
            let mut server = self.target.contained(at + 1, &names, &dir)?;
            server.env.extend(self.settings());
            if let Some(clock) = &self.processes[at].clock {
                clock.wind_contained(&mut server)?;
            }
            self.processes[at].running = Some(containers.start(Host(at), &server, &log)?);
            return Ok(());
        }
        let start = if self.is_founder(at) {
            self.target.start(at + 1, &addresses, &dir)?
        } else {
            let members: Vec<_> = self.ids.iter().copied().zip(addresses.iter().copied()).collect();
            let others: Vec<_> = members.iter().copied().filter(|(id, _)| *id != self.ids[at]).collect();
            self.target.newcomer(members[at], &others, &dir)?
        };
        let mut command = self.place.command(Host(at), &start.program);
        // A server takes its configuration from such variables too; those of this process are not meant for it.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CONCLAVE_")) {
            command.env_remove(name);
        }
        command.args(&start.args).envs(start.env).envs(self.settings());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(clock) = &self.processes[at].clock {
            clock.wind(&mut command);
        }
        self.processes[at].running = Some(Box::new(spawn(command).context("a server cannot be started")?));
        Ok(())
    }

    /// Starts another server in the place of one that is no longer a member: on an emptied disk, under an id that none
    /// had, which it returns. It waits to be added to the others.
    ///
    /// # Errors
    /// If it cannot be started, or nobody can be added to such servers.
    pub fn start_newcomer(&mut self, at: usize) -> anyhow::Result<usize> {
        self.processes[at].kill();
        self.empty(at)?;
        self.ids[at] = self.ids.iter().max().map_or(1, |last| last + 1);
        self.start_one(at)?;
        Ok(self.ids[at])
    }

    /// The id of a server.
    #[must_use]
    pub fn id(&self, at: usize) -> usize {
        self.ids[at]
    }

    fn is_founder(&self, at: usize) -> bool {
        self.ids[at] <= self.ids.len()
    }

    /// What all of them have in their environment besides.
    fn settings(&self) -> impl Iterator<Item = (String, String)> + use<> {
        let settings = if self.gear.short_logs { self.target.short_logs() } else { &[] };
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
    }

    /// Removes all that a server has on its disk. It does not run.
    ///
    /// # Errors
    /// The file system's.
    pub fn empty(&self, at: usize) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.dir(at)).context("a server's disk")? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Whose they are.
    #[must_use]
    pub fn target(&self) -> &dyn Target {
        self.target
    }

    /// One of them.
    pub fn get(&mut self, at: usize) -> &mut Process {
        &mut self.processes[at]
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    /// Where clients find them, or what they share instead.
    ///
    /// # Errors
    /// The disk's.
    pub fn endpoints(&self) -> anyhow::Result<Vec<String>> {
        let addresses: Vec<_> = self.processes.iter().map(|server| self.place.address(server.host)).collect();
        self.target.endpoints(&addresses, &self.dir)
    }

    /// Whether all of them answered, where that is for us to see: the user's own may tell us nothing.
    #[must_use]
    pub fn all_answer(&self, seen: &[ServerView]) -> bool {
        self.processes.is_empty() || (seen.len() == self.processes.len() && seen.iter().all(|server| server.answers))
    }

    /// # Errors
    /// If one ended by itself that had no reason: which.
    pub fn all_run(&mut self) -> anyhow::Result<()> {
        for (at, server) in self.processes.iter_mut().enumerate().filter(|(_, server)| !server.may_end) {
            if let Some(status) = server.ended() {
                bail!("server {} ended by itself with {status}; see server-{}.log", at + 1, at + 1);
            }
        }
        Ok(())
    }
}

/// A client.
pub struct Client {
    /// As in histories.
    pub name: String,
    /// The process.
    pub process: Process,
    stdin: Option<ChildStdin>,
    program: PathBuf,
    spec: Spec,
    at: usize,
    told: mpsc::Sender<(usize, Told)>,
    log: PathBuf,
}

impl Client {
    /// Starts it. What it tells goes, with `at`, to `told`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        program: &Path,
        place: &dyn Place,
        host: Host,
        spec: Spec,
        at: usize,
        told: mpsc::Sender<(usize, Told)>,
        log: PathBuf,
        clock: Option<Clock>,
    ) -> anyhow::Result<Self> {
        let process = Process::new(host, clock);
        let mut client =
            Self { name: spec.name.clone(), process, stdin: None, program: program.into(), spec, at, told, log };
        client.start_again(place)?;
        Ok(client)
    }

    /// Starts it after it was killed: another process that does the same work under the same name.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_again(&mut self, place: &dyn Place) -> anyhow::Result<()> {
        let mut command = place.command(self.process.host, &self.program);
        command.arg(CLIENT).arg(serde_json::to_string(&self.spec).context("a client's orders")?);
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).context("no log file")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        if let Some(clock) = &self.process.clock {
            clock.wind(&mut command);
        }
        let mut child = spawn(command).context("a client cannot be started")?;
        let (at, told) = (self.at, self.told.clone());
        let stdout = child.stdout.take().context("it is piped")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // The last line of a killed client may be torn.
                let Some(line) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { continue };
                if told.send((at, line)).is_err() {
                    break;
                }
            }
        });
        self.stdin = child.stdin.take();
        self.process.running = Some(Box::new(child));
        Ok(())
    }

    /// SIGKILL, and says so in its place.
    pub fn kill(&mut self) {
        self.process.kill();
        let at_ns = now_ns();
        // What it told before is read by then.
        thread::sleep(Duration::from_millis(20));
        let _ = self.told.send((self.at, Told { at_ns, task: 0, happened: Happened::Killed }));
    }

    /// Tells it to stop itself (SIGSTOP) when its turn comes, or no longer to.
    ///
    /// # Errors
    /// If it takes locks in a way that has no such moment, or does not listen.
    pub fn stop_at_turn(&mut self, asked: bool) -> anyhow::Result<()> {
        let waits = self.spec.recipe == Recipe::Conclave && self.spec.workload.is_for_any_lock();
        ensure!(waits, "its clients are not woken when their turn comes");
        let line = if asked { STOP_AT_TURN } else { PASS_TURN };
        let stdin = self.stdin.as_mut().context("it does not listen")?;
        writeln!(stdin, "{line}").context("it does not listen")
    }

    /// Tells it to finish what it does.
    pub fn stop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"stop\n");
            // An observer goes on until it is killed; closing its input says nothing new.
        }
    }
}
