//! Disks that lose their power or fill up, clocks that jump, system calls that fail: each done to something real, and undone.
//!
//! They need root, loop devices, and xfsprogs, libfaketime and strace, which `scripts/setup.sh --tests` installs; where
//! one is missing they say so and judge nothing.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use conclave_suite::{
    clocks::{self, Clock, Kind, Wrong},
    disks::{self, Disk, Room},
    place::NotAvailable,
};

fn lacks(available: Result<(), NotAvailable>) -> bool {
    match available {
        Ok(()) => false,
        Err(lacks) => {
            eprintln!("NOT TESTED: {lacks}");
            true
        }
    }
}

fn disk(room: &Room) -> (Disk, std::path::PathBuf) {
    let dir = room.path().join("server-1");
    fs::create_dir(&dir).expect("a directory");
    (Disk::make(&dir).expect("a disk"), dir)
}

fn write(path: &Path, text: &str, sync: bool) {
    let mut file = File::create(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    if sync {
        file.sync_all().expect("synced");
    }
}

/// What is mounted below it, and how many loop devices lie in it.
fn left(room: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let loops =
        Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output().expect("losetup");
    let text = room.display().to_string();
    mounts.lines().chain(String::from_utf8_lossy(&loops.stdout).lines()).filter(|line| line.contains(&text)).count()
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_keeps_what_was() {
    if lacks(disks::available()) {
        return;
    }
    let room = Room::make(true).expect("a room");
    let path = room.path().to_owned();
    let (disk, dir) = disk(&room);
    write(&dir.join("synced"), "kept", true);
    // A file that was synced once, and then written to again.
    let mut both = File::create(dir.join("both")).expect("a file");
    both.write_all(b"kept").and_then(|()| both.sync_all()).expect("synced");
    both.write_all(b" and lost").expect("written");
    write(&dir.join("unsynced"), "lost", false);
    assert_eq!(fs::read_to_string(dir.join("both")).expect("a file"), "kept and lost", "nothing is lost so far");
    drop(both);
    // Somebody in a mount namespace of his own, as every host of a place has: he must not keep the old disk alive.
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", "echo here; sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    BufReader::new(other.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "here\n");

    disk.shut_down().expect("a power cut");
    assert!(File::create(dir.join("more")).is_err(), "nothing can be written without power");
    disk.restart().expect("power again");
    assert_eq!(fs::read_to_string(dir.join("synced")).expect("a file"), "kept");
    assert_eq!(fs::read_to_string(dir.join("both")).expect("a file"), "kept");
    let unsynced = fs::read_to_string(dir.join("unsynced")).unwrap_or_default();
    assert_ne!(unsynced, "lost", "it was never synced");
    write(&dir.join("more"), "written", true);

    other.kill().expect("kill");
    other.wait().expect("wait");
    drop(disk);
    drop(room);
    assert_eq!(left(&path), 0, "a mount or loop device is left");
    assert!(!path.exists(), "its files are left");
}

#[test]
fn a_disk_is_full_and_then_it_is_not() {
    if lacks(disks::available()) {
        return;
    }
    let room = Room::make(true).expect("a room");
    let (disk, dir) = disk(&room);
    write(&dir.join("before"), "kept", true);
    disk.fill().expect("full");
    // Even a name may find no room.
    let written = File::create(dir.join("during")).and_then(|mut file| {
        file.write_all(&vec![7; 1 << 16])?;
        file.sync_all()
    });
    assert_eq!(written.expect_err("it is full").kind(), std::io::ErrorKind::StorageFull);
    disk.free().expect("room again");
    write(&dir.join("after"), "written", true);
    assert_eq!(fs::read_to_string(dir.join("before")).expect("a file"), "kept");
    assert!(disk.free().is_err(), "nothing fills it any more");
}

#[test]
fn what_a_killed_run_left_mounted_is_removed() {
    if lacks(disks::available()) {
        return;
    }
    // The name of an owner that no longer lives: this process's id, but not the moment at which it began.
    let left_over = std::env::temp_dir().join(format!("conclave-chaos.{}.1.0", std::process::id()));
    let mounted = left_over.join("server-1");
    fs::create_dir_all(&mounted).expect("a directory");
    let image = left_over.join("server-1.disk");
    File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("a file");
    let tool = |command: &mut Command| assert!(command.status().expect("a tool").success(), "{command:?}");
    tool(Command::new("mkfs.xfs").arg("-q").arg(&image));
    tool(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]));
    assert!(left(&left_over) > 0, "it is mounted");
    let mine = Room::make(false).expect("a room");
    assert_eq!(left(&left_over), 0, "it is mounted still");
    assert!(!left_over.exists() && mine.path().exists());
}

#[test]
fn the_wall_clock_of_a_running_process_jumps_and_its_timers_do_not() {
    if lacks(clocks::available()) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Clock::new(&dir.path().join("clock"), Kind::Wall).expect("a clock");
    // Says its wall clock, and how long it has lived by the monotonic one, whenever it is asked.
    let mut command = Command::new("python3");
    command.args(["-uc", "import sys,time\nfor _ in sys.stdin: print(int(time.time()), time.monotonic())"]);
    if !Command::new("python3").arg("-V").output().is_ok_and(|output| output.status.success()) {
        eprintln!("NOT TESTED: python3: not available");
        return;
    }
    clock.wind(&mut command);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    let (mut ask, answer) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
    let mut answer = BufReader::new(answer);
    let mut times = || -> (i64, f64) {
        ask.write_all(b"\n").expect("asked");
        let mut line = String::new();
        answer.read_line(&mut line).expect("an answer");
        let (wall, monotonic) = line.trim().split_once(' ').expect("two times");
        (wall.parse().expect("seconds"), monotonic.parse().expect("seconds"))
    };
    let real = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        i64::try_from(now.as_secs()).expect("seconds")
    };
    // How wrong its wall clock is, in hours; how far its other clock went since the start, in hours.
    let began = times().1;
    let mut hours = || {
        let (wall, monotonic) = times();
        let (wall, monotonic) = ((wall - real()) as f64 / 3_600.0, (monotonic - began) / 3_600.0);
        (wall.round() as i64, monotonic.round() as i64)
    };
    assert_eq!(hours(), (0, 0));
    clock.set(Wrong::By(3 * 86_400)).expect("set");
    assert!(!clock.seen().expect("a file"), "nobody has looked yet");
    assert_eq!(hours(), (72, 0));
    assert!(clock.seen().expect("a file"));
    clock.set(Wrong::By(-7_200)).expect("set");
    assert_eq!(hours(), (-2, 0));
    clock.correct().expect("set");
    assert_eq!(hours(), (0, 0));
    process.kill().expect("kill");
    process.wait().expect("wait");
}
