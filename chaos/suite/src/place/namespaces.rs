//! Network namespaces, joined by a bridge.
//!
//! The bridge lives in a namespace of its own, the hub. So nothing is added to the machine's own network, whose
//! firewall (Docker's, say) could otherwise have a word in it, and removing the namespaces removes everything.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, bail, ensure};

use super::{Host, NotAvailable, Place};

/// Where iproute2 keeps names of namespaces.
const NAMES: &str = "/run/netns";
/// What our names begin with.
const LABEL: &str = "conclave-chaos";
/// Most hosts of a place: their addresses end in 1 to 200.
pub const HOSTS_MAX: usize = 200;

/// The hosts of one run.
#[derive(Debug)]
pub struct Namespaces {
    /// `conclave-chaos.PID.START`: what the names of all our namespaces begin with.
    label: String,
    addresses: Vec<Ipv4Addr>,
}

impl Namespaces {
    /// Makes the hosts. What killed runs left is removed first.
    ///
    /// # Errors
    /// [`NotAvailable`] if this machine or user cannot have them; the tool's.
    pub fn make(hosts: usize) -> anyhow::Result<Self> {
        ensure!((1..=HOSTS_MAX).contains(&hosts), "a place has 1 to {HOSTS_MAX} hosts");
        available()?;
        super::sweep()?;
        let addresses = (1..=hosts).map(|host| Ipv4Addr::new(10, 77, 0, u8::try_from(host).expect("HOSTS_MAX")));
        // From here on dropping it removes whatever there is.
        let place = Self::of(label()?, addresses.collect());
        let hub = place.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for host in (0..hosts).map(Host) {
            let (name, port) = (place.namespace(host), format!("port{}", host.0));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{}/24", place.address(host)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(place)
    }

    /// Hosts with these addresses, which somebody else makes: see [`Namespaces::namespace`] for what they are to be called.
    pub(super) fn of(label: String, addresses: Vec<Ipv4Addr>) -> Self {
        Self { label, addresses }
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn count(&self) -> usize {
        self.addresses.len()
    }

    fn hub(&self) -> String {
        format!("{}.hub", self.label)
    }

    /// The name of a host's namespace.
    pub(super) fn namespace(&self, host: Host) -> String {
        format!("{}.{}", self.label, host.0)
    }
}

impl Place for Namespaces {
    fn name(&self) -> String {
        "network namespaces".into()
    }

    fn address(&self, host: Host) -> Ipv4Addr {
        self.addresses[host.0]
    }

    fn command(&self, host: Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        // ip and setpriv replace themselves, so the process we start is the program in the end.
        command.args(["netns", "exec", &self.namespace(host), "setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        // A Ctrl-C at the terminal is for us alone; we take our children down ourselves.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn network(&self, host: Host) -> Result<PathBuf, NotAvailable> {
        Ok(Path::new(NAMES).join(self.namespace(host)))
    }

    fn unplug(&self, host: Host) -> anyhow::Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &format!("port{}", host.0), "down"])
    }

    fn plug(&self, host: Host) -> anyhow::Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &format!("port{}", host.0), "up"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = remove(|name| name.strip_prefix(&self.label).is_some_and(|rest| rest.starts_with('.'))) {
            eprintln!("conclave-chaos: {error:#}; 'conclave-chaos run --clean' tries again");
        }
    }
}

/// Whether this machine and user can have network namespaces.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), NotAvailable> {
    let lacks = |why: &str| Err(NotAvailable { what: "network namespaces".into(), why: why.into() });
    if !is_root() {
        return lacks("only root can make them");
    }
    for (tool, asked, package) in [("ip", "-V", "iproute2"), ("setpriv", "--version", "util-linux")] {
        let tried = Command::new(tool).arg(asked).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return lacks(&format!("there is no {tool}; Debian's package is {package}"));
        }
    }
    Ok(())
}

/// Whether this process may do as it likes.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0"))
}

/// Removes the namespaces whose owners are dead, processes in them included, and returns how many.
///
/// # Errors
/// The tool's.
pub fn sweep() -> anyhow::Result<usize> {
    remove(orphaned)
}

/// A label for a run of this process, which none had before: what the names of all that it makes begin with.
///
/// # Errors
/// If the kernel does not say when this process began.
pub(crate) fn label() -> anyhow::Result<String> {
    // Tells runs of one process apart, as tests have them.
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let pid = std::process::id();
    let started = started(pid).context("this process has no start")?;
    Ok(format!("{LABEL}.{pid}.{started}.{}", RUNS.fetch_add(1, Ordering::Relaxed)))
}

/// Whether a name is ours and its owner is dead.
pub(crate) fn orphaned(name: &str) -> bool {
    let mut parts = name.split('.');
    let ours = parts.next() == Some(LABEL);
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let start = parts.next().and_then(|start| start.parse::<u64>().ok());
    ours && pid.is_some_and(|pid| started(pid) != start)
}

/// How many namespaces of any run there are.
#[must_use]
pub fn count() -> usize {
    names().iter().filter(|name| name.starts_with(LABEL)).count()
}

fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMES) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(which: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
    let mut removed = 0;
    for name in names().iter().filter(|name| which(name)) {
        // A process that is left would keep its namespace alive without a name.
        let inside = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
        for pid in inside.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        // Another run may sweep at the same time; what counts is that it is gone.
        match ip(&["netns", "delete", name]) {
            Err(error) if Path::new(NAMES).join(name).exists() => return Err(error),
            _ => removed += 1,
        }
    }
    Ok(removed)
}

/// When a process was started, in ticks since boot (field 22 of `/proc/PID/stat`); with its id that names it for good.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

pub(super) fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
