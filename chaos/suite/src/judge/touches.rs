//! L3: what the resource let in.

use std::collections::BTreeMap;

use crate::resource::Logged;

/// What its log comes to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Touches {
    /// Writes let in.
    pub writes: u64,
    /// Writes whose effect is gone: another one began with the same value.
    pub lost: u64,
    /// Touches let in after one with a larger token.
    pub backwards: u64,
    /// The first that is wrong, in words.
    pub first: Option<String>,
}

/// Reads the log.
#[must_use]
pub fn touches(log: &[Logged]) -> Touches {
    let mut found = Touches::default();
    let mut tokens: BTreeMap<&str, i64> = BTreeMap::new();
    let mut written: BTreeMap<(&str, i64), &Logged> = BTreeMap::new();
    for touch in log {
        if let Some(token) = touch.token {
            let seen = tokens.entry(&touch.key).or_insert(token);
            if token < *seen {
                found.backwards += 1;
                found.first.get_or_insert_with(|| {
                    format!("{} touched {} with token {token} after {seen} had been seen", touch.client, touch.key)
                });
            }
            *seen = token.max(*seen);
        }
        if touch.write {
            found.writes += 1;
            if let Some(first) = written.insert((&touch.key, touch.value), touch) {
                found.lost += 1;
                found.first.get_or_insert_with(|| {
                    format!(
                        "{} and {} both made {} out of {} at {}: one update is lost",
                        first.client,
                        touch.client,
                        touch.value,
                        touch.value - 1,
                        touch.key
                    )
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(client: &str, token: i64, write: bool, value: i64) -> Logged {
        Logged { key: "a".into(), client: client.into(), token: Some(token), write, value, at_ns: 0 }
    }

    #[test]
    fn a_late_write_is_a_lost_update_and_a_token_that_runs_backwards() {
        let good =
            [touch("one", 5, false, 0), touch("one", 5, true, 1), touch("two", 6, false, 1), touch("two", 6, true, 2)];
        assert_eq!(touches(&good), Touches { writes: 2, ..Touches::default() });
        let bad =
            [touch("one", 5, false, 0), touch("two", 6, false, 0), touch("two", 6, true, 1), touch("one", 5, true, 1)];
        let found = touches(&bad);
        assert_eq!((found.writes, found.lost, found.backwards), (2, 1, 1), "{found:?}");
    }
}
