//! I13: no herd: a release causes O(1) events. A server wakes no more queue watches by an entry than it grants.

use super::{Found, Oracle, Seen};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct NoHerd {
    woken: u64,
}

impl Oracle for NoHerd {
    fn name(&self) -> &'static str {
        "I13"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Woke { woken, grants } = seen else { return };
        self.woken += woken;
        if let Some(grants) = grants
            && woken > grants
        {
            found.push("I13", at, format!("an entry that grants {grants} woke {woken}"));
        }
    }

    fn exercised(&self) -> u64 {
        self.woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_is_found() {
        let (mut oracle, mut found) = (NoHerd::default(), Found::default());
        for (woken, grants, broken) in
            [(1, Some(1), 0), (2, Some(3), 0), (5, None, 0), (0, Some(0), 0), (2, Some(1), 1)]
        {
            oracle.see(1, &Seen::Woke { woken, grants }, &mut found);
            assert_eq!(found.0.len(), broken, "{woken} {grants:?}: {found:?}");
        }
        assert_eq!(oracle.exercised(), 10);
    }
}
