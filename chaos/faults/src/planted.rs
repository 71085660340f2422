//! The list of planted bugs, and which of them is active.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident = $key:literal,)+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// How it is called on the command line.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)+ }
            }

            /// What it breaks, in a sentence.
            #[must_use]
            pub fn about(self) -> String {
                match self { $(Self::$name => concat!($($doc, " ",)+).trim().to_owned(),)+ }
            }
        }
    };
}

bugs! {
    // ------------------------------------------------------------------- the log and the disk
    /// Entries are acknowledged before they are synced.
    ReplyBeforeFsync = "reply-before-fsync",
    /// A leader answers a proposal when it has stored it, before a majority has.
    AnswerBeforeCommit = "answer-before-commit",
    /// A vote is cast without being stored.
    VoteNotPersisted = "vote-not-persisted",
    /// The log is compacted before the state that it made is stored.
    CompactBeforeStore = "compact-before-store",
    /// The state is stored with the index before its own.
    AppliedBehind = "applied-behind",
    /// The state is stored without the commit index that covers it.
    CommitBehindState = "commit-behind-state",

    // ------------------------------------------------------------------- proposals and reads
    /// A proposal under way when leadership is lost is called certainly not applied.
    LostLeadershipIsFailure = "lost-leadership-is-failure",
    /// An entry of an earlier run of this server answers a proposal of this run.
    AnswerOfAnotherRun = "answer-of-another-run",
    /// A linearizable read is served by whoever believes to lead, without asking a majority.
    ReadWithoutQuorum = "read-without-quorum",
    /// A confirmed read is served before this replica has applied what it must see.
    ReadBeforeApply = "read-before-apply",
    /// The answer to an earlier read round confirms the latest one.
    ReadContextReused = "read-context-reused",
    /// Replicas apply the same entry with different wall clocks.
    ApplyByOwnClock = "apply-by-own-clock",

    // ------------------------------------------------------------------- the state machine
    /// A repeated request is applied again.
    NoDedup = "no-dedup",
    /// What the predecessor of a session's process still had under way is applied after the take-over.
    PredecessorHeard = "predecessor-heard",
    /// A restored state has forgotten the answers that were not acknowledged yet.
    RestoreWithoutDedup = "restore-without-dedup",
    /// A session is expired by the leader of an earlier term.
    StaleTermExpires = "stale-term-expires",
    /// When a session ends, one of its nodes stays.
    EphemeralOutlives = "ephemeral-outlives",
    /// Sequence numbers begin anew when a parent has no children.
    SequenceRestarts = "sequence-restarts",
    /// A transaction that is refused half-way keeps what it had done.
    NoRollback = "no-rollback",
    /// Comparisons of revisions always hold, and so does that of a hold that is over.
    CompareIgnoresRevision = "compare-ignores-revision",
    /// A release frees whoever holds the lock by then.
    ReleaseWithoutOwnerCheck = "release-without-owner-check",
    /// One more may hold than there are permits.
    PermitTooMany = "permit-too-many",
    /// Readers of a shared lock do not wait for writers.
    ReadersPassWriters = "readers-pass-writers",

    // ------------------------------------------------------------------- session time
    /// A renewal is granted without a majority's confirmation that this server leads.
    RenewWithoutQuorum = "renew-without-quorum",
    /// A renewal does not move the session's deadline.
    RenewalForgotten = "renewal-forgotten",
    /// A session whose end is proposed already is renewed.
    RenewedWhileEnding = "renewed-while-ending",
    /// A new leader grants silent sessions nothing of what they had left.
    NewLeaderExpiresAtOnce = "new-leader-expires-at-once",
    /// Every election gives a silent session its whole TTL anew.
    ElectionsLengthen = "elections-lengthen",
    /// A renewal is granted before the full TTL is replicated again.
    RenewalAheadOfCheckpoint = "renewal-ahead-of-checkpoint",

    // ------------------------------------------------------------------- watches
    /// Changes are told to watchers after they are told to whoever made them.
    EventAfterReply = "event-after-reply",
    /// A watch that catches up misses a revision.
    WatchGap = "watch-gap",
    /// A watch that catches up tells a revision twice.
    WatchDuplicate = "watch-duplicate",
    /// The events of one revision are told in two parts.
    WatchTorn = "watch-torn",
    /// A watch from before the oldest revision begins later, without a word.
    CompactedNotTold = "compacted-not-told",
    /// A release wakes everybody in the queue.
    WakesEverybody = "wakes-everybody",
    /// A deletion in the middle of the queue makes the next one forget that it waits.
    LostWakeUp = "lost-wake-up",
    /// When a waiter in the middle leaves, its successor is granted.
    MiddleLeaverGrants = "middle-leaver-grants",

    // ------------------------------------------------------------------- the client
    /// The deadline counts from when a keep-alive was acknowledged, not from when it was sent.
    DeadlineFromAcknowledgement = "deadline-from-acknowledgement",
    /// The deadline has no allowance for clocks of different speed.
    NoDriftAllowance = "no-drift-allowance",
    /// A grant is believed without a look at the session after the wait.
    NoCheckAfterWait = "no-check-after-wait",
    /// An unknown outcome is reported as a failure.
    UnknownIsFailure = "unknown-is-failure",
    /// After a reconnection, requests are sent again under new numbers.
    NewNumbersOnReconnect = "new-numbers-on-reconnect",
    /// The fencing token is the node's sequence number.
    TokenFromSequence = "token-from-sequence",
    /// The fencing token is what the client's wall clock says.
    TokenFromWallClock = "token-from-wall-clock",
    /// A watch resumes one revision too late.
    WatchResumesLate = "watch-resumes-late",
    /// After a reconnection, waiters do not say again that they wait.
    WaitForgottenOnReconnect = "wait-forgotten-on-reconnect",
    /// A hold abandoned while its acquire is under way is never given back.
    AbandonedHoldKept = "abandoned-hold-kept",
    /// A fence accepts tokens below one that it has seen.
    FenceAcceptsLower = "fence-accepts-lower",
}

