//! Histories as lines of JSON: `{"process":3,"type":"ok","f":"read","key":"x","value":5,"time":1200}`.
//!
//! A parser of its own, because a million operations are two million lines: it copies nothing but texts, keeps each name
//! once, and lines are read on all cores.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{
    Function, History, NO_TIME, ParseError, Value,
    event::{Aside, Batch, Event, Kind, Pairing, is_nemesis},
};

/// Bytes that one core reads at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Deepest nesting of a value.
const DEPTH_MAX: usize = 64;

pub(super) fn parse(bytes: &[u8]) -> Result<History, ParseError> {
    let mut pairing = Pairing::default();
    let mut line = 0;
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| ParseError { line: line + error.line, ..error })?;
        let lines = batch.lines;
        pairing.add(batch, line)?;
        line += lines;
    }
    Ok(pairing.finish())
}

/// All events, in order; lines count from the beginning of each batch.
pub(super) fn batches(bytes: &[u8]) -> Vec<Result<Batch, ParseError>> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let least = rest.len().min(CHUNK_BYTES);
        let end = rest[least..].iter().position(|byte| *byte == b'\n').map_or(rest.len(), |more| least + more + 1);
        let (chunk, after) = rest.split_at(end);
        chunks.push(chunk);
        rest = after;
    }
    chunks.into_par_iter().map(batch).collect()
}

/// Names by the bytes that stand for them.
#[derive(Default)]
struct Names<'a> {
    ids: HashMap<&'a [u8], u32>,
    last: Option<(&'a [u8], u32)>,
}

impl<'a> Names<'a> {
    fn id(&mut self, token: &'a [u8], names: &mut Vec<Value>) -> Result<u32, String> {
        if let Some((last, id)) = self.last
            && last == token
        {
            return Ok(id);
        }
        let id = match self.ids.get(token) {
            Some(id) => *id,
            None => {
                names.push(Scan { bytes: token, at: 0 }.value(0)?);
                let id = names.len() as u32 - 1;
                self.ids.insert(token, id);
                id
            }
        };
        self.last = Some((token, id));
        Ok(id)
    }
}

fn batch(bytes: &[u8]) -> Result<Batch, ParseError> {
    let mut batch = Batch { events: Vec::with_capacity(bytes.len() / 80), ..Batch::default() };
    let (mut processes, mut keys) = (Names::default(), Names::default());
    let mut nemeses: Vec<bool> = Vec::new();
    let mut functions: Vec<(&[u8], Function)> = Vec::new();
    for text in bytes.split(|byte| *byte == b'\n') {
        batch.lines += 1;
        let line = batch.lines;
        let mut scan = Scan { bytes: text, at: 0 };
        scan.space();
        if scan.at == text.len() {
            continue;
        }
        let fail = |reason: String| ParseError { line, reason };
        let fields = fields(&mut scan).map_err(fail)?;
        let process = fields.process.ok_or_else(|| fail("the event has no process".into()))?;
        let process = processes.id(process, &mut batch.processes).map_err(fail)?;
        let key = keys.id(fields.key.unwrap_or(b"null"), &mut batch.keys).map_err(fail)?;
        if nemeses.len() < batch.processes.len() {
            nemeses.extend(batch.processes[nemeses.len()..].iter().map(is_nemesis));
        }
        let kind = fields.kind.ok_or_else(|| fail("the event has no type".into()))?;
        let kind = Kind::parse(unquoted(kind)).ok_or_else(|| {
            fail(format!("the type is invoke, ok, fail or info, not {}", String::from_utf8_lossy(kind)))
        })?;
        let name = fields.function.ok_or_else(|| fail("the event has no f".into()))?;
        let mut aside = Aside { error: fields.error, fault: None };
        let mut function = None;
        if nemeses[process as usize] {
            aside.fault = Some(Scan { bytes: name, at: 0 }.value(0).map_err(fail)?.to_string());
        } else if let Some((_, known)) = functions.iter().find(|(known, _)| *known == name) {
            function = Some(*known);
        } else {
            let text = String::from_utf8_lossy(unquoted(name));
            let known = Function::parse(&text).ok_or_else(|| fail(format!("no operation is called {text:?}")))?;
            functions.push((name, known));
            function = Some(known);
        }
        if aside.fault.is_some() || !aside.error.is_null() {
            batch.asides.push((batch.events.len() as u32, aside));
        }
        batch.events.push(Event { line, process, key, function, kind, value: fields.value, time: fields.time });
    }
    // What stands after the last line break is no line if there is nothing.
    if bytes.last() == Some(&b'\n') {
        batch.lines -= 1;
    }
    Ok(batch)
}

fn unquoted(token: &[u8]) -> &[u8] {
    token.strip_prefix(b"\"").and_then(|token| token.strip_suffix(b"\"")).unwrap_or(token)
}

/// The members of an event; what names something as it stands.
struct Fields<'a> {
    process: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    function: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    value: Value,
    error: Value,
    time: i64,
}

