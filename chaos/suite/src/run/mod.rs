//! One run, from an empty place to a verdict.

mod progress;
pub mod stage;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use conclave_checker::{Limits, history as histories, judge as check};

use self::{
    progress::Progress,
    stage::{Setup, Stage},
};
use crate::{
    board::Shared,
    client::{Outcome, Recipe, ServerView},
    clock::{now_ns, ns},
    disks::Room,
    judge::{Row, Standing, beliefs, evidence::Evidence, history, invariants, layers, line, replicas::Audit, touches},
    namespace::Namespace,
    nemesis::{Done, asked::Nemeses, clash, gear, step::step},
    place::{self, Choice, NotAvailable, Place, elsewhere::Elsewhere},
    plan::{Pace, plan},
    report,
    resource::{
        Address, Resource,
        server::{self, Server},
    },
    target::{NAMES, Own, Target, target},
    workload::{Touched, Workload},
};

/// How long clients hold, unless other times are asked for: short, so that locks change hands often.
pub const HOLD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(80));
/// Quiet work after the last fault, in which every lock has to be granted again.
const CALM: Duration = Duration::from_secs(3);
/// After that all servers are in the same state.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// One of [`NAMES`].
    pub target: String,
    /// Where its servers live.
    pub place: Choice,
    /// The user's cluster, in place of servers of ours.
    pub own: Option<Own>,
    /// Servers; none for 3, or as many as the target can have.
    pub nodes: Option<usize>,
    /// Clients that lock.
    pub clients: usize,
    /// Locks they choose from.
    pub keys: usize,
    /// What they do.
    pub workload: Workload,
    /// What is broken.
    pub nemeses: Nemeses,
    /// Of classes that have forms with one of these words, only those.
    pub forms: Vec<String>,
    /// So long faults begin.
    pub time: Duration,
    /// Of the plan and the clients' choices.
    pub seed: u64,
    /// The lease; none for the target's.
    pub ttl: Option<Duration>,
    /// The shortest and the longest time for which a client holds.
    pub hold: (Duration, Duration),
    /// The folder to make.
    pub report: PathBuf,
    /// The program whose hidden command `client` is a client.
    pub program: PathBuf,
    /// No progress on standard error.
    pub quiet: bool,
}

