//! The list of fail points, and what each of them does now.
//!
//! A point's name is its place: it stands in exactly one place of the source, which the compiler (no name without an
//! entry here) and a test (no entry without a place) hold to.

/// What a server must do when this happens to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// It ends, saying why: what its disk holds, or what it would do next, is not known any more.
    Stops,
    /// It goes on: the call, the stream or the attempt fails, and is made good.
    GoesOn,
}

/// A place where the world outside can fail.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// `area-what`.
    pub name: &'static str,
    /// What is about to happen there.
    pub about: &'static str,
    /// What an error there leads to; none where no error is possible (`return` does nothing).
    pub error: Option<Then>,
    /// What a panic there leads to.
    pub panic: Then,
}

/// Errors and panics stop the server.
const fn stops(name: &'static str, about: &'static str) -> Point {
    Point { name, about, error: Some(Then::Stops), panic: Then::Stops }
}

/// Neither errors nor panics stop the server.
const fn goes_on(name: &'static str, about: &'static str) -> Point {
    Point { name, about, error: Some(Then::GoesOn), panic: Then::GoesOn }
}

/// Errors are made good; a panic would leave the server without a part it needs.
const fn needed(name: &'static str, about: &'static str) -> Point {
    Point { name, about, error: Some(Then::GoesOn), panic: Then::Stops }
}

/// A place between two effects, where nothing but the process itself can fail.
const fn between(name: &'static str, about: &'static str) -> Point {
    Point { name, about, error: None, panic: Then::Stops }
}

