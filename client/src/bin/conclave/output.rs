//! Writing results: aligned tables for people, JSON for programs.

use std::io::{self, BufWriter, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use comfy_table::{CellAlignment, Table, presets};
use conclave_client::{Kind, Node};
use serde::Serialize;

use crate::{
    args::Format,
    exit::Failure,
    units::{bytes, span, utc},
};

/// Standard output, in the format that was asked for.
pub struct Out {
    /// Table or JSON.
    pub format: Format,
    to: BufWriter<io::Stdout>,
}

impl Out {
    /// Writes to standard output.
    pub fn new(format: Format) -> Self {
        Self { format, to: BufWriter::new(io::stdout()) }
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, data: &[u8]) -> Result<(), Failure> {
        let result = self.to.write_all(data);
        Self::check(result)
    }

    /// Writes a line of text.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        let result = self.to.write_all(text.as_ref().as_bytes()).and_then(|()| self.to.write_all(b"\n"));
        Self::check(result)
    }

    /// Writes a value as JSON on several lines.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).expect("our own types have no map keys but strings");
        self.line(text)
    }

    /// Writes a value as JSON on one line, as streams do.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).expect("our own types have no map keys but strings");
        self.line(text)?;
        self.flush()
    }

    /// Writes rows under their headings. A heading that begins with `>` is set flush right.
    pub fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let text = table(headings, rows);
        self.line(text)
    }

    /// Everything written so far leaves the process.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let result = self.to.flush();
        Self::check(result)
    }

    fn check(result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            // Whoever read us has seen enough (`conclave ls | head -1`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => Err(Failure::local("cannot write to standard output", &error)),
        }
    }
}

/// Rows in aligned columns under their headings; no trailing blanks, no wrapping.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|h| h.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (at, heading) in headings.iter().enumerate() {
        let column = table.column_mut(at).expect("a column for each heading");
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Text without control characters: what others wrote into labels and names must not steer a terminal.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) { text.chars().flat_map(escape).collect() } else { text.to_owned() }
}

fn escape(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// Data for people: text in full or its beginning, anything else as a size.
pub fn preview(data: &[u8], chars_max: usize) -> String {
    match std::str::from_utf8(data) {
        Ok(text) => {
            let mut shown: String = text.chars().take(chars_max).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            printable(&shown)
        }
        Err(_) => format!("<{}, not text>", bytes(data.len() as u64)),
    }
}

/// Data in JSON: `text` where it is UTF-8, always `base64`, and its `size` in bytes.
#[derive(Serialize)]
pub struct DataJson {
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    base64: String,
}

impl DataJson {
    /// These bytes.
    pub fn new(data: &[u8]) -> Self {
        Self {
            size: data.len(),
            text: std::str::from_utf8(data).ok().map(str::to_owned),
            base64: STANDARD.encode(data),
        }
    }
}

/// Reads base64; the error says where it went wrong.
pub fn base64_decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))
}

/// A node in JSON.
#[derive(Serialize)]
pub struct NodeJson {
    path: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    owner: Option<u64>,
    create_revision: u64,
    modify_revision: u64,
    version: u64,
    children_version: u64,
    child_count: u64,
    sequence: Option<u64>,
    created: String,
    modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<DataJson>,
}

impl NodeJson {
    /// Without its data.
    pub fn bare(node: &Node) -> Self {
        Self {
            path: node.path.clone(),
            kind: kind_name(node.kind),
            ttl_ms: match node.kind {
                Kind::Ttl(ttl) => Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
                _ => None,
            },
            owner: node.owner.map(|owner| owner.0),
            create_revision: node.create_revision.0,
            modify_revision: node.modify_revision.0,
            version: node.version,
            children_version: node.children_version,
            child_count: node.child_count,
            sequence: node.sequence,
            created: utc(node.created_ms),
            modified: utc(node.modified_ms),
            data: None,
        }
    }

    /// With its data.
    pub fn full(node: &Node) -> Self {
        Self { data: Some(DataJson::new(&node.data)), ..Self::bare(node) }
    }
}

/// A kind in one word.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Persistent => "persistent",
        Kind::Ephemeral => "ephemeral",
        Kind::Container => "container",
        Kind::Ttl(_) => "ttl",
    }
}

/// A kind for people, with its TTL.
pub fn kind_text(kind: Kind) -> String {
    match kind {
        Kind::Ttl(ttl) => format!("ttl {}", span(ttl)),
        kind => kind_name(kind).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_end_without_blanks() {
        let text = table(
            &["PATH", ">SIZE", "NOTE"],
            vec![vec!["/a".into(), "5".into(), "x".into()], vec!["/long/path".into(), "12345".into(), String::new()]],
        );
        assert_eq!(text, "PATH         SIZE  NOTE\n/a              5  x\n/long/path  12345");
    }

    #[test]
    fn nobody_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\n"), "a\\u{1b}[31mred\\n");
        assert_eq!(preview(b"hello", 3), "hel…");
        assert_eq!(preview("käse".as_bytes(), 4), "käse");
        assert_eq!(preview(&[0xff, 0xfe], 10), "<2 B, not text>");
        assert!(!table(&["A"], vec![vec!["x\u{7}".into()]]).contains('\u{7}'));
    }

    #[test]
    fn data_is_text_and_base64() {
        let json = |data: &[u8]| serde_json::to_string(&DataJson::new(data)).expect("plain");
        assert_eq!(json(b"hi"), r#"{"size":2,"text":"hi","base64":"aGk="}"#);
        assert_eq!(json(&[0xff]), r#"{"size":1,"base64":"/w=="}"#);
        assert_eq!(base64_decode("aGk="), Ok(b"hi".to_vec()));
        assert!(base64_decode("a").expect_err("bad").contains("not base64"));
    }
}
