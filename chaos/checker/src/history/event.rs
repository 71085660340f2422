//! Events as they stand in a file, and their pairing into operations.

use std::collections::HashMap;

use super::{Fault, Function, History, NEVER, Operation, Outcome, ParseError, Value};

/// The `type` of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

impl Kind {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"invoke" => Self::Invoke,
            b"ok" => Self::Ok,
            b"fail" => Self::Fail,
            b"info" => Self::Info,
            _ => return None,
        })
    }
}

/// A call or a return. What is rare stands elsewhere ([`Aside`]): there are millions of these.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// From 1.
    pub line: u32,
    /// Index into [`Batch::processes`].
    pub process: u32,
    /// Index into [`Batch::keys`].
    pub key: u32,
    /// `None`: not a client's; its name stands aside.
    pub function: Option<Function>,
    pub kind: Kind,
    pub value: Value,
    /// Nanoseconds, or [`super::NO_TIME`].
    pub time: i64,
}

/// What only some events have.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    pub error: Value,
    /// What a process that is no client did.
    pub fault: Option<String>,
}

/// Events one after the other, with their names.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub events: Vec<Event>,
    /// By index into `events`, ascending.
    pub asides: Vec<(u32, Aside)>,
    pub processes: Vec<Value>,
    pub keys: Vec<Value>,
    /// Number of lines that the batch spans.
    pub lines: u32,
}

/// A process that breaks things rather than using them.
pub(super) fn is_nemesis(process: &Value) -> bool {
    matches!(process, Value::Text(name) if name.starts_with("nemesis"))
}

/// Pairs calls and returns. Batches come in order.
#[derive(Default)]
pub(super) struct Pairing {
    history: History,
    processes: HashMap<Value, u32>,
    keys: HashMap<Value, u32>,
    /// By process: the operation under way.
    open: Vec<Option<u32>>,
    /// Indexes into faults, by their names without `start` and `stop`.
    faults: HashMap<String, usize>,
    /// By nemesis: what it was asked for. Jepsen writes that once more when it is done.
    asked: HashMap<u32, String>,
}

fn intern(names: Vec<Value>, ids: &mut HashMap<Value, u32>, all: &mut Vec<Value>) -> Vec<u32> {
    let id = |name: Value| {
        *ids.entry(name).or_insert_with_key(|name| {
            all.push(name.clone());
            all.len() as u32 - 1
        })
    };
    names.into_iter().map(id).collect()
}

/// What an event of a nemesis says: the fault's name, and whether it begins.
fn begins(name: &str) -> (&str, bool) {
    let bare = |rest: &'static str| if rest.is_empty() { "fault" } else { rest };
    match name {
        "start" => return (bare(""), true),
        "stop" => return (bare(""), false),
        "heal" => return ("partition", false),
        "resume" => return ("pause", false),
        "restart" => return ("kill", false),
        "reset-clock" | "reset-clocks" => return ("clock", false),
        "bump-clock" | "strobe-clock" => return (name, true),
        _ => {}
    }
    let cut = |affix: &str| name.strip_prefix(affix).and_then(|rest| rest.strip_prefix(['-', '_']));
    let tail = |affix: &str| name.strip_suffix(affix).and_then(|rest| rest.strip_suffix(['-', '_']));
    if let Some(rest) = cut("start").or_else(|| tail("start")) {
        return (rest, true);
    }
    for end in ["stop", "heal", "end", "recover"] {
        if let Some(rest) = cut(end).or_else(|| tail(end)) {
            return (rest, false);
        }
    }
    (name, true)
}

impl Pairing {
    /// Takes the next events; `line` counts the lines before them.
    pub(super) fn add(&mut self, batch: Batch, line: u32) -> Result<(), ParseError> {
        let processes = intern(batch.processes, &mut self.processes, &mut self.history.processes);
        let keys = intern(batch.keys, &mut self.keys, &mut self.history.keys);
        self.open.resize(self.history.processes.len(), None);
        // Each operation has two events; one more doubling of a great vector would hold twice the memory for a while.
        self.history.operations.reserve(batch.events.len() / 2);
        let mut asides = batch.asides.into_iter().peekable();
        for (at, event) in batch.events.into_iter().enumerate() {
            let aside = asides.next_if(|(of, _)| *of as usize == at).map(|(_, aside)| aside).unwrap_or_default();
            let position = self.history.events;
            let fail = |reason: String| ParseError { line: line + event.line, reason };
            if position >= NEVER - 1 {
                return Err(fail(format!("a history has at most {} events", NEVER - 1)));
            }
            let process = processes[event.process as usize];
            if let Some(name) = &aside.fault {
                self.nemesis(process, name, &event);
            } else if let Some(function) = event.function {
                self.client(event, function, process, &keys, aside.error)
                    .map_err(|(line_in_batch, reason)| ParseError { line: line + line_in_batch, reason })?;
            }
            self.history.events += 1;
        }
        Ok(())
    }

