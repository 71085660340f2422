//! Files of a server that are not what it wrote: a bit flipped, an end cut off, an old one put back.
//!
//! Only one server's, and only when a majority of the others has all that it acknowledged. It may refuse to start, and has
//! to say so; or come up right, of which the states of all servers at the end are the witness. One that refused gets its
//! files back as they were; one that served for a while and ended then has acknowledged what these do not have, so it is
//! replaced, as docs/operations.md tells.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use super::{Begin, Broken, Form, Reach, membership};
use crate::{
    clock::now_ns,
    place::{NotAvailable, Place},
    target::Target,
};

/// The others take a write without it by then.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// One that came up has what the others have by then; whether it does is judged later.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);
/// So old an old file is at least.
const OLD: Duration = Duration::from_millis(700);

pub const FORMS: &[Form] = &[
    Form {
        what: "flip a bit in a server's files",
        servers_min: 3,
        begin: Begin::Any(|reach, roll| damage(reach, roll, Damage::Flip)),
    },
    Form {
        what: "cut a server's file short",
        servers_min: 3,
        begin: Begin::Any(|reach, roll| damage(reach, roll, Damage::Cut)),
    },
    Form {
        what: "put an old file of a server back",
        servers_min: 3,
        begin: Begin::Any(|reach, roll| damage(reach, roll, Damage::Old)),
    },
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Damage {
    Flip,
    Cut,
    Old,
}

pub fn available(place: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
    membership::available(place, target).map_err(|lacks| NotAvailable { what: "files".into(), ..lacks })
}

fn damage(reach: &mut Reach<'_, '_>, roll: u64, how: Damage) -> anyhow::Result<Broken> {
    let leader = reach.leader()?;
    let others: Vec<_> = (0..reach.servers.count()).filter(|at| *at != leader).collect();
    let at = others[usize::try_from(roll % others.len() as u64).expect("less than the count")];
    let dir = reach.servers.dir(at);
    let (old, kept) = (dir.with_extension("old"), dir.with_extension("kept"));
    if how == Damage::Old {
        // It is writing to them: what is torn in these is part of the damage.
        copy(&dir, &old)?;
        thread::sleep(OLD);
    }
    reach.servers.get(at).kill();
    let done = written_without(reach).and_then(|()| {
        copy(&dir, &kept)?;
        harm(&dir, &old, roll, how)
    });
    reach.servers.get(at).may_end = done.is_ok();
    reach.servers.start_one(at)?;
    let what = done?;
    let (from_ns, seen) = (now_ns(), Rc::new(Cell::new((false, false))));
    let (looked, told) = (Rc::clone(&seen), Rc::clone(&seen));
    Ok(Broken {
        servers: vec![at],
        needs_cluster: true,
        meanwhile: Some(Box::new(move |reach| {
            let (served, ended) = looked.get();
            let ended = ended || reach.servers.get(at).ended().is_some();
            let board = reach.board.lock();
            let answers = board.servers.0 > from_ns && board.servers.1.get(at).is_some_and(|it| it.answers);
            looked.set((served || answers, ended));
        })),
        evidence: Some(Box::new(move |_| {
            Ok(match told.get() {
                (false, false) => "it is still starting",
                (true, false) => "it came up",
                (false, true) => "it refused to start",
                (true, true) => "it came up, and ended",
            }
            .into())
        })),
        ..Broken::network(format!("server {}, {what}", at + 1), move |reach| heal(reach, at, &kept, seen.get().0))
    })
}

/// Waits for a write that is acknowledged without the server that was killed: whatever that one had acknowledged comes
/// before it in the logs of a majority of the others.
fn written_without(reach: &Reach<'_, '_>) -> anyhow::Result<()> {
    let (from_ns, until) = (now_ns(), Instant::now() + WRITTEN_WITHIN);
    while reach.board.lock().written_since(from_ns).is_none() {
        ensure!(Instant::now() < until, "the others take no write without it");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn heal(reach: &mut Reach<'_, '_>, at: usize, kept: &Path, served: bool) -> anyhow::Result<()> {
    let (ended, served) = caught_up(reach, at, served);
    reach.servers.get(at).may_end = false;
    let Some(status) = ended else { return Ok(()) };
    ensure!(status.code() == Some(1), "it ended with {status} over a damaged file, and not with an error");
    if served {
        return membership::replace_lost(reach, at);
    }
    reach.servers.empty(at)?;
    copy(kept, &reach.servers.dir(at))?;
    reach.servers.start_one(at)
}

/// Waits until it ends, or has what the others had when this began: one that has forgotten entries learns that from the
/// leader, whom it may have to find first. How it ended, if it did, and whether it served.
fn caught_up(reach: &mut Reach<'_, '_>, at: usize, mut served: bool) -> (Option<ExitStatus>, bool) {
    let views = |reach: &Reach<'_, '_>| reach.board.lock().servers.clone();
    let goal = views(reach).1.iter().map(|view| view.applied).max().unwrap_or_default();
    let (from_ns, until) = (now_ns(), Instant::now() + CAUGHT_UP_WITHIN);
    loop {
        let ended = reach.servers.get(at).ended();
        let (seen_ns, all) = views(reach);
        let view = all.get(at).filter(|view| seen_ns > from_ns && view.answers);
        served |= view.is_some();
        if ended.is_some() || view.is_some_and(|view| view.applied >= goal) || Instant::now() >= until {
            return (ended, served);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What was done to which file, in words.
fn harm(dir: &Path, old: &Path, roll: u64, how: Damage) -> anyhow::Result<String> {
    let mut files = data(dir)?;
    if how == Damage::Old {
        let differs = |file: &PathBuf| -> bool {
            let before = file.strip_prefix(dir).ok().and_then(|name| fs::read(old.join(name)).ok());
            before.is_some_and(|before| fs::read(file).is_ok_and(|now| now != before))
        };
        files.retain(differs);
    }
    ensure!(!files.is_empty(), "it has no such file");
    let mut random = fastrand::Rng::with_seed(roll);
    let file = files.swap_remove(random.usize(..files.len()));
    let name = file.strip_prefix(dir).context("a file of it")?.to_owned();
    let length = fs::metadata(&file)?.len();
    let what = match how {
        Damage::Flip => {
            let (offset, bit) = (random.u64(..length), random.u32(..8));
            let open = fs::OpenOptions::new().read(true).write(true).open(&file)?;
            let mut byte = [0];
            open.read_exact_at(&mut byte, offset)?;
            open.write_all_at(&[byte[0] ^ 1 << bit], offset)?;
            format!("bit {bit} of byte {offset} of {length}")
        }
        Damage::Cut => {
            let left = random.u64(..length);
            fs::OpenOptions::new().write(true).open(&file)?.set_len(left)?;
            format!("{left} of {length} bytes left")
        }
        Damage::Old => {
            fs::copy(old.join(&name), &file)?;
            format!("as it was {} ms before", OLD.as_millis())
        }
    };
    Ok(format!("{}: {what}", name.display()))
}

/// The files that hold what a server has to keep: none that is empty, or a log for people, or a lock.
fn data(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if kind.is_dir() {
            found.extend(data(&path)?);
        } else if !["LOG", "LOCK", "lock"].iter().any(|idle| name.starts_with(idle)) && fs::metadata(&path)?.len() > 0 {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// All files below a directory. Those that go meanwhile are left out.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
            continue;
        }
        match fs::copy(entry.path(), &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("cannot copy {}: {error}", entry.path().display())
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damage_changes_one_file_of_data_and_copies_bring_it_back() {
        for (roll, how) in [(1, Damage::Flip), (2, Damage::Cut), (3, Damage::Old)] {
            let room = tempfile::tempdir().expect("a directory");
            let [dir, old, kept] = ["dir", "old", "kept"].map(|name| room.path().join(name));
            let write = |text: &str| {
                fs::create_dir_all(dir.join("db")).expect("a directory");
                for name in ["000004.log", "CURRENT", "MANIFEST-1", "LOG", "LOCK"] {
                    fs::write(dir.join("db").join(name), if name == "LOCK" { "" } else { text }).expect("a file");
                }
            };
            write("before");
            copy(&dir, &old).expect("a copy");
            write("what a server keeps");
            copy(&dir, &kept).expect("a copy");
            let what = harm(&dir, &old, roll, how).expect("a damage");
            let changed = || {
                let names = ["000004.log", "CURRENT", "MANIFEST-1", "LOG", "LOCK"];
                let read = |dir: &Path, name: &str| fs::read(dir.join("db").join(name)).expect("a file");
                names.into_iter().filter(|name| read(&dir, name) != read(&kept, name)).collect::<Vec<_>>()
            };
            let names = changed();
            assert!(names.len() == 1 && what.contains(names[0]) && names[0] != "LOG", "{how:?}: {what}, {names:?}");
            copy(&kept, &dir).expect("a copy");
            assert!(changed().is_empty());
        }
    }
}
