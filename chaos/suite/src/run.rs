//! One run, from an empty place to a verdict.

use std::{
    fs,
    io::BufWriter,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use conclave_checker::{Judgement, Limits, Verdict, history as histories, judge as check};

use crate::{
    board::{Board, Shared},
    client::{Happened, Outcome, ServerView, Spec, Workload},
    clock::now_ns,
    fleet::{Client, Servers},
    judge::{Row, Standing, beliefs, history, touches},
    nemesis::{Done, Nemesis},
    place::{Host, NotAvailable, Place, namespaces::Namespaces},
    plan::{Class, plan},
    report,
    resource::Resource,
    target::{NAMES, target},
};

/// Until all servers answer and all clients are ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Quiet work after the last fault, in which every lock has to be granted again.
const CALM: Duration = Duration::from_secs(3);
/// Clients that were told to stop have ended by then.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// After that all servers are in the same state.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// One of [`NAMES`].
    pub target: String,
    /// Servers; none for 3, or as many as the target can have.
    pub nodes: Option<usize>,
    /// Clients that lock.
    pub clients: usize,
    /// Locks they choose from.
    pub keys: usize,
    /// What they do.
    pub workload: Workload,
    /// What is broken.
    pub nemeses: Vec<Class>,
    /// So long faults begin.
    pub time: Duration,
    /// Of the plan and the clients' choices.
    pub seed: u64,
    /// The lease; none for the target's.
    pub ttl: Option<Duration>,
    /// The folder to make.
    pub report: PathBuf,
    /// The program whose hidden command `client` is a client.
    pub program: PathBuf,
    /// No progress on standard error.
    pub quiet: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Summary {
    /// What was run, with what was left open filled in.
    pub options: Options,
    /// How its lock works.
    pub about: String,
    /// Where.
    pub place: &'static str,
    /// Servers.
    pub nodes: usize,
    /// The lease.
    pub lease: Duration,
    /// Names of the clients.
    pub clients: Vec<String>,
    /// The layers' verdicts.
    pub rows: Vec<Row>,
    /// The faults, in their order.
    pub faults: Vec<Done>,
    /// What two clients believed at once.
    pub overlaps: Vec<beliefs::Overlap>,
    /// Operations by name and outcome.
    pub outcomes: Vec<(String, Outcome, u64)>,
    /// What was asked for and is not to be had here.
    pub not_available: Vec<NotAvailable>,
    /// The first moment of the run.
    pub began_ns: i64,
    /// It was stopped early.
    pub interrupted: bool,
}

impl Summary {
    /// 0: nothing was broken. 1: something was. 2: not everything that was asked for could be done or told.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.failed() {
            1
        } else if self.interrupted || !self.not_available.is_empty() || self.rows.iter().any(|row| row.unknown) {
            2
        } else {
            0
        }
    }

    /// Whether any layer failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.standing == Standing::Fail)
    }

    /// The row of this layer.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn row(&self, id: &str) -> &Row {
        self.rows.iter().find(|row| row.id == id).expect("a layer of the verdict")
    }

    /// The command that does it again, as far as a seed can.
    #[must_use]
    pub fn replay(&self) -> String {
        let options = &self.options;
        let classes: Vec<_> = options.nemeses.iter().map(|class| class.name()).collect();
        let workload = match options.workload {
            Workload::Lock => "lock",
            Workload::Fenced => "fenced",
            Workload::Unfenced => "unfenced",
        };
        format!(
            "conclave-chaos run --target {} --nodes {} --clients {} --keys {} --workload {workload} --nemesis {} --time {}s \
             --ttl {}ms --seed {} --report DIR",
            options.target,
            self.nodes,
            options.clients,
            options.keys,
            if classes.is_empty() { "none".to_owned() } else { classes.join(",") },
            options.time.as_secs(),
            self.lease.as_millis(),
            options.seed
        )
    }
}

