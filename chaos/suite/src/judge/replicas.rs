//! What the replicas said they have, each by itself: the evidence of the first layer.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use anyhow::Context as _;
use serde_json::json;

use super::line::{self, Member};
use crate::client::{Change, Happened, Told};

/// One replica's account.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Replica {
    /// Its place among the servers.
    pub server: usize,
    /// Nothing older is known to it.
    pub oldest: u64,
    /// In the order in which they were applied.
    pub changes: Vec<Change>,
}

/// Of all that could be asked.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Accounts.
    pub replicas: Vec<Replica>,
    /// Metrics by server.
    pub metrics: BTreeMap<usize, String>,
    /// Sessions (id, name) and holders and waiters (node, owner) that were left, once they had time to go.
    pub remains: Option<Remains>,
    /// What could not be had.
    pub troubles: Vec<String>,
}

/// Sessions (id, name), and holders and waiters (node, owner).
pub type Remains = (Vec<(u64, String)>, Vec<(String, Option<u64>)>);

impl Audit {
    /// Out of what the auditor told.
    #[must_use]
    pub fn of(told: Vec<Told>) -> Self {
        let mut audit = Self::default();
        let mut replicas: BTreeMap<usize, Replica> = BTreeMap::new();
        for told in told {
            match told.happened {
                Happened::Replica { server, oldest, changes } => {
                    let replica = replicas.entry(server).or_insert_with(|| Replica { server, ..Replica::default() });
                    replica.oldest = replica.oldest.max(oldest);
                    replica.changes.extend(changes);
                }
                Happened::Metrics { server, text } => drop(audit.metrics.insert(server, text)),
                Happened::Remains { sessions, members } => audit.remains = Some((sessions, members)),
                Happened::Trouble { error } => audit.troubles.push(error),
                _ => {}
            }
        }
        audit.replicas = replicas.into_values().collect();
        audit
    }

    /// The account that reaches back furthest.
    #[must_use]
    pub fn longest(&self) -> Option<&Replica> {
        self.replicas.iter().min_by_key(|replica| replica.oldest)
    }

    /// The first two accounts that differ where both know, in words.
    #[must_use]
    pub fn differs(&self) -> Option<String> {
        let first = self.replicas.first()?;
        self.replicas[1..].iter().find_map(|other| {
            // One may have been asked a little later, when something more had gone by itself.
            let newest = |replica: &Replica| replica.changes.last().map_or(0, |change| change.revision);
            let both = first.oldest.max(other.oldest)..=newest(first).min(newest(other));
            let known = |replica: &Replica| -> Vec<Change> {
                replica.changes.iter().filter(|change| both.contains(&change.revision)).cloned().collect()
            };
            let (one, two) = (known(first), known(other));
            if one == two {
                return None;
            }
            let at = one.iter().zip(&two).position(|(one, two)| one != two).unwrap_or(one.len().min(two.len()));
            let said = |changes: &[Change]| {
                changes.get(at).map_or("nothing more".to_owned(), |change| {
                    format!("{} {} at revision {}", change.path, change.kind, change.revision)
                })
            };
            let (this, that) = (first.server + 1, other.server + 1);
            Some(format!("server {this} has {}, server {that} has {}", said(&one), said(&two)))
        })
    }

    /// Writes each replica's account of the locks, and each server's metrics, into the folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        for replica in &self.replicas {
            let mut text = Vec::new();
            for member in line::members(&replica.changes) {
                for (revision, event) in member.story() {
                    let Member { lock, node, owner, made, .. } = &member;
                    let line = json!({"revision": revision, "lock": lock, "node": node, "session": owner, "token": made, "event": event});
                    writeln!(text, "{line}")?;
                }
            }
            let path = dir.join(format!("locks-server-{}.jsonl", replica.server + 1));
            std::fs::write(path, text).context("no file for a replica's locks")?;
        }
        for (server, text) in &self.metrics {
            let path = dir.join(format!("metrics-server-{}.txt", server + 1));
            std::fs::write(path, text).context("no file for metrics")?;
        }
        Ok(())
    }

    /// The sum of a counter over all servers, none if no server told of it. What a server counted before it was killed is
    /// not in it.
    #[must_use]
    pub fn counted(&self, counter: &str) -> Option<u64> {
        let of = |text: &String| {
            let line = text.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '))?;
            line.split(' ').next()?.parse::<f64>().ok()
        };
        let found: Vec<f64> = self.metrics.values().filter_map(of).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        (!found.is_empty()).then(|| found.iter().sum::<f64>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn change(revision: u64, path: &str) -> Change {
        Change {
            revision,
            kind: "created".into(),
            path: path.into(),
            data: String::new(),
            owner: None,
            sequence: None,
            made: revision,
        }
    }

    #[test]
    fn accounts_are_held_together_where_both_know() {
        let all = vec![change(1, "/a"), change(2, "/b"), change(3, "/c")];
        let one = Replica { server: 0, oldest: 1, changes: all.clone() };
        let late = Replica { server: 1, oldest: 2, changes: all[1..].to_vec() };
        let audit = |replicas: Vec<Replica>| Audit { replicas, ..Audit::default() };
        assert_eq!(audit(vec![one.clone(), late.clone()]).differs(), None);
        let mut bad = late.clone();
        bad.changes[1].path = "/d".into();
        let differs = audit(vec![one.clone(), bad]).differs().expect("they differ");
        assert_eq!(differs, "server 1 has /c created at revision 3, server 2 has /d created at revision 3");
        let mut gap = late.clone();
        gap.changes.remove(0);
        assert!(audit(vec![one.clone(), gap]).differs().is_some_and(|differs| differs.contains("/b created")));
        let early = Replica { changes: all[..2].to_vec(), ..one.clone() };
        assert_eq!(audit(vec![one, early]).differs(), None, "it was asked a little earlier");
    }

    #[test]
    fn a_counter_is_added_up_over_servers() {
        let text = |count: u64| format!("# HELP conclave_queue_ready x\nconclave_queue_ready_total {count}\n# EOF\n");
        let metrics = [(0, text(3)), (1, text(4))].into();
        let audit = Audit { metrics, ..Audit::default() };
        assert_eq!(audit.counted("conclave_queue_ready_total"), Some(7));
        assert_eq!(audit.counted("conclave_queue"), None);
    }
}
