//! Clocks of processes, which faults can set.
//!
//! libfaketime (<https://github.com/wolfcw/libfaketime>) stands between a process and the C library's clocks. What it adds is
//! in a file that it reads again whenever the process looks at its clock. It does so to the wall clock alone, and timers go
//! right, as do the suite's own stamps ([`crate::clock`]); or to all clocks of a process, timers with them ([`Kind`]).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use anyhow::{Context as _, ensure};

use crate::{place::NotAvailable, target::Contained};

/// Where Debian's package `libfaketime` has the variant for programs with threads.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Stands after that library and before any allocator that a program is linked to: one such (jemalloc, in Debian's
/// redis-server) asks for the time before it can give the library its first memory, and waits for itself.
const ALLOCATOR: &str = "/lib/x86_64-linux-gnu/libc.so.6";

/// From starting a process until the library is loaded into it, in seconds, at the most.
const LOADED: f64 = 1.0;

/// Which clocks of a process can be wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The wall clock.
    Wall,
    /// All that the process has: what it takes for a second is none.
    All,
}

/// How a clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wrong {
    /// By so many seconds.
    By(i64),
    /// It goes so many times as fast, from now on.
    Rate(f64),
}

/// The clock of a process, and of others started in its place.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Has the file, and what containers need besides.
    dir: PathBuf,
    kind: Kind,
    state: Arc<Mutex<State>>,
}

/// What a clock of all timers shows, in seconds: that of whoever sets it next goes on from there.
#[derive(Debug)]
struct State {
    started: Instant,
    /// Added to what is counted from the start.
    offset: f64,
    rate: f64,
}

impl Default for State {
    fn default() -> Self {
        Self { started: Instant::now(), offset: 0.0, rate: 1.0 }
    }
}

impl State {
    /// How far ahead of a right clock, so long after the start.
    fn ahead(&self, now: f64) -> f64 {
        self.offset + now * (self.rate - 1.0)
    }
}

impl Clock {
    /// One that is right. `dir` is made, and its own.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn new(dir: &Path, kind: Kind) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let clock = Self { dir: dir.into(), kind, state: Arc::default() };
        clock.write("+0")?;
        Ok(clock)
    }

    /// For the command that is about to start the process.
    pub fn wind(&self, command: &mut Command) {
        self.state().started = Instant::now();
        command.envs(self.env(&format!("{LIBRARY} {ALLOCATOR}")));
    }

    /// The same for a container.
    ///
    /// # Errors
    /// If the library cannot be copied to where the container sees it.
    pub fn wind_contained(&self, server: &mut Contained) -> anyhow::Result<()> {
        self.state().started = Instant::now();
        let library = self.dir.join("libfaketime.so");
        fs::copy(LIBRARY, &library).context(LIBRARY)?;
        server
            .env
            .extend(self.env(&library.display().to_string()).into_iter().map(|(name, value)| (name.to_owned(), value)));
        server.mounts.push((self.dir.clone(), self.dir.display().to_string()));
        Ok(())
    }

    fn env(&self, preload: &str) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("LD_PRELOAD", preload.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
        ];
        if self.kind == Kind::Wall {
            env.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()));
        }
        env
    }

    fn file(&self) -> PathBuf {
        self.dir.join("shift")
    }

    /// Makes it wrong.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, wrong: Wrong) -> anyhow::Result<()> {
        match wrong {
            Wrong::By(seconds) => self.write(&format!("{seconds:+}")),
            Wrong::Rate(rate) => {
                let mut state = self.state();
                let now = state.started.elapsed().as_secs_f64();
                // The library counts a rate from the moment at which it was loaded, which is known too early by less than
                // LOADED: so a clock may jump ahead by that much of the change, and never goes back.
                let spare = 0.001 + LOADED * (rate - state.rate).abs();
                state.offset = state.ahead(now) + spare - now * (rate - 1.0);
                state.rate = rate;
                self.write(&format!("{:+.3} x{rate}", state.offset))
            }
        }
    }

    /// Makes it right; one that timers depend on goes on from where it is, as fast as others.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn correct(&self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Wall => {
                let mut state = self.state();
                (state.offset, state.rate) = (0.0, 1.0);
                self.write("+0")
            }
            Kind::All => self.set(Wrong::Rate(1.0)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Whether the process has looked at it since it was last set.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn seen(&self) -> anyhow::Result<bool> {
        // The library reads the file. A file's time of access is kept at least for the first time after a change.
        let file = fs::metadata(self.file()).context("a clock's file")?;
        Ok((file.atime(), file.atime_nsec()) > (file.mtime(), file.mtime_nsec()))
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        // Put in its place at once: half a line would be a time of its own.
        let new = self.dir.join("new");
        fs::write(&new, format!("{text}\n")).context("a clock's file")?;
        fs::rename(&new, self.file()).context("a clock's file")
    }
}

/// Whether processes can have such clocks here: sets that of one.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), NotAvailable> {
    let tried = || -> anyhow::Result<()> {
        ensure!(Path::new(LIBRARY).is_file(), "there is no {LIBRARY}; Debian's package is libfaketime");
        let dir = tempfile::tempdir().context("no directory")?;
        let clock = Clock::new(&dir.path().join("clock"), Kind::Wall)?;
        clock.set(Wrong::By(-86_400 * 365))?;
        let mut date = Command::new("date");
        clock.wind(&mut date);
        let year = |mut date: Command| -> anyhow::Result<i64> {
            let output = date.arg("+%Y").output().context("date")?;
            String::from_utf8_lossy(&output.stdout).trim().parse().context("date")
        };
        ensure!(year(date)? < year(Command::new("date"))?, "libfaketime sets no clock");
        ensure!(clock.seen()?, "the file system keeps no times of access");
        Ok(())
    };
    tried().map_err(|error| NotAvailable { what: "clocks".into(), why: format!("{error:#}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_says_what_is_wrong_as_the_library_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::new(dir.path(), Kind::Wall).expect("a clock");
        let text = |clock: &Clock| fs::read_to_string(clock.file()).expect("the file").trim().to_owned();
        assert_eq!(text(&clock), "+0");
        clock.set(Wrong::By(90)).expect("set");
        assert_eq!(text(&clock), "+90");
        clock.set(Wrong::By(-90)).expect("set");
        assert_eq!(text(&clock), "-90");
        clock.set(Wrong::Rate(1.5)).expect("set");
        assert!(text(&clock).ends_with(" x1.5"), "{}", text(&clock));
        clock.correct().expect("set");
        assert_eq!(text(&clock), "+0");
    }

    #[test]
    fn a_clock_that_timers_depend_on_never_goes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::new(dir.path(), Kind::All).expect("a clock");
        clock.state().started -= std::time::Duration::from_secs(100);
        // What a library shows that was loaded `late` seconds after the start.
        let shown = |late: f64, text: &str| {
            let (offset, rate) = text.trim().split_once(" x").expect("a rate");
            let (offset, rate): (f64, f64) = (offset.parse().expect("seconds"), rate.parse().expect("a number"));
            offset + (100.0 - late) * (rate - 1.0)
        };
        let mut before = "+0 x1".to_owned();
        for rate in [1.5, 0.5, 3.0, 1.0] {
            clock.set(Wrong::Rate(rate)).expect("set");
            let text = fs::read_to_string(clock.file()).expect("the file");
            for late in [0.0, 0.2, 0.9] {
                let jump = shown(late, &text) - shown(late, &before);
                assert!((0.0..6.0).contains(&jump), "{jump} s ahead from {before} to {text}");
            }
            before = text;
        }
    }
}
