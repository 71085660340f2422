//! What clients do: every workload by its name, and what there is to know of it before anything runs.
//!
//! A workload is three things. What a client does is a file of `client/work`, and it tells operations in the
//! checker's terms. What its history has to be linearizable to is said here. What else can be judged by it is the
//! business of [`crate::judge::invariants`], which look at what was told and at every replica's own account of its changes,
//! whatever the workload was; what it did not show is *not exercised*.

use std::{fmt, str::FromStr};

use conclave_checker::Model;
use serde::{Deserialize, Serialize};

/// Permits of the workload `semaphore`.
pub const PERMITS: u32 = 2;

macro_rules! workloads {
    ($($(#[doc = $doc:literal])+ $name:ident = $key:literal,)+) => {
        /// What clients do.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Workload {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Workload {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $key,)+ }
            }

            /// What it is, in a sentence.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

workloads! {
    /// Locks are taken (trying once, waiting a short time, waiting long), held and given back.
    Lock = "lock",
    /// Under a lock, a counter in SQLite is read and written; the token is compared at both.
    Fenced = "fenced",
    /// The same in PostgreSQL, a server of the run's own.
    FencedPostgres = "fenced-postgres",
    /// The same in SQLite without tokens.
    Unfenced = "unfenced",
    /// Values are read, written, compared and set.
    Register = "register",
    /// Values are got, put and deleted, with revisions; got also from each server by itself.
    Kv = "kv",
    /// Numbers are appended to lists and lists read, by transactions that compare versions.
    ListAppend = "list-append",
    /// The same in one transaction without comparing: sequential nodes are the lists.
    Txn = "txn",
    /// Watches follow what transactions write: of a session, without one, resumed again and again, read slowly.
    Watch = "watch",
    /// Sessions fall silent, are closed or go on elsewhere; others look when their nodes go.
    Expiry = "expiry",
    /// A lock is shared by readers or taken by one writer.
    RwLock = "rwlock",
    /// Two permits are taken and given back.
    Semaphore = "semaphore",
    /// Candidates campaign, lead and resign; others ask who leads.
    Election = "election",
    /// Several of a client wait for one lock; some give up, some die in the middle of the line.
    Queue = "queue",
    /// Money goes from one account to another under both their locks; the total never changes.
    Bank = "bank",
}

/// Which resource is touched under the lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Touched {
    /// None.
    Nothing,
    /// One that compares tokens.
    Fenced,
    /// One that does not.
    Unfenced,
}

impl Workload {
    /// Whether it needs nothing but a lock, and so is for every target.
    #[must_use]
    pub fn is_for_any_lock(self) -> bool {
        matches!(self, Self::Lock | Self::Fenced | Self::FencedPostgres | Self::Unfenced)
    }

    /// What is touched under the lock.
    #[must_use]
    pub fn touched(self) -> Touched {
        match self {
            Self::Fenced | Self::FencedPostgres => Touched::Fenced,
            Self::Unfenced => Touched::Unfenced,
            _ => Touched::Nothing,
        }
    }

    /// Whether that is in PostgreSQL, which the run then has to start.
    #[must_use]
    pub fn in_postgres(self) -> bool {
        self == Self::FencedPostgres
    }

    /// What its history has to be linearizable to; `lock` is the target's own model.
    #[must_use]
    pub fn model(self, lock: Model) -> Model {
        match self {
            Self::Lock | Self::Fenced | Self::FencedPostgres | Self::Unfenced | Self::Queue | Self::Bank => lock,
            Self::Register => Model::CasRegister { init: conclave_checker::Value::Null },
            Self::Kv => Model::KvRevision,
            Self::ListAppend | Self::Txn => Model::ListAppend,
            // What watches see is held against the replicas; here it is that revisions rise as time does.
            Self::Watch => Model::KvRevision,
            Self::Expiry => Model::Session,
            Self::RwLock => Model::RwLock,
            Self::Semaphore => Model::FencedSemaphore(PERMITS),
            Self::Election => Model::Election,
        }
    }

    /// Whether its history is one of grants (L1), and not of reads and writes (I17).
    #[must_use]
    pub fn grants(self) -> bool {
        self.is_for_any_lock()
            || matches!(self, Self::RwLock | Self::Semaphore | Self::Election | Self::Queue | Self::Bank)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|workload| workload.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|workload| workload.name() == text).copied();
        found.ok_or_else(|| format!("no workload is called {text:?}; there are {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_workload() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(*workload));
            assert!(!workload.about().is_empty());
        }
        assert!("locks".parse::<Workload>().is_err_and(|error| error.contains("fenced, ")));
    }
}
