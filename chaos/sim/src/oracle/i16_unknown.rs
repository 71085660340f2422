//! I16: an unknown outcome stays unknown: what was reported as done happened once, at the revision that was reported; what was
//! reported as certainly not done never happened; what was reported as unknown happened at most once.

use conclave_client::Effect;

use super::{End, Found, Oracle, Seen, canon::Canon};
use crate::{
    client::seen::{ClientSeen, Ended},
    time::Micros,
};

/// See the module.
pub struct Unknown {
    canon: Canon,
    writes: Vec<(Micros, String, Ended<u64>)>,
    unknown: u64,
}

impl Unknown {
    pub(super) fn new(canon: Canon) -> Self {
        Self { canon, writes: Vec::new(), unknown: 0 }
    }
}

impl Oracle for Unknown {
    fn name(&self) -> &'static str {
        "I16"
    }

    fn see(&mut self, at: Micros, seen: &Seen<'_>, _: &mut Found) {
        match seen {
            Seen::Applied { applied, .. } => {
                if let Some(changes) = &applied.changes {
                    self.canon.changed(changes);
                }
            }
            Seen::Client(ClientSeen::Wrote { value, ended, .. }) => {
                self.unknown += u64::from(matches!(ended, Ended::Failed(Effect::Unknown)));
                self.writes.push((at, value.clone(), ended.clone()));
            }
            _ => {}
        }
    }

    fn finish(&mut self, _: Micros, _: &End<'_>, found: &mut Found) {
        for (at, value, ended) in &self.writes {
            let name = value.split(':').next().unwrap_or_default();
            let seen = self.canon.written(value);
            let why = match ended {
                Ended::Ok(revision) if seen != [*revision] => {
                    format!("write {name} was reported done at revision {revision}, and was done at {seen:?}")
                }
                Ended::Failed(Effect::None) if !seen.is_empty() => {
                    format!("write {name} was reported as certainly not done, and was done at {seen:?}")
                }
                Ended::Failed(_) if seen.len() > 1 => {
                    format!("write {name}, whose outcome was unknown, was done at {seen:?}")
                }
                _ => continue,
            };
            found.push("I16", *at, why);
        }
    }

    fn exercised(&self) -> u64 {
        self.unknown
    }
}
