//! I19: what each watch told is what the replicas have from its beginning to its end: in order, none twice, none missing,
//! all of one revision together; and where it was resumed nothing fell between.

use std::collections::BTreeMap;

use super::Found;
use crate::{
    client::{Change, Happened},
    judge::evidence::Evidence,
};

/// One watch, from its opening to its end.
struct Watch<'a> {
    path: &'a str,
    children: bool,
    /// The first revision it had to tell of, and the first it had not.
    from: u64,
    next: Option<u64>,
    seen: Vec<(u64, &'a [Change])>,
}

impl Watch<'_> {
    fn covers(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.path).and_then(|rest| rest.strip_prefix('/'));
        match below {
            Some(rest) => !self.children || !rest.contains('/'),
            None => !self.children && path == self.path,
        }
    }
}

pub fn told(evidence: &Evidence<'_>) -> Found {
    let mut watches: BTreeMap<(usize, &str), Watch<'_>> = BTreeMap::new();
    let mut resumed = 0;
    for (client, _, happened) in evidence.told() {
        match happened {
            Happened::Watching { watch, path, scope, from } => {
                let children = scope == "children";
                watches.insert((client, watch), Watch { path, children, from: *from, next: None, seen: Vec::new() });
            }
            Happened::Seen { watch, revision, changes } => {
                if let Some(watch) = watches.get_mut(&(client, watch.as_str())) {
                    watch.seen.push((*revision, changes));
                }
            }
            Happened::Unwatched { watch, next, error } => {
                resumed += u64::from(error.is_none());
                if let Some(watch) = watches.get_mut(&(client, watch.as_str())) {
                    watch.next = Some(*next);
                }
            }
            _ => {}
        }
    }
    let (replies, mut broken) = evidence.judged("I19");
    let Some(account) = evidence.audit.longest() else { return Found::nothing("no replica could be asked") };
    let mut met = 0;
    for ((client, name), watch) in &watches {
        met += watch.seen.len() as u64;
        if watch.from >= account.oldest && broken.is_none() {
            broken =
                against(watch, &account.changes).map(|what| format!("watch {name} of client {}: {what}", client + 1));
        }
    }
    let figures = match met {
        0 => "nothing was watched".to_owned(),
        _ => format!(
            "{} watches told of {met} revisions; {resumed} were resumed; {replies} replies had their event before them",
            watches.len()
        ),
    };
    Found::new(met, broken, figures)
}

/// How a watch differs from the account.
fn against(watch: &Watch<'_>, account: &[Change]) -> Option<String> {
    if let Some(pair) = watch.seen.windows(2).find(|pair| pair[1].0 <= pair[0].0) {
        return Some(format!("revision {} came after {}", pair[1].0, pair[0].0));
    }
    // One that was not ended tells nothing of what came after its last revision.
    let next = watch.next.unwrap_or_else(|| watch.seen.last().map_or(watch.from, |(revision, _)| revision + 1));
    let due = |change: &&Change| change.revision >= watch.from && change.revision < next && watch.covers(&change.path);
    let due: Vec<&Change> = account.iter().filter(due).collect();
    let mut due = due.chunk_by(|one, two| one.revision == two.revision);
    for (revision, changes) in &watch.seen {
        let told: Vec<&Change> = changes.iter().collect();
        match due.next() {
            Some(expected) if expected[0].revision == *revision && expected == told => {}
            Some(expected) if expected[0].revision < *revision => {
                return Some(format!("it did not tell of revision {}", expected[0].revision));
            }
            Some(expected) if expected[0].revision == *revision => {
                return Some(format!("of revision {revision} it told {} changes of {}", told.len(), expected.len()));
            }
            _ => return Some(format!("it told of revision {revision}, which is not one of its changes")),
        }
    }
    due.next().map(|missing| format!("it ended before {next} and did not tell of revision {}", missing[0].revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, path: &str) -> Change {
        Change {
            revision,
            kind: "changed".into(),
            path: path.into(),
            data: format!("{revision}"),
            owner: None,
            sequence: None,
            made: 1,
        }
    }

    fn verdict(seen: &[(u64, &[Change])], from: u64, next: Option<u64>) -> Option<String> {
        let account =
            [change(2, "/w/a"), change(2, "/w/b"), change(3, "/other"), change(4, "/w/a"), change(5, "/w/a/deep")];
        let watch = Watch { path: "/w", children: true, from, next, seen: seen.to_vec() };
        against(&watch, &account)
    }

    #[test]
    fn a_watch_that_told_all_passes_and_every_kind_of_lie_is_seen() {
        let (two, four) = ([change(2, "/w/a"), change(2, "/w/b")], [change(4, "/w/a")]);
        assert_eq!(verdict(&[(2, &two), (4, &four)], 1, Some(9)), None);
        assert_eq!(verdict(&[(2, &two)], 1, None), None, "it was cut short, and is owed nothing more");
        assert!(verdict(&[(4, &four), (2, &two)], 1, None).is_some_and(|why| why.contains("came after")));
        assert!(verdict(&[(2, &two), (2, &two)], 1, None).is_some_and(|why| why.contains("came after")));
        assert!(verdict(&[(4, &four)], 1, None).is_some_and(|why| why.contains("did not tell of revision 2")));
        assert!(verdict(&[(2, &two)], 1, Some(9)).is_some_and(|why| why.contains("did not tell of revision 4")));
        assert!(verdict(&[(2, &two[..1])], 1, None).is_some_and(|why| why.contains("1 changes of 2")));
        let other = [change(3, "/other")];
        assert!(verdict(&[(2, &two), (3, &other)], 1, None).is_some_and(|why| why.contains("not one of its")));
        assert!(verdict(&[(2, &two)], 3, None).is_some(), "it told of what was before its beginning");
    }
}
