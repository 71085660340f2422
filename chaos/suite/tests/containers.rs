//! Servers in containers, and a cluster that is not the suite's.
//!
//! They need root, Docker with its command, and the images that `scripts/image.sh` makes; where one is missing they say so and judge
//! nothing, unless `CONCLAVE_CHAOS_CONTAINERS=required` says that it must not be missing.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use conclave_suite::{
    binary::binary,
    client::Workload,
    disks::Room,
    fleet::{Gear, Servers},
    judge::Standing,
    nemesis::{Class, asked::Nemeses},
    place::{
        self, Choice, Host, Place,
        containers::{self, Containers, IMAGE, IMAGE_FAULTY},
        namespaces::{self, Namespaces},
    },
    run::{Options, run},
    target::target,
};

/// One run at a time: their figures depend on time.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lacking(image: &str) -> bool {
    let lacks = match containers::available(image) {
        Err(lacks) => lacks.to_string(),
        Ok(()) if !docker(&["version"]).status.success() => "the command docker: not available".into(),
        Ok(()) => return false,
    };
    assert_ne!(std::env::var("CONCLAVE_CHAOS_CONTAINERS").as_deref(), Ok("required"), "{lacks}");
    eprintln!("NOT TESTED: {lacks}");
    true
}

fn docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).output().expect("docker")
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect()
}

/// Containers and networks of runs of this process or that.
fn owned(pid: u32) -> Vec<String> {
    let prefix = format!("conclave-chaos.{pid}.");
    let containers = lines(&docker(&["ps", "-a", "--format", "{{.Names}}"]));
    let networks = lines(&docker(&["network", "ls", "--format", "{{.Name}}"]));
    containers.into_iter().chain(networks).filter(|name| name.starts_with(&prefix)).collect()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what}: not within a minute");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a connection from one host to another one's port is made.
fn connects(place: &dyn Place, from: Host, to: Host, port: u16) -> bool {
    let connect = format!("exec 3<>/dev/tcp/{}/{port}", place.address(to));
    let mut command = place.command(from, Path::new("/usr/bin/timeout"));
    command.args(["0.5", "bash", "-c", &connect]).output().expect("timeout").status.success()
}

