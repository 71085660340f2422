//! At most one leader in a term (Raft, figure 3: election safety).

use std::collections::BTreeMap;

use super::{Found, Oracle, Seen};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<u64, u64>,
}

impl Oracle for OneLeader {
    fn name(&self) -> &'static str {
        "election"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Leads { server, term } = seen else { return };
        let first = *self.leaders.entry(*term).or_insert(*server);
        if first != *server {
            found.push("election", at, format!("servers {first} and {server} lead in term {term}"));
        }
    }

    fn exercised(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_in_a_term_are_found() {
        let (mut oracle, mut found) = (OneLeader::default(), Found::default());
        for (server, term, broken) in [(1, 2, 0), (2, 3, 0), (1, 2, 0), (1, 4, 0), (3, 3, 1)] {
            oracle.see(1, &Seen::Leads { server, term }, &mut found);
            assert_eq!(found.0.len(), broken, "{server} {term}: {found:?}");
        }
    }
}
