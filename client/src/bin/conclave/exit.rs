//! How a command ends: its exit code, and the line that explains it.

use std::fmt;

use conclave_client::{Effect, Error, ErrorKind};

/// The answer is "no": a comparison did not hold, a check failed.
pub const NO: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 64;
/// The servers refused: a limit, a node that exists, children in the way …
pub const REFUSED: u8 = 65;
/// There is no such node or session.
pub const NOT_FOUND: u8 = 66;
/// No server can be reached, or they have no leader.
pub const UNAVAILABLE: u8 = 69;
/// A bug, on one side or the other.
pub const INTERNAL: u8 = 70;
/// A file, a pipe, a directory of this machine.
pub const LOCAL_IO: u8 = 74;
/// `lock`: the lock was not free, or not in time. Trying later can help.
pub const NOT_ACQUIRED: u8 = 75;
/// `lock`: the lock was lost while the command ran; the command was ended.
pub const LOST: u8 = 76;
/// Not allowed.
pub const DENIED: u8 = 77;
/// Nobody knows whether it was done: it may have been applied, or may yet be.
pub const UNKNOWN: u8 = 79;
/// `lock`: the command was found but cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// `lock`: the command was not found.
pub const NO_COMMAND: u8 = 127;
/// `lock`: the command was ended by signal n: this much plus n.
pub const SIGNAL_BASE: u8 = 128;

/// Shown by `conclave --help`.
pub const HELP: &str = "Exit codes:
  0   done
  1   the answer is no: a comparison did not hold, the cluster is not healthy
  64  usage: the command line makes no sense
  65  refused by the servers: a limit, a node that exists, children in the way
  66  no such node or session
  69  no server can be reached, or they have no leader
  70  internal error
  74  a local file or pipe failed
  75  lock: not acquired (not free, or not in time)
  76  lock: lost while the command ran; the command was ended before anyone else got the lock
  77  not allowed
  79  unknown outcome: it may have been applied, or may yet be
  `lock` otherwise passes on the exit code of its command: 126 cannot be run, 127 not found, 128+n ended by signal n.";

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// For the shell.
    pub code: u8,
    /// For people: one line, perhaps with hints on further ones.
    pub message: String,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the user wrote makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }

    /// A file or pipe of this machine.
    pub fn local(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(LOCAL_IO, format!("{what}: {error}"))
    }

    /// Adds a line that helps.
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.message = format!("{}\n  hint: {hint}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code for a failure of the client. A definite failure to reach anybody is "unavailable"; whatever may have
/// been applied is "unknown", so that a script never repeats it blindly.
pub fn code_of(kind: ErrorKind, effect: Effect) -> u8 {
    if effect == Effect::Unknown {
        return if kind == ErrorKind::Internal { INTERNAL } else { UNKNOWN };
    }
    match kind {
        ErrorKind::Config => USAGE,
        ErrorKind::Denied => DENIED,
        ErrorKind::NoNode | ErrorKind::SessionLost => NOT_FOUND,
        ErrorKind::NoLeader
        | ErrorKind::Overloaded
        | ErrorKind::Timeout
        | ErrorKind::LeadershipLost
        | ErrorKind::Unavailable
        | ErrorKind::Diverged => UNAVAILABLE,
        ErrorKind::NotAcquired => NOT_ACQUIRED,
        ErrorKind::LockLost => LOST,
        ErrorKind::Internal => INTERNAL,
        // Refused for what it says: InvalidArgument, TooLarge, NodeExists, NoParent, NotEmpty, Limit, Compacted …
        _ => REFUSED,
    }
}

fn hint_of(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Unavailable => {
            "are the servers running? `conclave cluster status` asks each; name others with --endpoints or \
             CONCLAVE_ENDPOINTS"
        }
        ErrorKind::NoLeader | ErrorKind::LeadershipLost => {
            "a majority of the servers must be up; `conclave cluster status` shows which are"
        }
        ErrorKind::NotEmpty => "--recursive deletes what is below it, too",
        ErrorKind::NoParent => "put makes missing parents unless --no-parents is given",
        ErrorKind::TooLarge => {
            "a coordination store holds small things: keep large ones elsewhere and their address here"
        }
        ErrorKind::Compacted => "older history is gone; leave --from/--rev out to begin with what is there",
        ErrorKind::EphemeralParent => "a node that dies with its session has no children",
        _ => return None,
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(code_of(error.kind(), error.effect()), error.to_string());
        match hint_of(error.kind()) {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_have_happened_is_never_reported_as_a_refusal() {
        for kind in [ErrorKind::Timeout, ErrorKind::LeadershipLost, ErrorKind::Unavailable, ErrorKind::SessionLost] {
            assert_eq!(code_of(kind, Effect::Unknown), UNKNOWN, "{kind:?}");
            assert_ne!(code_of(kind, Effect::None), UNKNOWN, "{kind:?}");
        }
    }

    #[test]
    fn every_code_is_in_the_help() {
        for code in
            [NO, USAGE, REFUSED, NOT_FOUND, UNAVAILABLE, INTERNAL, LOCAL_IO, NOT_ACQUIRED, LOST, DENIED, UNKNOWN]
        {
            assert!(HELP.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}");
        }
        for code in [CANNOT_RUN, NO_COMMAND, SIGNAL_BASE] {
            assert!(HELP.contains(&code.to_string()), "{code}");
        }
    }
}
