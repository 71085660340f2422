//! Starting processes that do not outlive us.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    sync::{Mutex, OnceLock, mpsc},
    thread,
};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// A command for `program` that the kernel kills when whoever spawned it is gone, where `setpriv` (util-linux, part of
/// every Debian) is there to ask for it.
#[must_use]
pub fn leashed(program: impl AsRef<OsStr>) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.is_file() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // A Ctrl-C at the terminal is for us alone; we take our children down ourselves.
    command.process_group(0);
    command
}

/// Starts a process from a thread that lives as long as this program: the kernel's death signal follows the thread
/// that spawned, and a pool's thread may end early.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    let sent = spawner.lock().expect("nobody panics while holding it").send((command, reply));
    sent.map_err(|_| io::Error::other("the spawner ended"))?;
    answer.recv().map_err(|_| io::Error::other("the spawner ended"))?
}