/// All of them, in the order in which a server comes by.
pub const POINTS: &[Point] = &[
    // The start.
    stops("config-read", "the configuration file is read"),
    stops("listen-bind", "an address is bound"),
    stops("store-create", "the data directory is created"),
    stops("store-open", "the database is opened"),
    stops("store-sync-dir", "the data directory is synced after the database was opened"),
    stops("store-initialize", "the first records of a new store are written"),
    stops("recover-identity", "it is read whose disk this is"),
    stops("recover-hard-state", "term, vote and commit index are read"),
    stops("recover-membership", "the members are read"),
    stops("recover-positions", "the compacted and applied positions are read"),
    stops("recover-log", "the last entry of the log is read"),
    stops("recover-state", "the state is read"),
    stops("recover-prune", "snapshots of an earlier run are listed"),
    stops("node-start", "the node's thread is started"),
    between("node-first-turn", "the node's thread settles what it found"),
    // The log and the state.
    stops("log-write", "entries and hard state are written and synced"),
    stops("log-synced", "entries and hard state are synced, and nobody was told yet"),
    stops("log-read", "entries are read that are not in memory any more"),
    stops("log-compact", "the beginning of the log is removed"),
    stops("log-compacted", "the beginning of the log is removed, and memory still has it"),
    stops("state-write", "what entries changed is written"),
    stops("state-written", "what entries changed is written"),
    // One turn of the node.
    between("turn-send", "messages that need no sync are handed to the peers"),
    between("turn-promise", "messages that promise what was synced are handed to the peers"),
    between("turn-apply", "committed entries are applied"),
    needed("apply-entry", "another server's entry is applied; an error loses it, so that this replica differs"),
    between("turn-publish", "a change is applied, and neither published nor answered"),
    between("turn-answer", "a change is applied and published, and not answered"),
    between("turn-forward", "proposals are handed on to the leader"),
    // What is asked of the node.
    needed("node-propose", "a proposal is taken"),
    needed("node-barrier", "a read index is asked for"),
    needed("node-renew", "a session's renewal is taken"),
    needed("node-transfer", "a transfer of leadership is taken"),
    needed("node-members", "a change of membership is taken"),
    between("members-apply", "a change of membership is applied"),
    between("node-stop", "the node is told to stop"),
    // Snapshots: taken …
    between("snapshot-start", "the thread that takes a snapshot is started"),
    goes_on("snapshot-checkpoint", "the database's files are linked"),
    goes_on("snapshot-open", "a snapshot is opened to be finished"),
    goes_on("snapshot-read", "it is read what a snapshot caught"),
    goes_on("snapshot-drop-log", "the log is dropped from a snapshot"),
    goes_on("snapshot-flush", "a snapshot is flushed"),
    goes_on("snapshot-rename", "a snapshot gets its name"),
    goes_on("snapshot-sync-dir", "a snapshot's name is synced"),
    goes_on("snapshot-list", "snapshots are listed to remove the old ones"),
    goes_on("snapshot-remove", "an old snapshot is removed"),
    // … sent …
    goes_on("snapshot-serve", "a follower asks for a snapshot"),
    goes_on("snapshot-files", "the files of a snapshot are listed"),
    goes_on("snapshot-open-file", "a file of a snapshot is opened"),
    goes_on("snapshot-read-chunk", "a chunk of a snapshot is read"),
    goes_on("snapshot-send-chunk", "a chunk of a snapshot is sent"),
    // … fetched …
    goes_on("fetch-prepare", "the directory for a snapshot is made"),
    goes_on("fetch-connect", "the sender of a snapshot is connected to"),
    goes_on("fetch-receive", "a chunk of a snapshot is waited for"),
    goes_on("fetch-checksum", "the checksum of a chunk is compared"),
    goes_on("fetch-open-file", "a file of a snapshot is opened for writing"),
    goes_on("fetch-write", "a chunk of a snapshot is written"),
    goes_on("fetch-sync", "a file of a snapshot is synced"),
    goes_on("fetch-check", "a fetched snapshot is opened and read"),
    goes_on("fetch-done", "a fetched snapshot is handed to the node"),
    // … and installed.
    stops("install-open", "a fetched snapshot is opened to be made ours"),
    stops("install-write", "our identity and hard state are written to a fetched snapshot"),
    stops("install-list", "the files of a fetched snapshot are listed"),
    stops("install-sync-file", "a file of a fetched snapshot is synced"),
    stops("install-sync-dir", "the directory of a fetched snapshot is synced"),
    stops("install-stage", "a fetched snapshot is renamed to db.new"),
    stops("install-staged", "db.new is there, and its name not synced"),
    stops("install-close", "the old database is closed"),
    stops("install-retire", "the old database is renamed to db.old"),
    stops("install-retired", "there is no database in its place"),
    stops("install-swap", "db.new is renamed to db"),
    stops("install-swapped", "the new database is in its place, and its name not synced"),
    stops("install-remove-old", "the old database is removed"),
    stops("install-reopen", "the new database is opened"),
    between("install-done", "a snapshot is installed, and the state still the old one"),
    stops("install-finish-rename", "an installation cut short is brought to its end"),
    stops("install-finish-remove", "what an installation cut short left behind is removed"),
    stops("install-finish-sync", "the end of an installation cut short is synced"),
    needed("install-discard", "a fetched snapshot that is not wanted any more is removed"),
    // Between servers.
    needed("peer-connect", "a peer is connected to"),
    needed("peer-hello", "a peer is greeted"),
    goes_on("peer-send", "a frame is sent to a peer"),
    needed("peer-queue", "messages are queued for a peer"),
    goes_on("peer-probe", "a peer whose stream broke is looked for"),
    goes_on("peer-accept", "a peer opens a stream"),
    goes_on("peer-check-hello", "a peer's hello is checked"),
    goes_on("peer-receive", "a frame of a peer is received"),
    goes_on("peer-decode", "a message of raft is decoded"),
    goes_on("peer-hand-over", "what peers sent is handed to the node"),
    // Clients.
    needed("door-accept", "a connection is accepted"),
    goes_on("session-accept", "a session stream begins"),
    goes_on("session-decode", "a frame of a client is decoded"),
    goes_on("session-drain", "what waits for a client is taken"),
    goes_on("session-encode", "a frame for a client is written"),
    goes_on("unary-apply", "a transaction without a session is proposed"),
    goes_on("unary-query", "a read without a session is answered"),
    goes_on("unary-watch", "a watch without a session is opened"),
    goes_on("admin-status", "the status is asked for"),
    goes_on("admin-members", "an administrator asks for a change of membership"),
    goes_on("admin-transfer", "an administrator asks for a transfer of leadership"),
    goes_on("admin-forward", "the leader is asked on behalf of an administrator"),
    goes_on("http-ready", "/readyz is answered"),
    goes_on("http-metrics", "/metrics is answered"),
    between("status-watch", "the health service is told of the status"),
    // The stop.
    needed("stop-hand-over", "leadership is handed over before a stop"),
    between("stop-drain", "streams are told to go elsewhere before a stop"),
];

