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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::queues::QueueEvent;

    #[test]
    fn a_grant_out_of_order_is_found() {
        let (mut oracle, mut found) = (QueueOrder::default(), Found::default());
        oracle.see(1, &Seen::Queue(&QueueEvent::granted("/a", 5, false)), &mut found);
        assert_eq!(found.0, []);
        oracle.see(2, &Seen::Queue(&QueueEvent::granted("/a", 7, true)), &mut found);
        assert_eq!((found.0.len(), found.0[0].what, oracle.exercised()), (1, "I10", 2));
    }
}
