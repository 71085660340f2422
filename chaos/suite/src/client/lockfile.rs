//! A lock file in a directory that clients share: who creates it holds, and one that looks old is broken.
//!
//! `open` with `O_CREAT | O_EXCL` lets one in. So that a dead holder does not keep the others out for ever, a file whose
//! time of modification lies back further than the time-out is taken for left behind and removed, by whoever finds it:
//! what `lockfile_create(3)` does after five minutes, and `lockfile(1) -l` after as long as it is told.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Outcome, ServerView, Spec,
    lock::{Acquired, Lock, leased},
    observer::{ObserveBlocking, watch_blocking},
};
use crate::clock::{now_ns, ns};

/// How often a waiter looks again.
const RETRY_EVERY: Duration = Duration::from_millis(5);
/// File systems stamp with the kernel's coarse clock, which may lie back by one of its ticks.
const STAMP_LAG: Duration = Duration::from_millis(10);

pub struct FileLock {
    dir: PathBuf,
    ttl: Duration,
    hold: Option<Hold>,
}

struct Hold {
    path: PathBuf,
    /// Others may break it from here on.
    until_ns: i64,
}

impl FileLock {
    pub fn new(spec: &Spec) -> anyhow::Result<Self> {
        let dir = spec.endpoints.first().context("no directory")?.into();
        Ok(Self { dir, ttl: spec.ttl, hold: None })
    }
}

/// Removes the file if it is old. Between looking and removing somebody else may have done so, and created it anew.
fn break_if_old(path: &Path, ttl: Duration) {
    let age = fs::metadata(path).and_then(|found| found.modified()).map(|modified| modified.elapsed());
    if let Ok(Ok(age)) = age
        && age > ttl
    {
        let _ = fs::remove_file(path);
    }
}

impl Lock for FileLock {
    fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn acquire(&mut self, key: &str, wait: Duration) -> Acquired {
        let (path, until) = (self.dir.join(key), Instant::now() + wait);
        loop {
            let began_ns = now_ns();
            match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => {
                    let from_ns = began_ns - ns(STAMP_LAG);
                    self.hold = Some(Hold { path, until_ns: from_ns + ns(self.ttl) });
                    return Acquired::Held { token: None, lease_from_ns: Some(from_ns) };
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if Instant::now() >= until {
                        return Acquired::Not(Outcome::Fail, "timed out: not free".into());
                    }
                    break_if_old(&path, self.ttl);
                    thread::sleep(RETRY_EVERY);
                }
                Err(error) => return Acquired::Not(Outcome::Fail, error.to_string()),
            }
        }
    }

    fn belief(&self) -> Box<dyn Fn() -> bool + Send> {
        leased(self.hold.as_ref().map(|hold| hold.until_ns))
    }

    fn release(&mut self) -> (Outcome, Option<String>) {
        let Some(hold) = self.hold.take() else { return (Outcome::Fail, Some("not held".into())) };
        match fs::remove_file(&hold.path) {
            Ok(()) if now_ns() < hold.until_ns => (Outcome::Ok, None),
            // What was removed may have been somebody else's: the client cannot say.
            Ok(()) => (Outcome::Info, Some("it was old enough to be broken".into())),
            // Somebody else removed it: in any case it is given back, and no later grant is wrong.
            Err(error) => (Outcome::Info, Some(error.to_string())),
        }
    }
}

struct Observer {
    dir: PathBuf,
    written: AtomicU64,
}

impl ObserveBlocking for Observer {
    fn count(&self) -> usize {
        0
    }

    fn server(&self, _: usize) -> ServerView {
        ServerView::default()
    }

    fn write(&self) -> bool {
        let nth = self.written.fetch_add(1, Ordering::Relaxed);
        fs::write(self.dir.join("probe"), nth.to_string()).is_ok()
    }
}

pub fn observe(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let dir = spec.endpoints.first().context("no directory")?.into();
    watch_blocking(Observer { dir, written: AtomicU64::new(0) }, spec.probe_every, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(ttl: Duration) -> (tempfile::TempDir, FileLock, FileLock) {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = || FileLock { dir: dir.path().into(), ttl, hold: None };
        let (one, other) = (lock(), lock());
        (dir, one, other)
    }

    #[test]
    fn a_file_keeps_others_out_until_it_is_removed() {
        let (_dir, mut one, mut other) = locks(Duration::from_secs(600));
        assert!(matches!(one.acquire("a", Duration::ZERO), Acquired::Held { .. }));
        assert!(one.held());
        assert!(matches!(other.acquire("a", Duration::ZERO), Acquired::Not(Outcome::Fail, _)));
        assert_eq!(one.release().0, Outcome::Ok);
        assert!(matches!(other.acquire("a", Duration::ZERO), Acquired::Held { .. }));
    }

    #[test]
    fn an_old_file_is_broken_and_its_holder_then_cannot_say_what_it_removed() {
        let (dir, mut one, mut other) = locks(Duration::from_secs(600));
        assert!(matches!(one.acquire("a", Duration::ZERO), Acquired::Held { .. }));
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(700);
        let file = fs::File::options().write(true).open(dir.path().join("a")).expect("the lock file");
        file.set_modified(long_ago).expect("an old file");
        one.hold.as_mut().expect("held").until_ns = 0;
        assert!(matches!(other.acquire("a", Duration::from_secs(60)), Acquired::Held { .. }));
        assert!(!one.held());
        assert_eq!(one.release().0, Outcome::Info);
        assert!(!dir.path().join("a").exists(), "it removed what was the other's");
    }
}
