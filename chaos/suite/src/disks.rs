//! Where servers keep their data: a directory of the run, and in it for each server a disk of its own where faults are to
//! reach it.
//!
//! Such a disk is a file system in a sparse file behind a loop device. Shut down without flushing its log (`xfs_io -x -c
//! shutdown`, see xfs_io(8); ext4 knows the same call) it has forgotten what was not synced, and refuses every access.
//! Mounted again it has what was.
//!
//! All of them are mounted below one shared mount. Hosts have mount namespaces of their own (ip-netns(8)), in which a
//! file system would live on that is unmounted only here: mounted again, it would come back with all that it was to
//! forget.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::statvfs,
};

use crate::place::{self, NotAvailable, namespaces};

/// The least that XFS wants. The file is sparse: it takes what is written.
const SIZE: u64 = 320 << 20;
/// Processes that were killed have let go of their files by then.
const FREE_WITHIN: Duration = Duration::from_secs(5);
/// What fills a disk.
const BALLAST: &str = "ballast";

/// The directory of a run. It goes with whatever is mounted in it.
#[derive(Debug)]
pub struct Room {
    dir: PathBuf,
}

impl Room {
    /// Makes it, in the directory for temporary files. What killed runs left is removed first. `disks`: for disks, too.
    ///
    /// # Errors
    /// The file system's.
    pub fn make(disks: bool) -> anyhow::Result<Self> {
        place::sweep()?;
        // From here on dropping it removes whatever there is.
        let room = Self { dir: std::env::temp_dir().join(namespaces::label()?) };
        fs::create_dir(&room.dir).with_context(|| format!("cannot make {}", room.dir.display()))?;
        if disks {
            let dir = room.dir.as_os_str();
            tool(Command::new("mount").arg("--bind").args([dir, dir]))?;
            tool(Command::new("mount").arg("--make-shared").arg(dir))?;
        }
        Ok(room)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.dir) {
            eprintln!("conclave-chaos: {error:#}; 'conclave-chaos run --clean' tries again");
        }
    }
}

/// A server's disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    dir: PathBuf,
}

impl Disk {
    /// Makes one, empty, for what `dir` is to have. The directory is there and in a [`Room`] for disks.
    ///
    /// # Errors
    /// The tools'.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let disk = Self { image: dir.with_extension("disk"), dir: dir.into() };
        let image = fs::File::create(&disk.image).context("no file for a disk")?;
        image.set_len(SIZE).context("no file for a disk")?;
        tool(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        tool(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.dir])).map(drop)
    }

    /// Its block device, as `/dev/loop3`.
    ///
    /// # Errors
    /// If it is not mounted.
    pub fn device(&self) -> anyhow::Result<PathBuf> {
        let mounts = mounts()?;
        let own = mounts.into_iter().find(|(_, at)| *at == self.dir);
        own.map(|(device, _)| device).with_context(|| format!("nothing is mounted at {}", self.dir.display()))
    }

    /// Nothing more is written to it or read from it, and what was not synced is gone.
    ///
    /// # Errors
    /// The tool's, or if it can still be read.
    pub fn shut_down(&self) -> anyhow::Result<()> {
        tool(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.dir))?;
        ensure!(fs::read_dir(&self.dir).is_err(), "{} can still be read", self.dir.display());
        Ok(())
    }

    /// Makes it what it is after a restart of the machine. Nobody may be using it.
    ///
    /// # Errors
    /// The tools', or if it is still in use after five seconds.
    pub fn restart(&self) -> anyhow::Result<()> {
        unmount(&self.dir)?;
        self.mount()?;
        fs::read_dir(&self.dir).context("it cannot be read")?;
        Ok(())
    }

    /// Takes all the room that is left, and looks whether any is.
    ///
    /// # Errors
    /// The file system's, or if something can still be written.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = fs::File::create(self.dir.join(BALLAST)).context("no file to fill it with")?;
        let left = statvfs(&self.dir).context("how much is left?")?;
        let bytes = left.blocks_available() * left.fragment_size();
        // Allocated, not written: at once, whatever the size. It cannot have the last blocks.
        for part in (1..=8).rev() {
            let bytes = i64::try_from(bytes * part / 8).context("a large disk")?;
            if bytes == 0 || fallocate(&ballast, FallocateFlags::empty(), 0, bytes).is_ok() {
                break;
            }
        }
        std::io::Seek::seek(&mut ballast, std::io::SeekFrom::End(0)).context("the end")?;
        for block in [vec![1; 1 << 20], vec![1; 1 << 12]] {
            while ballast.write_all(&block).is_ok() {}
        }
        let written = self.write();
        ensure!(is_full(&written), "something can still be written: {written:?}");
        Ok(())
    }

    /// Ends what [`Disk::fill`] began, and looks whether there is room again.
    ///
    /// # Errors
    /// The file system's.
    pub fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.dir.join(BALLAST)).context("what fills it")?;
        self.write().context("nothing can be written")
    }

    /// Writes as much as a server would at the least, to the disk itself, and takes it away again.
    fn write(&self) -> std::io::Result<()> {
        let path = self.dir.join("trial");
        let written = fs::File::create(&path).and_then(|mut file| {
            file.write_all(&vec![1; 1 << 16])?;
            file.sync_all()
        });
        let _ = fs::remove_file(&path);
        written
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The room says what cannot be undone.
        let _ = unmount(&self.dir);
        let _ = fs::remove_file(&self.image);
    }
}

