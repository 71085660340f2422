//! Histories from bytes and files.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{History, edn, json};

/// How a history is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Jepsen's EDN.
    Edn {
        /// Values of clients are `[key value]`, as `jepsen.independent` makes them. Tagged tuples need not be told.
        independent: bool,
    },
}

/// What is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// From 1.
    pub line: u32,
    /// In words.
    pub reason: String,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says why.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// Its content.
    #[error("{}: {error}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line and reason.
        error: ParseError,
    },
}

/// Most bytes of a history, unpacked.
pub const FILE_BYTES_MAX: u64 = 8 << 30;

/// Reads a history. Never panics, whatever the bytes.
pub fn parse(bytes: &[u8], format: Format) -> Result<History, ParseError> {
    match format {
        Format::Json => json::parse(bytes),
        Format::Edn { independent } => edn::parse(bytes, independent),
    }
}

/// The line on which the event at `position` stands ([`crate::Operation::called`]).
#[must_use]
pub fn line_of(bytes: &[u8], format: Format, position: u32) -> Option<u32> {
    let batches = match format {
        Format::Json => json::batches(bytes),
        Format::Edn { independent } => vec![edn::batch(bytes, independent)],
    };
    let (mut line, mut position) = (0, position as usize);
    for batch in batches {
        let batch = batch.ok()?;
        if let Some(event) = batch.events.get(position) {
            return Some(line + event.line);
        }
        position -= batch.events.len();
        line += batch.lines;
    }
    None
}

/// The bytes of a file, unpacked if they are packed; `-` is standard input.
pub fn load(path: &Path) -> Result<Vec<u8>, ReadError> {
    let fail = |error| ReadError::Io { path: path.into(), error };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(fail)?;
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let mut gz = flate2::read::MultiGzDecoder::new(&bytes[..]).take(FILE_BYTES_MAX + 1);
        gz.read_to_end(&mut unpacked).map_err(fail)?;
        bytes = unpacked;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fail(io::Error::other(format!("larger than {} GiB", FILE_BYTES_MAX >> 30))));
    }
    Ok(bytes)
}

/// The format of a file: by its name, or else by how it begins.
#[must_use]
pub fn format(path: &Path, bytes: &[u8], independent: bool) -> Format {
    let name = path.to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    if name.ends_with(".edn") {
        return Format::Edn { independent };
    }
    if name.ends_with(".jsonl") || name.ends_with(".json") {
        return Format::Json;
    }
    let mut marks = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    match (marks.next(), marks.next()) {
        (Some(b'{'), Some(b'"' | b'}')) | (None, _) => Format::Json,
        _ => Format::Edn { independent },
    }
}

/// Reads a file.
pub fn read(path: &Path, independent: bool) -> Result<History, ReadError> {
    let bytes = load(path)?;
    parse(&bytes, format(path, &bytes, independent)).map_err(|error| ReadError::Parse { path: path.into(), error })
}
