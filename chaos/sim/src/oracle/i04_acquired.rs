//! I4: an acquire that reports ok was valid at some point between its call and its return, and is so when it returns, by the
//! client's own clock: the session is looked at after the wait.

use std::collections::BTreeMap;

use super::{Found, Oracle, Seen, queues::Kind};
use crate::{
    client::seen::ClientSeen,
    time::{MS, Micros},
};

/// See the module.
#[derive(Default)]
pub struct Acquired {
    /// By token: when it was granted, and when that ended.
    granted: BTreeMap<u64, (Micros, Option<Micros>)>,
    judged: u64,
}

impl Oracle for Acquired {
    fn name(&self) -> &'static str {
        "I4"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Queue(event) => match event.kind {
                Kind::Granted { .. } => drop(self.granted.insert(event.token, (at, None))),
                Kind::Left { .. } => {
                    if let Some((_, left)) = self.granted.get_mut(&event.token) {
                        left.get_or_insert(at);
                    }
                }
                _ => {}
            },
            Seen::Client(ClientSeen::Acquired { token, called, alive, .. }) => {
                self.judged += 1;
                if !alive {
                    let why = format!("an acquire returned a guard (token {token:x}) that said lost at once");
                    found.push("I4", at, why);
                }
                match self.granted.get(token) {
                    None => {
                        let why = format!("an acquire returned token {token:x}, which was granted to nobody");
                        found.push("I4", at, why);
                    }
                    Some((since, Some(until))) if until < called => {
                        let why = format!(
                            "an acquire called at {} ms returned token {token:x}, held from {} ms to {} ms",
                            called / MS,
                            since / MS,
                            until / MS
                        );
                        found.push("I4", at, why);
                    }
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }

    fn exercised(&self) -> u64 {
        self.judged
    }
}
