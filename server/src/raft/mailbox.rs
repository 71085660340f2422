//! The node's mailbox: many senders that never wait, one receiver that takes everything there is.
//!
//! A sender pays for a wake-up only if the receiver sleeps, and the receiver takes the lock once for a whole batch:
//! under load neither costs much per request.

use std::{mem, time::Instant};

use parking_lot::{Condvar, Mutex};

pub(super) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    wake: Condvar,
    max: usize,
}

struct Inner<T> {
    queue: Vec<T>,
    asleep: bool,
    closed: bool,
}

/// Why a request was not taken; it is given back.
pub(super) enum Refused<T> {
    Full(T),
    Closed(T),
}

impl<T> Mailbox<T> {
    pub(super) fn new(max: usize) -> Self {
        let inner = Inner { queue: Vec::new(), asleep: false, closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), max }
    }

    pub(super) fn push(&self, request: T) -> Result<(), Refused<T>> {
        self.push_bounded(request, self.max)
    }

    /// Many at once; those for which there is no room are dropped.
    ///
    /// # Errors
    /// The mailbox is closed.
    pub(super) fn push_all(&self, requests: impl IntoIterator<Item = T>) -> Result<(), ()> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(());
        }
        let room = self.max.saturating_sub(inner.queue.len());
        inner.queue.extend(requests.into_iter().take(room));
        let wake = !inner.queue.is_empty() && mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// For the few that must not be lost, and of which there are never many.
    pub(super) fn push_always(&self, request: T) -> Result<(), Refused<T>> {
        self.push_bounded(request, usize::MAX)
    }

    fn push_bounded(&self, request: T, max: usize) -> Result<(), Refused<T>> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Refused::Closed(request));
        }
        if inner.queue.len() >= max {
            return Err(Refused::Full(request));
        }
        inner.queue.push(request);
        let wake = mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Swaps `taken`, which must be empty, for everything there is, sleeping until `until` if there is nothing.
    pub(super) fn take(&self, taken: &mut Vec<T>, until: Instant) {
        debug_assert!(taken.is_empty());
        let mut inner = self.inner.lock();
        while inner.queue.is_empty() && !inner.closed {
            inner.asleep = true;
            if self.wake.wait_until(&mut inner, until).timed_out() {
                break;
            }
        }
        inner.asleep = false;
        mem::swap(&mut inner.queue, taken);
    }

    /// Nothing is taken any more; what is left is handed out.
    pub(super) fn close(&self) -> Vec<T> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let left = mem::take(&mut inner.queue);
        drop(inner);
        self.wake.notify_one();
        left
    }
}
