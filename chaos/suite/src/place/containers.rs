//! Containers: every server is one, of Conclave's image, on a Docker network of the run's own.
//!
//! A server's network belongs to a second container that does nothing, its holder, as a pod's does in Kubernetes: so the
//! server's address and name, and whatever is being done to its network, outlive a server that is killed. Clients stay
//! processes; their network namespaces are plugged into the bridge of the same network. All these namespaces are given
//! names, and from there on are [`Namespaces`] like any others.

use std::{
    collections::HashMap,
    fs::{self, File},
    future::Future,
    net::Ipv4Addr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bollard::{
    Docker,
    errors::Error,
    models::{
        EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
        NetworkDisconnectRequest,
    },
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder},
};
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt as _,
    core::{Healthcheck, Mount},
    runners::AsyncRunner as _,
};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{
    Host, NotAvailable, Place,
    namespaces::{self, Namespaces, ip},
};
use crate::{fleet::Running, target::Contained};

/// The image of what is built here, and the one whose programs can be broken on purpose.
pub const IMAGE: &str = "conclave:dev";
/// See [`IMAGE`].
pub const IMAGE_FAULTY: &str = "conclave:faulty";
/// On everything of ours: whose it is.
const LABEL: &str = "conclave-chaos.owner";
/// Docker answers within this time, or there is no use in it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a killed server said last arrives within this time.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Addresses below are the hosts'; those from here on Docker may give to whom it likes.
const HOSTS_MAX: usize = 180;
/// The image's user, whose the data has to be.
const USER: u32 = 65_532;

type Container = ContainerAsync<GenericImage>;

/// The hosts of one run: the first are servers', in containers, the others clients'.
pub struct Containers {
    docker: Docker,
    image: String,
    /// Of the servers, in their order.
    holders: Vec<Container>,
    hosts: Namespaces,
}