/// Runs, judges and writes the folder.
///
/// # Errors
/// [`NotAvailable`] if there is no place for it or no server; the folder; servers that do not come up. Broken locks are
/// no error, but a [`Summary`] that says so.
pub fn run(options: Options, stop: &AtomicBool) -> anyhow::Result<Summary> {
    let target = target(&options.target)
        .with_context(|| format!("no target is called {:?}; there are {}", options.target, NAMES.join(", ")))?;
    let target = target.as_ref();
    let nodes = options.nodes.unwrap_or(3.min(target.nodes_max()));
    ensure!((1..=target.nodes_max()).contains(&nodes), "{} runs on 1 to {} servers", target.name(), target.nodes_max());
    ensure!((1..=50).contains(&options.clients), "1 to 50 clients");
    ensure!((1..=1_000).contains(&options.keys), "1 to 1000 locks");
    if options.workload == Workload::Fenced && !target.has_tokens() {
        bail!(
            "{} gives no tokens that a resource could compare: --workload unfenced shows what that means",
            target.name()
        );
    }
    fs::create_dir_all(&options.report).with_context(|| format!("cannot make {}", options.report.display()))?;
    ensure!(
        fs::read_dir(&options.report).is_ok_and(|mut entries| entries.next().is_none()),
        "{} is not empty",
        options.report.display()
    );
    let lease = options.ttl.unwrap_or(target.lease());
    let disks = tempfile::Builder::new().prefix("conclave-chaos-").tempdir().context("no directory for the servers")?;
    // Declared first, so that it goes last: processes must be gone before their network.
    let place = Namespaces::make(nodes + options.clients + 1)?;
    let began_ns = now_ns();

    let mut classes = options.nemeses.clone();
    let mut not_available = Vec::new();
    if classes.contains(&Class::Partition)
        && let Err(lacks) = place.can_cut()
    {
        eprintln!("conclave-chaos: {lacks}");
        not_available.push(lacks);
        classes.retain(|class| *class != Class::Partition);
    }

    let mut servers = Servers::start(target, &place, nodes, disks.path(), &options.report)?;
    let db = options.report.join("resource.db");
    let sections = options.workload != Workload::Lock;
    if sections {
        // Its tables are there before anybody needs them.
        Resource::open(&db, options.workload == Workload::Fenced)?;
    }
    let mut random = fastrand::Rng::with_seed(options.seed);
    let names: Vec<String> =
        (1..=options.clients).map(|at| format!("client {at}")).chain(["observer".to_owned()]).collect();
    let (tell, told) = mpsc::channel();
    let events = fs::File::create(options.report.join("events.jsonl")).context("no file for events")?;
    let board = Shared::fill(told, sections, names.clone(), BufWriter::new(events));
    let mut clients = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let mut endpoints = servers.endpoints();
        endpoints.rotate_left(at % nodes);
        let observer = at == options.clients;
        if observer {
            endpoints = servers.endpoints();
        }
        let spec = Spec {
            name: name.clone(),
            observer,
            recipe: target.recipe(),
            workload: options.workload,
            endpoints,
            keys: (1..=options.keys).map(|key| format!("lock-{key}")).collect(),
            ttl: lease,
            wait: Duration::from_secs(10),
            hold: (Duration::from_millis(20), Duration::from_millis(80)),
            seed: random.u64(..),
            db: sections.then(|| db.clone()),
        };
        let log = options.report.join(format!("{}.log", name.replace(' ', "-")));
        clients.push(Client::start(&options.program, &place, Host(nodes + at), &spec, at, tell.clone(), &log)?);
    }
    drop(tell);
    let observer = clients.pop().context("there is an observer")?;
    wait_ready(&mut servers, &board, names.len(), stop)?;

    let begun = Instant::now();
    let mut progress = Progress::new(options.quiet, begun);
    let mut faults = Vec::new();
    let steps = plan(options.seed, &classes, nodes, lease, options.time);
    let over = || stop.load(Ordering::Relaxed);
    let late = || begun.elapsed() >= options.time;
    for step in &steps {
        quiet(step.after, &board, &mut progress, &|| over() || late());
        if over() || late() {
            break;
        }
        let mut nemesis = Nemesis {
            place: &place,
            servers: &mut servers,
            clients: &clients,
            observer: observer.process.host,
            board: &board,
        };
        let done = nemesis.step(step, &over, &mut |what| progress.beat(&board, what));
        faults.push(done);
        servers.all_run()?;
    }
    while !late() && !over() {
        quiet(Duration::from_millis(100), &board, &mut progress, &|| over() || late());
    }
    let calm_ns = now_ns();
    quiet(CALM, &board, &mut progress, &over);
    leave(&mut clients);
    let end_ns = now_ns();
    let mut observer = observer;
    observer.stop();
    let same = same_state(&board, nodes, target.has_tokens());
    servers.all_run()?;
    // The rest of what was told is on its way until the processes are gone.
    drop(clients);
    drop(observer);
    drop(servers);
    drop(place);
    thread::sleep(Duration::from_millis(100));
    progress.end();

    let board = board.lock();
    let lines = history::lines(&names[..options.clients], &board.told, &faults, lease, target.has_tokens());
    fs::write(options.report.join("history.jsonl"), &lines).context("no file for the history")?;
    let parsed = histories::parse(lines.as_bytes(), histories::Format::Json).context("its own history")?;
    let model = target.model();
    let judgement = check(&parsed, &model, &Limits::default())?;
    let beliefs = beliefs::beliefs(&board.told, end_ns);
    let overlaps = beliefs::overlaps(&beliefs, &faults);
    let rows = vec![
        first_layer(&judgement, &beliefs),
        second_layer(&beliefs, &overlaps),
        third_layer(&options, &db, &board)?,
        recovery(&board, &faults, &options, calm_ns, same),
    ];
    let summary = Summary {
        about: target.about().to_owned(),
        place: "network namespaces",
        nodes,
        lease,
        clients: names[..options.clients].to_vec(),
        rows,
        faults,
        overlaps,
        outcomes: board.outcomes.iter().map(|((f, outcome), count)| (f.clone(), *outcome, *count)).collect(),
        not_available,
        began_ns,
        interrupted: stop.load(Ordering::Relaxed),
        options,
    };
    report::write(&summary, &parsed, &judgement, &model.to_string())?;
    Ok(summary)
}