fn is_full(written: &std::io::Result<()>) -> bool {
    written.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::ENOSPC as i32))
}

/// Whether this machine and user can have them: makes one, and takes its power.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), NotAvailable> {
    namespaces::available().map_err(|lacks| NotAvailable { what: "disks".into(), why: lacks.why })?;
    let tried = || -> anyhow::Result<()> {
        for tool in ["mkfs.xfs", "xfs_io"] {
            let there = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(there.is_ok_and(|status| status.success()), "there is no {tool}; Debian's package is xfsprogs");
        }
        let room = Room::make(true)?;
        let dir = room.path().join("trial");
        fs::create_dir(&dir)?;
        let disk = Disk::make(&dir)?;
        disk.shut_down()?;
        disk.restart()
    };
    tried().map_err(|error| NotAvailable { what: "disks".into(), why: format!("{error:#}") })
}

/// Removes the directories whose owners are dead, with what is mounted in them, and returns how many.
///
/// # Errors
/// The tool's.
pub fn sweep() -> anyhow::Result<usize> {
    let left = orphans()?;
    for dir in &left {
        clear(dir)?;
    }
    Ok(left.len())
}

/// The directories whose owners are dead.
pub(crate) fn orphans() -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(std::env::temp_dir()).context("the directory for temporary files")?;
    let left = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(namespaces::orphaned));
    Ok(left.map(|entry| entry.path()).collect())
}

/// Unmounts all in it and itself, and removes it.
fn clear(dir: &Path) -> anyhow::Result<()> {
    // What was mounted last is unmounted first.
    for (_, at) in mounts()?.into_iter().rev().filter(|(_, at)| at.starts_with(dir)) {
        unmount(&at)?;
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for those who are about to let go of it.
fn unmount(at: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + FREE_WITHIN;
    loop {
        match tool(Command::new("umount").arg(at)) {
            Ok(_) => return Ok(()),
            // Somebody else may have been faster; what counts is that it is gone.
            Err(_) if !mounts()?.iter().any(|(_, mounted)| mounted == at) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What is mounted where, in the order in which it was.
fn mounts() -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let all = fs::read_to_string("/proc/self/mounts").context("what is mounted?")?;
    // Spaces are written as \040; nothing of ours has any.
    let words = all.lines().filter_map(|line| line.split_once(' ')?.1.split_once(' ').map(|(at, _)| (line, at)));
    Ok(words.map(|(line, at)| (line.split(' ').next().unwrap_or_default().into(), at.into())).collect())
}

fn tool(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
