//! Accounts: at every revision their total is the same, and no transfer is there twice.

use std::collections::BTreeMap;

use super::Found;
use crate::{
    client::{
        Change,
        bank::{ACCOUNTS, TRANSFERS},
    },
    judge::evidence::Evidence,
};

pub fn total(evidence: &Evidence<'_>) -> Found {
    let Some(account) = evidence.audit.longest() else { return Found::nothing("no replica could be asked") };
    let (reads, seen) = evidence.judged("bank");
    let (transfers, broken) = replay(&account.changes);
    Found::new(transfers, seen.or(broken), format!("{transfers} transfers, {reads} reads of all accounts at once"))
}

/// How many transfers there are, and the first revision at which something is wrong.
fn replay(changes: &[Change]) -> (u64, Option<String>) {
    let (mut balances, mut owed) = (BTreeMap::<&str, i64>::new(), None);
    let mut paid: BTreeMap<&str, u64> = BTreeMap::new();
    let below = |path: &'_ str, folder: &str| path.rsplit_once('/').is_some_and(|(parent, _)| parent.ends_with(folder));
    for revision in changes.chunk_by(|one, two| one.revision == two.revision) {
        let at = revision[0].revision;
        for change in revision {
            if below(&change.path, ACCOUNTS) {
                balances.insert(&change.path, change.data.parse().unwrap_or(0));
            }
            if below(&change.path, TRANSFERS)
                && change.kind == "created"
                && let Some(before) = paid.insert(&change.path, at)
            {
                return (paid.len() as u64, Some(format!("{} was paid at revisions {before} and {at}", change.path)));
            }
        }
        let total: i64 = balances.values().sum();
        // All accounts are opened at one revision.
        if balances.is_empty() {
            continue;
        }
        let owed = *owed.get_or_insert(total);
        if total != owed {
            return (paid.len() as u64, Some(format!("at revision {at} all accounts had {total}, not {owed}")));
        }
    }
    (paid.len() as u64, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, kind: &str, path: &str, data: &str) -> Change {
        Change {
            revision,
            kind: kind.into(),
            path: format!("/chaos/bank/{path}"),
            data: data.into(),
            owner: None,
            sequence: None,
            made: 1,
        }
    }

    #[test]
    fn money_that_appears_and_a_transfer_paid_twice_are_seen() {
        let good = [
            change(1, "created", "accounts/a", "100"),
            change(1, "created", "accounts/b", "100"),
            change(2, "changed", "accounts/a", "95"),
            change(2, "changed", "accounts/b", "105"),
            change(2, "created", "transfers/7", "a b 5"),
        ];
        assert_eq!(replay(&good), (1, None));
        let half = replay(&[&good[..3], &good[4..]].concat()).1;
        assert_eq!(half.as_deref(), Some("at revision 2 all accounts had 195, not 200"));
        let again = change(3, "created", "transfers/7", "a b 5");
        assert!(replay(&[&good[..], &[again]].concat()).1.is_some_and(|why| why.contains("revisions 2 and 3")));
    }
}