    fn client(
        &mut self,
        event: Event,
        function: Function,
        process: u32,
        keys: &[u32],
        error: Value,
    ) -> Result<(), (u32, String)> {
        let position = self.history.events;
        let name = &self.history.processes[process as usize];
        let open = &mut self.open[process as usize];
        if event.kind == Kind::Invoke {
            if let Some(open) = open {
                let other = &self.history.operations[*open as usize];
                let under_way = other.function.name();
                let why = format!("process {name} calls {} while its {under_way} is under way", function.name());
                return Err((event.line, why));
            }
            *open = Some(self.history.operations.len() as u32);
            self.history.operations.push(Operation {
                process,
                key: keys[event.key as usize],
                function,
                outcome: Outcome::Unknown,
                called: position,
                returned: NEVER,
                argument: event.value,
                result: Value::Null,
                called_ns: event.time,
                returned_ns: super::NO_TIME,
            });
            return Ok(());
        }
        let Some(open) = open.take() else {
            return Err((
                event.line,
                format!("process {name} returns from {}, which it did not call", function.name()),
            ));
        };
        let operation = &mut self.history.operations[open as usize];
        if operation.function != function {
            let called = operation.function.name();
            return Err((event.line, format!("process {name} returns from {}, but called {called}", function.name())));
        }
        // A missing key is that of the call; some histories name it there only.
        let key = keys[event.key as usize];
        if key != operation.key && !self.history.keys[key as usize].is_null() {
            let (was, is) = (&self.history.keys[operation.key as usize], &self.history.keys[key as usize]);
            return Err((event.line, format!("process {name} called {} with key {was}, not {is}", function.name())));
        }
        operation.returned_ns = event.time;
        match event.kind {
            Kind::Ok => {
                operation.outcome = Outcome::Ok;
                operation.returned = position;
                operation.result = event.value;
            }
            Kind::Fail => {
                operation.outcome = Outcome::Fail;
                operation.returned = position;
                if !error.is_null() {
                    operation.result = error;
                } else if event.value != operation.argument {
                    operation.result = event.value;
                }
            }
            Kind::Info | Kind::Invoke => {}
        }
        Ok(())
    }

    fn nemesis(&mut self, process: u32, name: &str, event: &Event) {
        if self.asked.get(&process).is_some_and(|asked| asked == name) {
            self.asked.remove(&process);
            self.done(name, event);
        } else {
            self.asked.insert(process, name.into());
            self.fault(name, event);
        }
    }

    /// What was asked for is done: only now it may be known to whom.
    fn done(&mut self, name: &str, event: &Event) {
        let (what, start) = begins(name);
        if let (true, Some(at), false) = (start, self.faults.get(what), event.value.is_null()) {
            self.history.faults[*at].target = event.value.to_string();
        }
    }

    fn fault(&mut self, name: &str, event: &Event) {
        // These look and leave all as it is.
        if matches!(name, "check-clock-offsets" | "log" | "sleep") {
            return;
        }
        let (mut what, mut start) = begins(name);
        // Jepsen kills and starts databases.
        if name == "start" && self.faults.contains_key("kill") {
            (what, start) = ("kill", false);
        }
        let (position, target) = (self.history.events, &event.value);
        let target = if target.is_null() { String::new() } else { target.to_string() };
        let open = self.faults.get(what).copied();
        if !start {
            // `heal` ends whatever partition there is, `reset-clock` whatever was done to clocks.
            let is = |open: &&str| open.starts_with(what) || what == "clock" && open.ends_with("clock");
            let ended: Vec<String> = match open {
                Some(_) => vec![what.into()],
                None if what == "clock" => {
                    self.faults.keys().map(String::as_str).filter(is).map(str::to_owned).collect()
                }
                None => self.faults.keys().map(String::as_str).find(is).map(str::to_owned).into_iter().collect(),
            };
            for at in ended.iter().filter_map(|name| self.faults.remove(name)) {
                let fault = &mut self.history.faults[at];
                (fault.until, fault.until_ns) = (position, event.time);
            }
            return;
        }
        if let Some(at) = open {
            if !target.is_empty() {
                self.history.faults[at].target = target;
            }
            return;
        }
        self.faults.insert(what.into(), self.history.faults.len());
        self.history.faults.push(Fault {
            what: what.into(),
            target,
            from: position,
            until: NEVER,
            from_ns: event.time,
            until_ns: super::NO_TIME,
        });
    }

    pub(super) fn finish(mut self) -> History {
        self.history.operations.shrink_to_fit();
        self.history
    }
}