/// The place of a name in [`POINTS`].
///
/// # Panics
/// There is no such point: while compiling, for names in the source.
#[must_use]
pub const fn position(name: &str) -> usize {
    let mut at = 0;
    while at < POINTS.len() {
        if same(POINTS[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("a fail point that is not in POINTS");
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    a.len() == b.len()
}

#[cfg(feature = "faults")]
mod state {
    use std::{
        io,
        sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    };

    use super::POINTS;

    static ARMED: [AtomicBool; POINTS.len()] = [const { AtomicBool::new(false) }; POINTS.len()];
    static HITS: [AtomicU64; POINTS.len()] = [const { AtomicU64::new(0) }; POINTS.len()];

    /// A point that is armed, and how often it was come by since.
    #[derive(Clone, Copy, Debug)]
    pub struct Armed {
        /// Its name.
        pub name: &'static str,
        /// Times, whether or not something was done then.
        pub hits: u64,
    }

    /// Does what this point is told to do. The text of `return` is given back.
    #[doc(hidden)]
    pub fn hit(at: usize) -> Option<String> {
        if !ARMED[at].load(Relaxed) {
            return None;
        }
        let name = POINTS[at].name;
        if HITS[at].fetch_add(1, Relaxed) == 0 {
            // Said before it is done: the process may not live to say it after.
            eprintln!("fail point {name} is hit");
        }
        fail::eval(name, Option::unwrap_or_default)
    }

    /// The error that `return(what)` stands for.
    #[doc(hidden)]
    pub fn fails<T>(what: &str, make: impl FnOnce(io::Error) -> T) -> T {
        make(match what {
            "EIO" => io::Error::from_raw_os_error(5),
            "ENOSPC" => io::Error::from_raw_os_error(28),
            "ECONNRESET" => io::ErrorKind::ConnectionReset.into(),
            other => io::Error::other(format!("fail point: {other}")),
        })
    }

    /// Tells a point what to do (`off`; or, as the crate `fail` has it, `[p%][n*]panic|return(text)|sleep(ms)|…`) and
    /// begins to count anew.
    ///
    /// # Errors
    /// There is no such point, or no such action.
    pub fn arm(name: &str, actions: &str) -> Result<(), String> {
        let at = POINTS.iter().position(|point| point.name == name);
        let at = at.ok_or_else(|| format!("there is no fail point {name:?}; 'conclave-chaos points' lists them"))?;
        fail::cfg(name, actions).map_err(|error| format!("fail point {name}: {error}"))?;
        HITS[at].store(0, Relaxed);
        ARMED[at].store(actions.trim() != "off", Relaxed);
        Ok(())
    }

    /// As [`arm`], for a list: `name=actions;name=actions`, also one a line.
    ///
    /// # Errors
    /// As [`arm`]; those before the bad one are armed.
    pub fn arm_all(list: &str) -> Result<(), String> {
        for one in list.split([';', '\n']).map(str::trim).filter(|one| !one.is_empty()) {
            let (name, actions) =
                one.split_once('=').ok_or_else(|| format!("{one:?} is no fail point: expected name=actions"))?;
            arm(name.trim(), actions)?;
        }
        Ok(())
    }

    /// Arms what `FAILPOINTS` lists. To be called once, at the start.
    ///
    /// # Errors
    /// As [`arm_all`].
    pub fn arm_from_environment() -> Result<(), String> {
        match std::env::var("FAILPOINTS") {
            Ok(list) => arm_all(&list).map_err(|error| format!("FAILPOINTS: {error}")),
            Err(_) => Ok(()),
        }
    }

    /// Those that are armed.
    #[must_use]
    pub fn armed() -> Vec<Armed> {
        let each = POINTS.iter().enumerate().filter(|(at, _)| ARMED[*at].load(Relaxed));
        each.map(|(at, point)| Armed { name: point.name, hits: HITS[at].load(Relaxed) }).collect()
    }
}

#[cfg(not(feature = "faults"))]
mod state {
    /// There are no fail points in this build.
    ///
    /// # Errors
    /// `FAILPOINTS` is set: whoever did that believes otherwise.
    pub fn arm_from_environment() -> Result<(), String> {
        match std::env::var_os("FAILPOINTS") {
            Some(_) => Err("FAILPOINTS is set, but this build has no fail points: use the -faulty one".to_owned()),
            None => Ok(()),
        }
    }
}

pub use state::*;

/// What fails in a server at `name`, if it is told to: `point!("log-write")`, which may panic or sleep, or
/// `point!("log-write", |error| Err(error.into()))`, which may also return this from the function around it.
///
/// Nothing without the feature `faults`.
#[cfg(feature = "faults")]
#[macro_export]
macro_rules! point {
    ($name:literal) => {{
        const AT: usize = $crate::position($name);
        let _ = $crate::hit(AT);
    }};
    ($name:literal, $fails:expr) => {{
        const AT: usize = $crate::position($name);
        if let Some(what) = $crate::hit(AT) {
            return $crate::fails(&what, $fails);
        }
    }};
}

/// What fails in a server at `name`, if it is told to. Nothing without the feature `faults`, as here.
#[cfg(not(feature = "faults"))]
#[macro_export]
macro_rules! point {
    ($name:literal $(, $fails:expr)?) => {
        const _: usize = $crate::position($name);
    };
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// How often each point stands in the source below `dir`, and whether it can return an error there.
    fn places(dir: &Path, found: &mut BTreeMap<String, Vec<bool>>) {
        for item in fs::read_dir(dir).expect("a directory of the repository").flatten() {
            let path = item.path();
            if path.is_dir() {
                places(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                for place in text.split("point!(\"").skip(1) {
                    let (name, rest) = place.split_once('"').expect("a name ends");
                    found.entry(name.to_owned()).or_default().push(rest.starts_with(','));
                }
            }
        }
    }

    #[test]
    fn the_list_and_the_places_in_the_server_agree() {
        let mut found = BTreeMap::new();
        places(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../server/src"), &mut found);
        for point in POINTS {
            let places = found.remove(point.name).unwrap_or_default();
            assert_eq!(places.len(), 1, "{} has one place in the server's source", point.name);
            assert_eq!(places[0], point.error.is_some(), "{}: whether it can fail with an error", point.name);
        }
        assert!(found.is_empty(), "in the source and not in POINTS: {:?}", found.keys());
        assert!(POINTS.len() >= 60);
    }

    #[test]
    fn names_are_unique_and_say_where() {
        for (at, point) in POINTS.iter().enumerate() {
            assert_eq!(position(point.name), at, "{} is there twice", point.name);
            assert!(point.name.contains('-') && point.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
            assert!(!point.about.is_empty() && !point.about.ends_with('.'));
        }
    }

    #[cfg(feature = "faults")]
    #[test]
    fn an_armed_point_counts_and_fails_and_another_does_nothing() {
        fn write() -> std::io::Result<u32> {
            point!("log-write", Err);
            Ok(1)
        }
        assert_eq!(write().expect("nothing is armed"), 1);
        arm_all("log-write = 2*return(EIO)\n state-write=off;").expect("good");
        assert_eq!(write().expect_err("armed").raw_os_error(), Some(5));
        assert!(write().is_err());
        assert_eq!(write().expect("twice only"), 1);
        let armed = armed();
        assert_eq!((armed.len(), armed[0].name, armed[0].hits), (1, "log-write", 3));
        arm("log-write", "off").expect("good");
        assert!(super::armed().is_empty());
        for (bad, words) in [("no-such=panic", "no-such"), ("log-write", "name=actions"), ("log-write=x", "log-write")]
        {
            let error = arm_all(bad).expect_err(bad);
            assert!(error.contains(words), "{words:?} is not in {error:?}");
        }
    }
}
