//! Histories as Jepsen writes them in EDN: a vector of maps, or one map after the other.
//!
//! Keywords and symbols become texts, sets and maps become sorted lists; tags are dropped, so records read as maps.
//! Names of members, types and functions may have namespaces. Ratios and decimals become texts.

use std::collections::HashMap;

use super::{
    Function, History, NO_TIME, ParseError, Value,
    event::{Aside, Batch, Event, Kind, Pairing, is_nemesis},
};

/// Deepest nesting of a value.
const DEPTH_MAX: usize = 64;

/// `independent`: values of clients are `[key value]`.
pub(super) fn parse(bytes: &[u8], independent: bool) -> Result<History, ParseError> {
    let mut pairing = Pairing::default();
    pairing.add(batch(bytes, independent)?, 0)?;
    Ok(pairing.finish())
}

pub(super) fn batch(bytes: &[u8], independent: bool) -> Result<Batch, ParseError> {
    let mut scan = Scan { bytes, at: 0, line: 1, depth: 0 };
    let mut names = Interned::default();
    let result = events(&mut scan, independent, &mut names);
    let line = scan.line;
    result.map(|()| names.batch).map_err(|(at, reason)| ParseError { line: at.unwrap_or(line), reason })
}

#[derive(Default)]
struct Interned {
    batch: Batch,
    processes: HashMap<Value, u32>,
    keys: HashMap<Value, u32>,
}

fn id(ids: &mut HashMap<Value, u32>, names: &mut Vec<Value>, name: Value) -> u32 {
    *ids.entry(name).or_insert_with_key(|name| {
        names.push(name.clone());
        names.len() as u32 - 1
    })
}

/// Where, if not where the parser stands; and what.
type Failure = (Option<u32>, String);

fn events(scan: &mut Scan<'_>, independent: bool, names: &mut Interned) -> Result<(), Failure> {
    let here = |reason: String| (None, reason);
    scan.space().map_err(here)?;
    let close = match scan.peek() {
        Some(b'[') => Some(b']'),
        Some(b'(') => Some(b')'),
        _ => None,
    };
    if close.is_some() {
        scan.at += 1;
    }
    loop {
        scan.space().map_err(here)?;
        match scan.peek() {
            None if close.is_none() => return Ok(()),
            None => return Err(here("the vector of events has no end".into())),
            byte if byte == close => {
                scan.at += 1;
                scan.space().map_err(here)?;
                return match scan.peek() {
                    None => Ok(()),
                    other => Err(here(expected("nothing after the vector of events", other))),
                };
            }
            _ => {}
        }
        let line = scan.line;
        let Node::Map(members) = scan.node().map_err(here)? else {
            return Err((Some(line), "an event is a map, as in {:process 0 :type :ok :f :read :value 1}".into()));
        };
        event(members, line, independent, names).map_err(|reason| (Some(line), reason))?;
    }
}

fn event(members: Vec<(Node, Node)>, line: u32, independent: bool, names: &mut Interned) -> Result<(), String> {
    let (mut process, mut kind, mut function) = (None, None, None);
    let (mut key, mut value, mut error, mut time) = (Value::Null, Node::Atom(Value::Null), Value::Null, NO_TIME);
    for (name, member) in members {
        let Node::Atom(Value::Text(name)) = name else { continue };
        match bare(&name) {
            "process" => process = Some(member.value()),
            "type" => kind = Some(member.value()),
            "f" => function = Some(member.value()),
            "key" => key = member.value(),
            "value" => value = member,
            "error" => {
                error = match member.value() {
                    Value::Null => Value::Null,
                    reason => Value::Text(reason.to_string().into()),
                }
            }
            "time" => {
                time = match member.value() {
                    Value::Int(time) => time,
                    Value::Null => NO_TIME,
                    other => return Err(format!("the time is whole nanoseconds, not {other}")),
                }
            }
            _ => {}
        }
    }
    let process = process.ok_or("the event has no process")?;
    let Value::Text(kind) = kind.ok_or("the event has no type")? else { return Err("the type is a keyword".into()) };
    let kind = Kind::parse(bare(&kind).as_bytes())
        .ok_or_else(|| format!("the type is invoke, ok, fail or info, not {kind}"))?;
    let name = function.ok_or("the event has no f")?.to_string();
    let mut aside = Aside { error, fault: None };
    let mut function = None;
    if is_nemesis(&process) {
        aside.fault = Some(name);
    } else {
        function = Some(Function::parse(bare(&name)).ok_or_else(|| format!("no operation is called {name:?}"))?);
    }
    let value = match value {
        Node::Tuple(of, inner) => {
            key = of;
            *inner
        }
        Node::List(mut pair) if independent && function.is_some() => {
            if pair.len() != 2 {
                return Err(format!("the value is [key value], not {}", Node::List(pair).value()));
            }
            let inner = pair.pop().unwrap_or(Node::Atom(Value::Null));
            key = pair.pop().map_or(Value::Null, Node::value);
            inner
        }
        // A return without a value is that of its call's key.
        Node::Atom(Value::Null) => Node::Atom(Value::Null),
        other if independent && function.is_some() => {
            return Err(format!("the value is [key value], not {}", other.value()));
        }
        other => other,
    };
    let batch = &mut names.batch;
    let process = id(&mut names.processes, &mut batch.processes, process);
    let key = id(&mut names.keys, &mut batch.keys, key);
    if aside.fault.is_some() || !aside.error.is_null() {
        batch.asides.push((batch.events.len() as u32, aside));
    }
    batch.events.push(Event { line, process, key, function, kind, value: value.value(), time });
    Ok(())
}

