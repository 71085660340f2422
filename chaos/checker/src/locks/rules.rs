//! What distinguishes the objects that are held, and what each operation says about one of them.

use crate::{Function, Operation, Outcome, Value};

/// A fencing token: a number, or an epoch and a number. Compared in this order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Token {
    /// 0 for a token that is a number only.
    pub epoch: i64,
    /// The number, or the revision within the epoch.
    pub number: i64,
}

/// Whose holds a release ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// Anybody's.
    Any,
    /// Those of the process that calls it.
    Own,
}

/// How holds exclude each other, and who may end them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// How many permits there are; 1 for a lock.
    pub permits: u32,
    /// Whose hold a release ends. Where there are tokens, they name the hold and this says nothing.
    pub release: Release,
    /// The holder may acquire again, and has to release as often.
    pub reentrant: bool,
    /// Holds may be shared (`acquire_shared`) or exclusive (`acquire`).
    pub shared: bool,
    /// Grants carry tokens that rise, and holds may be lost without a trace.
    pub fenced: bool,
    /// The operations are `campaign`, `resign` and `observe`.
    pub election: bool,
}

/// What an operation says. Operations that say nothing have none.
#[derive(Clone, Debug, PartialEq)]
pub enum Saying {
    /// There was room, and it was taken.
    Granted {
        /// A reader.
        shared: bool,
        /// How many permits.
        permits: u32,
        /// Null token: not known.
        token: Option<Token>,
        /// Elections: the name of the candidate; else null.
        name: Value,
    },
    /// At a moment there was no room.
    Refused {
        /// For a reader.
        shared: bool,
        /// For how many permits.
        permits: u32,
    },
    /// The hold with this token, or one of the process, was there and ended.
    Ended {
        /// Null: one of the process.
        token: Option<Token>,
        /// How many permits.
        permits: u32,
    },
    /// All that this process held, if anything, ended.
    Gone {
        /// Null: the process of the operation.
        process: Option<Value>,
    },
    /// Elections: nobody led.
    Vacant,
    /// Elections: this one led.
    Led {
        /// Null: not told.
        name: Value,
        /// Not told by all.
        token: Option<Token>,
    },
}

impl Token {
    /// The smallest that is greater, or none.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Some(Self { number: self.number.checked_add(1)?, ..self })
    }

    /// Of a number or a pair of numbers; none of anything else.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => Some(Self { epoch: 0, number: *number }),
            Value::List(pair) => match **pair {
                [Value::Int(epoch), Value::Int(number)] => Some(Self { epoch, number }),
                _ => None,
            },
            _ => None,
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.epoch {
            0 => write!(f, "{}", self.number),
            epoch => write!(f, "[{epoch} {}]", self.number),
        }
    }
}

impl Rules {
    const PLAIN: Self =
        Self { permits: 1, release: Release::Own, reentrant: false, shared: false, fenced: false, election: false };

    /// A mutex that anybody may release.
    pub const MUTEX: Self = Self { release: Release::Any, ..Self::PLAIN };
    /// A mutex that its holder must release, and may not acquire again before.
    pub const OWNER_MUTEX: Self = Self::PLAIN;
    /// A mutex that its holder may acquire again, and must release as often.
    pub const REENTRANT_MUTEX: Self = Self { reentrant: true, ..Self::PLAIN };
    /// A mutex with fencing tokens.
    pub const FENCED_MUTEX: Self = Self { fenced: true, ..Self::PLAIN };
    /// Many readers or one writer.
    pub const RWLOCK: Self = Self { shared: true, ..Self::PLAIN };
    /// Many readers or one writer, with fencing tokens.
    pub const FENCED_RWLOCK: Self = Self { shared: true, fenced: true, ..Self::PLAIN };
    /// At most one leader, terms as tokens.
    pub const ELECTION: Self = Self { fenced: true, election: true, ..Self::PLAIN };

    /// So many permits, returned by who took them.
    #[must_use]
    pub const fn semaphore(permits: u32) -> Self {
        Self { permits, ..Self::PLAIN }
    }

    /// So many permits, with fencing tokens; one permit a grant.
    #[must_use]
    pub const fn fenced_semaphore(permits: u32) -> Self {
        Self { permits, fenced: true, ..Self::PLAIN }
    }

