//! A history as lines of JSON in Jepsen's event form.

use std::io::{self, Write};

use crate::{
    History, Outcome, Value,
    history::{NEVER, NO_TIME},
};

/// A value as JSON.
fn json(value: &Value, line: &mut Vec<u8>) {
    match value {
        Value::Null => line.extend_from_slice(b"null"),
        Value::Bool(value) => line.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Int(number) => line.extend_from_slice(number.to_string().as_bytes()),
        Value::Text(text) => {
            let quoted = serde_json::to_string(&**text).expect("a text is always JSON");
            line.extend_from_slice(quoted.as_bytes());
        }
        Value::List(values) => {
            line.push(b'[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    line.push(b',');
                }
                json(value, line);
            }
            line.push(b']');
        }
    }
}

/// Writes it, an event a line. An operation of unknown outcome has a call only.
///
/// # Errors
/// Those of `out`.
pub fn write(history: &History, out: &mut impl Write) -> io::Result<()> {
    // (position, index of the operation, whether it is the return)
    let mut events: Vec<(u32, u32, bool)> = Vec::with_capacity(2 * history.operations.len());
    for (operation, at) in history.operations.iter().zip(0..) {
        events.push((operation.called, at, false));
        if operation.returned != NEVER {
            events.push((operation.returned, at, true));
        }
    }
    events.sort_unstable();
    let mut line = Vec::new();
    for (_, at, returned) in events {
        let operation = &history.operations[at as usize];
        line.clear();
        line.extend_from_slice(b"{\"process\":");
        json(&history.processes[operation.process as usize], &mut line);
        let kind = match (returned, operation.outcome) {
            (false, _) => "invoke",
            (true, Outcome::Ok) => "ok",
            (true, Outcome::Fail) => "fail",
            (true, Outcome::Unknown) => "info",
        };
        write!(line, ",\"type\":\"{kind}\",\"f\":\"{}\"", operation.function.name())?;
        let key = &history.keys[operation.key as usize];
        if !key.is_null() {
            line.extend_from_slice(b",\"key\":");
            json(key, &mut line);
        }
        // As usual, an answer without a value of its own repeats that of the call.
        let failed = returned && operation.outcome == Outcome::Fail;
        let own = returned && !operation.result.is_null() && !failed;
        line.extend_from_slice(b",\"value\":");
        json(if own { &operation.result } else { &operation.argument }, &mut line);
        if failed && !operation.result.is_null() {
            line.extend_from_slice(b",\"error\":");
            json(&operation.result, &mut line);
        }
        let time = if returned { operation.returned_ns } else { operation.called_ns };
        if time != NO_TIME {
            write!(line, ",\"time\":{time}")?;
        }
        line.extend_from_slice(b"}\n");
        out.write_all(&line)?;
    }
    Ok(())
}
