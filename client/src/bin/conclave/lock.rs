//! `conclave lock NAME -- CMD ARGS…`: a command that runs only while a lock is held.
//!
//! What this is careful about:
//! * the command is dead **before** the servers can give the lock to somebody else: SIGTERM, then SIGKILL, counted back
//!   from the guard's deadline, which moves on with each confirmed keep-alive;
//! * the clock counts suspend, and is looked at before anything else: a `conclave` that was stopped past its deadline
//!   kills the command first when it wakes;
//! * the command runs in a process group of its own, and signals are passed on to the whole group;
//! * a `conclave` that is killed takes the command with it: the kernel kills it (`PR_SET_PDEATHSIG`). The signal is set
//!   by a second `conclave` that then becomes the command, as setting it between fork and exec takes unsafe code.
//!
//! What it cannot do: end the command while `conclave` itself is stopped. That takes `CONCLAVE_FENCING_TOKEN`, compared
//! by whatever the lock protects.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::Command,
    time::Duration,
};

use conclave_client::{Client, Error, ErrorKind, Guard, NodePath, Session, SessionOptions};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, killpg, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgrp, getpid, getppid, tcgetpgrp, tcsetpgrp},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    args,
    exit::{self, Failure},
    output::{preview, printable},
    queues::Member,
    units,
};

/// The hidden command that becomes the user's command.
pub const CHILD_COMMAND: &str = "__become";

/// Shown by `conclave lock --help`.
pub const HELP: &str = "\
A plain NAME is a lock below /locks: `deploy` is /locks/deploy.

The command finds in its environment:
  CONCLAVE_FENCING_TOKEN  a number larger than that of every earlier holder: pass it to whatever the lock protects, and
                          let that refuse smaller ones (reads count, too)
  CONCLAVE_LOCK           the lock's path
  CONCLAVE_SESSION        the session that holds it

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command's process group. If the lock is about
to be lost (no server confirms the session), the group gets SIGTERM, and SIGKILL after --grace, before the servers can
give the lock to anybody else. A command killed along with `conclave` itself is not asked.

Exit code: that of the command; 128+n if signal n ended it; 126 or 127 if it could not be run or found;
75 if the lock was not acquired, 76 if it was lost while the command ran; 64 for a bad command line, 69 if no server
answers.";

/// Where plain names live.
const HOME: &str = "/locks";
/// Shortest and longest TTL; the servers' own limits may be narrower.
const TTL_MIN: Duration = Duration::from_millis(500);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// The default grace is a quarter of the TTL (a change of leader must fit into the rest), at most this.
const GRACE_MAX_DEFAULT: Duration = Duration::from_secs(5);
/// Time between SIGKILL and the deadline, for the kernel to do it: a twentieth of the TTL, within these bounds.
const KILL_MARGIN_MIN: Duration = Duration::from_millis(10);
const KILL_MARGIN_MAX: Duration = Duration::from_millis(250);
/// The clock is looked at this often at least: timers do not count suspend.
const TICK_MAX: Duration = Duration::from_millis(250);
/// Who waits this long for a lock is told who holds it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for the release and the end of the session after the command has ended; beyond it the TTL does both.
const FAREWELL: Duration = Duration::from_secs(3);
/// Signals passed on to the command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The lock's path: as given, or a plain name below [`HOME`].
fn lock_path(name: &str) -> Result<NodePath, Failure> {
    let text = if name.starts_with('/') { name.to_owned() } else { format!("{HOME}/{name}") };
    let path = NodePath::parse(&text).map_err(|error| {
        Failure::usage(format!("lock {name:?}: {error}"))
            .with_hint("a lock is a path (/locks/deploy) or a plain name (deploy)")
    })?;
    if path.is_root() {
        return Err(Failure::usage("the root is no lock: give it a name, such as deploy or /locks/deploy"));
    }
    Ok(path)
}

/// When to do what, before the deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Plan {
    ttl: Duration,
    /// From SIGTERM to SIGKILL.
    grace: Duration,
    /// From SIGKILL to the deadline.
    margin: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    /// Nothing for this long.
    Nothing(Duration),
    Terminate,
    Kill,
}