fn wait_ready(servers: &mut Servers<'_>, board: &Shared, all: usize, stop: &AtomicBool) -> anyhow::Result<()> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        servers.all_run()?;
        let now = board.lock();
        let answer = now.servers.1.len() == servers.count() && now.servers.1.iter().all(|server| server.answers);
        if answer && now.ready.len() == all && !now.writes.is_empty() {
            return Ok(());
        }
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        ensure!(
            Instant::now() < until,
            "not ready within {READY_WITHIN:?}: {} of {all} clients, servers {:?}",
            now.ready.len(),
            now.servers.1
        );
        drop(now);
        thread::sleep(Duration::from_millis(20));
    }
}

fn quiet(length: Duration, board: &Shared, progress: &mut Progress, stop: &dyn Fn() -> bool) {
    let until = Instant::now() + length;
    while Instant::now() < until && !stop() {
        progress.beat(board, "no fault");
        thread::sleep(Duration::from_millis(10).min(length));
    }
}

/// Clients finish what they do; who does not is killed with the place.
fn leave(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client.stop();
    }
    let until = Instant::now() + LEAVE_WITHIN;
    while Instant::now() < until && clients.iter_mut().any(|client| client.process.ended().is_none()) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether all servers came to the same state; none where there is only one copy of it.
fn same_state(board: &Shared, nodes: usize, replicated: bool) -> Option<bool> {
    if nodes == 1 || !replicated {
        return None;
    }
    let (from_ns, until) = (now_ns(), Instant::now() + SETTLE_WITHIN);
    let same = |servers: &[ServerView]| {
        servers.len() == nodes
            && servers.iter().all(|server| server.answers)
            && servers.windows(2).all(|pair| pair[0].applied == pair[1].applied && pair[0].hash == pair[1].hash)
    };
    while Instant::now() < until {
        let now = board.lock();
        if now.servers.0 > from_ns && same(&now.servers.1) {
            return Some(true);
        }
        drop(now);
        thread::sleep(Duration::from_millis(20));
    }
    Some(false)
}

fn first_layer(judgement: &Judgement, beliefs: &[beliefs::Belief]) -> Row {
    let handed = beliefs::hand_overs(beliefs);
    let (standing, unknown, details) = match &judgement.verdict {
        Verdict::NotLinearizable(refutation) => (Standing::Fail, false, refutation.cause.clone()),
        Verdict::Unknown(why) => (Standing::NotExercised, true, why.clone()),
        Verdict::Linearizable if handed == 0 => (Standing::NotExercised, false, "no lock changed hands".into()),
        Verdict::Linearizable => (
            Standing::Pass,
            false,
            format!("{} operations have an order; locks changed hands {handed} times", judgement.operations),
        ),
    };
    Row {
        id: "L1",
        text: "grants: one holder at a time in the service's own account, tokens rise",
        standing,
        unknown,
        details,
    }
}

