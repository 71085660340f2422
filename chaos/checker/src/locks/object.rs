//! The held object itself, one operation at a time: what a search of any kind steps through.

use std::collections::HashMap;

use super::rules::{Release, Rules, Saying, Token};
use crate::{History, Outcome, Value};

/// An operation that says something, resolved within its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Deed {
    /// Index of the operation.
    pub at: u32,
    /// Whose hold is concerned: the process of the operation, or the one that an expiry names.
    pub process: u32,
    /// Position of its call.
    pub called: u32,
    /// Position of its return; [`NEVER`](crate::history::NEVER) if it may happen at any later moment or not at all.
    pub returned: u32,
    /// It happened; otherwise it may have.
    pub certain: bool,
    /// What it says.
    pub saying: Saying,
}

/// A hold as the object knows it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Hold {
    process: u32,
    shared: bool,
    permits: u32,
    /// Null in a fenced model: some token that the history never mentions.
    token: Option<Token>,
    name: Value,
}

/// The object between two operations. Fenced holds are dropped only when a later operation needs their place: a loss
/// leaves no trace, so assuming it earlier never helps.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct State {
    holds: Vec<Hold>,
    /// The greatest token granted, or the least it can have been.
    last: Option<Token>,
}

/// The operations of one lock under some rules.
#[derive(Clone, Debug)]
pub struct Object {
    rules: Rules,
    deeds: Vec<Deed>,
    /// Tokens that some operation mentions though no grant returned them: those of grants whose outcome is unknown.
    orphans: Vec<Token>,
}

impl Object {
    /// Of the operations with these indexes, which concern one key; in the order of their calls.
    ///
    /// # Errors
    /// The index of an operation that the model does not know, and why.
    pub fn new(history: &History, operations: &[u32], rules: Rules) -> Result<Self, (u32, String)> {
        let mut processes: Option<HashMap<&Value, u32>> = None;
        let mut deeds = Vec::with_capacity(operations.len());
        for &at in operations {
            let operation = &history.operations[at as usize];
            let Some(mut saying) = rules.saying(operation).map_err(|why| (at, why))? else { continue };
            let mut process = operation.process;
            if let Saying::Gone { process: Some(name) } = &saying {
                let names = processes.get_or_insert_with(|| history.processes.iter().zip(0..).collect());
                // Somebody who did nothing else: its end says nothing.
                let Some(known) = names.get(name) else { continue };
                process = *known;
            }
            if let Saying::Granted { name, .. } = &mut saying
                && rules.election
                && *name == Value::Null
            {
                *name = history.processes[process as usize].clone();
            }
            let certain = operation.outcome != Outcome::Unknown;
            let returned = if certain { operation.returned } else { crate::history::NEVER };
            deeds.push(Deed { at, process, called: operation.called, returned, certain, saying });
        }
        let mut object = Self { rules, deeds, orphans: Vec::new() };
        if rules.fenced {
            object.orphans = object.find_orphans();
        }
        Ok(object)
    }

    /// Without any operations.
    #[must_use]
    pub fn unknown(rules: Rules) -> Self {
        Self { rules, deeds: Vec::new(), orphans: Vec::new() }
    }

