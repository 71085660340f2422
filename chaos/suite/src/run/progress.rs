//! What a run says while it goes on.

use std::time::{Duration, Instant};

use crate::{board::Shared, client::Outcome};

/// One line on standard error, over itself at a terminal.
pub struct Progress {
    quiet: bool,
    terminal: bool,
    begun: Instant,
    last: Option<Instant>,
}

impl Progress {
    pub fn new(quiet: bool, begun: Instant) -> Self {
        Self { quiet, terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()), begun, last: None }
    }

    pub fn beat(&mut self, board: &Shared, what: &str) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 2_000 });
        if self.quiet || self.last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        self.last = Some(Instant::now());
        let board = board.lock();
        let count = |outcome| board.outcomes.iter().filter(|((_, of), _)| *of == outcome).map(|(_, n)| n).sum::<u64>();
        let leader = board.leader().map_or("-".to_owned(), |at| (at + 1).to_string());
        let line = format!(
            "{:5.1} s  {} ok, {} failed, {} unknown  leader {leader}  {what}",
            self.begun.elapsed().as_secs_f64(),
            count(Outcome::Ok),
            count(Outcome::Fail),
            count(Outcome::Info),
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    pub fn end(&self) {
        if self.terminal && !self.quiet {
            eprint!("\r\x1b[K");
        }
    }
}
