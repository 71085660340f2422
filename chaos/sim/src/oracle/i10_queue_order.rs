//! I10: among waiters continuously alive, grants follow queue order.

use super::{Found, Oracle, Seen, queues::Kind};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct QueueOrder {
    grants: u64,
}

impl Oracle for QueueOrder {
    fn name(&self) -> &'static str {
        "I10"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Queue(event) = seen else { return };
        if let Kind::Granted { overtook, .. } = event.kind {
            self.grants += 1;
            if overtook {
                found.push("I10", at, format!("{} is granted before one that got in line earlier", event.node));
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.grants
    }
}