#[test]
fn a_server_in_a_container_keeps_its_address_and_can_be_taken_off_the_network() {
    if lacking(IMAGE) {
        return;
    }
    let _one = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let place = Containers::make(IMAGE, 1, 2).expect("a place");
    let (server, client) = (Host(0), Host(1));
    let target = target("conclave").expect("a target");
    let room = Room::make(false).expect("a room");
    let mut servers = Servers::start(target.as_ref(), &place, 1, &room, dir.path(), Gear::default()).expect("a server");
    wait_for("it answers", || connects(&place, client, server, 7_400));

    let first = servers.get(0).pid().expect("it runs");
    servers.get(0).kill();
    assert!(!connects(&place, client, server, 7_400), "nobody listens any more");
    servers.start_one(0).expect("started again");
    assert_ne!(servers.get(0).pid().expect("it runs"), first);
    wait_for("it answers where it was", || connects(&place, client, server, 7_400));

    // Frozen, whatever it was doing; and killed as it is.
    servers.get(0).stand(true).expect("paused");
    assert!(servers.get(0).stands().expect("it is there"));
    servers.get(0).stand(false).expect("goes on");
    assert!(!servers.get(0).stands().expect("it is there"));
    servers.get(0).stand(false).expect("it does so already");
    servers.get(0).stand(true).expect("paused");
    servers.get(0).kill();
    servers.start_one(0).expect("started again");
    wait_for("it answers after all that", || connects(&place, client, server, 7_400));

    place.unplug(server).expect("off the network");
    assert!(!connects(&place, client, server, 7_400), "it is off the network");
    place.plug(server).expect("on the network");
    wait_for("it answers again", || connects(&place, client, server, 7_400));

    assert!(servers.all_run().is_ok());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(servers.get(0).pid().expect("it runs")).expect("a process")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed behind the suite's back");
    let until = Instant::now() + Duration::from_secs(10);
    let said = loop {
        match servers.all_run() {
            Err(error) => break error.to_string(),
            Ok(()) => assert!(Instant::now() < until, "a server that ended is not seen"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(said.contains("server 1 ended by itself") && said.contains('9'), "{said}");
    let log = std::fs::read_to_string(dir.path().join("server-1.log")).expect("its log");
    drop(servers);
    drop(place);
    assert!(!log.is_empty(), "what it said is there");
    assert_eq!(owned(std::process::id()), [] as [String; 0]);
}

#[test]
fn a_run_in_containers_is_acquitted_and_leaves_nothing() {
    if lacking(IMAGE) {
        return;
    }
    let _one = alone();
    let volumes = lines(&docker(&["volume", "ls", "-q"]));
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        place: Choice::Containers,
        workload: Workload::Fenced,
        nemeses: Nemeses::Groups([Class::Pause, Class::Kill, Class::Partition].map(|class| vec![class]).to_vec()),
        time: Duration::from_secs(16),
        seed: 3,
        ..Options::new("conclave", dir.path(), binary("conclave-chaos").expect("the program"))
    };
    let summary = run(options, &std::sync::atomic::AtomicBool::new(false)).expect("a run");
    assert_eq!(summary.place, "containers of conclave:dev");
    assert_eq!(summary.row("L1").standing, Standing::Pass, "{:#?}", summary.rows);
    assert_ne!(summary.row("L3").standing, Standing::Fail, "{:#?}", summary.rows);
    assert_eq!(summary.row("I15").standing, Standing::Pass, "{:#?}", summary.rows);
    assert!(summary.faults.iter().filter(|fault| !fault.missed).count() >= 2, "{:#?}", summary.faults);
    assert_eq!(owned(std::process::id()), [] as [String; 0]);
    assert_eq!(lines(&docker(&["volume", "ls", "-q"])), volumes);
}

/// What is planted is compiled into the image, and switched on in it.
#[test]
fn a_bug_planted_in_containers_is_convicted() {
    if lacking(IMAGE_FAULTY) {
        return;
    }
    let _one = alone();
    // Power cuts take turns with whom they meet; three runs are plenty.
    let convicted = (1..=3).any(|seed| {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            place: Choice::Containers,
            workload: Workload::Kv,
            nemeses: Nemeses::Groups(vec![vec![Class::Power]]),
            time: Duration::from_secs(15),
            seed,
            ..Options::new(
                "conclave-planted:reply-before-fsync",
                dir.path(),
                binary("conclave-chaos").expect("the program"),
            )
        };
        let summary = run(options, &std::sync::atomic::AtomicBool::new(false)).expect("a run");
        assert_eq!(summary.place, "containers of conclave:faulty");
        summary.row("I18").standing == Standing::Fail && summary.exit_code() == 1
    });
    assert!(convicted, "nothing acknowledged was lost in any of three runs");
    assert_eq!(owned(std::process::id()), [] as [String; 0]);
}

#[test]
fn what_a_killed_run_leaves_in_docker_is_removed() {
    if lacking(IMAGE) {
        return;
    }
    let _one = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let mut killed = Command::new(binary("conclave-chaos").expect("the program"))
        .args(["run", "--place", "containers", "--nodes", "1", "--nemesis", "none", "--time", "60s", "--report"])
        .arg(dir.path().join("report"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a run");
    let events = dir.path().join("report/events.jsonl");
    wait_for("it begins", || events.is_file());
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    // A server, who holds its network, and the network.
    assert_eq!(owned(killed.id()).len(), 3, "{:?}", owned(killed.id()));
    assert!(place::sweep().expect("sweep") >= 3);
    assert_eq!(owned(killed.id()), [] as [String; 0]);
}

#[test]
fn a_run_on_somebodys_cluster_leaves_its_namespace_as_it_was() {
    if namespaces::available().is_err() {
        eprintln!("NOT TESTED: network namespaces: not available");
        return;
    }
    let _one = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let place = Namespaces::make(2).expect("a place");
    let target = target("conclave").expect("a target");
    let room = Room::make(false).expect("a room");
    let _servers = Servers::start(target.as_ref(), &place, 1, &room, dir.path(), Gear::default()).expect("a server");
    let client = Host(1);
    wait_for("it answers", || connects(&place, client, Host(0), 7_400));
    let endpoint = format!("http://{}:7400", place.address(Host(0)));
    let conclave = |args: &[&str]| {
        let mut command = place.command(client, &binary("conclave").expect("the command line"));
        command.args(["--endpoints", &endpoint]).args(args).output().expect("conclave")
    };
    let run = |report: &str| {
        let mut command = place.command(client, &binary("conclave-chaos").expect("the program"));
        command.args(["run", "--endpoints", &endpoint, "--namespace", "/team/chaos", "--nemesis", "pause,kill"]);
        command.args(["--time", "6s", "--report"]).arg(dir.path().join(report)).output().expect("a run")
    };
    wait_for("it leads", || conclave(&["put", "/others", "theirs"]).status.success());
    let before = lines(&conclave(&["tree", "/"]));

    let done = run("first");
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("a cluster of the user's own") && said.contains("--namespace /team/chaos"), "{said}");
    assert_eq!(lines(&conclave(&["tree", "/"])), before, "it is as it was");

    assert!(conclave(&["put", "/team/chaos/mine", "precious"]).status.success());
    let refused = run("second");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{why}");
    assert!(why.contains("/team/chaos is not empty"), "{why}");
    assert_eq!(lines(&conclave(&["get", "/team/chaos/mine"])), ["precious"]);
}