fn second_layer(beliefs: &[beliefs::Belief], overlaps: &[beliefs::Overlap]) -> Row {
    let unexplained = overlaps.iter().filter(|overlap| overlap.pause.is_none()).count();
    let longest = overlaps.iter().map(beliefs::Overlap::length_ns).max().unwrap_or(0);
    let handed = beliefs::hand_overs(beliefs);
    let (standing, details) = match (overlaps.len(), unexplained) {
        (0, _) if handed == 0 => (Standing::NotExercised, "no lock changed hands".to_owned()),
        (0, _) => (Standing::Pass, format!("no overlap in {} holds", beliefs.len())),
        (all, 0) => (
            Standing::Pass,
            format!(
                "{all} overlaps, longest {}, each while the earlier holder stood still: measured, no fault",
                report::time(longest)
            ),
        ),
        (all, bad) => (
            Standing::Fail,
            format!(
                "{all} overlaps, longest {}; {bad} of them without a pause of the earlier holder",
                report::time(longest)
            ),
        ),
    };
    Row {
        id: "L2",
        text: "beliefs: no two clients take a lock for theirs at once, unless paused (I8)",
        standing,
        unknown: false,
        details,
    }
}

fn third_layer(options: &Options, db: &std::path::Path, board: &Board) -> anyhow::Result<Row> {
    let (text, fenced) = match options.workload {
        Workload::Fenced => ("resource: no touch with an older token, no update lost (I5)", true),
        _ => ("resource: no update lost", false),
    };
    let (standing, details) = if options.workload == Workload::Lock {
        (Standing::NotExercised, "the workload has no resource".to_owned())
    } else {
        let found = touches::touches(&Resource::open(db, fenced)?.log()?);
        let refused = board.told.iter().filter(|(_, told)| matches!(told.happened, Happened::Refused { .. })).count();
        let figures = format!("{} writes, {} lost; late touches refused: {refused}", found.writes, found.lost);
        match found.first {
            Some(first) if found.lost > 0 || fenced => (Standing::Fail, format!("{figures}; {first}")),
            _ if fenced && refused == 0 => (Standing::NotExercised, format!("{figures}: no holder came late")),
            _ if found.writes == 0 => (Standing::NotExercised, "nothing was written".into()),
            _ => (Standing::Pass, figures),
        }
    };
    Ok(Row { id: "L3", text, standing, unknown: false, details })
}

fn recovery(board: &Board, faults: &[Done], options: &Options, calm_ns: i64, same: Option<bool>) -> Row {
    let met = faults.iter().filter(|fault| !fault.missed).count();
    let granted = |key: &str| {
        board.told.iter().any(|(_, told)| {
            told.at_ns > calm_ns && matches!(&told.happened, Happened::Begin { key: begun, .. } if begun == key)
        })
    };
    let stuck: Vec<_> = (1..=options.keys).map(|key| format!("lock-{key}")).filter(|key| !granted(key)).collect();
    let ill = faults.iter().find(|fault| !fault.missed && fault.healed_ns.is_none());
    let (standing, details) = if let Some(ill) = ill {
        let why = ill.trouble.clone().unwrap_or_else(|| "servers or writes did not come back in time".into());
        (Standing::Fail, format!("after \"{}\": {why}", ill.what))
    } else if !stuck.is_empty() && options.keys <= options.clients {
        (Standing::Fail, format!("not granted any more after healing: {}", stuck.join(", ")))
    } else if same == Some(false) {
        (Standing::Fail, "the servers did not come to the same state".to_owned())
    } else if met == 0 {
        (Standing::NotExercised, "nothing was broken".to_owned())
    } else {
        let slowest = faults.iter().filter_map(|fault| fault.healed_ns).max().unwrap_or(0);
        let same = if same == Some(true) { "; all servers ended in the same state" } else { "" };
        (Standing::Pass, format!("{met} faults healed, the slowest within {}{same}", report::time(slowest)))
    };
    Row {
        id: "I15",
        text: "after healing: servers answer, locks are granted, replicas agree",
        standing,
        unknown: false,
        details,
    }
}

/// One line on standard error, over itself at a terminal.
struct Progress {
    quiet: bool,
    terminal: bool,
    begun: Instant,
    last: Option<Instant>,
}

impl Progress {
    fn new(quiet: bool, begun: Instant) -> Self {
        Self { quiet, terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()), begun, last: None }
    }

    fn beat(&mut self, board: &Shared, what: &str) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 2_000 });
        if self.quiet || self.last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        self.last = Some(Instant::now());
        let board = board.lock();
        let count = |outcome| board.outcomes.iter().filter(|((_, of), _)| *of == outcome).map(|(_, n)| n).sum::<u64>();
        let leader = board.leader().map_or("-".to_owned(), |at| (at + 1).to_string());
        let line = format!(
            "{:5.1} s  {} ok, {} failed, {} unknown  leader {leader}  {what}",
            self.begun.elapsed().as_secs_f64(),
            count(Outcome::Ok),
            count(Outcome::Fail),
            count(Outcome::Info),
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal && !self.quiet {
            eprint!("\r\x1b[K");
        }
    }
}
