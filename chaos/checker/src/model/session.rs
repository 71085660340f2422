//! A session: `open`, `renew`, `close`, `expire`. The key names the session; its id is never issued again.
//!
//! * `open`: the value is the time to live in milliseconds, or null. Ok: the session began.
//! * `renew` ok: the session was open. Fail or info: nothing.
//! * `close`, `expire` ok: the session was open and ended; it ends once. `expire` is what the server reports.
//!
//! With times and a time to live, an expiry that returned earlier than that after the call of a renewal that it must
//! follow is refuted: the server may take its time, but never less than it promised.

use crate::{
    Function, Operation, Outcome, Value,
    check::Part,
    history::NO_TIME,
    model::{Role, Spec, admit_functions},
    shrink::name,
};

/// See the module.
pub struct Session;

/// A session between two operations.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum State {
    /// Not begun.
    #[default]
    New,
    /// Begun.
    Open {
        /// Nanoseconds; none if it was not told.
        ttl_ns: Option<i64>,
        /// Nanoseconds; the latest call of an opening or a renewal that has a time.
        renewed_ns: Option<i64>,
    },
    /// Over.
    Ended,
}

fn ttl_ns(operation: &Operation) -> Option<i64> {
    match (&operation.result, &operation.argument) {
        (Value::Int(ms), _) | (_, Value::Int(ms)) => ms.checked_mul(1_000_000),
        _ => None,
    }
}

fn called_ns(operation: &Operation) -> Option<i64> {
    (operation.called_ns != NO_TIME).then_some(operation.called_ns)
}

impl Spec for Session {
    type State = State;

    fn init(&self) -> State {
        State::New
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        match (operation.function, state) {
            (Function::Open, State::New) => {
                next.push(State::Open { ttl_ns: ttl_ns(operation), renewed_ns: called_ns(operation) });
            }
            (Function::Renew, State::Open { ttl_ns, renewed_ns }) => {
                next.push(State::Open { ttl_ns: *ttl_ns, renewed_ns: (*renewed_ns).max(called_ns(operation)) });
            }
            (Function::Close, State::Open { .. }) => next.push(State::Ended),
            (Function::Expire, State::Open { ttl_ns, renewed_ns }) => {
                let early = match (ttl_ns, renewed_ns) {
                    (Some(ttl), Some(renewed)) if operation.returned_ns != NO_TIME => {
                        operation.returned_ns < renewed.saturating_add(*ttl)
                    }
                    _ => false,
                };
                if !early {
                    next.push(State::Ended);
                }
            }
            _ => {}
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        match (operation.outcome, operation.function) {
            (Outcome::Ok, _) => Role::Must,
            // Nothing that was seen needs the session to be over, or a renewal: only an opening can have been missed.
            (Outcome::Unknown, Function::Open) => Role::May,
            _ => Role::Nothing,
        }
    }

    fn by_time(&self) -> bool {
        true
    }

    fn cause(&self, part: &Part<'_>, shown: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let named = name(part, culprit);
        let ends = |operation: &Operation| matches!(operation.function, Function::Close | Function::Expire);
        let other = |wanted: &dyn Fn(&Operation) -> bool| {
            let other = shown.iter().map(|(_, operation)| *operation).find(|other| *other != culprit && wanted(other));
            other.map(|other| name(part, other))
        };
        let opened = other(&|operation| operation.function == Function::Open && operation.precedes(culprit));
        let ended = other(&|operation| ends(operation) && operation.precedes(culprit));
        Some(match (culprit.function, ended, opened) {
            (Function::Open, _, Some(opened)) => format!("{named} has no place: {opened} had begun the session before"),
            (Function::Open, Some(ended), _) => format!("{named} has no place: {ended} had ended the session before"),
            (_, Some(ended), _) => format!("{named} has no place: {ended} had ended the session before"),
            (Function::Expire, None, _) => {
                let kept = other(&|operation| matches!(operation.function, Function::Open | Function::Renew));
                let kept = kept.map_or(String::new(), |kept| format!(": less than its time to live after {kept}"));
                format!("{named} has no place: the session was not open, or ended too early{kept}")
            }
            _ => format!("{named} has no place: the session was not open at any moment of it"),
        })
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        admit_functions(operation, &[Function::Open, Function::Renew, Function::Close, Function::Expire])
    }
}
