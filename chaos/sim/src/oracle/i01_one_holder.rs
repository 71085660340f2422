//! I1: at most one holder per lock at each log index (N permits for a semaphore; one writer or many readers).

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::NodePath;

use super::{
    Found, Oracle, Seen,
    queues::{Claim, Kind},
};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct OneHolder {
    holders: BTreeMap<NodePath, BTreeMap<NodePath, Claim>>,
    grants: u64,
}

impl Oracle for OneHolder {
    fn name(&self) -> &'static str {
        "I1"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Queue(event) = seen else { return };
        match event.kind {
            Kind::Granted { claim, .. } => {
                self.grants += 1;
                let holders = self.holders.entry(event.lock.clone()).or_default();
                let before: BTreeSet<&str> = holders.keys().map(NodePath::as_str).collect();
                let fits = match claim {
                    Claim::Exclusive => holders.is_empty(),
                    Claim::Shared => holders.values().all(|other| *other == Claim::Shared),
                    Claim::Permit(permits) => holders.len() < permits as usize,
                };
                if !fits {
                    found.push("I1", at, format!("{} is granted while {before:?} hold", event.node));
                }
                holders.insert(event.node.clone(), claim);
            }
            Kind::Left { .. } => {
                if let Some(holders) = self.holders.get_mut(&event.lock) {
                    holders.remove(&event.node);
                }
            }
            Kind::Misplaced => {
                found.push("I1", at, format!("the state machine is wrong about the place of {}", event.node));
            }
            Kind::Enqueued => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.grants
    }
}
