//! Who waits for which proposal.
//!
//! Keyed by the count in the entry's [`RequestId`](conclave_state::RequestId), never by order: after a change of
//! leader entries commit in an order nobody asked for, and some of them were never ours.

use std::collections::{HashMap, VecDeque};

use conclave_state::{Applied, Machine};

use super::{Answer, ProposeError};

#[derive(Default)]
pub(super) struct Waiters {
    waiting: HashMap<u64, Answer>,
    /// In the order of their deadlines, which all lie equally far ahead; those answered meanwhile are skipped.
    deadlines: VecDeque<(u64, u64)>,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn insert(&mut self, count: u64, deadline_ms: u64, answer: Answer) {
        let before = self.waiting.insert(count, answer);
        assert!(before.is_none(), "a count is given out once");
        self.deadlines.push_back((deadline_ms, count));
    }

    pub(super) fn applied(&mut self, count: u64, machine: &Machine, applied: &Applied) {
        if let Some(answer) = self.waiting.remove(&count) {
            answer(Ok((machine, applied)));
        }
    }

    pub(super) fn fail(&mut self, count: u64, error: ProposeError) {
        if let Some(answer) = self.waiting.remove(&count) {
            answer(Err(error));
        }
    }

    pub(super) fn fail_all(&mut self, error: ProposeError) {
        self.deadlines.clear();
        // In the order in which they were proposed, for whoever looks at it.
        let mut all: Vec<_> = self.waiting.drain().collect();
        all.sort_unstable_by_key(|(count, _)| *count);
        for (_, answer) in all {
            answer(Err(error));
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some(&(deadline_ms, count)) = self.deadlines.front() {
            if deadline_ms > now_ms && self.waiting.contains_key(&count) {
                break;
            }
            self.deadlines.pop_front();
            if deadline_ms <= now_ms {
                self.fail(count, ProposeError::Timeout);
            }
        }
    }
}
