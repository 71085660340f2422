//! What clients have told so far, for those who act on it while the run goes on.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
};

use crate::client::{Happened, Outcome, ServerView, Told};

/// All that was told, and where it leaves us.
#[derive(Debug, Default)]
pub struct Board {
    /// By whom (its place among the clients; the observer's is after the last), in the order of arrival.
    pub told: Vec<(usize, Told)>,
    /// Who is in the middle of something since when.
    pub inside: BTreeMap<usize, i64>,
    /// Who has said that it is ready.
    pub ready: Vec<usize>,
    /// The servers as last seen, and when.
    pub servers: (i64, Vec<ServerView>),
    /// Whether any server ever led: there are services without a leader.
    pub led: bool,
    /// Writes of the observer: sent, acknowledged.
    pub writes: Vec<(i64, i64)>,
    /// Operations by name and outcome.
    pub outcomes: BTreeMap<(String, Outcome), u64>,
}

impl Board {
    /// The server that leads in the newest term, by its place.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let leads = self.servers.1.iter().enumerate().filter(|(_, server)| server.answers && server.leads);
        leads.max_by_key(|(_, server)| server.term).map(|(at, _)| at)
    }

    /// Since when this client has been waiting for the answer to a call of `acquire`.
    #[must_use]
    pub fn asked_since(&self, who: usize) -> Option<i64> {
        let last = self.told.iter().rev().find(|(by, _)| *by == who).map(|(_, told)| told)?;
        matches!(&last.happened, Happened::Call { f, .. } if f == "acquire").then_some(last.at_ns)
    }

    /// When the first write was acknowledged that had been sent at `from_ns` or later.
    #[must_use]
    pub fn written_since(&self, from_ns: i64) -> Option<i64> {
        self.writes.iter().filter(|(sent, _)| *sent >= from_ns).map(|(_, done)| *done).min()
    }

    fn take(&mut self, who: usize, told: Told, inside: Inside) {
        match (&told.happened, inside) {
            (Happened::Begin { .. }, Inside::Hold)
            | (Happened::Read { .. }, _)
            | (Happened::Call { .. }, Inside::Call) => {
                self.inside.insert(who, told.at_ns);
            }
            (Happened::End { .. } | Happened::Killed, _) | (Happened::Return { .. }, Inside::Call) => {
                self.inside.remove(&who);
            }
            _ => {}
        }
        match &told.happened {
            Happened::Ready => self.ready.push(who),
            Happened::Return { f, outcome, .. } => *self.outcomes.entry((f.clone(), *outcome)).or_default() += 1,
            Happened::Written { sent_ns } => return self.writes.push((*sent_ns, told.at_ns)),
            Happened::Servers { servers } => {
                self.servers = (told.at_ns, servers.clone());
                self.led |= servers.iter().any(|server| server.leads);
                return;
            }
            _ => {}
        }
        self.told.push((who, told));
    }
}

/// What it means that a client is in the middle of something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inside {
    /// It holds.
    Hold,
    /// It holds, and has read what it will write.
    Section,
    /// It has asked for something.
    Call,
}

/// A board that fills by itself.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// Takes what is told, and writes it down, until nobody is left to tell.
    #[must_use]
    pub fn fill(
        told: mpsc::Receiver<(usize, Told)>,
        inside: Inside,
        names: Vec<String>,
        mut log: impl Write + Send + 'static,
    ) -> Self {
        let board = Self::default();
        let shared = board.clone();
        thread::spawn(move || {
            for (who, told) in told {
                let line = serde_json::json!({ "who": names[who], "told": told });
                // The log is for people; what is judged is on the board.
                let _ = writeln!(log, "{line}");
                shared.lock().take(who, told, inside);
            }
            let _ = log.flush();
        });
        board
    }

    /// To look at it.
    ///
    /// # Panics
    /// If somebody panicked with it.
    pub fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().expect("nobody panics with it")
    }
}
