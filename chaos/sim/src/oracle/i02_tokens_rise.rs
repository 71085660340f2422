//! I2: tokens of a lock strictly rise with each grant: across leader changes, restarts, snapshots, deletion and
//! re-creation of the lock.

use std::collections::BTreeMap;

use conclave_proto::NodePath;

use super::{Found, Oracle, Seen, queues::Kind};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct TokensRise {
    /// Of every lock there ever was.
    last: BTreeMap<NodePath, u64>,
    risen: u64,
}

impl Oracle for TokensRise {
    fn name(&self) -> &'static str {
        "I2"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Queue(event) = seen else { return };
        if !matches!(event.kind, Kind::Granted { .. }) {
            return;
        }
        if let Some(last) = self.last.insert(event.lock.clone(), event.token) {
            self.risen += 1;
            if event.token <= last {
                found.push("I2", at, format!("{} gets token {} after {last}", event.node, event.token));
            }
        }
    }

    fn exercised(&self) -> u64 {
        self.risen
    }
}