fn fields<'a>(scan: &mut Scan<'a>) -> Result<Fields<'a>, String> {
    let mut fields = Fields {
        process: None,
        kind: None,
        function: None,
        key: None,
        value: Value::Null,
        error: Value::Null,
        time: NO_TIME,
    };
    scan.expect(b'{')?;
    scan.space();
    if scan.peek() == Some(b'}') {
        scan.at += 1;
        return scan.end().map(|()| fields);
    }
    loop {
        scan.space();
        let name = unquoted(scan.string()?);
        scan.space();
        scan.expect(b':')?;
        scan.space();
        match name {
            b"process" => fields.process = Some(scan.token()?),
            b"type" => fields.kind = Some(scan.string()?),
            b"f" => fields.function = Some(scan.string()?),
            b"key" => fields.key = Some(scan.token()?),
            b"value" => fields.value = scan.value(0)?,
            b"error" => {
                // What the reason looks like is the client's business; that there is one counts.
                fields.error = match scan.value(0)? {
                    Value::Null => Value::Null,
                    reason => Value::Text(reason.to_string().into()),
                }
            }
            b"time" => {
                let token = scan.token()?;
                fields.time = match std::str::from_utf8(token).ok().and_then(|text| text.parse().ok()) {
                    Some(time) => time,
                    None if token == b"null" => NO_TIME,
                    None => {
                        return Err(format!("the time is whole nanoseconds, not {}", String::from_utf8_lossy(token)));
                    }
                };
            }
            _ => {
                scan.token()?;
            }
        }
        scan.space();
        match scan.next() {
            Some(b',') => {}
            Some(b'}') => break,
            other => return Err(expected("a comma or the end of the object", other)),
        }
    }
    scan.end().map(|()| fields)
}

fn expected(what: &str, found: Option<u8>) -> String {
    match found {
        Some(byte) => format!("expected {what}, found {:?}", char::from(byte)),
        None => format!("expected {what}, found the end of the line"),
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        match self.next() {
            Some(found) if found == byte => Ok(()),
            found => Err(expected(&format!("{:?}", char::from(byte)), found)),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        self.space();
        match self.peek() {
            None => Ok(()),
            found => Err(expected("one event a line", found)),
        }
    }

    /// A string as it stands, with its quotes.
    fn string(&mut self) -> Result<&'a [u8], String> {
        let from = self.at;
        self.expect(b'"')?;
        loop {
            match self.next() {
                Some(b'"') => return Ok(&self.bytes[from..self.at]),
                Some(b'\\') => self.at += 1,
                Some(_) => {}
                None => return Err("a text has no end on its line".into()),
            }
        }
    }

    /// Any value as it stands.
    fn token(&mut self) -> Result<&'a [u8], String> {
        let from = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'[' | b'{') => {
                self.value(0)?;
            }
            _ => {
                while matches!(self.peek(), Some(byte) if !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r')) {
                    self.at += 1;
                }
            }
        }
        if from == self.at {
            return Err(expected("a value", self.peek()));
        }
        Ok(&self.bytes[from..self.at])
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("values nest at most {DEPTH_MAX} deep"));
        }
        match self.peek() {
            Some(b'"') => {
                let token = self.string()?;
                let inner = unquoted(token);
                if inner.iter().all(|byte| *byte != b'\\' && *byte >= b' ')
                    && let Ok(text) = std::str::from_utf8(inner)
                {
                    return Ok(text.into());
                }
                let text: String =
                    serde_json::from_slice(token).map_err(|error| format!("the text is not JSON: {error}"))?;
                Ok(Value::Text(text.into()))
            }
            Some(b'[') => self.list(depth).map(|values| Value::List(values.into())),
            Some(b'{') => self.object(depth),
            _ => {
                let token = self.token()?;
                match token {
                    b"null" => return Ok(Value::Null),
                    b"true" => return Ok(Value::Bool(true)),
                    b"false" => return Ok(Value::Bool(false)),
                    _ => {}
                }
                let text = std::str::from_utf8(token).unwrap_or("");
                if let (false, Ok(number)) = (text.starts_with('+'), text.parse()) {
                    return Ok(Value::Int(number));
                }
                // Numbers that are not whole, or too large, are compared as they are written.
                match serde_json::from_slice::<serde_json::Number>(token) {
                    Ok(_) => Ok(text.into()),
                    Err(_) => Err(format!("not a value: {}", String::from_utf8_lossy(token))),
                }
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        self.expect(b'[')?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(values);
        }
        loop {
            self.space();
            values.push(self.value(depth + 1)?);
            self.space();
            match self.next() {
                Some(b',') => {}
                Some(b']') => return Ok(values),
                other => return Err(expected("a comma or the end of the list", other)),
            }
        }
    }

    /// A list of pairs, by name.
    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut pairs = Vec::new();
        self.expect(b'{')?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::List([].into()));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(expected("a name", self.peek()));
            }
            let name = self.value(depth + 1)?;
            self.space();
            self.expect(b':')?;
            self.space();
            let value = self.value(depth + 1)?;
            pairs.push(Value::List([name, value].into()));
            self.space();
            match self.next() {
                Some(b',') => {}
                Some(b'}') => {
                    pairs.sort();
                    return Ok(Value::List(pairs.into()));
                }
                other => return Err(expected("a comma or the end of the object", other)),
            }
        }
    }
}
