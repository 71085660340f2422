//! System calls of a running process that fail or take long, by strace's injection (strace(1), "Tampering").

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::{
    libc::{SYS_fdatasync, SYS_fsync},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::spawn::{leashed, spawn};

/// strace has attached to all threads, or let go of them, by then.
const WITHIN: Duration = Duration::from_secs(5);

/// A process that is tampered with until this is dropped.
pub struct Strace {
    strace: Option<Child>,
    pid: u32,
    log: PathBuf,
    delays: bool,
}

impl Strace {
    /// Tampers with all threads of a process, as `inject` says (`fsync,fdatasync:error=EIO:when=1`); with calls about
    /// these files alone, if there are any.
    ///
    /// # Errors
    /// If strace is not there or may not.
    pub fn attach(pid: u32, inject: &str, files: &[PathBuf], log: &Path) -> anyhow::Result<Self> {
        let calls = inject.split(':').next().unwrap_or_default();
        let mut command = leashed("strace");
        command.args(["-f", "-qq", "-p", &pid.to_string(), "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={inject}"), "-o"]).arg(log);
        for file in files {
            command.arg("-P").arg(file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = Self {
            strace: Some(spawn(command).context("strace")?),
            pid,
            log: log.into(),
            delays: inject.contains(":delay"),
        };
        strace.wait(|tracer| tracer != 0).context("strace does not attach")?;
        Ok(strace)
    }

    /// Whether it has met a call.
    #[must_use]
    pub fn met(&self) -> bool {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.contains("(INJECTED)") || log.contains("(DELAYED)") || self.delays()
    }

    /// Whether it is keeping a thread from its sync right now: that is told when it is over.
    fn delays(&self) -> bool {
        let stuck = || {
            let calls = threads(self.pid, "syscall");
            let number = |call: &String| call.split(' ').next().and_then(|number| number.parse::<i64>().ok());
            calls.iter().any(|call| number(call).is_some_and(|number| number == SYS_fsync || number == SYS_fdatasync))
        };
        // Every call stops for a moment when it is traced.
        self.delays
            && (0..5).all(|_| {
                thread::sleep(Duration::from_millis(10));
                stuck()
            })
    }

    /// Lets go of the process, and looks whether it did.
    ///
    /// # Errors
    /// If it does not.
    pub fn detach(mut self) -> anyhow::Result<()> {
        self.end();
        self.wait(|tracer| tracer == 0).context("strace does not let go")
    }

    fn end(&mut self) {
        let Some(mut strace) = self.strace.take() else { return };
        if let Ok(pid) = i32::try_from(strace.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let until = Instant::now() + WITHIN;
        while strace.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = strace.kill();
        let _ = strace.wait();
    }

    /// Until it is so of the tracers of all threads, or the process is gone.
    fn wait(&self, so: impl Fn(u32) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + WITHIN;
        while !tracers(self.pid).into_iter().all(&so) {
            ensure!(Instant::now() < until, "not within {WITHIN:?}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether strace may tamper with a process here.
///
/// # Errors
/// Why not.
pub fn available() -> anyhow::Result<()> {
    let mut idle = spawn({
        let mut idle = Command::new("sleep");
        idle.arg("60");
        idle
    })
    .context("sleep")?;
    let dir = tempfile::tempdir()?;
    let tried = Strace::attach(idle.id(), "fsync:error=EIO", &[], &dir.path().join("log")).and_then(Strace::detach);
    let _ = idle.kill();
    let _ = idle.wait();
    tried.context("strace may not (Debian's package is strace)")
}

/// The tracers of a process's threads; 0 is none.
fn tracers(pid: u32) -> Vec<u32> {
    let tracer = |status: &String| status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
    threads(pid, "status").iter().filter_map(tracer).collect()
}

/// What the kernel says of each thread of a process in this file.
fn threads(pid: u32, file: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join(file)).ok()).collect()
}
