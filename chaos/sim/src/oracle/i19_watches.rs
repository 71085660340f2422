//! I19: watches are ordered, unique, atomic per revision, reliable, resumable, and never ahead of or behind the reply that
//! reveals the change.

use std::collections::BTreeMap;

use conclave_proto::NodePath;

use super::{Found, Oracle, Seen, canon::Canon};
use crate::{
    client::seen::{ClientSeen, Scope},
    time::{Micros, SECOND},
};

/// A watch of a healthy session lags no longer than this.
const WITHIN: Micros = 5 * SECOND;

struct Watched {
    path: NodePath,
    scope: Scope,
    /// The first revision not told.
    next: u64,
}

/// See the module.
#[derive(Default)]
pub struct Watches {
    canon: Canon,
    /// When revisions were made, now and then.
    made: Vec<(Micros, u64)>,
    open: BTreeMap<u64, Watched>,
    quiet: Vec<u64>,
    told: u64,
}

impl Watches {
    pub(super) fn new(canon: Canon) -> Self {
        Self { canon, ..Self::default() }
    }
}

impl Oracle for Watches {
    fn name(&self) -> &'static str {
        "I19"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Applied { applied, .. } => {
                if let Some(changes) = &applied.changes {
                    self.canon.changed(changes);
                    self.made.push((at, changes.revision.0));
                }
            }
            Seen::Client(ClientSeen::WatchOpened { watch, path, scope, asked, next }) => {
                if asked.is_some_and(|asked| asked != *next) {
                    found.push("I19", at, format!("a watch asked for from {asked:?} begins at revision {next}"));
                }
                self.open.insert(*watch, Watched { path: path.clone(), scope: *scope, next: *next });
            }
            Seen::Client(ClientSeen::WatchTold { watch, revision, events }) => {
                let Some(watched) = self.open.get_mut(watch) else { return };
                self.told += 1;
                let due = self.canon.first_for(&watched.path, watched.scope, watched.next);
                if due.as_ref() != Some(&(*revision, events.clone())) {
                    let (path, scope, next) = (&watched.path, watched.scope, watched.next);
                    let why = format!(
                        "a watch of {path} ({scope:?}) was to tell next from revision {next}: {due:?}; it tells of \
                         revision {revision}: {events:?}"
                    );
                    found.push("I19", at, why);
                }
                watched.next = watched.next.max(revision + 1);
            }
            Seen::Client(ClientSeen::WatchBeside { watch, revision }) => {
                let Some(watched) = self.open.get(watch) else { return };
                if let Some((due, _)) = self.canon.first_for(&watched.path, watched.scope, watched.next)
                    && due <= *revision
                {
                    let why = format!(
                        "a reply reflects revision {revision}, and a watch of {} ({:?}) on the same session has not \
                         told of revision {due}",
                        watched.path, watched.scope
                    );
                    found.push("I19", at, why);
                }
            }
            Seen::Client(ClientSeen::WatchEnded { watch }) => drop(self.open.remove(watch)),
            Seen::Client(ClientSeen::WatchQuiet { watch }) => self.quiet.push(*watch),
            Seen::Settled { whole } if whole + WITHIN <= at => self.settled(at, found),
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.told
    }
}

impl Watches {
    fn settled(&mut self, at: Micros, found: &mut Found) {
        let old = self.made.iter().rev().find(|(when, _)| when + WITHIN <= at).map_or(0, |(_, revision)| *revision);
        for watch in &self.quiet {
            let Some(watched) = self.open.get(watch) else { continue };
            if let Some((due, _)) = self.canon.first_for(&watched.path, watched.scope, watched.next)
                && due <= old
            {
                let (path, scope) = (&watched.path, watched.scope);
                found.push("I19", at, format!("a watch of {path} ({scope:?}) never told of revision {due}"));
            }
        }
    }
}
