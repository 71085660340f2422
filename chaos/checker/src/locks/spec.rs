//! Locks as a [`Spec`]: the fast way first, then the search.

use std::collections::BTreeSet;

use super::{
    object::{Deed, Object, State},
    rules::{Release, Rules, Saying},
    special::{self, Quick},
};
use crate::{
    Operation, Outcome, Refutation, Value, Verdict,
    check::Part,
    model::{Role, Spec},
    search::{self, Budget},
    shrink::name,
};

/// A lock under some rules, of which no history is known yet.
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    /// The rules. A read/write lock whose grants carry tokens is judged as a fenced one.
    pub rules: Rules,
}

/// A lock and the operations on it: knows who is meant by a name, and which tokens nobody was seen to get.
pub(super) struct Known(pub(super) Object);

impl Lock {
    /// The rules for these operations.
    fn rules_for(&self, part: &Part<'_>) -> Rules {
        let token = |operation: &Operation| {
            operation.outcome == Outcome::Ok
                && super::Token::of(&operation.result).is_some()
                && matches!(self.rules.saying(operation), Ok(Some(Saying::Granted { .. })))
        };
        let fenced = self.rules.shared && part.operations().any(|(_, operation)| token(operation));
        Rules { fenced: self.rules.fenced || fenced, ..self.rules }
    }

    /// The operations of a part as the model understands them.
    pub(super) fn object(&self, part: &Part<'_>) -> Result<Object, (u32, String)> {
        Object::new(part.history, &part.indexes, self.rules_for(part))
    }
}

fn role(saying: Result<Option<Saying>, String>, operation: &Operation) -> Role {
    match (saying, operation.outcome) {
        (Ok(None) | Err(_), _) => Role::Nothing,
        (Ok(Some(_)), Outcome::Unknown) => Role::May,
        (Ok(Some(_)), _) => Role::Must,
    }
}

fn reads(saying: &Result<Option<Saying>, String>) -> bool {
    matches!(saying, Ok(Some(Saying::Refused { .. } | Saying::Led { .. })))
}

impl Spec for Known {
    type State = State;

    fn init(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        let deeds = self.0.deeds();
        if let Ok(at) = deeds.binary_search_by_key(&operation.called, |deed| deed.called) {
            self.0.step(state, &deeds[at], next);
        }
    }

    fn role(&self, operation: &Operation) -> Role {
        let deeds = self.0.deeds();
        match deeds.binary_search_by_key(&operation.called, |deed| deed.called) {
            Err(_) => Role::Nothing,
            Ok(at) if deeds[at].certain => Role::Must,
            Ok(_) => Role::May,
        }
    }

    fn reads(&self, operation: &Operation) -> bool {
        reads(&self.0.rules().saying(operation))
    }

    fn by_process(&self) -> bool {
        true
    }

    /// By process, where only its own operations end a hold and nothing says that others hold.
    fn pieces(&self, operations: &[&Operation]) -> Vec<Option<i64>> {
        let rules = self.0.rules();
        if rules.fenced || rules.release == Release::Any || operations.iter().any(|operation| self.reads(operation)) {
            return Vec::new();
        }
        let deeds = self.0.deeds();
        let process = |operation: &&Operation| {
            let at = deeds.binary_search_by_key(&operation.called, |deed| deed.called).ok()?;
            Some(i64::from(deeds[at].process))
        };
        operations.iter().map(process).collect()
    }

    fn without_others(&self, _: &BTreeSet<i64>) -> Option<Self> {
        Some(Self(self.0.clone()))
    }

    fn cause(&self, part: &Part<'_>, shown: &[(u32, &Operation)], culprit: &Operation, _: &[String]) -> Option<String> {
        let (at, _) = shown.iter().find(|(_, operation)| *operation == culprit)?;
        let rules = self.0.rules();
        let says = |operation: &Operation| rules.saying(operation).ok().flatten();
        let why = match says(culprit)? {
            Saying::Granted { .. } => {
                let others = shown.iter().filter(|(other, operation)| {
                    other != at && matches!(says(operation), Some(Saying::Granted { .. }))
                });
                let others: Vec<_> = others.map(|(_, operation)| name(part, operation)).collect();
                match others.len() {
                    0 => "it was granted although it could not be".into(),
                    _ => format!("it was granted, but what else was granted left no room: {}", others.join(", ")),
                }
            }
            Saying::Refused { .. } => "it was refused, but there was room at every moment of it".into(),
            Saying::Ended { .. } | Saying::Gone { .. } => "what it ended was not held at any moment of it".into(),
            Saying::Vacant => "it saw nobody lead, but somebody led at every moment of it".into(),
            Saying::Led { .. } => "whom it saw lead did not lead at any moment of it".into(),
        };
        Some(describe(part, *at, &why))
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        self.0.rules().saying(operation).map(drop)
    }
}