impl Containers {
    /// Makes the hosts. What killed runs left is removed first.
    ///
    /// # Errors
    /// [`NotAvailable`] if there is no Docker, image or right to use them; Docker's.
    pub fn make(image: &str, servers: usize, hosts: usize) -> anyhow::Result<Self> {
        ensure!(servers <= hosts && (1..=HOSTS_MAX).contains(&hosts), "a place has 1 to {HOSTS_MAX} hosts");
        available(image)?;
        super::sweep()?;
        let docker = docker()?;
        let label = namespaces::label()?;
        let net = network(&docker, &label)?;
        let addresses = (0..hosts).map(|host| Ipv4Addr::new(10, 78, net, u8::try_from(host + 2).expect("HOSTS_MAX")));
        // From here on dropping it removes whatever there is.
        let hosts = Namespaces::of(label, addresses.collect());
        let mut place = Self { docker, image: image.to_owned(), holders: Vec::new(), hosts };
        for host in (0..servers).map(Host) {
            place.hold(host)?;
        }
        let bridge = place.bridge()?;
        for host in (servers..place.hosts.count()).map(Host) {
            // Of the bridge's name, which is one of its own on this machine.
            let port = format!("{}.{}", &bridge[3..11], host.0);
            let name = place.hosts.namespace(host);
            ip(&["netns", "add", &name])?;
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["link", "set", &port, "master", &bridge, "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{}/24", place.address(host)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(place)
    }

    /// Starts a server on its host; what it says goes to `log`.
    ///
    /// # Errors
    /// Docker's.
    pub fn start(&self, host: Host, server: &Contained, log: &File) -> anyhow::Result<Box<dyn Running>> {
        let holder = format!("container:{}", self.holders.get(host.0).context("a server's host")?.id());
        let mut asked = self.request(&format!("{}-{}", self.hosts.label(), alias(host)))?.with_cmd(server.args.clone());
        for (name, value) in &server.env {
            asked = asked.with_env_var(name, value);
        }
        for (from, to) in &server.mounts {
            give(from).with_context(|| format!("cannot give {} to user {USER}", from.display()))?;
            asked = asked.with_mount(Mount::bind_mount(from.display().to_string(), to));
        }
        let asked = asked.with_host_config_modifier(move |host| {
            host.network_mode = Some(holder.clone());
            (host.publish_all_ports, host.port_bindings) = (None, None);
        });
        let container = wait("start a server", asked.start())?;
        let pid = pid(&self.docker, container.id())?;
        let mut words = Vec::new();
        for mut from in [container.stdout(true), container.stderr(true)] {
            let mut to = tokio::fs::File::from_std(log.try_clone()?);
            words.push(runtime().spawn(async move {
                // Whatever is missing in a log is missing; nothing is judged by it.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }));
        }
        Ok(Box::new(Server { docker: self.docker.clone(), container: Some(container), pid, words }))
    }

    /// A container that has a server's network.
    fn hold(&mut self, host: Host) -> anyhow::Result<()> {
        let network = self.hosts.label().to_owned();
        let asked = self
            .request(&format!("{network}-{}-network", alias(host)))?
            .with_network(network)
            .with_hostname(alias(host))
            .with_cmd(["idle"])
            .with_health_check(Healthcheck::none())
            // In place of the image's volume, which would be one more thing to remove.
            .with_mount(Mount::tmpfs_mount("/var/lib/conclave"))
            .with_host_config_modifier(|host| host.publish_all_ports = None);
        self.holders.push(wait("hold a server's network", asked.start())?);
        // Docker gave it an address of its own choice, and only its container's name.
        self.unplug(host)?;
        self.plug(host)?;
        let pid = pid(&self.docker, self.holders[host.0].id())?;
        ip(&["netns", "attach", &self.hosts.namespace(host), &pid.to_string()])
    }

    fn request(&self, name: &str) -> anyhow::Result<ContainerRequest<GenericImage>> {
        let (image, tag) = self.image.rsplit_once(':').context("an image has a tag")?;
        let image = GenericImage::new(image, tag);
        // Only a holder runs this program; a server's is the image's entry point.
        let image = if name.ends_with("-network") { image.with_entrypoint("/bin/conclave-chaos") } else { image };
        Ok(image
            .with_container_name(name)
            .with_label(LABEL, self.hosts.label())
            .with_readonly_rootfs(true)
            .with_cap_drop("ALL")
            .with_security_opt("no-new-privileges"))
    }

    /// The network's bridge, as this machine calls it.
    fn bridge(&self) -> anyhow::Result<String> {
        let network = wait("the network", self.docker.inspect_network(self.hosts.label(), None))?;
        let id = network.id.context("a network has an id")?;
        ensure!(id.len() > 12, "the network's id is {id:?}");
        Ok(format!("br-{}", &id[..12]))
    }
}

impl Place for Containers {
    fn name(&self) -> String {
        format!("containers of {}", self.image)
    }

    fn address(&self, host: Host) -> Ipv4Addr {
        self.hosts.address(host)
    }

    fn command(&self, host: Host, program: &Path) -> Command {
        self.hosts.command(host, program)
    }

    fn containers(&self) -> Option<&Containers> {
        Some(self)
    }

    fn network(&self, host: Host) -> Result<PathBuf, NotAvailable> {
        self.hosts.network(host)
    }

    /// `docker network disconnect`: its name goes, too.
    fn unplug(&self, host: Host) -> anyhow::Result<()> {
        let holder = self.holders.get(host.0).context("a server's host")?.id().to_owned();
        let asked = NetworkDisconnectRequest { container: holder, force: Some(false) };
        wait("disconnect from the network", self.docker.disconnect_network(self.hosts.label(), asked))
    }

    fn plug(&self, host: Host) -> anyhow::Result<()> {
        let holder = self.holders.get(host.0).context("a server's host")?.id().to_owned();
        let address = EndpointIpamConfig { ipv4_address: Some(self.address(host).to_string()), ..Default::default() };
        let endpoint = EndpointSettings {
            ipam_config: Some(address),
            aliases: Some(vec![alias(host)]),
            ..EndpointSettings::default()
        };
        let asked = NetworkConnectRequest { container: holder, endpoint_config: Some(endpoint) };
        wait("connect to the network", self.docker.connect_network(self.hosts.label(), asked))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // Removed by label: so also those are found whose start failed half-way.
        let own = self.hosts.label().to_owned();
        if let Err(error) = remove(&self.docker, |label| label == own) {
            eprintln!("conclave-chaos: {error:#}; 'conclave-chaos run --clean' tries again");
        }
        // What testcontainers does when it drops them needs a runtime around it.
        let _inside = runtime().enter();
        self.holders.clear();
    }
}

/// The name of a server, as its host's: Docker's DNS knows it in the network.
#[must_use]
pub fn alias(host: Host) -> String {
    format!("server-{}", host.0 + 1)
}

/// Whether this machine and user can have containers of this image.
///
/// # Errors
/// What is missing.
pub fn available(image: &str) -> Result<(), NotAvailable> {
    let lacks = |why: String| NotAvailable { what: "containers".into(), why };
    namespaces::available().map_err(|error| lacks(error.why))?;
    let docker = docker().map_err(|error| lacks(format!("{error:#}")))?;
    wait("ping", docker.ping()).map_err(|error| lacks(format!("{error:#}")))?;
    let make = if image == IMAGE_FAULTY { "scripts/image.sh --faulty" } else { "make image" };
    wait("the image", docker.inspect_image(image))
        .map_err(|error| lacks(format!("no image {image}: {error:#}; '{make}' builds it")))?;
    Ok(())
}

/// Removes the containers and networks whose owners are dead, and returns how many; none where there is no Docker.
///
/// # Errors
/// Docker's.
pub fn sweep() -> anyhow::Result<usize> {
    match docker() {
        Ok(docker) if wait("ping", docker.ping()).is_ok() => remove(&docker, namespaces::orphaned),
        _ => Ok(0),
    }
}

fn remove(docker: &Docker, which: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
    let ours = |labels: Option<HashMap<String, String>>| {
        labels.and_then(|labels| labels.get(LABEL).map(|label| which(label))).unwrap_or(false)
    };
    let labelled = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
    let mut removed = 0;
    let list = ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
    for container in wait("list containers", docker.list_containers(Some(list)))? {
        if ours(container.labels) {
            let id = container.id.context("a container has an id")?;
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            gone("remove a container", docker.remove_container(&id, Some(options)))?;
            while_there(docker, &id)?;
            removed += 1;
        }
    }
    let list = ListNetworksOptionsBuilder::default().filters(&labelled).build();
    for network in wait("list networks", docker.list_networks(Some(list)))? {
        if ours(network.labels) {
            let id = network.id.context("a network has an id")?;
            gone("remove a network", docker.remove_network(&id))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Another run may remove it at the same time; what counts is that it is gone.
fn gone(what: &str, done: impl Future<Output = Result<(), Error>>) -> anyhow::Result<()> {
    wait(what, async {
        match done.await {
            // 409: somebody else is removing it.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    })
}

/// Waits until a container is gone: who removes it last is told so before it is.
fn while_there(docker: &Docker, id: &str) -> anyhow::Result<()> {
    wait("wait for a container to be gone", async {
        loop {
            match docker.inspect_container(id, None).await {
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

/// Makes the network, on the first of our subnets that is free: its third byte.
fn network(docker: &Docker, label: &str) -> anyhow::Result<u8> {
    for net in 0..=u8::MAX {
        let ipam = IpamConfig {
            subnet: Some(format!("10.78.{net}.0/24")),
            gateway: Some(format!("10.78.{net}.1")),
            ip_range: Some(format!("10.78.{net}.192/26")),
            ..IpamConfig::default()
        };
        let asked = NetworkCreateRequest {
            name: label.to_owned(),
            driver: Some("bridge".into()),
            // Nobody of it has anything to say to the world.
            internal: Some(true),
            ipam: Some(Ipam { config: Some(vec![ipam]), ..Ipam::default() }),
            labels: Some(HashMap::from([(LABEL.to_owned(), label.to_owned())])),
            ..NetworkCreateRequest::default()
        };
        match wait("make a network", async { Ok::<_, Error>(docker.create_network(asked).await) })? {
            Ok(_) => return Ok(net),
            Err(Error::DockerResponseServerError { message, .. }) if message.contains("overlaps") => {}
            Err(error) => return Err(error).context("Docker: make a network"),
        }
    }
    bail!("all networks from 10.78.0.0/24 to 10.78.255.0/24 are in use")
}

fn pid(docker: &Docker, id: &str) -> anyhow::Result<u32> {
    let state = wait("look at a container", docker.inspect_container(id, None))?.state;
    let pid = state.and_then(|state| u32::try_from(state.pid?).ok()).filter(|pid| *pid > 0);
    let pid = pid.context("a container ended as soon as it had started: 'docker logs' has its reason")?;
    ensure!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "Docker's processes are not this machine's: it has to run here, not at another host"
    );
    Ok(pid)
}

/// The image's user may write all of it.
fn give(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path)?;
    std::os::unix::fs::chown(path, Some(USER), Some(USER))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path())?;
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(USER), Some(USER))?;
        }
    }
    Ok(())
}

/// A server in its container.
struct Server {
    docker: Docker,
    container: Option<Container>,
    pid: u32,
    words: Vec<JoinHandle<()>>,
}

impl Running for Server {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
        if !state.is_empty() && !state.starts_with(['Z', 'X']) {
            return None;
        }
        let id = self.container.as_ref()?.id();
        let state = wait("look at a container", self.docker.inspect_container(id, None)).ok()?.state?;
        // The kernel knows it before Docker does, whose exit code is 0 until then.
        if state.running == Some(true) {
            return None;
        }
        // Docker tells of a signal as a shell does.
        let raw = match i32::try_from(state.exit_code?).ok()? {
            signal @ 129.. => signal - 128,
            code => code << 8,
        };
        Some(ExitStatus::from_raw(raw))
    }

    /// `docker pause`: its control group is frozen.
    fn stand(&self, still: bool) -> anyhow::Result<()> {
        let id = self.container.as_ref().context("it does not run")?.id();
        if still {
            wait("pause a server", self.docker.pause_container(id))
        } else if self.stands()? {
            wait("let a server go on", self.docker.unpause_container(id))
        } else {
            Ok(())
        }
    }

    fn stands(&self) -> anyhow::Result<bool> {
        let id = self.container.as_ref().context("it does not run")?.id();
        let state = wait("look at a container", self.docker.inspect_container(id, None))?.state;
        Ok(state.and_then(|state| state.paused) == Some(true))
    }

    fn kill(&mut self) {
        let Some(container) = self.container.take() else { return };
        // SIGKILL is Docker's default. It fails if the server has ended, which is as good.
        let _ = wait("kill a server", self.docker.kill_container(container.id(), None));
        let words = std::mem::take(&mut self.words);
        let last = async {
            for said in words {
                let _ = said.await;
            }
        };
        let _ = runtime().block_on(async { tokio::time::timeout(LAST_WORDS, last).await });
        if let Err(error) = wait("remove a container", container.rm()) {
            eprintln!("conclave-chaos: {error:#}");
        }
    }
}

fn docker() -> anyhow::Result<Docker> {
    let docker = wait("connect", testcontainers::core::client::docker_client_instance())?;
    Ok(docker)
}

/// Docker's clients are asynchronous, and what they begin goes on between calls; the suite is not. One for the process:
/// connections that one run made are used by the next.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("docker").enable_all().build();
        threads.expect("a thread can be started")
    })
}

fn wait<T, E>(what: &str, done: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let done = runtime().block_on(async { tokio::time::timeout(PATIENCE, done).await });
    done.with_context(|| format!("Docker: {what}: no answer within {PATIENCE:?}"))?
        .with_context(|| format!("Docker: {what}"))
}
