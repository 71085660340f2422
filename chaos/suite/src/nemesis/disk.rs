//! Disks that are full, slow, stuck or gone, or that fail a call. A server may end by itself then: it is started again
//! once its disk is well.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{Begin, Broken, Form, Reach, servers, strace, strace::Strace};
use crate::{
    disks,
    place::{NotAvailable, Place},
    target::Target,
    throttle::{self, Throttle},
};

/// So many bytes a second a slow disk takes.
const SLOW: u64 = 64 << 10;
/// An injected fault meets a call within this time, or it met nobody.
const MET_WITHIN: Duration = Duration::from_secs(3);
/// A server that ends because of what its disk did has ended by then.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

pub const FORMS: &[Form] = &[
    Form { what: "fill the leader's disk", servers_min: 2, begin: Begin::Leader(|reach, at, _| fill(reach, at)) },
    Form {
        what: "fill a server's disk, on which it is killed and started",
        servers_min: 1,
        begin: Begin::Server(|reach, at, _| {
            let broken = fill(reach, at)?;
            reach.servers.get(at).kill();
            reach.servers.start_one(at)?;
            Ok(broken)
        }),
    },
    Form {
        what: "take the leader's disk away",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| take_away(reach, at)),
    },
    Form {
        what: "fail a sync of the leader",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| fail_sync(reach, at)),
    },
    Form { what: "fail a sync of a server", servers_min: 1, begin: Begin::Server(|reach, at, _| fail_sync(reach, at)) },
    Form {
        what: "fail a write of a server",
        servers_min: 1,
        begin: Begin::Server(|reach, at, _| fail_write(reach, at)),
    },
    Form {
        what: "make the leader's syncs slow",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| delay(reach, at, "300ms")),
    },
    Form {
        what: "make the leader's syncs stick",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| delay(reach, at, "600s")),
    },
    Form { what: "make a server's disk slow", servers_min: 1, begin: Begin::Server(|reach, at, _| slow(reach, at)) },
];

pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    let lacks = |error: anyhow::Error| NotAvailable { what: "disk".into(), why: format!("{error:#}") };
    strace::available().and_then(|()| throttle::available()).map_err(lacks)?;
    disks::available()
}

fn fill(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    reach.servers.get(at).may_end = true;
    if let Err(error) = reach.servers.disk(at)?.fill() {
        reach.servers.disk(at)?.free()?;
        reach.servers.get(at).may_end = false;
        return Err(error);
    }
    Ok(Broken::network(servers(&[at]), move |reach| {
        reach.servers.disk(at)?.free()?;
        // What it does about the last call that failed it does soon.
        go_on(reach, at, Duration::from_secs(1))
    }))
}

fn take_away(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    reach.servers.disk(at)?.shut_down()?;
    reach.servers.get(at).may_end = true;
    Ok(Broken::server(at, move |reach| {
        // One that ended is gone; one that did not has nothing to go on with.
        reach.servers.get(at).kill();
        reach.servers.get(at).may_end = false;
        reach.servers.disk(at)?.restart()?;
        reach.servers.start_one(at)
    }))
}

/// One sync fails and the next succeeds, as a kernel has it that reports a lost page once (the PostgreSQL project's
/// "fsync errors", <https://wiki.postgresql.org/wiki/Fsync_Errors>): who tries again believes in what is not there.
fn fail_sync(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let pid = reach.servers.get(at).pid()?;
    let strace = tamper(reach, at, "fsync,fdatasync:error=EIO:when=1", &[])?;
    Ok(Broken::network(servers(&[at]), move |reach| {
        strace.detach()?;
        // Another fault may have ended it first.
        let same = reach.servers.get(at).pid().is_ok_and(|now| now == pid);
        let promised = same && reach.servers.target().stops_when_a_sync_fails();
        let ended = ends(reach, at, if promised { ENDED_WITHIN } else { Duration::from_secs(1) });
        go_on(reach, at, Duration::ZERO)?;
        ensure!(ended || !promised, "it went on after a sync that failed, and promised to stop");
        Ok(())
    }))
}

fn fail_write(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let files = open_files(reach.servers.get(at).pid()?, &reach.servers.dir(at))?;
    ensure!(!files.is_empty(), "it has no file open");
    let strace = tamper(reach, at, "write,writev,pwrite64,pwritev:error=EIO:when=1", &files)?;
    Ok(Broken::network(servers(&[at]), move |reach| {
        strace.detach()?;
        go_on(reach, at, Duration::from_secs(1))
    }))
}

fn delay(reach: &mut Reach<'_, '_>, at: usize, by: &str) -> anyhow::Result<Broken> {
    let strace = tamper(reach, at, &format!("fsync,fdatasync:delay_enter={by}"), &[])?;
    Ok(Broken::network(format!("{}, {by}", servers(&[at])), move |reach| {
        strace.detach()?;
        go_on(reach, at, Duration::ZERO)
    }))
}

fn slow(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let device = reach.servers.disk(at)?.device()?;
    let throttle = Throttle::begin(reach.servers.get(at).pid()?, &device, SLOW)?;
    Ok(Broken::network(format!("{}, {} KiB a second", servers(&[at]), SLOW >> 10), move |_| throttle.end()))
}

/// Attaches and waits until a call was met.
fn tamper(reach: &mut Reach<'_, '_>, at: usize, inject: &str, files: &[PathBuf]) -> anyhow::Result<Strace> {
    let log = reach.servers.dir(at).with_extension("strace");
    let server = reach.servers.get(at);
    let strace = Strace::attach(server.pid()?, inject, files, &log)?;
    server.may_end = true;
    let until = Instant::now() + MET_WITHIN;
    while !strace.met() {
        if Instant::now() >= until {
            strace.detach()?;
            reach.servers.get(at).may_end = false;
            anyhow::bail!("it made no such call");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(strace)
}

/// Starts it again if it ends by itself within this time.
fn go_on(reach: &mut Reach<'_, '_>, at: usize, within: Duration) -> anyhow::Result<()> {
    if reach.servers.get(at).is_there() && ends(reach, at, within) {
        reach.servers.start_one(at)?;
    }
    reach.servers.get(at).may_end = false;
    Ok(())
}

fn ends(reach: &mut Reach<'_, '_>, at: usize, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        if reach.servers.get(at).ended().is_some() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The files that a process has open on the file system of a directory, by the names that it knows them by.
fn open_files(pid: u32, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let device = fs::metadata(dir).with_context(|| format!("{}", dir.display()))?.dev();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).context("its open files")?.flatten();
    let on = open.filter(|fd| fs::metadata(fd.path()).is_ok_and(|file| file.is_file() && file.dev() == device));
    Ok(on.filter_map(|fd| fs::read_link(fd.path()).ok()).collect())
}