/// What was read, as far as events need it.
enum Node {
    Atom(Value),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// Jepsen's tuple of independent keys.
    Tuple(Value, Box<Node>),
}

impl Node {
    fn value(self) -> Value {
        match self {
            Self::Atom(value) => value,
            Self::List(nodes) => Value::List(nodes.into_iter().map(Self::value).collect()),
            Self::Map(members) => {
                let pair = |(name, value): (Self, Self)| Value::List([name.value(), value.value()].into());
                let mut pairs: Vec<_> = members.into_iter().map(pair).collect();
                pairs.sort();
                Value::List(pairs.into())
            }
            Self::Tuple(key, value) => Value::List([key, value.value()].into()),
        }
    }
}

/// The digits of a whole number, exact (`12N`) or not.
fn whole(text: &str) -> Option<&str> {
    let number = text.strip_suffix('N').unwrap_or(text);
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    let whole = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    whole.then(|| number.strip_prefix('+').unwrap_or(number))
}

/// What a keyword names, without its namespace.
fn bare(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, name)| name)
}

fn expected(what: &str, found: Option<u8>) -> String {
    match found {
        Some(byte) => format!("expected {what}, found {:?}", char::from(byte)),
        None => format!("expected {what}, found the end"),
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
    depth: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += u32::from(byte == b'\n');
        Some(byte)
    }

    /// Skips what means nothing: space, commas, comments, `#_form`.
    fn space(&mut self) -> Result<(), String> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | 0x0c) => {
                    self.next();
                }
                Some(b';') => while !matches!(self.next(), None | Some(b'\n')) {},
                Some(b'#') if self.bytes.get(self.at + 1) == Some(&b'_') => {
                    // Several in a row discard as many forms: all are counted before any is read.
                    let mut forms = 0;
                    while self.bytes[self.at..].starts_with(b"#_") {
                        self.at += 2;
                        forms += 1;
                        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n' | b',')) {
                            self.next();
                        }
                    }
                    for _ in 0..forms {
                        self.node()?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn node(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("values nest at most {DEPTH_MAX} deep"));
        }
        let node = self.shallow();
        self.depth -= 1;
        node
    }

    fn shallow(&mut self) -> Result<Node, String> {
        self.space()?;
        match self.peek() {
            None => Err("expected a value, found the end".into()),
            Some(b'[') => self.list(b']').map(Node::List),
            Some(b'(') => self.list(b')').map(Node::List),
            Some(b'{') => {
                let mut members = Vec::new();
                let mut nodes = self.list(b'}')?.into_iter();
                while let Some(name) = nodes.next() {
                    let value = nodes.next().ok_or("a map has a name without a value")?;
                    members.push((name, value));
                }
                Ok(Node::Map(members))
            }
            Some(b'"') => self.text().map(|text| Node::Atom(Value::Text(text.into()))),
            Some(b'^') => {
                self.at += 1;
                self.node()?;
                self.node()
            }
            Some(b'#') => self.tagged(),
            Some(b'\\') => {
                let from = self.at;
                self.at += 1;
                let width = match self.peek() {
                    None => return Err("a character is missing after the backslash".into()),
                    Some(first) => match first {
                        0xf0.. => 4,
                        0xe0.. => 3,
                        0xc0.. => 2,
                        _ => 1,
                    },
                };
                self.at = (self.at + width).min(self.bytes.len());
                self.word();
                Ok(Node::Atom(String::from_utf8_lossy(&self.bytes[from..self.at]).as_ref().into()))
            }
            Some(b']' | b')' | b'}') => Err(expected("a value", self.peek())),
            Some(_) => self.atom(),
        }
    }

    fn tagged(&mut self) -> Result<Node, String> {
        self.at += 1;
        match self.peek() {
            Some(b'{') => {
                let mut members: Vec<_> = self.list(b'}')?.into_iter().map(Node::value).collect();
                members.sort();
                return Ok(Node::List(members.into_iter().map(Node::Atom).collect()));
            }
            // ##Inf and ##NaN.
            Some(b'#') => {
                self.at += 1;
                return self.atom();
            }
            _ => {}
        }
        let tag = self.word().to_vec();
        let node = self.node()?;
        if !tag.ends_with(b"independent.Tuple") && !tag.ends_with(b"independent/tuple") {
            return Ok(node);
        }
        match node {
            Node::List(mut pair) if pair.len() == 2 => {
                let value = pair.pop().unwrap_or(Node::Atom(Value::Null));
                Ok(Node::Tuple(pair.pop().map_or(Value::Null, Node::value), Box::new(value)))
            }
            Node::Map(members) => {
                let (mut key, mut value) = (Value::Null, Node::Atom(Value::Null));
                for (name, member) in members {
                    match name.value() {
                        Value::Text(name) if *name == *"key" => key = member.value(),
                        Value::Text(name) if *name == *"val" || *name == *"value" => value = member,
                        _ => {}
                    }
                }
                Ok(Node::Tuple(key, Box::new(value)))
            }
            other => Err(format!("a tuple is [key value], not {}", other.value())),
        }
    }

    fn list(&mut self, close: u8) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        self.at += 1;
        loop {
            self.space()?;
            match self.peek() {
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(nodes);
                }
                None => return Err(expected(&format!("{:?}", char::from(close)), None)),
                _ => nodes.push(self.node()?),
            }
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            match self.next() {
                None => return Err("a text has no end".into()),
                Some(b'"') => return Ok(String::from_utf8_lossy(&text).into_owned()),
                Some(b'\\') => match self.next() {
                    Some(b'n') => text.push(b'\n'),
                    Some(b't') => text.push(b'\t'),
                    Some(b'r') => text.push(b'\r'),
                    Some(b'b') => text.push(8),
                    Some(b'f') => text.push(12),
                    Some(b'u') => {
                        let digits = self.bytes.get(self.at..self.at + 4).and_then(|at| std::str::from_utf8(at).ok());
                        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                        let char = code.map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                        let char = char.ok_or("\\u takes four hexadecimal digits")?;
                        text.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
                        self.at += 4;
                    }
                    Some(byte) => text.push(byte),
                    None => return Err("a text has no end".into()),
                },
                Some(byte) => text.push(byte),
            }
        }
    }

    /// What stands up to the next delimiter.
    fn word(&mut self) -> &[u8] {
        let from = self.at;
        let ends = |byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b';' | b'"' | 0x0c);
        let closes = |byte| matches!(byte, b'[' | b']' | b'(' | b')' | b'{' | b'}');
        while matches!(self.peek(), Some(byte) if !ends(byte) && !closes(byte)) {
            self.at += 1;
        }
        &self.bytes[from..self.at]
    }

    fn atom(&mut self) -> Result<Node, String> {
        let word = self.word();
        if word.is_empty() {
            return Err(expected("a value", self.peek()));
        }
        let text = std::str::from_utf8(word).map_err(|_| "the file is not UTF-8")?;
        Ok(Node::Atom(match text {
            "nil" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            // Numbers that are not whole, or too great, are texts: they are only compared.
            _ => match whole(text) {
                Some(digits) => digits.parse().map_or_else(|_| digits.into(), Value::Int),
                None => text.trim_start_matches(':').into(),
            },
        }))
    }
}