    /// What the operation says under these rules; none if nothing.
    ///
    /// # Errors
    /// In words, if the function is not one of this model's or the value is not one of this function's.
    pub fn saying(&self, operation: &Operation) -> Result<Option<Saying>, String> {
        use Function as F;
        let known = match operation.function {
            F::Acquire | F::TryAcquire | F::Release => !self.election,
            F::AcquireShared | F::TryAcquireShared => self.shared,
            F::Campaign | F::Resign | F::Observe => self.election,
            F::Expire => true,
            _ => false,
        };
        if !known {
            return Err(format!("`{}` is not an operation of this model", operation.function.name()));
        }
        match operation.function {
            F::Release | F::Resign => self.ending(operation),
            F::Expire => self.expiry(operation),
            F::Observe => observation(operation),
            _ => self.attempt(operation),
        }
    }

    fn attempt(&self, operation: &Operation) -> Result<Option<Saying>, String> {
        let shared = matches!(operation.function, Function::AcquireShared | Function::TryAcquireShared);
        let permits = self.permits_of(operation)?;
        let refused = match (operation.outcome, &operation.result) {
            (Outcome::Ok, Value::Bool(false)) => true,
            (Outcome::Fail, why) if another_reason(why) => return Ok(None),
            (Outcome::Fail, _) => true,
            _ => false,
        };
        if refused {
            return Ok(Some(Saying::Refused { shared, permits }));
        }
        let token =
            if self.fenced && operation.outcome == Outcome::Ok { self.token_of(&operation.result)? } else { None };
        let name = if self.election { operation.argument.clone() } else { Value::Null };
        Ok(Some(Saying::Granted { shared, permits, token, name }))
    }

    fn ending(&self, operation: &Operation) -> Result<Option<Saying>, String> {
        // What a fenced lock may lose at any moment needs no release of which nobody knows.
        if operation.outcome == Outcome::Fail || (self.fenced && operation.outcome == Outcome::Unknown) {
            return Ok(None);
        }
        let token = if self.fenced { self.token_in(operation)? } else { None };
        Ok(Some(Saying::Ended { token, permits: self.permits_of(operation)? }))
    }

    fn expiry(&self, operation: &Operation) -> Result<Option<Saying>, String> {
        if operation.outcome == Outcome::Fail || (self.fenced && operation.outcome == Outcome::Unknown) {
            return Ok(None);
        }
        if self.fenced {
            let token = self.token_in(operation)?;
            return Ok(Some(match token {
                Some(_) => Saying::Ended { token, permits: 1 },
                None => Saying::Gone { process: None },
            }));
        }
        let named = if operation.result == Value::Null { &operation.argument } else { &operation.result };
        Ok(Some(Saying::Gone { process: (*named != Value::Null).then(|| named.clone()) }))
    }

    fn permits_of(&self, operation: &Operation) -> Result<u32, String> {
        if self.fenced || self.permits == 1 {
            return Ok(1);
        }
        match operation.argument {
            Value::Null => Ok(1),
            Value::Int(permits) if permits >= 1 => Ok(u32::try_from(permits).unwrap_or(u32::MAX)),
            ref other => Err(format!("permits are a number from 1 on, or nil for 1, not `{other}`")),
        }
    }

    fn token_in(&self, operation: &Operation) -> Result<Option<Token>, String> {
        Ok(self.token_of(&operation.result)?.or(self.token_of(&operation.argument)?))
    }

    fn token_of(&self, value: &Value) -> Result<Option<Token>, String> {
        match value {
            Value::Null | Value::Bool(true) => Ok(None),
            _ => match Token::of(value) {
                Some(token) => Ok(Some(token)),
                None => Err(format!("a token is a number, [epoch number] or nil, not `{value}`")),
            },
        }
    }
}

/// The value `nil` (nobody), a term, a name, or `[name term]`.
fn observation(operation: &Operation) -> Result<Option<Saying>, String> {
    if operation.outcome != Outcome::Ok {
        return Ok(None);
    }
    Ok(Some(match &operation.result {
        Value::Null => Saying::Vacant,
        Value::Int(_) => Saying::Led { name: Value::Null, token: Token::of(&operation.result) },
        Value::Text(_) => Saying::Led { name: operation.result.clone(), token: None },
        Value::List(pair) if pair.len() == 2 => {
            let token = match &pair[1] {
                Value::Null => None,
                term => Some(Token::of(term).ok_or_else(|| format!("a term is a number, not `{term}`"))?),
            };
            Saying::Led { name: pair[0].clone(), token }
        }
        other => return Err(format!("a leader is nil, a term, a name or [name term], not `{other}`")),
    }))
}

/// A failure whose value is an error that does not speak of a lock that is held: a time-out, a lost connection.
fn another_reason(why: &Value) -> bool {
    match why {
        Value::Text(text) => {
            let text = text.to_ascii_lowercase();
            !["held", "locked", "busy", "taken"].iter().any(|word| text.contains(word))
        }
        Value::List(parts) => parts.iter().any(another_reason),
        _ => false,
    }
}
