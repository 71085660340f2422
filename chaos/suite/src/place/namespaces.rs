//! Network namespaces, joined by a bridge.
//!
//! The bridge lives in a namespace of its own, the hub. So nothing is added to the machine's own network, whose
//! firewall (Docker's, say) could otherwise have a word in it, and removing the namespaces removes everything.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
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
    hosts: usize,
}

impl Namespaces {
    /// Makes the hosts. What killed runs left is removed first.
    ///
    /// # Errors
    /// [`NotAvailable`] if this machine or user cannot have them; the tool's.
    pub fn make(hosts: usize) -> anyhow::Result<Self> {
        ensure!((1..=HOSTS_MAX).contains(&hosts), "a place has 1 to {HOSTS_MAX} hosts");
        available()?;
        sweep()?;
        let pid = std::process::id();
        let started = started(pid).context("this process has no start")?;
        // The number tells runs of one process apart, as tests have them.
        static RUNS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let run = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // From here on dropping it removes whatever there is.
        let place = Self { label: format!("{LABEL}.{pid}.{started}.{run}"), hosts };
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

    fn hub(&self) -> String {
        format!("{}.hub", self.label)
    }

    fn namespace(&self, host: Host) -> String {
        format!("{}.{}", self.label, host.0)
    }
}

impl Place for Namespaces {
    fn name(&self) -> &'static str {
        "network namespaces"
    }

    fn address(&self, host: Host) -> Ipv4Addr {
        assert!(host.0 < self.hosts, "a host of this place");
        Ipv4Addr::new(10, 77, 0, u8::try_from(host.0 + 1).expect("at most HOSTS_MAX"))
    }

    fn command(&self, host: Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        // ip and setpriv replace themselves, so the process we start is the program in the end.
        command.args(["netns", "exec", &self.namespace(host), "setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        // A Ctrl-C at the terminal is for us alone; we take our children down ourselves.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn can_cut(&self) -> Result<(), NotAvailable> {
        nft(&self.hub(), "add table inet trial; delete table inet trial")
            .map_err(|error| NotAvailable { what: "partition".into(), why: format!("{error:#}") })
    }

    fn cut(&self, host: Host, others: &[Host]) -> anyhow::Result<()> {
        ensure!(!others.is_empty(), "nobody to be cut off from");
        let others: Vec<_> = others.iter().map(|other| self.address(*other).to_string()).collect();
        let others = others.join(", ");
        nft(
            &self.namespace(host),
            &format!(
                "table inet chaos {{
                    chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop; }}
                    chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop; }}
                }}"
            ),
        )
    }

    fn join(&self, host: Host) -> anyhow::Result<()> {
        let name = self.namespace(host);
        nft(&name, "delete table inet chaos")?;
        let rules = run(Command::new("ip").args(["netns", "exec", &name, "nft", "list", "ruleset"]))?;
        ensure!(rules.trim().is_empty(), "packets are still dropped on host {}: {rules}", host.0);
        Ok(())
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
    if !fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0")) {
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

/// Removes the namespaces whose owners are dead, processes in them included, and returns how many.
///
/// # Errors
/// The tool's.
pub fn sweep() -> anyhow::Result<usize> {
    remove(|name| {
        let mut parts = name.split('.');
        let ours = parts.next() == Some(LABEL);
        let pid = parts.next().and_then(|pid| pid.parse().ok());
        let start = parts.next().and_then(|start| start.parse::<u64>().ok());
        ours && pid.is_some_and(|pid| started(pid) != start)
    })
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

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

fn nft(namespace: &str, rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip")?;
    child.stdin.take().expect("it is piped").write_all(rules.as_bytes()).context("nft does not listen")?;
    let output = child.wait_with_output().context("nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
