//! Locks, semaphores, read/write locks and elections: one idea, the *hold*, under different [`Rules`].
//!
//! A hold begins when it is granted and ends when it is released or taken away. What is judged here is the object's
//! own account (who was granted what, in which order), not what clients believed: a client that was paused may believe
//! in a hold long after it was taken away, and no lock service can prevent that. So two beliefs that overlap are bad
//! only where the history shows that the first hold had not ended.
//!
//! What the history says about the end of a hold:
//! * `release` ok: the hold lasted until a moment between call and return of the release, and ended there.
//! * `release` info: it ended there, or later, or not at all. `release` fail: nothing.
//! * `expire` ok: the session of the process ended; what it held ended with it, unless it had ended before. With a
//!   token (fenced) it says more: the hold of this token lasted until then.
//! * `expire` info: the session may end at any later moment. One such event after a crash is how a history of an
//!   unfenced lock says that the lock may be taken away from a dead holder.
//! * *Fenced*: nothing at all is needed. A hold may be lost at any moment without a trace, since sessions end without
//!   asking; the token exists because of that. A later grant is then a proof of the loss. But a hold whose release is ok
//!   was not lost before, and that is what convicts a double grant.
//! * *Unfenced*: a hold without a release or an expiry lasts for ever.
//!
//! What else is said:
//! * `acquire` ok: granted at a moment between call and return. `acquire` info: granted then, or at any later moment, or
//!   never; it may hold for ever.
//! * `acquire` or `try_acquire` fail (or `try_acquire` ok with `false`): at a moment of the attempt there was no room for
//!   it. If its value is an error (a time-out, a lost connection) that does not say that it was held: nothing.
//! * Tokens rise with every grant of the lock, without exception, and each belongs to one grant.
//!
//! [`object`] is the model, one operation at a time, for any search. [`special`] decides the common histories in
//! O(n log n) and says so when it cannot.

mod cores;
mod holds;
pub mod object;
mod refusals;
pub mod rules;
mod schedule;
pub mod spec;
pub mod special;
mod vacancies;

pub use rules::{Rules, Token};

#[cfg(test)]
mod tests;
