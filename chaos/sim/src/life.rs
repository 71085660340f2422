//! One start of a server: how long it lives, measured in effects, and how much time it spends.
//!
//! Whatever the server does to the world outside passes a [`Point`]. A fault may name one of them as its end: the
//! production code is cut there, by unwinding, between any two of its effects.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::time::Micros;

/// What is about to happen.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Point {
    /// Entries or the hard state are written.
    LogWrite,
    /// They were written, and are not synced yet.
    LogSync,
    /// They were synced.
    LogSynced,
    /// What applying changed is written.
    StateWrite,
    /// The log is compacted.
    Compact,
    /// A snapshot is taken.
    Snapshot,
    /// A fetched snapshot replaces everything.
    Install,
    /// It did.
    Installed,
    /// An applied entry is told.
    Publish,
    /// A message is handed over.
    Send,
    /// What was sent goes out.
    Flush,
    /// A turn of the node begins.
    Turn,
}

impl Point {
    /// How many there are.
    pub const COUNT: usize = Self::Turn as usize + 1;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::LogWrite,
        Self::LogSync,
        Self::LogSynced,
        Self::StateWrite,
        Self::Compact,
        Self::Snapshot,
        Self::Install,
        Self::Installed,
        Self::Publish,
        Self::Send,
        Self::Flush,
        Self::Turn,
    ];
}

/// What unwinds a server that dies in the middle of its work.
#[derive(Debug)]
pub struct Died(pub Point);

/// See the module.
#[derive(Debug, Default)]
pub struct Life {
    dead: AtomicBool,
    /// Dies at the so-many-th point from now; 0 for never.
    left: AtomicU64,
    spent: AtomicU64,
    /// Its disk failed on purpose: it may stop, in whatever way.
    pub excused: AtomicBool,
}

impl Life {
    /// It is over: nothing more reaches the world.
    pub fn end(&self) {
        self.dead.store(true, Relaxed);
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// Dies at the so-many-th point from now on.
    pub fn die_in(&self, points: u64) {
        self.left.store(points.max(1), Relaxed);
    }

    /// Does not die so after all.
    pub fn spare(&self) {
        self.left.store(0, Relaxed);
    }

    /// An effect is about to happen, unless this is the end.
    pub fn point(&self, point: Point) {
        let left = self.left.load(Relaxed);
        if left > 0 {
            self.left.store(left - 1, Relaxed);
            if left == 1 {
                self.end();
                resume_unwind(Box::new(Died(point)));
            }
        }
    }

    /// The present turn takes so much longer.
    pub fn spend(&self, us: Micros) {
        self.spent.fetch_add(us, Relaxed);
    }

    /// How far the present turn has come.
    #[must_use]
    pub fn spent(&self) -> Micros {
        self.spent.load(Relaxed)
    }

    /// A new turn begins. What the last one spent.
    pub fn start_turn(&self) -> Micros {
        self.spent.swap(0, Relaxed)
    }
}