/// Without a history, an expiry can only be of the process that reports it, a candidate without a name has none, and
/// a token that nobody was seen to get has no owner; [`Spec::special`] knows all that.
impl Spec for Lock {
    type State = State;

    fn init(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Operation, next: &mut Vec<State>) {
        let Ok(Some(saying)) = self.rules.saying(operation) else { return };
        let deed = Deed {
            at: 0,
            process: operation.process,
            called: operation.called,
            returned: operation.returned,
            certain: operation.outcome != Outcome::Unknown,
            saying,
        };
        Object::unknown(self.rules).step(state, &deed, next);
    }

    fn role(&self, operation: &Operation) -> Role {
        role(self.rules.saying(operation), operation)
    }

    fn reads(&self, operation: &Operation) -> bool {
        reads(&self.rules.saying(operation))
    }

    fn by_process(&self) -> bool {
        true
    }

    fn admit(&self, operation: &Operation) -> Result<(), String> {
        // Tokens are read only where there are any; elsewhere the value of a grant is the caller's business.
        self.rules.saying(operation).map(drop)
    }

    fn special(&self, part: &Part<'_>, budget: &Budget) -> Option<Verdict> {
        let object = match self.object(part) {
            Ok(object) => object,
            // What is not admitted says nothing that could be judged.
            Err((at, why)) => return Some(Verdict::Unknown(format!("operation {at}: {why}"))),
        };
        Some(match special::decide(&object) {
            Quick::Good => Verdict::Linearizable,
            Quick::Bad(operations, culprit, why) => {
                let cause = describe(part, culprit, &why);
                let operations = enough(Known(object), part, operations, budget);
                Verdict::NotLinearizable(Box::new(Refutation { key: part.key, operations, culprit, cause }))
            }
            Quick::Unsure => search::search(&Known(object), part, budget),
        })
    }
}

/// The operations if they have no order by themselves. A release without a token can mean another hold when others are
/// left out; then with all that their processes did, and with everything at last.
fn enough(known: Known, part: &Part<'_>, operations: Vec<u32>, budget: &Budget) -> Vec<u32> {
    let refuted = |indexes: &[u32]| {
        let few = Part { history: part.history, key: part.key, indexes: indexes.to_vec() };
        matches!(search::search(&known, &few, budget), Verdict::NotLinearizable(_))
    };
    if refuted(&operations) {
        return operations;
    }
    let process = |at: &u32| part.history.operations[*at as usize].process;
    let involved: Vec<u32> = operations.iter().map(process).collect();
    let last = operations.last().copied().unwrap_or_default();
    let wider: Vec<u32> =
        part.indexes.iter().copied().filter(|at| *at <= last && involved.contains(&process(at))).collect();
    if wider.len() > WIDER_MAX {
        return part.indexes.clone();
    }
    let mut few = if refuted(&wider) { wider } else { part.indexes.clone() };
    if few.len() <= WIDER_MAX {
        for at in few.clone() {
            let fewer: Vec<u32> = few.iter().copied().filter(|other| *other != at).collect();
            if (operations.contains(&at)) || !refuted(&fewer) {
                continue;
            }
            few = fewer;
        }
    }
    few
}

/// Most operations that are tried one by one to make a refutation small.
const WIDER_MAX: usize = 200;

/// "acquire by process 3 (returned 7): …".
fn describe(part: &Part<'_>, culprit: u32, why: &str) -> String {
    let operation = &part.history.operations[culprit as usize];
    let process = &part.history.processes[operation.process as usize];
    let key = match &part.history.keys[operation.key as usize] {
        Value::Null => String::new(),
        key => format!(" of {key}"),
    };
    let result = match (&operation.result, operation.outcome) {
        (_, Outcome::Fail) => " (refused)".to_owned(),
        (Value::Null, _) => String::new(),
        (result, _) => format!(" (returned {result})"),
    };
    format!("{}{key} by process {process}{result} has no place: {why}", operation.function.name())
}