impl Plan {
    fn new(ttl: Duration, grace: Option<Duration>) -> Result<Self, Failure> {
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
            return Err(Failure::usage(format!("--ttl {} is not from 500ms to 24h", units::span(ttl))));
        }
        let grace = grace.unwrap_or_else(|| GRACE_MAX_DEFAULT.min(ttl / 4));
        if grace > ttl / 2 {
            let (grace, half) = (units::span(grace), units::span(ttl / 2));
            return Err(Failure::usage(format!(
                "--grace {grace} is more than half of --ttl {}: any pause would end the command; at most {half}, or a longer TTL",
                units::span(ttl)
            )));
        }
        Ok(Self { ttl, grace, margin: (ttl / 20).clamp(KILL_MARGIN_MIN, KILL_MARGIN_MAX) })
    }

    /// With this much time left until the deadline.
    fn due(&self, left: Duration) -> Due {
        if left <= self.margin {
            Due::Kill
        } else if left <= self.margin + self.grace {
            Due::Terminate
        } else {
            Due::Nothing(left - self.margin - self.grace)
        }
    }

    fn tick(&self) -> Duration {
        TICK_MAX.min(self.ttl / 20)
    }
}

/// Runs the command under the lock. The exit code is the command's.
pub async fn run(client: &Client, args: args::Lock) -> Result<u8, Failure> {
    let path = lock_path(&args.name)?;
    let plan = Plan::new(args.ttl.0, args.grace.map(|grace| grace.0))?;
    let program = args.command[0].to_string_lossy().into_owned();
    // Only the program: arguments may hold what is nobody's business.
    let label = args.label.clone().unwrap_or_else(|| program.clone());
    let mut signals = Signals::listen()?;

    let session = client.session(SessionOptions::new().ttl(plan.ttl)).await?;
    let mut request = session.lock(path.as_str()).label(label);
    if args.shared {
        request = request.shared();
    }
    if args.try_now {
        request = request.try_now();
    } else if let Some(wait) = args.wait {
        request = request.wait(wait.0);
    }
    let acquired = {
        let mut acquire = std::pin::pin!(request.acquire());
        let mut patience = std::pin::pin!(tell_who_holds(client, &path));
        let mut told = false;
        loop {
            tokio::select! {
                acquired = &mut acquire => break Ok(acquired),
                got = signals.next() => match got {
                    Got::Forward(signal) => break Err(signal),
                    Got::Child | Got::Continued => {}
                },
                () = &mut patience, if !told && !args.try_now => told = true,
            }
        }
    };
    let guard = match acquired {
        Ok(Ok(guard)) => guard,
        Ok(Err(error)) => {
            let failure = not_acquired(client, &path, error).await;
            farewell(&session).await;
            return Err(failure);
        }
        Err(signal) => {
            farewell(&session).await;
            return Ok(exit::SIGNAL_BASE + u8::try_from(signal as i32).expect("signals are small"));
        }
    };
    let result = hold(&guard, &plan, &args.command, &mut signals).await;
    let kept = guard.is_held();
    let released = match tokio::time::timeout(FAREWELL, guard.release()).await {
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::LockLost | ErrorKind::SessionLost) => {
            Err(error.to_string())
        }
        // Any other trouble is the TTL's to mend: the lock was held until the command had ended.
        _ if kept => Ok(()),
        _ => Err("its deadline passed".to_owned()),
    };
    farewell(&session).await;
    match (result?, released) {
        (End::Lost(why), _) => Err(lost(&path, &why)),
        (End::Exited(_), Err(why)) => {
            Err(lost(&path, &format!("the command ended by itself, but the lock was gone before: {why}")))
        }
        (End::Exited(code), Ok(())) => Ok(code),
    }
}

fn lost(path: &NodePath, why: &str) -> Failure {
    Failure::new(exit::LOST, format!("lock {path} lost: {why}"))
}

