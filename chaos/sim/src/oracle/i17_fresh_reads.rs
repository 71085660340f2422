//! I17: linearizable reads are, also on a resumed old leader: a read that began after somebody was told of a revision shows
//! it, or a later one.

use super::{Found, Oracle, Seen};
use crate::time::Micros;

/// See the module.
#[derive(Default)]
pub struct FreshReads {
    reads: u64,
}

impl Oracle for FreshReads {
    fn name(&self) -> &'static str {
        "I17"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Read { server, revision, told } = seen else { return };
        self.reads += 1;
        if revision < told {
            let why = format!("a read at server {server} shows revision {revision}, {told} had been answered before");
            found.push("I17", at, why);
        }
    }

    fn exercised(&self) -> u64 {
        self.reads
    }
}
