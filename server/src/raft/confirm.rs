//! Reads and renewals that wait for the leader to confirm its quorum.
//!
//! A *round* is one read index request: a context sent to the quorum with a heartbeat, and an index that comes back.
//! Everything that arrived before it was sent shares it. raft-rs drops such requests in silence (a leader that has
//! committed nothing in its term yet, a lost message), so a round that stays unanswered is given up and its asks go
//! into a new one, under a new context, until their own deadlines.

use std::collections::VecDeque;

use conclave_proto::{Index, SessionId};
use tokio::sync::oneshot;

use super::ConfirmError;

/// Rounds under way at once; what arrives meanwhile shares the next one.
const ROUNDS_MAX: usize = 2;
/// Milliseconds after which a round is given up.
const ROUND_MS_MAX: u64 = 150;

pub(super) type BarrierReply = oneshot::Sender<Result<Index, ConfirmError>>;
pub(super) type RenewReply = oneshot::Sender<Result<(), ConfirmError>>;

pub(super) struct Barrier {
    pub(super) deadline_ms: u64,
    pub(super) reply: BarrierReply,
}

pub(super) struct Renewal {
    pub(super) session: SessionId,
    /// When this leader received it: the session lives a TTL from then.
    pub(super) received_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) from: RenewedFrom,
}

pub(super) enum RenewedFrom {
    Here(RenewReply),
    There { server: u64, batch: u64 },
}

#[derive(Default)]
pub(super) struct Asks {
    pub(super) barriers: Vec<Barrier>,
    pub(super) renewals: Vec<Renewal>,
}

impl Asks {
    fn is_empty(&self) -> bool {
        self.barriers.is_empty() && self.renewals.is_empty()
    }

    fn len(&self) -> usize {
        self.barriers.len() + self.renewals.len()
    }

    fn merge(&mut self, mut other: Self) {
        self.barriers.append(&mut other.barriers);
        self.renewals.append(&mut other.renewals);
    }
}

struct Round {
    number: u64,
    sent_ms: u64,
    asks: Asks,
}

#[derive(Default)]
pub(super) struct Confirm {
    waiting: Asks,
    rounds: VecDeque<Round>,
    next_round: u64,
    /// Barriers whose index is known and not applied yet.
    behind: Vec<(u64, Barrier)>,
}

impl Confirm {
    /// Reads and renewals that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.behind.len() + self.rounds.iter().map(|round| round.asks.len()).sum::<usize>()
    }

    pub(super) fn barrier(&mut self, barrier: Barrier) {
        self.waiting.barriers.push(barrier);
    }

    pub(super) fn renewal(&mut self, renewal: Renewal) {
        self.waiting.renewals.push(renewal);
    }

    /// The number of a round to send now, if there is something to ask and room for it.
    pub(super) fn start_round(&mut self, now_ms: u64) -> Option<u64> {
        if self.waiting.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        let number = self.next_round;
        self.next_round += 1;
        let asks = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { number, sent_ms: now_ms, asks });
        Some(number)
    }

    /// The number of the round sent last.
    pub(super) fn latest(&self) -> u64 {
        self.next_round.saturating_sub(1)
    }

    /// A round came back. Its barriers wait for the index; its renewals are returned.
    pub(super) fn confirmed(&mut self, number: u64, index: u64) -> Vec<Renewal> {
        let Some(position) = self.rounds.iter().position(|round| round.number == number) else { return Vec::new() };
        let round = self.rounds.remove(position).expect("just found");
        self.behind.extend(round.asks.barriers.into_iter().map(|barrier| (index, barrier)));
        round.asks.renewals
    }

    /// Answers the barriers that applying has caught up with.
    pub(super) fn applied(&mut self, applied: u64) {
        if self.behind.is_empty() {
            return;
        }
        for (_, barrier) in self.behind.extract_if(.., |(index, _)| *index <= applied) {
            let _ = barrier.reply.send(Ok(Index(applied)));
        }
    }

    /// Leadership changed hands: rounds under way mean nothing any more. Returns the renewals, which may have to go
    /// elsewhere.
    pub(super) fn restart(&mut self) -> Vec<Renewal> {
        while let Some(round) = self.rounds.pop_front() {
            self.waiting.merge(round.asks);
        }
        std::mem::take(&mut self.waiting.renewals)
    }

    /// Gives up rounds that stayed unanswered and asks whose time is over.
    pub(super) fn tick(&mut self, now_ms: u64) {
        while self.rounds.front().is_some_and(|round| round.sent_ms + ROUND_MS_MAX <= now_ms) {
            let round = self.rounds.pop_front().expect("just seen");
            self.waiting.merge(round.asks);
        }
        for barrier in self.waiting.barriers.extract_if(.., |barrier| barrier.deadline_ms <= now_ms) {
            let _ = barrier.reply.send(Err(ConfirmError::Timeout));
        }
        for (_, barrier) in self.behind.extract_if(.., |(_, barrier)| barrier.deadline_ms <= now_ms) {
            let _ = barrier.reply.send(Err(ConfirmError::Timeout));
        }
        for renewal in self.waiting.renewals.extract_if(.., |renewal| renewal.deadline_ms <= now_ms) {
            if let RenewedFrom::Here(reply) = renewal.from {
                let _ = reply.send(Err(ConfirmError::Timeout));
            }
        }
    }

    /// Answers everything that has no leader to ask.
    pub(super) fn fail_waiting(&mut self, error: ConfirmError) {
        let asks = std::mem::take(&mut self.waiting);
        fail(asks, error);
    }

    pub(super) fn fail_all(&mut self, error: ConfirmError) {
        let _ = self.restart().into_iter().map(|renewal| self.waiting.renewals.push(renewal)).count();
        self.fail_waiting(error);
        for (_, barrier) in self.behind.drain(..) {
            let _ = barrier.reply.send(Err(error));
        }
    }
}

fn fail(asks: Asks, error: ConfirmError) {
    for barrier in asks.barriers {
        let _ = barrier.reply.send(Err(error));
    }
    for renewal in asks.renewals {
        if let RenewedFrom::Here(reply) = renewal.from {
            let _ = reply.send(Err(error));
        }
    }
}