async fn farewell(session: &Session) {
    // Unconfirmed, the session ends by its TTL.
    let _ = tokio::time::timeout(FAREWELL, session.close()).await;
}

async fn not_acquired(client: &Client, path: &NodePath, error: Error) -> Failure {
    let wanted = error.kind() == ErrorKind::NotAcquired;
    let failure = Failure::from(error);
    match if wanted { holder(client, path).await } else { None } {
        Some(holder) => failure.with_hint(holder),
        None => failure,
    }
}

/// Who holds the lock, in words.
async fn holder(client: &Client, path: &NodePath) -> Option<String> {
    let queues = client.queues(path.as_str()).limit(1).await.ok()?;
    let queue = queues.queues.into_iter().find(|queue| queue.node.path == path.as_str())?;
    let (member, name) = queue
        .entries
        .iter()
        .filter_map(|entry| Some((Member::of(path.as_str(), &entry.node)?, &entry.session_name)))
        .min_by_key(|(member, _)| (member.create_revision, member.sequence))?;
    let mut text = format!("held by {}", printable(name));
    if let Some(owner) = member.owner {
        text.push_str(&format!(" (session {owner})"));
    }
    if !member.label.is_empty() {
        text.push_str(&format!(", which says: {}", preview(&member.label, 80)));
    }
    Some(text)
}

async fn tell_who_holds(client: &Client, path: &NodePath) {
    tokio::time::sleep(PATIENCE).await;
    match holder(client, path).await {
        Some(holder) => eprintln!("conclave: waiting for {path}: {holder}"),
        None => eprintln!("conclave: waiting for {path}"),
    }
}

/// How the command ended.
#[derive(Debug)]
enum End {
    /// By itself, or by a signal of somebody else's.
    Exited(u8),
    /// Because the lock was lost, or about to be.
    Lost(String),
}

