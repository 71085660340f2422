//! How long one synced write takes: the floor under every commit.

use std::{
    fmt,
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::exit::Failure;

/// Bytes of each write.
const BLOCK: usize = 4096;
/// Writes, at most; and the time they may take.
const WRITES_MAX: usize = 2000;
const TIME_MAX: Duration = Duration::from_secs(3);

/// The figures of a disk.
#[derive(Debug, Serialize)]
pub struct Disk {
    dir: String,
    writes: usize,
    pub median_us: f64,
    p99_us: f64,
    max_us: f64,
}

impl Disk {
    /// Appends 4 KiB and calls fdatasync, over and over, in a file of its own that is gone afterwards.
    pub fn measure(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(format!(".conclave-bench-{}", std::process::id()));
        let what = format!("cannot measure the disk with {}", path.display());
        let result = File::create_new(&path).and_then(times);
        // Also after a failure; that it is not there is then no news.
        let _ = std::fs::remove_file(&path);
        let mut took = result.map_err(|error| Failure::local(what, &error))?;
        took.sort_unstable();
        let at = |quantile: f64| took[((took.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
        Ok(Self {
            dir: dir.display().to_string(),
            writes: took.len(),
            median_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
        })
    }
}

fn times(mut file: File) -> std::io::Result<Vec<Duration>> {
    let block = [0x5a; BLOCK];
    let began = Instant::now();
    let mut took = Vec::with_capacity(WRITES_MAX);
    while took.is_empty() || (took.len() < WRITES_MAX && began.elapsed() < TIME_MAX) {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    Ok(took)
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "disk at {}: 4 KiB appended and fdatasync'ed {} times: median {:.0}us, p99 {:.0}us, max {:.0}us",
            self.dir, self.writes, self.median_us, self.p99_us, self.max_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::measure(dir.path()).expect("measured");
        assert!(disk.writes > 0 && disk.median_us > 0.0 && disk.median_us <= disk.max_us, "{disk}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        let failure = Disk::measure(Path::new("/nonexistent")).expect_err("no such place");
        assert!(failure.message.contains("/nonexistent"), "{failure}");
    }
}
