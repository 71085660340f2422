//! A PostgreSQL server of a run's own.
//!
//! True of it:
//! * it listens on a Unix socket alone, in its directory of the run's [`Room`]: nothing of it is on any network, and clients
//!   reach it from whatever network namespace they are in;
//! * no fault is meant for it, so it syncs nothing;
//! * it ends with the run, also with one that is killed. It is asked to end at once (SIGQUIT): killed, it would leave its shared
//!   memory behind.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Address, postgres::Postgres};
use crate::{
    disks::{self, Room},
    place::{NotAvailable, namespaces::is_root},
    spawn::spawn,
};

/// Who clients are there.
pub(super) const USER: &str = "conclave";
/// Whose the server is if we are root, whom it refuses. Debian's package makes that user.
const OWNER: &str = "postgres";
/// Its directory in a room, in which it has its socket, and in that [`DATA`].
const DIR: &str = "postgres";
/// What it keeps.
const DATA: &str = "data";
/// As it calls its socket, after the port that it would have.
const SOCKET: &str = ".s.PGSQL.5432";
/// What the kernel has room for, a zero at the end not counted (`unix(7)`).
const SOCKET_PATH_MAX: usize = 107;
/// It answers by then.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// It has ended by then; after five seconds it kills those of its processes that do not end.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The server. Dropped, it is gone.
#[derive(Debug)]
pub struct Server {
    process: Child,
    dir: PathBuf,
}

impl Server {
    /// Makes its data in the room, starts it and waits until it answers. What it says goes to `postgres.log` in `logs`.
    ///
    /// # Errors
    /// [`NotAvailable`]; the tools'; if it does not answer within half a minute.
    pub fn start(room: &Room, logs: &Path) -> anyhow::Result<Self> {
        let programs = available()?;
        let dir = room.path().join(DIR);
        let length = dir.join(SOCKET).as_os_str().as_bytes().len();
        ensure!(
            length <= SOCKET_PATH_MAX,
            "the path of PostgreSQL's socket in {} has {length} bytes, and {SOCKET_PATH_MAX} is the most: TMPDIR has to name a \
             shorter one",
            dir.display()
        );
        make(&dir, room.path())?;
        let path = logs.join("postgres.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&path).context("no log file")?;
        let see = || format!("see {}", path.display());
        let run = |program: &Path, dies_by: &str| -> anyhow::Result<Command> {
            let mut command = owned(program, dies_by, &dir);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
            Ok(command)
        };

        let mut making = run(&programs.initdb, "KILL")?;
        making.args([
            "--username",
            USER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-locale",
            "--no-sync",
            "--pgdata",
            DATA,
        ]);
        let made = spawn(making).context("initdb cannot be started")?.wait()?;
        ensure!(made.success(), "initdb ended with {made}; {}", see());

        let mut serving = run(&programs.postgres, "QUIT")?;
        serving.args(["-D", DATA, "-k"]).arg(&dir);
        for setting in [
            "listen_addresses=",
            "fsync=off",
            // Of 50 clients at the most, some more than once: those that were killed are not gone at once.
            "max_connections=200",
            "shared_buffers=16MB",
            // In files of its own: nothing is left in /dev/shm, whatever happens.
            "dynamic_shared_memory_type=mmap",
        ] {
            serving.args(["-c", setting]);
        }
        // From here on dropping it ends it.
        let mut server = Self { process: spawn(serving).context("PostgreSQL cannot be started")?, dir };
        let until = Instant::now() + READY_WITHIN;
        loop {
            let tried = Postgres::open(&server.dir, false);
            if let Some(status) = server.process.try_wait()? {
                bail!("PostgreSQL ended with {status}; {}", see());
            }
            match tried {
                Ok(_) => return Ok(server),
                Err(error) if Instant::now() >= until => return Err(error.context(see())),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Where clients find it.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Postgres(self.dir.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its number is its own until it was waited for.
        let pid = Pid::from_raw(self.process.id().cast_signed());
        let there = |process: &mut Child| process.try_wait().is_ok_and(|status| status.is_none());
        end(pid, || there(&mut self.process));
        let _ = self.process.wait();
    }
}

/// Its programs.
#[derive(Clone, Debug)]
pub struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

/// Whether this machine and user can have it: its programs, of the newest version that is here.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<Programs, NotAvailable> {
    let lacks = |why: &str| NotAvailable { what: "PostgreSQL".into(), why: why.into() };
    // Debian has them side by side, a directory for each version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort();
    let dirs = found.into_iter().rev().map(|(_, dir)| dir).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    let programs = dirs
        .map(|dir| Programs { initdb: dir.join("initdb"), postgres: dir.join("postgres") })
        .find(|programs| programs.initdb.is_file() && programs.postgres.is_file())
        .ok_or_else(|| lacks("there are no initdb and postgres; Debian's package is postgresql"))?;
    if is_root() {
        let tried = |tool: &str, args: &[&str]| {
            let tried = Command::new(tool).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        };
        if !tried("setpriv", &["--version"]) {
            return Err(lacks("there is no setpriv; Debian's package is util-linux"));
        }
        if !tried("id", &[OWNER]) {
            return Err(lacks("it does not run as root, and there is no user postgres"));
        }
    }
    Ok(programs)
}

/// Ends the servers whose owners are dead and which are still there, and returns how many.
///
/// # Errors
/// The file system's.
pub fn sweep() -> anyhow::Result<usize> {
    let mut ended = 0;
    for room in disks::orphans()? {
        let data = room.join(DIR).join(DATA);
        let pid = fs::read_to_string(data.join("postmaster.pid")).ok();
        let Some(pid) = pid.and_then(|text| text.lines().next()?.parse().ok()) else { continue };
        // Its number may be somebody else's by now; nobody else works in there.
        let there = || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == data);
        if there() {
            end(Pid::from_raw(pid), there);
            ended += 1;
        }
    }
    Ok(ended)
}

/// Asks it to end at once, and kills it if it does not.
fn end(pid: Pid, mut there: impl FnMut() -> bool) {
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let until = Instant::now() + GONE_WITHIN;
        if there() {
            let _ = kill(pid, signal);
        }
        while there() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Its directory, in which nobody else has any business.
fn make(dir: &Path, room: &Path) -> anyhow::Result<()> {
    if is_root() {
        let made = Command::new("install").args(["-d", "-m", "700", "-o", OWNER, "-g", OWNER]).arg(dir).status();
        ensure!(made.is_ok_and(|status| status.success()), "cannot make {} for user {OWNER}", dir.display());
        // The way there has to be open, whatever files are usually made like.
        fs::set_permissions(room, fs::Permissions::from_mode(0o755)).context("the run's directory")?;
    } else {
        fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).context("PostgreSQL's directory")?;
    }
    Ok(())
}

/// A command in `dir` as a user that PostgreSQL takes, which the kernel sends this signal when we are gone.
fn owned(program: &Path, dies_by: &str, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid", OWNER, "--regid", OWNER, "--clear-groups"]);
    }
    command.args(["--pdeathsig", dies_by, "--"]).arg(program);
    // It takes settings from there too; those of this process are not meant for it.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    // A Ctrl-C at the terminal is for us alone; we take our children down ourselves.
    command.env("LC_ALL", "C").current_dir(dir).process_group(0);
    command
}