impl Options {
    /// Five clients on one lock, half a minute, no fault; for whoever wants something else, the rest of a literal.
    #[must_use]
    pub fn new(target: &str, report: &Path, program: PathBuf) -> Self {
        Self {
            target: target.into(),
            place: Choice::Namespaces,
            own: None,
            nodes: None,
            clients: 5,
            keys: 1,
            workload: Workload::Lock,
            nemeses: Nemeses::default(),
            forms: Vec::new(),
            time: Duration::from_secs(30),
            seed: 1,
            ttl: None,
            hold: HOLD,
            report: report.into(),
            program,
            quiet: true,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Summary {
    /// What was run, with what was left open filled in.
    pub options: Options,
    /// How its lock works.
    pub about: String,
    /// Where; and why not elsewhere, where that was open.
    pub place: String,
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
        } else {
            let lacks = self.options.nemeses.names_them() && !self.not_available.is_empty();
            let unknown = self.interrupted || lacks || self.rows.iter().any(|row| row.unknown);
            if unknown { 2 } else { 0 }
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

    /// On what: `3 servers`.
    #[must_use]
    pub fn on(&self) -> String {
        match &self.options.own {
            Some(own) => own.endpoints.join(", "),
            None => format!("{} server{}", self.nodes, if self.nodes == 1 { "" } else { "s" }),
        }
    }

    /// The command that does it again, as far as a seed can.
    #[must_use]
    pub fn replay(&self) -> String {
        let options = &self.options;
        let hold = match options.hold {
            HOLD => String::new(),
            (least, most) => format!(" --hold {}ms..{}ms", least.as_millis(), most.as_millis()),
        };
        let on = match &options.own {
            Some(own) => own.to_string(),
            None => format!("--target {} --place {} --nodes {}", options.target, options.place, self.nodes),
        };
        let forms =
            if options.forms.is_empty() { String::new() } else { format!(" --form {}", options.forms.join(",")) };
        format!(
            "conclave-chaos run {on} --clients {} --keys {} --workload {} --nemesis {}{forms} --time {}s --ttl {}ms{hold} --seed {} \
             --report DIR",
            options.clients,
            options.keys,
            options.workload,
            options.nemeses,
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
    let target = match &options.own {
        Some(own) => Box::new(own.clone()) as Box<dyn Target>,
        None => target(&options.target)
            .with_context(|| format!("no target is called {:?}; there are {}", options.target, NAMES.join(", ")))?,
    };
    let target = target.as_ref();
    let nodes = options.nodes.unwrap_or(target.nodes_usual());
    let (least, most) = (target.nodes_min(), target.nodes_max());
    ensure!((least..=most).contains(&nodes), "{} runs on {least} to {most} servers", target.name());
    ensure!((1..=50).contains(&options.clients), "1 to 50 clients");
    ensure!((1..=1_000).contains(&options.keys), "1 to 1000 locks");
    ensure!(
        options.workload != Workload::Bank || options.keys > 1,
        "transfers go from one account to another: bank takes two keys or more"
    );
    if !options.workload.is_for_any_lock() && target.recipe() != Recipe::Conclave {
        bail!(
            "workload {} is for conclave; for any lock there are lock, fenced, fenced-postgres and unfenced",
            options.workload
        );
    }
    let touched = options.workload.touched();
    if touched == Touched::Fenced && !target.has_tokens() {
        bail!(
            "{} gives no tokens that a resource could compare: --workload unfenced shows what that means",
            target.name()
        );
    }
    if options.workload.in_postgres() {
        server::available()?;
    }
    report::folder(&options.report)?;
    let lease = options.ttl.unwrap_or(target.lease());
    // Declared first, so that it goes last: processes must be gone before their network and their disks.
    let (place, refused) = match target.own() {
        Some(_) => (Box::new(Elsewhere) as Box<dyn Place>, None),
        None => place::make(options.place, target.image(), nodes, nodes + options.clients + 1)?,
    };
    let place_name = refused.map_or_else(|| place.name(), |lacks| format!("{}; {lacks}", place.name()));
    let began_ns = now_ns();

    let (mut not_available, mut lacking) = (Vec::new(), BTreeSet::new());
    for class in options.nemeses.classes() {
        let lacks = class.available(&*place, target).err().or_else(|| class.too_few(nodes));
        if let Some(lacks) = lacks {
            eprintln!("conclave-chaos: {lacks}");
            not_available.push(lacks);
            lacking.insert(class);
        }
    }
    if let Some((class, lacks)) = clash(&options.nemeses.classes(), &lacking) {
        eprintln!("conclave-chaos: {lacks}");
        not_available.push(lacks);
        lacking.insert(class);
    }
    let nemeses = options.nemeses.groups(&lacking);

    let gear = gear(&nemeses);
    let room = Room::make(gear.disks)?;
    // After its room, so that it goes before that.
    let server = options.workload.in_postgres().then(|| Server::start(&room, &options.report)).transpose()?;
    let resource = match (touched, &server) {
        (Touched::Nothing, _) => None,
        (_, Some(server)) => Some(server.address()),
        (_, None) => Some(Address::Sqlite(options.report.join("resource.db"))),
    };
    let setup = Setup {
        target,
        nodes,
        clients: options.clients,
        keys: options.keys,
        workload: options.workload,
        lease,
        wait: Duration::from_secs(10),
        hold: options.hold,
        probe_every: Duration::from_millis(25),
        seed: options.seed,
        resource: resource.clone(),
        gear,
        report: &options.report,
        program: &options.program,
    };
    // When it is left, whatever happens, those who wrote there are gone.
    let namespace = target.own().map(Namespace::enter).transpose()?;
    let mut stage = Stage::set(&setup, &*place, &room, stop)?;
    let board = stage.board.clone();

    let begun = Instant::now();
    let mut progress = Progress::new(options.quiet, begun);
    let (mut faults, mut ended) = (Vec::new(), None);
    let pace = if options.nemeses == Nemeses::Random { Pace::Random } else { Pace::InTurn };
    let steps = plan(options.seed, &nemeses, &options.forms, pace, nodes, lease, options.time);
    let over = || stop.load(Ordering::Relaxed);
    let late = || begun.elapsed() >= options.time;
    for next in &steps {
        quiet(next.after, &board, &mut progress, &|| over() || late());
        if over() || late() {
            break;
        }
        faults.extend(step(&mut stage.reach(), next, &over, &mut |what| progress.beat(&board, what)));
        ended = stage.servers.all_run().err();
        if ended.is_some() {
            break;
        }
    }
    // A server that gave up will not come back: what there is can be judged at once.
    let over = || over() || ended.is_some();
    while !late() && !over() {
        quiet(Duration::from_millis(100), &board, &mut progress, &|| over() || late());
    }
    let calm_ns = now_ns();
    quiet(CALM, &board, &mut progress, &over);
    stage.leave();
    let end_ns = now_ns();
    let ended = ended.or_else(|| stage.servers.all_run().err());
    let same = if ended.is_none() { same_state(&board, nodes, target.tells_state()) } else { None };
    let asked = if target.recipe() == Recipe::Conclave && ended.is_none() { stage.audit(&setup)? } else { Vec::new() };
    let ended = ended.or_else(|| stage.servers.all_run().err());
    let names = std::mem::take(&mut stage.names);
    // The rest of what was told is on its way until the processes are gone.
    drop(stage);
    drop(place);
    let log = match &resource {
        Some(resource) => Some(Resource::open(resource, touched == Touched::Fenced)?.log()?),
        None => None,
    };
    drop(server);
    drop(room);
    let clean = namespace.map_or(Ok(()), Namespace::leave);
    thread::sleep(Duration::from_millis(100));
    progress.end();

    let board = board.lock();
    let lines = history::lines(&names, &board.told, &faults, lease, target.has_tokens());
    fs::write(options.report.join("history.jsonl"), &lines).context("no file for the history")?;
    let parsed = histories::parse(lines.as_bytes(), histories::Format::Json).context("its own history")?;
    let model = options.workload.model(target.model());
    let judgement = check(&parsed, &model, &Limits::default())?;
    let beliefs = beliefs::beliefs(&board.told, end_ns);
    let overlaps = beliefs::overlaps(&beliefs, &faults, ns(lease));
    let audit = Audit::of(asked);
    audit.write(&options.report)?;
    let members = audit.longest().map(|replica| line::members(&replica.changes)).unwrap_or_default();
    if let (Some(log), true) = (&log, options.workload.in_postgres()) {
        // The database is gone; what it let in stays.
        let lines = log.iter().map(|touch| Ok(serde_json::to_string(touch)? + "\n"));
        let lines = lines.collect::<Result<String, serde_json::Error>>()?;
        fs::write(options.report.join("resource.jsonl"), lines).context("no file for the resource's log")?;
    }
    let touches = log.as_deref().map(touches::touches);
    let evidence = Evidence {
        workload: options.workload,
        told: &board.told,
        faults: &faults,
        lease_ns: ns(lease),
        judgement: &judgement,
        beliefs: &beliefs,
        overlaps: &overlaps,
        touches: touches.as_ref().filter(|_| touched == Touched::Fenced),
        audit: &audit,
        members: &members,
    };
    let keys = stage::keys(options.keys);
    let mut rows = vec![
        layers::first_layer(options.workload, &judgement, &beliefs, &audit),
        layers::second_layer(&beliefs, &overlaps),
        layers::third_layer(options.workload, touches.as_ref(), &board),
    ];
    let recovery = layers::recovery(options.workload, &board, &faults, &keys, options.clients, calm_ns, same);
    let recovery = match ended {
        Some(why) => layers::gave_up(recovery, &why.to_string()),
        None => recovery,
    };
    rows.extend(invariants::rows(&evidence, recovery));
    for trouble in &audit.troubles {
        eprintln!("conclave-chaos: {trouble}");
    }
    let summary = Summary {
        about: target.about().to_owned(),
        place: place_name,
        nodes,
        lease,
        clients: names,
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
    clean?;
    Ok(summary)
}

fn quiet(length: Duration, board: &Shared, progress: &mut Progress, stop: &dyn Fn() -> bool) {
    let until = Instant::now() + length;
    while Instant::now() < until && !stop() {
        progress.beat(board, "no fault");
        thread::sleep(Duration::from_millis(10).min(length));
    }
}

/// Whether all servers came to the same state; none where there is only one copy of it, or they do not tell.
fn same_state(board: &Shared, nodes: usize, told: bool) -> Option<bool> {
    if nodes <= 1 || !told {
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