    /// What is to be put in order.
    #[must_use]
    pub fn deeds(&self) -> &[Deed] {
        &self.deeds
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Tokens that some operation mentions though no grant returned them, ascending.
    #[must_use]
    pub fn orphans(&self) -> &[Token] {
        &self.orphans
    }

    fn find_orphans(&self) -> Vec<Token> {
        let granted: std::collections::HashSet<Token> = self
            .deeds
            .iter()
            .filter_map(|deed| match deed.saying {
                Saying::Granted { token, .. } => token,
                _ => None,
            })
            .collect();
        let mut orphans: Vec<Token> = self
            .deeds
            .iter()
            .filter_map(|deed| match deed.saying {
                Saying::Ended { token, .. } | Saying::Led { token, .. } => token,
                _ => None,
            })
            .filter(|token| !granted.contains(token))
            .collect();
        orphans.sort_unstable();
        orphans.dedup();
        orphans
    }

    /// Adds the states in which the object may be after the deed; none if it cannot happen here.
    pub fn step(&self, state: &State, deed: &Deed, next: &mut Vec<State>) {
        match &deed.saying {
            Saying::Granted { shared, permits, token, name } => {
                let hold = Hold {
                    process: deed.process,
                    shared: *shared,
                    permits: *permits,
                    token: *token,
                    name: name.clone(),
                };
                if self.rules.fenced { self.grant_fenced(state, hold, next) } else { self.grant(state, hold, next) }
            }
            Saying::Refused { shared: _, permits } => {
                if self.refuses(state, deed.process, *permits) {
                    next.push(state.clone());
                }
            }
            Saying::Ended { token: Some(token), .. } => {
                if let Some(at) = state.holds.iter().position(|hold| hold.token == Some(*token)) {
                    next.push(state.without(at));
                }
            }
            Saying::Ended { token: None, permits } => self.end(state, deed.process, *permits, next),
            Saying::Gone { .. } => {
                let mut state = state.clone();
                state.holds.retain(|hold| hold.process != deed.process);
                next.push(state);
            }
            Saying::Vacant => next.push(State { holds: Vec::new(), last: state.last }),
            Saying::Led { name, token } => {
                let led = |hold: &Hold| {
                    (token.is_none() || hold.token == *token) && (*name == Value::Null || hold.name == *name)
                };
                if state.holds.iter().any(led) {
                    next.push(state.clone());
                }
            }
        }
    }

    fn grant(&self, state: &State, hold: Hold, next: &mut Vec<State>) {
        let own = state.holds.iter().position(|held| held.process == hold.process && held.shared == hold.shared);
        let room = if self.rules.shared {
            state.holds.iter().all(|held| held.shared && hold.shared)
        } else if self.rules.reentrant {
            state.holds.iter().all(|held| held.process == hold.process)
        } else {
            state.permits() + u64::from(hold.permits) <= u64::from(self.rules.permits)
        };
        if !room {
            return;
        }
        let mut state = state.clone();
        match own {
            Some(at) => state.holds[at].permits += hold.permits,
            None => state.holds.push(hold),
        }
        state.holds.sort_unstable();
        next.push(state);
    }

    fn grant_fenced(&self, state: &State, hold: Hold, next: &mut Vec<State>) {
        let mut with = |token: Option<Token>, last: Option<Token>| {
            let hold = Hold { token, ..hold.clone() };
            let mut state = State { holds: state.holds.clone(), last };
            if self.rules.permits > 1 {
                if state.holds.len() < self.rules.permits as usize {
                    state.holds.push(hold);
                    next.push(state);
                    return;
                }
                // One of them must have been lost: any.
                for lost in 0..state.holds.len() {
                    let mut state = state.without(lost);
                    state.holds.push(hold.clone());
                    next.push(state);
                }
                return;
            }
            state.holds.retain(|held| self.rules.shared && held.shared && hold.shared);
            state.holds.push(hold);
            next.push(state);
        };
        let rises = |token: Token| state.last.is_none_or(|last| token > last);
        match hold.token {
            Some(token) if rises(token) => with(Some(token), Some(token)),
            Some(_) => {}
            None => {
                for orphan in self.orphans.iter().copied().filter(|token| rises(*token)) {
                    with(Some(orphan), Some(orphan));
                }
                match state.last {
                    None => with(None, None),
                    Some(last) => {
                        if let Some(least) = last.next() {
                            with(None, Some(least));
                        }
                    }
                }
            }
        }
    }

    fn refuses(&self, state: &State, process: u32, permits: u32) -> bool {
        if self.rules.reentrant {
            return state.holds.iter().any(|held| held.process != process);
        }
        if self.rules.shared {
            return !state.holds.is_empty();
        }
        state.permits() + u64::from(permits) > u64::from(self.rules.permits)
    }

    fn end(&self, state: &State, process: u32, permits: u32, next: &mut Vec<State>) {
        let mine = |hold: &Hold| self.rules.release == Release::Any || hold.process == process;
        if self.rules.fenced {
            for at in (0..state.holds.len()).filter(|at| mine(&state.holds[*at])) {
                next.push(state.without(at));
            }
            return;
        }
        let enough = |hold: &Hold| mine(hold) && hold.permits >= permits;
        if let Some(at) = state.holds.iter().position(enough) {
            let mut state = state.clone();
            state.holds[at].permits -= permits;
            if state.holds[at].permits == 0 {
                state.holds.remove(at);
            }
            next.push(state);
        }
    }
}

impl State {
    fn permits(&self) -> u64 {
        self.holds.iter().map(|hold| u64::from(hold.permits)).sum()
    }

    fn without(&self, at: usize) -> Self {
        let mut state = self.clone();
        state.holds.remove(at);
        state
    }
}
