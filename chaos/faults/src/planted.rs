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
    /// Acknowledges entries before they are synced.
    ReplyBeforeFsync = "reply-before-fsync",
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
        let Some(bug) = Bug::ALL.iter().find(|bug| bug.key() == key) else {
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.key()).collect();
            return Err(format!("CONCLAVE_PLANTED is {key:?}; known are: {}", known.join(", ")));
        };
        PROCESS.store(*bug as usize + 1, Relaxed);
        Ok(Some(*bug))
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
}

pub use state::{active, plant, plant_from_environment};

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
