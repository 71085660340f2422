//! Sessions, the numbers of their requests, and the answers kept for retries.
//!
//! True after every applied entry: a session's answers are those of the numbers after `acknowledged` up to its
//! `last_number`. They are kept as they are stored, so that one of them costs a few bytes and no tree of values.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_faults::planted;
use conclave_proto::{RequestNumber, SessionId};

use crate::{
    By, Limits, Outcome, Refusal, Session,
    machine::Writes,
    records::{
        ANSWER_INLINE_BYTES_MAX, Key, ProgressRecord, SessionRecord, decode_answer, digest, encode, encode_answer,
    },
    txn::Budget,
};

/// What the gate says to a numbered request.
pub(crate) enum Admission {
    /// The next number: apply it.
    Fresh {
        /// What bounds its answer: its own bound, or what the session's kept answers leave.
        budget: Budget,
    },
    /// Not to be applied; this is the answer, which uses up no number.
    Answered(Outcome),
}

/// An answer and, if it has a record of its own that was written, that record's share of the hash.
#[derive(Clone, Debug)]
struct Answer {
    bytes: Box<[u8]>,
    digest: u128,
}

impl Answer {
    fn is_inline(&self) -> bool {
        self.bytes.len() <= ANSWER_INLINE_BYTES_MAX
    }
}

#[derive(Clone, Debug)]
struct State {
    session: Session,
    acknowledged: RequestNumber,
    /// Of the numbers after `acknowledged`.
    answers: VecDeque<Answer>,
    answers_bytes: u64,
    // Shares of the hash; 0 while not written.
    session_digest: u128,
    progress_digest: u128,
}

/// Which records of a session differ from what is stored.
#[derive(Clone, Copy, Debug, Default)]
struct Unsaved {
    session: bool,
    progress: bool,
}

/// All open sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, State>,
    answers: u64,
    unsaved: BTreeMap<SessionId, Unsaved>,
    /// Keys of written records that are no more.
    removed: BTreeSet<Vec<u8>>,
    sum: u128,
}

fn session_record(session: &Session) -> SessionRecord {
    SessionRecord {
        secret: session.secret,
        run: session.run,
        ttl_ms: session.ttl_ms,
        remaining_ms: session.remaining_ms,
        name: session.name.clone(),
        opened_revision: session.opened_revision,
        opened_ms: session.opened_ms,
    }
}

fn progress_record(state: &State) -> ProgressRecord {
    let stored = |answer: &Answer| {
        if answer.is_inline() { bytes::Bytes::copy_from_slice(&answer.bytes) } else { bytes::Bytes::new() }
    };
    ProgressRecord {
        acknowledged: state.acknowledged,
        last: state.session.last_number,
        answers: state.answers.iter().map(stored).collect(),
    }
}

impl State {
    fn number_at(&self, position: usize) -> RequestNumber {
        RequestNumber(self.acknowledged.0 + 1 + position as u64)
    }
}

