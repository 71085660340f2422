//! A history in columns: one base64 text for each, of numbers of variable length (LEB128: seven bits a byte, low ones
//! first), differences where that makes them small.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::{Lane, MAX_OFFENDING, MAX_REFUTATIONS, Report, State, holds, text, text::Texts};
use crate::{
    Function, History, Operation, Outcome, Value,
    history::{NEVER, NO_TIME},
};

/// Largest time after the first, in nanoseconds: 52 days, exact in a double however it is shifted or halved.
const MAX_NS: i64 = 1 << 52;

#[derive(Default)]
struct Column(Vec<u8>);

impl Column {
    fn push(&mut self, mut number: u64) {
        while number >= 128 {
            self.0.push(number.to_le_bytes()[0] | 128);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    /// Zigzag: 0, -1, 1, -2 … become 0, 1, 2, 3 …
    fn push_signed(&mut self, number: i64) {
        self.push((number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
    }

    fn json(&self) -> Json {
        Json::String(STANDARD.encode(&self.0))
    }
}

/// The clock of a page: nanoseconds since the earliest moment.
struct Clock {
    first_ns: i64,
    /// Times by position, filled from operations and made to never fall; empty if the history has none.
    at: Vec<i64>,
}

impl Clock {
    fn new(history: &History, lanes: &[Lane]) -> Self {
        let timed = |operation: &Operation| {
            operation.called_ns != NO_TIME && (operation.returned == NEVER || operation.returned_ns != NO_TIME)
        };
        if history.operations.is_empty() || !history.operations.iter().all(timed) {
            return Self { first_ns: 0, at: Vec::new() };
        }
        let operations = history.operations.iter().flat_map(|operation| [operation.called_ns, operation.returned_ns]);
        let faults = history.faults.iter().flat_map(|fault| [fault.from_ns, fault.until_ns]);
        let spans = lanes.iter().flat_map(|lane| lane.spans.iter().map(|span| span.from_ns));
        let points = lanes.iter().flat_map(|lane| lane.points.iter().map(|point| point.at_ns));
        let all = operations.chain(faults).chain(spans).chain(points);
        let first_ns = all.filter(|&ns| ns != NO_TIME).min().unwrap_or(0);
        let mut clock = Self { first_ns, at: vec![-1; history.events as usize + 1] };
        for operation in &history.operations {
            clock.note(operation.called, operation.called_ns);
            clock.note(operation.returned, operation.returned_ns);
        }
        let mut latest = 0;
        for at in &mut clock.at {
            latest = latest.max(*at);
            *at = latest;
        }
        clock
    }

    fn timed(&self) -> bool {
        !self.at.is_empty()
    }

    fn note(&mut self, position: u32, ns: i64) {
        let since = self.since(ns);
        if let Some(at) = self.at.get_mut(position as usize) {
            *at = since;
        }
    }

    fn since(&self, ns: i64) -> i64 {
        if ns == NO_TIME { 0 } else { ns.saturating_sub(self.first_ns).clamp(0, MAX_NS) }
    }

    /// A time that may be missing, from its position then.
    fn of(&self, ns: i64, position: u32) -> i64 {
        if ns == NO_TIME { self.at.get(position as usize).copied().unwrap_or(0) } else { self.since(ns) }
    }
}

/// Everything the scripts draw.
pub fn json(report: &Report<'_>) -> Json {
    let history = report.history;
    let clock = Clock::new(history, report.lanes);
    let holds = holds::find(history);
    let mut texts = Texts::fitting(|each| {
        for operation in &history.operations {
            each(&operation.argument);
            each(&operation.result);
        }
    });
    let label = |value: &Value| text::of_value(value, 80);
    json!({
        "count": history.operations.len(),
        "events": history.events,
        "timed": clock.timed(),
        "processes": history.processes.iter().map(label).collect::<Vec<_>>(),
        "keys": history.keys.iter().map(|key| (*key != Value::Null).then(|| label(key))).collect::<Vec<_>>(),
        "functions": Function::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>(),
        "operations": operations(history, &clock, &mut texts),
        "holds": hold_columns(&holds, &mut texts),
        "texts": texts.all,
        "faults": history.faults.iter().map(|fault| json!({
            "what": text::visible(&fault.what),
            "target": text::visible(&fault.target),
            "order": [fault.from, (fault.until != NEVER).then_some(fault.until)],
            "time": [clock.of(fault.from_ns, fault.from),
                     (fault.until != NEVER).then(|| clock.of(fault.until_ns, fault.until))],
        })).collect::<Vec<_>>(),
        "lanes": if clock.timed() { lanes(report.lanes, &clock) } else { json!([]) },
        "refutations": super::page::refutations(report).iter().take(MAX_REFUTATIONS).filter_map(|refutation| {
            let mut operations = framed(&refutation.operations, refutation.culprit);
            operations.retain(|&at| (at as usize) < history.operations.len());
            // Nothing to frame without a culprit.
            operations.contains(&refutation.culprit).then(|| json!({
                "key": refutation.key,
                "operations": operations,
                "culprit": refutation.culprit,
                "cause": text::visible(&refutation.cause),
            }))
        }).collect::<Vec<_>>(),
        "replay": report.replay,
    })
}

fn operations(history: &History, clock: &Clock, texts: &mut Texts) -> Json {
    let mut columns: [Column; 10] = Default::default();
    let (mut last_position, mut last_ns) = (0, 0);
    for operation in &history.operations {
        let [process, key, function, outcome, called, returned, called_ns, returned_ns, argument, result] =
            &mut columns;
        process.push(operation.process.into());
        key.push(operation.key.into());
        let known = Function::ALL.iter().position(|(function, _)| *function == operation.function);
        function.push(known.unwrap_or(0) as u64);
        outcome.push(match operation.outcome {
            Outcome::Ok => 0,
            Outcome::Fail => 1,
            Outcome::Unknown => 2,
        });
        called.push_signed(i64::from(operation.called) - last_position);
        last_position = operation.called.into();
        // 0 for never.
        let open = operation.returned == NEVER;
        returned.push(if open { 0 } else { operation.returned.saturating_sub(operation.called).max(1).into() });
        if clock.timed() {
            let from = clock.since(operation.called_ns);
            called_ns.push_signed(from - last_ns);
            last_ns = from;
            let until = if open { from } else { clock.since(operation.returned_ns) };
            returned_ns.push_signed(until - from);
        }
        argument.push(texts.number(&operation.argument).into());
        result.push(texts.number(&operation.result).into());
    }
    let names = [
        "process",
        "key",
        "function",
        "outcome",
        "called",
        "returned",
        "called_ns",
        "returned_ns",
        "argument",
        "result",
    ];
    names.iter().zip(&columns).map(|(name, column)| ((*name).to_owned(), column.json())).collect()
}

fn hold_columns(holds: &[holds::Hold], texts: &mut Texts) -> Json {
    let mut columns: [Column; 5] = Default::default();
    let mut last = 0;
    for hold in holds {
        let [acquire, release, token, shared, sure] = &mut columns;
        acquire.push_signed(i64::from(hold.acquire) - last);
        last = hold.acquire.into();
        release.push(hold.release.map_or(0, |release| u64::from(release) + 1));
        token.push(texts.number(&hold.token).into());
        shared.push(hold.shared.into());
        sure.push(hold.sure.into());
    }
    let [acquire, release, token, shared, sure] = columns.each_ref().map(Column::json);
    json!({ "count": holds.len(), "acquire": acquire, "release": release, "token": token, "shared": shared, "sure": sure })
}

fn lanes(lanes: &[Lane], clock: &Clock) -> Json {
    let state = |state: State| match state {
        State::Follower => "follower",
        State::Candidate => "candidate",
        State::Leader => "leader",
        State::Paused => "paused",
        State::Down => "down",
        State::Other => "other",
    };
    let lane = |lane: &Lane| {
        json!({
            "name": text::visible(&lane.name),
            "spans": lane.spans.iter().map(|span| json!([
                state(span.state),
                clock.since(span.from_ns),
                span.until_ns.map(|until| clock.since(until)),
                text::visible(&span.text),
            ])).collect::<Vec<_>>(),
            "points": lane.points.iter()
                .map(|point| json!([clock.since(point.at_ns), text::visible(&point.text)]))
                .collect::<Vec<_>>(),
        })
    };
    lanes.iter().map(lane).collect()
}

/// The operations that are framed: bounded by [`MAX_OFFENDING`], the culprit always among them.
pub fn framed(operations: &[u32], culprit: u32) -> Vec<u32> {
    let mut framed: Vec<u32> = operations.iter().copied().take(MAX_OFFENDING).collect();
    if !framed.contains(&culprit) {
        framed.pop_if(|_| operations.len() > MAX_OFFENDING);
        framed.push(culprit);
        framed.sort_unstable();
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(column: &Column) -> Vec<u64> {
        let mut numbers = Vec::new();
        let (mut number, mut shift) = (0, 0);
        for byte in &column.0 {
            number |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                numbers.push(number);
                (number, shift) = (0, 0);
            }
        }
        numbers
    }

    proptest::proptest! {
        #[test]
        fn numbers_come_back(numbers: Vec<u64>, signed: Vec<i64>) {
            let mut column = Column::default();
            numbers.iter().for_each(|&number| column.push(number));
            proptest::prop_assert_eq!(read(&column), numbers);
            let mut column = Column::default();
            signed.iter().for_each(|&number| column.push_signed(number));
            let back: Vec<i64> =
                read(&column).iter().map(|&n| (n >> 1).cast_signed() ^ -((n & 1).cast_signed())).collect();
            proptest::prop_assert_eq!(back, signed);
        }
    }

    #[test]
    fn the_culprit_is_always_framed() {
        assert_eq!(framed(&[1, 2], 2), [1, 2]);
        assert_eq!(framed(&[4, 9], 7), [4, 7, 9]);
        let many: Vec<u32> = (0..2_000).collect();
        let framed = framed(&many, 1_999);
        assert!(framed.len() == MAX_OFFENDING && framed.ends_with(&[1_999]));
    }
}
