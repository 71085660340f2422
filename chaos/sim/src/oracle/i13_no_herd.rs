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
