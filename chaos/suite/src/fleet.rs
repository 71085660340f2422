//! The processes of a run: servers and clients on their hosts, and what clients tell.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
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
    client::{Spec, Told},
    place::{Host, Place},
    spawn::spawn,
    target::Target,
};

/// The hidden command of the running program that makes it a client.
pub const CLIENT: &str = "client";

/// A process that can be stopped, killed and started again.
pub struct Process {
    /// Where.
    pub host: Host,
    child: Option<Child>,
}

impl Process {
    /// SIGSTOP or SIGCONT, and looks whether it stands or runs.
    ///
    /// # Errors
    /// If it does not run, or the kernel does not follow within a second.
    pub fn stand(&self, still: bool) -> anyhow::Result<()> {
        let pid = self.child.as_ref().context("it does not run")?.id();
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal}"))?;
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("it is gone")?;
            let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
            if state.starts_with('T') == still {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{signal} has no effect");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
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
    processes: Vec<Process>,
}

impl<'a> Servers<'a> {
    /// Starts them on the first hosts of the place. Their disks are in `dir`, their logs in `logs`.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(
        target: &'a dyn Target,
        place: &'a dyn Place,
        count: usize,
        dir: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let processes = (0..count).map(|at| Process { host: Host(at), child: None }).collect();
        let mut servers = Self { target, place, dir: dir.into(), logs: logs.into(), processes };
        for at in 0..count {
            servers.start_one(at)?;
        }
        Ok(servers)
    }

    /// Starts a server, for the first time or again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_one(&mut self, at: usize) -> anyhow::Result<()> {
        let addresses: Vec<_> = (0..self.processes.len()).map(|at| self.place.address(Host(at))).collect();
        let dir = self.dir.join(format!("server-{}", at + 1));
        fs::create_dir_all(&dir).context("no directory for a server")?;
        let start = self.target.start(at + 1, &addresses, &dir)?;
        let path = self.logs.join(format!("server-{}.log", at + 1));
        let log = fs::OpenOptions::new().create(true).append(true).open(path).context("no log file")?;
        let mut command = self.place.command(Host(at), &start.program);
        // A server takes its configuration from such variables too; those of this process are not meant for it.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CONCLAVE_")) {
            command.env_remove(name);
        }
        command.args(&start.args).envs(start.env).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes[at].child = Some(spawn(command).context("a server cannot be started")?);
        Ok(())
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

    /// Where clients find them.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.processes.iter().map(|server| self.target.endpoint(self.place.address(server.host))).collect()
    }

    /// # Errors
    /// If one ended by itself: which.
    pub fn all_run(&mut self) -> anyhow::Result<()> {
        for (at, server) in self.processes.iter_mut().enumerate() {
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
        spec: &Spec,
        at: usize,
        told: mpsc::Sender<(usize, Told)>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = place.command(host, program);
        command.arg(CLIENT).arg(serde_json::to_string(spec).context("a client's orders")?);
        let log = fs::File::create(log).context("no log file")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = spawn(command).context("a client cannot be started")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("it is piped")?);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // The last line of a killed client may be torn.
                let Some(line) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { continue };
                if told.send((at, line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: spec.name.clone(), process: Process { host, child: Some(child) }, stdin })
    }

    /// Tells it to finish what it does.
    pub fn stop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"stop\n");
            // An observer goes on until it is killed; closing its input says nothing new.
        }
    }
}
