//! A history as a page to look at: one HTML file that needs nothing else and fetches nothing.
//!
//! What a reader must find without JavaScript is written here as HTML (`page`): verdict, cause, the offending
//! operations, invariants, the command that replays the run. The timeline is drawn by the scripts in `assets/` from
//! columns of numbers (`columns`); intervals of locks held are found in [`holds`]. Every text of the history is made
//! harmless and visible first (`text`).

mod columns;
pub mod holds;
mod page;
mod text;

use std::io;

use crate::{History, Judgement};

/// Refutations that get a table and frames of their own; the others are counted.
pub const MAX_REFUTATIONS: usize = 100;
/// Operations of one refutation that are framed and listed.
pub const MAX_OFFENDING: usize = 500;

/// What a page shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Of the page: a file's name, say.
    pub title: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// What happened.
    pub history: &'a History,
    /// What the checker says of it.
    pub judgement: &'a Judgement,
    /// What else the first screen tells, as name and value: seed, profile, simulated time.
    pub facts: &'a [(String, String)],
    /// Empty: no table.
    pub invariants: &'a [Invariant],
    /// Of servers, above those of locks and clients. Drawn only if the history has times.
    pub lanes: &'a [Lane],
    /// The command that does it all again.
    pub replay: Option<&'a str>,
    /// Sentences below the tables.
    pub notes: &'a [String],
}

/// A row of the table of invariants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invariant {
    /// Such as `I7`.
    pub id: String,
    /// What always holds.
    pub text: String,
    /// Whether it did.
    pub standing: Standing,
    /// What was counted, or how it failed.
    pub details: String,
}

/// Of an invariant in a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Exercised, and it held.
    Pass,
    /// It did not hold.
    Fail,
    /// The run never came to where it could have failed: not a pass.
    NotExercised,
}

/// What a server was and what happened to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lane {
    /// Of the server.
    pub name: String,
    /// In the order of time; a later one ends the one before.
    pub spans: Vec<Span>,
    /// Moments: a term begun, a snapshot taken.
    pub points: Vec<Point>,
}

/// A server's state for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// What it was.
    pub state: State,
    /// On the history's clock.
    pub from_ns: i64,
    /// Excluded; none: to the end.
    pub until_ns: Option<i64>,
    /// More about it, or empty.
    pub text: String,
}

/// How a [`Span`] is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Plainly.
    Follower,
    /// Asking for votes.
    Candidate,
    /// Boldly.
    Leader,
    /// Standing still.
    Paused,
    /// Not running.
    Down,
    /// With its text only.
    Other,
}

/// Something at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// On the history's clock.
    pub at_ns: i64,
    /// What it was.
    pub text: String,
}

impl<'a> Report<'a> {
    /// With nothing but the history and its judgement.
    #[must_use]
    pub fn new(title: &'a str, model: &'a str, history: &'a History, judgement: &'a Judgement) -> Self {
        Self { title, model, history, judgement, facts: &[], invariants: &[], lanes: &[], replay: None, notes: &[] }
    }
}

/// The page as a text. About 15 bytes an operation, and at most 6 MiB of texts.
#[must_use]
pub fn render(report: &Report<'_>) -> String {
    let mut out = Vec::new();
    write(report, &mut out).expect("a vector takes all bytes");
    String::from_utf8(out).expect("only texts are written")
}

/// Writes the page.
///
/// # Errors
/// Those of the writer.
pub fn write(report: &Report<'_>, out: impl io::Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    page::write(report, &mut out)?;
    io::Write::flush(&mut out)
}

#[cfg(test)]
mod tests;