impl Sessions {
    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.open.get(&id).map(|state| &state.session)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.open.values().map(|state| &state.session)
    }

    pub(crate) fn len(&self) -> u64 {
        self.open.len() as u64
    }

    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }

    // ------------------------------------------------------------------------------------------ changing

    pub(crate) fn open(&mut self, session: Session) {
        let id = session.id;
        self.unsaved.insert(id, Unsaved { session: true, progress: true });
        let other = self.open.insert(id, State::new(session));
        assert!(other.is_none(), "session id {id:x} was issued twice");
    }

    /// False if there is no such session.
    pub(crate) fn end(&mut self, id: SessionId) -> bool {
        let Some(state) = self.open.remove(&id) else { return false };
        self.answers -= state.answers.len() as u64;
        self.unsaved.remove(&id);
        self.forget_record(Key::Session(id), state.session_digest);
        self.forget_record(Key::Progress(id), state.progress_digest);
        for (position, answer) in state.answers.iter().enumerate() {
            self.forget_record(Key::Answer(id, state.number_at(position)), answer.digest);
        }
        true
    }

    fn forget_record(&mut self, key: Key, digest: u128) {
        if digest != 0 {
            self.sum = self.sum.wrapping_sub(digest);
            self.removed.insert(key.encode());
        }
    }

    /// What the next leader shall grant, at most the TTL. `None` if there is no such session.
    pub(crate) fn checkpoint(&mut self, id: SessionId, remaining_ms: u64) -> Option<u64> {
        let session = &mut self.open.get_mut(&id)?.session;
        let remaining_ms = remaining_ms.min(session.ttl_ms);
        if session.remaining_ms != remaining_ms {
            session.remaining_ms = remaining_ms;
            self.unsaved.entry(id).or_default().session = true;
        }
        Some(remaining_ms)
    }

    /// Another process speaks for the session from now on; false if it does already. `None` if there is no such session.
    pub(crate) fn take_over(&mut self, id: SessionId, run: u64) -> Option<bool> {
        let session = &mut self.open.get_mut(&id)?.session;
        let other = session.run != run;
        if other {
            session.run = run;
            self.unsaved.entry(id).or_default().session = true;
        }
        Some(other)
    }

    /// Whether a numbered request is to be applied.
    pub(crate) fn admit(&self, by: &By, limits: &Limits) -> Admission {
        let refused = |refusal| Admission::Answered(Outcome::Refused(refusal));
        let Some(state) = self.open.get(&by.session) else {
            return refused(Refusal::NoSession { session: by.session });
        };
        if by.run != state.session.run && !planted!(PredecessorHeard) {
            return refused(Refusal::TakenOver { session: by.session });
        }
        let (last, acknowledged) = (state.session.last_number, state.acknowledged);
        let expected = last.next();
        if by.number > expected {
            return refused(Refusal::OutOfOrder { number: by.number, expected });
        }
        if by.number <= acknowledged {
            return refused(Refusal::AnswerForgotten { number: by.number, acknowledged });
        }
        if by.number <= last && !planted!(NoDedup) {
            let position = by.number.0 - acknowledged.0 - 1;
            let answer = &state.answers[usize::try_from(position).expect("bounded by answers_max")];
            return Admission::Answered(decode_answer(&answer.bytes));
        }
        if by.acknowledged > last {
            let what = format!("acknowledged={} is beyond the last applied number={last}", by.acknowledged);
            return refused(Refusal::Invalid { what, op: None });
        }
        // The acknowledgement makes room before the answer takes it.
        let acknowledged = acknowledged.max(by.acknowledged);
        let asked = by.number.0 - acknowledged.0;
        if asked > u64::from(limits.answers_max) {
            let limit = "answers_max".to_owned();
            return refused(Refusal::Limit { limit, max: limits.answers_max.into(), asked, op: None });
        }
        let forgotten = usize::try_from(acknowledged.0 - state.acknowledged.0).expect("bounded by answers_max");
        let freed: u64 = state.answers.iter().take(forgotten).map(|answer| answer.bytes.len() as u64).sum();
        let kept = state.answers_bytes - freed;
        let budget = if limits.answers_bytes_max.saturating_sub(kept) < limits.answer_bytes_max {
            Budget { limit: "answers_bytes_max", max: limits.answers_bytes_max, used: kept }
        } else {
            Budget::of_one(limits)
        };
        Admission::Fresh { budget }
    }

    /// Uses up the number of a request that was admitted as fresh, and keeps its answer. (Not if the request ended
    /// its own session, which no numbered request does.)
    pub(crate) fn record(&mut self, by: &By, outcome: &Outcome) {
        let state = self.open.get_mut(&by.session).expect("it was admitted");
        if planted!(NoDedup) && by.number <= state.session.last_number {
            return;
        }
        assert_eq!(by.number, state.session.last_number.next(), "numbers are applied in order");
        let mut forgotten = Vec::new();
        while state.acknowledged < by.acknowledged {
            let answer = state.answers.pop_front().expect("admitted only up to the last");
            state.acknowledged = state.acknowledged.next();
            state.answers_bytes -= answer.bytes.len() as u64;
            self.answers -= 1;
            if answer.digest != 0 {
                forgotten.push((state.acknowledged, answer.digest));
            }
        }
        let bytes = encode_answer(outcome);
        state.answers_bytes += bytes.len() as u64;
        state.answers.push_back(Answer { bytes, digest: 0 });
        state.session.last_number = by.number;
        self.answers += 1;
        self.unsaved.entry(by.session).or_default().progress = true;
        for (number, digest) in forgotten {
            self.forget_record(Key::Answer(by.session, number), digest);
        }
    }

    // ------------------------------------------------------------------------------------------ storing

    /// Each record that differs from what is stored: the digest it had, its key and value.
    fn unsaved_records(id: SessionId, state: &State, unsaved: Unsaved, mut visit: impl FnMut(u128, Key, Vec<u8>)) {
        if unsaved.session {
            let value = encode(&session_record(&state.session), Vec::with_capacity(96));
            visit(state.session_digest, Key::Session(id), value);
        }
        if unsaved.progress {
            let value = encode(&progress_record(state), Vec::with_capacity(64));
            visit(state.progress_digest, Key::Progress(id), value);
            for (position, answer) in state.answers.iter().enumerate() {
                if !answer.is_inline() && answer.digest == 0 {
                    visit(0, Key::Answer(id, state.number_at(position)), answer.bytes.to_vec());
                }
            }
        }
    }

    /// The sum as it would be if everything were saved now.
    pub(crate) fn sum(&self) -> u128 {
        let mut sum = self.sum;
        for (&id, &unsaved) in &self.unsaved {
            Self::unsaved_records(id, &self.open[&id], unsaved, |old, key, value| {
                sum = sum.wrapping_sub(old).wrapping_add(digest(&key.encode(), &value));
            });
        }
        sum
    }

    /// Appends what changed since the last time.
    pub(crate) fn save(&mut self, writes: &mut Writes) {
        writes.extend(std::mem::take(&mut self.removed).into_iter().map(|key| (key, None)));
        while let Some((id, unsaved)) = self.unsaved.pop_first() {
            let state = self.open.get_mut(&id).expect("an ended session has nothing to save");
            let mut records = Vec::with_capacity(2);
            Self::unsaved_records(id, state, unsaved, |old, key, value| records.push((old, key, value)));
            for (old, key, value) in records {
                let encoded = key.encode();
                let new = digest(&encoded, &value);
                self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
                match key {
                    Key::Session(_) => state.session_digest = new,
                    Key::Progress(_) => state.progress_digest = new,
                    Key::Answer(_, number) => {
                        let position = usize::try_from(number.0 - state.acknowledged.0 - 1).expect("bounded");
                        state.answers[position].digest = new;
                    }
                    Key::History(_) | Key::Meta | Key::Node(_) => unreachable!("not a session's record"),
                }
                writes.push((encoded, Some(value)));
            }
        }
    }

    /// Puts back a session's record.
    pub(crate) fn restore(&mut self, id: SessionId, record: SessionRecord, digest: u128) {
        let SessionRecord { secret, run, ttl_ms, remaining_ms, name, opened_revision, opened_ms } = record;
        let last_number = RequestNumber(0);
        let session = Session { id, secret, run, ttl_ms, remaining_ms, name, opened_revision, opened_ms, last_number };
        let mut state = State::new(session);
        state.session_digest = digest;
        self.sum = self.sum.wrapping_add(digest);
        self.open.insert(id, state);
    }

    /// Puts back a session's numbers and answers, after its own record.
    pub(crate) fn restore_progress(
        &mut self,
        id: SessionId,
        record: ProgressRecord,
        own_digest: u128,
        apart: &mut BTreeMap<(SessionId, RequestNumber), Vec<u8>>,
    ) -> Result<(), String> {
        let state = self.open.get_mut(&id).ok_or_else(|| format!("progress of no session: {id:x}"))?;
        state.acknowledged = record.acknowledged;
        state.session.last_number = record.last;
        state.progress_digest = own_digest;
        self.sum = self.sum.wrapping_add(own_digest);
        if planted!(RestoreWithoutDedup) {
            state.session.last_number = record.acknowledged;
            return Ok(());
        }
        for (position, inline) in record.answers.into_iter().enumerate() {
            let number = state.number_at(position);
            let answer = if inline.is_empty() {
                let bytes =
                    apart.remove(&(id, number)).ok_or_else(|| format!("answer {number} of {id:x} is missing"))?;
                let digest = digest(&Key::Answer(id, number).encode(), &bytes);
                self.sum = self.sum.wrapping_add(digest);
                Answer { bytes: bytes.into_boxed_slice(), digest }
            } else {
                Answer { bytes: inline.to_vec().into_boxed_slice(), digest: 0 }
            };
            crate::records::decode::<Outcome>(&answer.bytes)
                .map_err(|why| format!("answer {number} of {id:x} cannot be read: {why}"))?;
            state.answers_bytes += answer.bytes.len() as u64;
            state.answers.push_back(answer);
            self.answers += 1;
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ checking

    /// Every invariant of sessions alone.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut answers = 0;
        for (id, state) in &self.open {
            let Session { last_number, ttl_ms, remaining_ms, .. } = &state.session;
            if state.acknowledged.0 + state.answers.len() as u64 != last_number.0 {
                return Err(format!("answers of {id:x} are not those after acknowledged up to last"));
            }
            if state.answers_bytes != state.answers.iter().map(|answer| answer.bytes.len() as u64).sum::<u64>() {
                return Err(format!("answers_bytes of {id:x} is wrong"));
            }
            if remaining_ms > ttl_ms {
                return Err(format!("remaining_ms of {id:x} is beyond its TTL"));
            }
            answers += state.answers.len() as u64;
        }
        if answers != self.answers {
            return Err(format!("{} answers counted, there are {answers}", self.answers));
        }
        Ok(())
    }
}

impl State {
    fn new(session: Session) -> Self {
        Self {
            session,
            acknowledged: RequestNumber(0),
            answers: VecDeque::new(),
            answers_bytes: 0,
            session_digest: 0,
            progress_digest: 0,
        }
    }
}
