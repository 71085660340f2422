//! Durations, sizes and values as people type them.

use std::time::Duration;

use crate::Value;

/// `60s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale_ms = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" | "" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        _ => f64::NAN,
    };
    let ms = digits.parse::<f64>().map_or(f64::NAN, |number| number * scale_ms);
    if ms.is_finite() && (0.0..=1e12).contains(&ms) {
        return Ok(Duration::from_micros((ms * 1e3) as u64));
    }
    Err("a time is a number with ms, s, m or h, as in 60s".into())
}

/// `1GiB`, `512M`, `65536`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].trim_end_matches(['i', 'B']) {
        "" => Some(0),
        "K" | "k" => Some(10),
        "M" | "m" => Some(20),
        "G" | "g" => Some(30),
        "T" | "t" => Some(40),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let bytes = shift.zip(number).and_then(|(shift, number)| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "a size is a whole number with K, M or G, as in 1GiB".into())
}

/// JSON, or else a text as it stands.
pub(super) fn value(text: &str) -> Result<Value, String> {
    fn from(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or_else(|| Value::Text(number.to_string().into()), Value::Int)
            }
            serde_json::Value::String(text) => Value::Text(text.into()),
            serde_json::Value::Array(values) => Value::List(values.into_iter().map(from).collect()),
            serde_json::Value::Object(members) => {
                let pair = |(name, value)| Value::List([Value::Text(String::into(name)), from(value)].into());
                let mut pairs: Vec<_> = members.into_iter().map(pair).collect();
                pairs.sort();
                Value::List(pairs.into())
            }
        }
    }
    Ok(serde_json::from_str(text).map_or_else(|_| text.into(), from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("10k"), Ok(10 << 10));
        assert_eq!(value("5"), Ok(Value::Int(5)));
        assert_eq!(value("five"), Ok("five".into()));
        assert_eq!(value("null"), Ok(Value::Null));
        assert!(["", "s", "-1s", "1d", "1e99s", "nan"].iter().all(|text| duration(text).is_err()));
        assert!(["", "G", "0", "-1", "1X", "99999999999T"].iter().all(|text| bytes(text).is_err()));
    }
}
