//! Failures, and what they leave certain.

use std::fmt;

use conclave_proto::{Revision, v1};

use crate::session::LostReason;

/// What a failed request has done.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effect {
    /// Certainly nothing.
    None,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// What kind of failure, for programs; [`Error`]'s text is for people.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense: a bad path, a bad combination, a bad option.
    InvalidArgument,
    /// Larger than a limit; the text names it.
    TooLarge,
    /// Not allowed here, such as a write below `/conclave`.
    Denied,
    /// There is no such node.
    NoNode,
    /// A create found the node there.
    NodeExists,
    /// The parent is missing; `create_parents` makes missing ones.
    NoParent,
    /// A delete found children; `recursive` removes them too.
    NotEmpty,
    /// The parent is ephemeral and can have no children.
    EphemeralParent,
    /// The session is lost. See [`Error::lost_reason`].
    SessionLost,
    /// The lock, permit or leadership is no longer held: nothing was done.
    LockLost,
    /// The lock was not free (`try_now`), or not within the time to wait. Nothing is held and nobody waits.
    NotAcquired,
    /// A semaphore exists with another number of permits.
    PermitsMismatch,
    /// History before [`Error::resume_revision`] is forgotten.
    Compacted,
    /// A watch could not be told of a change (one too large for the server's buffers); it can be opened again from
    /// [`Error::resume_revision`], after reading the present state.
    Lagging,
    /// A revision that is not yet.
    FutureRevision,
    /// The servers have no leader just now.
    NoLeader,
    /// A bound on work in flight was reached.
    Overloaded,
    /// No answer in time.
    Timeout,
    /// Leadership was lost before the answer.
    LeadershipLost,
    /// A bound of the store was reached; the text names it.
    Limit,
    /// No server can be reached, or the one reached cannot serve.
    Unavailable,
    /// The server's state differs from its peers' and it serves nothing.
    Diverged,
    /// A change of membership is not possible.
    Membership,
    /// The caller's configuration is not possible.
    Config,
    /// A bug, on one side or the other.
    Internal,
}

/// A failure. [`Error::effect`] says whether anything can have happened.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    effect: Effect,
    retry: bool,
    message: String,
    op: Option<usize>,
    resume: Option<Revision>,
    lost: Option<LostReason>,
    expected: u64,
}

/// The client's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A definite failure that the same request would meet again.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            effect: Effect::None,
            retry: false,
            message: message.into(),
            op: None,
            resume: None,
            lost: None,
            expected: 0,
        }))
    }

    pub(crate) fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    pub(crate) fn with_retry(mut self) -> Self {
        self.0.retry = true;
        self
    }

    pub(crate) fn with_resume(mut self, revision: Revision) -> Self {
        self.0.resume = Some(revision);
        self
    }

    pub(crate) fn session_lost(reason: &LostReason, effect: Effect) -> Self {
        let mut error = Self::new(ErrorKind::SessionLost, format!("session lost: {reason}")).with_effect(effect);
        error.0.lost = Some(reason.clone());
        error
    }

    pub(crate) fn lock_lost(path: &str, why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::LockLost, format!("no longer held: path={path}: {why}"))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message).with_effect(Effect::Unknown)
    }

    /// From the wire.
    pub(crate) fn from_wire(error: v1::Error) -> Self {
        use v1::Code;
        let kind = match error.code() {
            Code::Internal | Code::AnswerForgotten => ErrorKind::Internal,
            Code::InvalidArgument => ErrorKind::InvalidArgument,
            Code::TooLarge => ErrorKind::TooLarge,
            Code::Denied => ErrorKind::Denied,
            Code::NoNode => ErrorKind::NoNode,
            Code::NodeExists => ErrorKind::NodeExists,
            Code::NoParent => ErrorKind::NoParent,
            Code::NotEmpty => ErrorKind::NotEmpty,
            Code::EphemeralParent => ErrorKind::EphemeralParent,
            Code::NoSession | Code::SessionExpired | Code::SessionTakenOver => ErrorKind::SessionLost,
            Code::Compacted => ErrorKind::Compacted,
            Code::FutureRevision => ErrorKind::FutureRevision,
            Code::NoLeader => ErrorKind::NoLeader,
            Code::Overloaded | Code::OutOfOrder => ErrorKind::Overloaded,
            Code::Timeout => ErrorKind::Timeout,
            Code::LeadershipLost => ErrorKind::LeadershipLost,
            Code::Limit => ErrorKind::Limit,
            Code::Unavailable => ErrorKind::Unavailable,
            Code::Diverged => ErrorKind::Diverged,
            Code::Membership => ErrorKind::Membership,
        };
        let effect = match error.effect() {
            v1::Effect::None => Effect::None,
            v1::Effect::Unknown => Effect::Unknown,
        };
        let mut this = Self::new(kind, error.message).with_effect(effect);
        this.0.retry = error.retry;
        this.0.op = error.op.map(|op| op as usize);
        this.0.expected = error.expected;
        this
    }

    /// What kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the request certainly did nothing, or may have been (or may yet be) applied.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether the same request can succeed if it is sent again. With [`Effect::Unknown`] it may then be applied twice;
    /// requests of a session are repeated by the client itself, exactly once.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retry
    }

    /// The operation of a transaction that was refused, counted from 0.
    #[must_use]
    pub fn operation(&self) -> Option<usize> {
        self.0.op
    }

    /// With [`ErrorKind::Compacted`]: the oldest revision still known. With [`ErrorKind::Lagging`]: the one to go on from.
    #[must_use]
    pub fn resume_revision(&self) -> Option<Revision> {
        self.0.resume
    }

    /// With [`ErrorKind::SessionLost`]: why.
    #[must_use]
    pub fn lost_reason(&self) -> Option<&LostReason> {
        self.0.lost.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if self.0.effect == Effect::Unknown {
            f.write_str(" (the outcome is unknown: it may have been applied, or may yet be)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {}", self.0.kind, self.0.effect, self.0.message)
    }
}

impl std::error::Error for Error {}
