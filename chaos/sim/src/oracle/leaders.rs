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