/// Runs the command; returns when it has ended, whoever ended it.
async fn hold(guard: &Guard, plan: &Plan, command: &[OsString], signals: &mut Signals) -> Result<End, Failure> {
    let child = Child::start(guard, command)?;
    let mut lost = std::pin::pin!(guard.lost());
    // When SIGTERM was sent and why, and whether SIGKILL was.
    let mut ending: Option<(std::time::Instant, String)> = None;
    let mut killed = false;
    let mut why_lost = None;
    loop {
        // The clock before anything else: this may be the first moment after a long stop.
        let due =
            if why_lost.is_none() && guard.is_held() { plan.due(guard.deadline().remaining()) } else { Due::Kill };
        let late = ending.as_ref().is_some_and(|(since, _)| since.elapsed() >= plan.grace);
        let mut nap = plan.tick();
        match due {
            Due::Kill if !killed => {
                child.signal(Signal::SIGKILL);
                killed = true;
            }
            _ if late && !killed => {
                child.signal(Signal::SIGKILL);
                killed = true;
            }
            Due::Terminate if ending.is_none() => {
                eprintln!(
                    "conclave: no server confirms the session: ending the command {} before the lock can be lost",
                    units::span(guard.deadline().remaining())
                );
                child.signal(Signal::SIGTERM);
                // A stopped command hears nothing.
                child.signal(Signal::SIGCONT);
                ending = Some((std::time::Instant::now(), "no server confirmed the session in time".to_owned()));
            }
            Due::Nothing(time) => nap = nap.min(time),
            Due::Kill | Due::Terminate => {}
        }
        match child.poll()? {
            Seen::Running => {}
            Seen::Stopped => child.stopped_by_terminal(guard),
            Seen::Ended(code) => {
                return Ok(match (why_lost, ending) {
                    (Some(why), _) => End::Lost(why),
                    (None, Some((_, why))) => End::Lost(why),
                    (None, None) if killed => End::Lost("its deadline passed".to_owned()),
                    (None, None) => End::Exited(code),
                });
            }
        }
        tokio::select! {
            biased;
            why = &mut lost, if why_lost.is_none() => why_lost = Some(why.to_string()),
            got = signals.next() => if let Got::Forward(signal) = got { child.signal(signal) },
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// What a look at the child found.
enum Seen {
    Running,
    Stopped,
    Ended(u8),
}

/// The command, in a process group of its own. Dropped, it is killed.
struct Child {
    pid: Pid,
    /// Standard input is a terminal, and the command's group is in its foreground.
    terminal: bool,
    ended: std::cell::Cell<bool>,
}

impl Child {
    fn start(guard: &Guard, command: &[OsString]) -> Result<Self, Failure> {
        let own = std::env::current_exe().map_err(|error| Failure::local("cannot find this program", &error))?;
        let terminal = tcgetpgrp(std::io::stdin()).is_ok_and(|foreground| foreground == getpgrp());
        let child = Command::new(own)
            .arg(CHILD_COMMAND)
            .arg(getpid().to_string())
            .args(terminal.then_some("--terminal"))
            .arg("--")
            .args(command)
            .env("CONCLAVE_FENCING_TOKEN", guard.token().to_string())
            .env("CONCLAVE_LOCK", guard.path())
            .env("CONCLAVE_SESSION", guard.session_id().to_string())
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(exit::CANNOT_RUN, format!("cannot start a process: {error}")))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive ints"));
        Ok(Self { pid, terminal, ended: false.into() })
    }

    /// To the whole group. That it is gone already is no trouble.
    fn signal(&self, signal: Signal) {
        if !self.ended.get() {
            let _ = killpg(self.pid, signal);
        }
    }

    fn poll(&self) -> Result<Seen, Failure> {
        let ended = |status: std::process::ExitStatus| {
            self.ended.set(true);
            Ok(Seen::Ended(code(status)))
        };
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => ended(std::process::ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => ended(std::process::ExitStatus::from_raw(signal as i32)),
            Ok(WaitStatus::Stopped(..)) => Ok(Seen::Stopped),
            Ok(_) | Err(Errno::EINTR) => Ok(Seen::Running),
            Err(error) => Err(Failure::new(exit::INTERNAL, format!("cannot wait for the command: {error}"))),
        }
    }

    /// Ctrl-Z: the shell expects us to stop too. Whoever continues us finds the command going on if the lock is still
    /// held, and killed (by the loop) if it is not.
    fn stopped_by_terminal(&self, guard: &Guard) {
        if !self.terminal {
            return;
        }
        take_terminal(getpgrp());
        let _ = raise(Signal::SIGSTOP);
        if guard.is_held() {
            take_terminal(self.pid);
            self.signal(Signal::SIGCONT);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended.get() {
            let _ = killpg(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
        if self.terminal {
            take_terminal(getpgrp());
        }
    }
}

/// Puts a process group into the foreground of the terminal at standard input.
fn take_terminal(group: Pid) {
    // From the background this would stop us, unless the signal is blocked.
    let ttou = SigSet::from(Signal::SIGTTOU);
    let _ = ttou.thread_block();
    let _ = tcsetpgrp(std::io::stdin(), group);
    let _ = ttou.thread_unblock();
}

/// What the shell gets to see of a status.
fn code(status: std::process::ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).expect("masked"),
        (None, Some(signal)) => exit::SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
        (None, None) => exit::INTERNAL,
    }
}

/// The second half of the start: in the child, arranges to die with the parent, then becomes the command. Returns only
/// if that fails.
pub fn become_command(args: &args::Child) -> Failure {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return Failure::new(exit::CANNOT_RUN, format!("cannot arrange to die with the parent: {error}"));
    }
    // The parent may have died before the kernel knew.
    if getppid() != Pid::from_raw(args.parent) {
        return Failure::new(exit::LOST, "the process that holds the lock is gone");
    }
    if args.terminal {
        take_terminal(getpid());
    }
    let error = Command::new(&args.command[0]).args(&args.command[1..]).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { exit::NO_COMMAND } else { exit::CANNOT_RUN };
    Failure::new(code, format!("cannot run {}: {error}", printable(&args.command[0].to_string_lossy())))
}

/// Signals as they come.
struct Signals {
    got: mpsc::UnboundedReceiver<Got>,
}

#[derive(Clone, Copy, Debug)]
enum Got {
    Forward(Signal),
    Child,
    Continued,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let (to, got) = mpsc::unbounded_channel();
        let listen = |kind: SignalKind, what: Got| {
            let mut stream = signal(kind).map_err(|error| Failure::local("cannot listen for signals", &error))?;
            let to = to.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if to.send(what).is_err() {
                        return;
                    }
                }
            });
            Ok::<(), Failure>(())
        };
        for signal in FORWARDED {
            listen(SignalKind::from_raw(signal as i32), Got::Forward(signal))?;
        }
        listen(SignalKind::child(), Got::Child)?;
        listen(SignalKind::from_raw(Signal::SIGCONT as i32), Got::Continued)?;
        Ok(Self { got })
    }

    async fn next(&mut self) -> Got {
        match self.got.recv().await {
            Some(got) => got,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        for (name, path) in [("deploy", "/locks/deploy"), ("/a/b", "/a/b"), ("orders/42", "/locks/orders/42")] {
            assert_eq!(lock_path(name).expect(name).as_str(), path);
        }
        for (name, part) in
            [("", "must not end with"), ("/", "root is no lock"), ("a//b", "names nothing"), ("../x", "names nothing")]
        {
            let failure = lock_path(name).expect_err(name);
            assert!(failure.message.contains(part), "{name:?}: {failure}");
            assert_eq!(failure.code, exit::USAGE);
        }
    }

    #[test]
    fn the_command_is_dead_before_the_deadline() {
        let seconds = Duration::from_secs;
        let plan = Plan::new(seconds(10), Some(seconds(5))).expect("good");
        assert_eq!(plan.due(seconds(10)), Due::Nothing(Duration::from_millis(4750)));
        assert_eq!(plan.due(Duration::from_millis(5250)), Due::Terminate);
        assert_eq!(plan.due(Duration::from_millis(251)), Due::Terminate);
        assert_eq!(plan.due(Duration::from_millis(250)), Due::Kill);
        assert_eq!(plan.due(Duration::ZERO), Due::Kill);
    }

    #[test]
    fn a_healthy_session_never_ends_its_command() {
        // Keep-alives go out every third of the TTL, at least every 5 s: this much is left at the worst when all is well.
        for ttl_ms in [500, 1000, 3000, 10_000, 60_000, 86_400_000] {
            let ttl = Duration::from_millis(ttl_ms);
            let plan = Plan::new(ttl, None).expect("good");
            let drift = ttl / 100 + Duration::from_millis(10);
            let worst = ttl - (ttl / 3).min(Duration::from_secs(5)) - drift;
            assert!(matches!(plan.due(worst), Due::Nothing(_)), "{ttl:?}: {plan:?}");
            assert!(plan.margin > Duration::ZERO && plan.tick() > Duration::ZERO);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let plan = |ttl_ms, grace_ms: Option<u64>| {
            Plan::new(Duration::from_millis(ttl_ms), grace_ms.map(Duration::from_millis)).map_err(|f| f.message)
        };
        assert!(plan(499, None).expect_err("short").contains("--ttl 499ms is not from 500ms to 24h"));
        assert!(plan(10_000, Some(5001)).expect_err("long").contains("at most 5s"));
        assert_eq!(plan(10_000, None).expect("good").grace, Duration::from_millis(2500));
        assert_eq!(plan(60_000, None).expect("good").grace, GRACE_MAX_DEFAULT);
        assert_eq!(plan(10_000, Some(0)).expect("good").grace, Duration::ZERO);
    }

    #[test]
    fn the_shell_sees_the_commands_own_code() {
        let status = std::process::ExitStatus::from_raw;
        assert_eq!(code(status(0)), 0);
        assert_eq!(code(status(7 << 8)), 7);
        assert_eq!(code(status(9)), 137);
        assert_eq!(code(status(2)), 130);
    }
}
