//! What happened to the store, revision by revision, for those who compare it with what clients were told.

use std::{collections::BTreeMap, sync::Arc};

use conclave_proto::NodePath;
use conclave_state::RevisionChanges;
use parking_lot::Mutex;

use crate::client::seen::{Scope, Told};

/// All changes since the beginning of the run. Cheap to clone: all clones are one.
#[derive(Clone, Default)]
pub struct Canon(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    revisions: BTreeMap<u64, RevisionChanges>,
    /// Values of nodes by path: since which revision, and none for no node.
    values: BTreeMap<String, BTreeMap<u64, Option<String>>>,
    /// Where values written by clients were seen.
    written: BTreeMap<String, Vec<u64>>,
}

impl Canon {
    /// Another revision; told again, it changes nothing.
    pub fn changed(&self, changes: &RevisionChanges) {
        let revision = changes.revision.0;
        let this = &mut *self.0.lock();
        if this.revisions.contains_key(&revision) {
            return;
        }
        for change in changes.changes.iter().filter(|change| change.is_event()) {
            let value = change.after.as_ref().map(|node| String::from_utf8_lossy(&node.data).into_owned());
            if let Some(value) = value.as_ref().filter(|value| value.contains(':')) {
                this.written.entry(value.clone()).or_default().push(revision);
            }
            this.values.entry(change.path.to_string()).or_default().insert(revision, value);
        }
        this.revisions.insert(revision, changes.clone());
    }

    /// A node's value right after a revision.
    #[must_use]
    pub fn value_at(&self, path: &str, revision: u64) -> Option<String> {
        self.0.lock().values.get(path)?.range(..=revision).next_back()?.1.clone()
    }

    /// The revisions at which a value was written, anywhere.
    #[must_use]
    pub fn written(&self, value: &str) -> Vec<u64> {
        self.0.lock().written.get(value).cloned().unwrap_or_default()
    }

    /// The newest revision.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.lock().revisions.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// The first revision from `from` on that a watch must tell of, and what.
    #[must_use]
    pub fn first_for(&self, path: &NodePath, scope: Scope, from: u64) -> Option<(u64, Vec<Told>)> {
        self.0.lock().revisions.range(from..).find_map(|(revision, changes)| {
            let told: Vec<Told> = changes
                .changes
                .iter()
                .filter(|change| change.is_event() && covers(path, scope, &change.path))
                .map(|change| Told {
                    path: change.path.to_string(),
                    deleted: change.after.is_none(),
                    modified: change.after.as_ref().or(change.before.as_ref()).map_or(0, |node| node.modify_revision.0),
                })
                .collect();
            (!told.is_empty()).then_some((*revision, told))
        })
    }
}

fn covers(path: &NodePath, scope: Scope, changed: &NodePath) -> bool {
    match scope {
        Scope::Node => changed == path,
        Scope::Children => changed.parent().as_ref() == Some(path),
        Scope::Subtree => changed == path || changed.is_below(path),
    }
}
