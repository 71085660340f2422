//! I5: a fenced resource never accepts a token below one it has accepted.

use std::collections::BTreeMap;

use super::{Found, Oracle, Seen};
use crate::{client::seen::ClientSeen, time::Micros};

/// See the module.
#[derive(Default)]
pub struct Fence {
    highest: BTreeMap<u8, u64>,
    judged: u64,
}

impl Oracle for Fence {
    fn name(&self) -> &'static str {
        "I5"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Client(ClientSeen::Touched { resource, token, accepted }) = seen else { return };
        let highest = self.highest.entry(*resource).or_default();
        if *token < *highest {
            self.judged += 1;
            if *accepted {
                let why = format!("resource {resource} accepted token {token:x} after {highest:x}");
                found.push("I5", at, why);
            }
        } else if !accepted {
            let why = format!("resource {resource} refused token {token:x}, the highest before it was {highest:x}");
            found.push("I5", at, why);
        }
        if *accepted {
            *highest = (*highest).max(*token);
        }
    }

    fn exercised(&self) -> u64 {
        self.judged
    }
}