#[cfg(feature = "faults")]
mod state {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::Bug;

    /// Of the whole process: position in [`Bug::ALL`] plus one.
    static PROCESS: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        /// Of this thread, so that simulations run side by side.
        static THREAD: Cell<usize> = const { Cell::new(0) };
    }

    /// Whether this bug is active in this thread.
    #[must_use]
    pub fn active(bug: Bug) -> bool {
        let number = bug as usize + 1;
        THREAD.get() == number || PROCESS.load(Relaxed) == number
    }

    /// Makes a bug active in this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        THREAD.set(bug.map_or(0, |bug| bug as usize + 1));
    }

    /// Makes the bug named by `CONCLAVE_PLANTED` active in the whole process. To be called once, at the start.
    ///
    /// # Errors
    /// No such bug.
    pub fn plant_from_environment() -> Result<Option<Bug>, String> {
        let Ok(key) = std::env::var("CONCLAVE_PLANTED") else { return Ok(None) };
        plant_everywhere(&key).map(Some).map_err(|error| format!("CONCLAVE_PLANTED: {error}"))
    }

    /// Makes the bug of this key active in the whole process. To be called once, at the start.
    ///
    /// # Errors
    /// No such bug.
    pub fn plant_everywhere(key: &str) -> Result<Bug, String> {
        let Some(bug) = Bug::ALL.iter().find(|bug| bug.key() == key) else {
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.key()).collect();
            return Err(format!("no planted bug is called {key:?}; there are {}", known.join(", ")));
        };
        PROCESS.store(*bug as usize + 1, Relaxed);
        Ok(*bug)
    }
}

#[cfg(not(feature = "faults"))]
mod state {
    use super::Bug;

    /// Whether this bug is active: never.
    #[must_use]
    #[inline(always)]
    pub const fn active(_bug: Bug) -> bool {
        false
    }

    /// There are no bugs to plant in this build.
    pub fn plant(_bug: Option<Bug>) {}

    /// There are no bugs to plant in this build.
    ///
    /// # Errors
    /// None.
    pub fn plant_from_environment() -> Result<Option<Bug>, String> {
        Ok(None)
    }

    /// There are no bugs to plant in this build.
    ///
    /// # Errors
    /// Always.
    pub fn plant_everywhere(key: &str) -> Result<Bug, String> {
        Err(format!("{key:?} cannot be planted: this program was built without the feature faults"))
    }
}

pub use state::{active, plant, plant_everywhere, plant_from_environment};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_told() {
        let mut keys: Vec<&str> = Bug::ALL.iter().map(|bug| bug.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), Bug::ALL.len());
        assert!(Bug::ALL.iter().all(|bug| bug.about().ends_with('.')));
    }
}
