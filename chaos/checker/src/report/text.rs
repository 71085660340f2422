//! Texts of a history, which may contain anything, as texts of a page.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write as _},
};

use crate::Value;

/// Longest text in a table of offending operations, in characters.
pub const MAX_TABLE_CHARS: usize = 4096;
/// Longest text in the timeline, in characters. Shorter ones are tried when all together are over the budget.
const MAX_CHARS: [usize; 4] = [240, 80, 32, 12];
/// All texts of the timeline together; beyond it, further ones are left out.
pub const BUDGET_BYTES: usize = 6 << 20;

/// Characters that would not be seen or would rearrange others (Unicode's bidirectional controls, "Trojan Source")
/// replaced by visible ones.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(hidden) {
        return Cow::Borrowed(text);
    }
    let mut seen = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match u32::from(character) {
            0 => seen.push_str("\u{2039}NUL\u{203a}"),
            9 => seen.push_str("\u{2039}TAB\u{203a}"),
            10 => seen.push_str("\u{2039}LF\u{203a}"),
            13 => seen.push_str("\u{2039}CR\u{203a}"),
            code if hidden(character) => write!(seen, "\u{2039}U+{code:04X}\u{203a}").expect("a string takes all"),
            _ => seen.push(character),
        }
    }
    Cow::Owned(seen)
}

fn hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// For element content and quoted attributes.
pub fn html(text: &str) -> String {
    let text = visible(text);
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// JSON that may stand inside a `script` element: nothing in it ends the element, opens a comment or is hidden.
pub fn json_in_script(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + json.len() / 64);
    for character in json.chars() {
        // In JSON these occur within strings only.
        if matches!(character, '<' | '>' | '&') || hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("a string takes all");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// A value of at most `max` characters and what is visible of it. Takes time for what is shown, not for what is there.
pub fn of_value(value: &Value, max: usize) -> String {
    let mut cut = Cut { text: String::new(), left: max };
    let whole = write!(cut, "{value}").is_ok();
    if !whole {
        cut.text.push('\u{2026}');
    }
    visible(&cut.text).into_owned()
}

struct Cut {
    text: String,
    left: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(character);
        }
        Ok(())
    }
}

/// Nanoseconds for people: three or four digits and a unit.
pub fn duration(ns: i64) -> String {
    let (sign, ns) = if ns < 0 { ("\u{2212}", ns.unsigned_abs()) } else { ("", ns.unsigned_abs()) };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let of = |unit: u64| ns as f64 / unit as f64;
    match ns {
        0..1_000 => format!("{sign}{ns} ns"),
        1_000..1_000_000 => format!("{sign}{:.1} µs", of(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{:.2} ms", of(1_000_000)),
        1_000_000_000..120_000_000_000 => format!("{sign}{:.3} s", of(1_000_000_000)),
        _ => format!("{sign}{:.1} min", of(60_000_000_000)),
    }
}

/// A count with its thousands apart.
pub fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut spaced = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spaced.push(',');
        }
        spaced.push(digit);
    }
    spaced
}

/// Each text once; operations refer to them by number. Number 0 is nothing.
pub struct Texts {
    pub all: Vec<String>,
    numbers: HashMap<String, u32>,
    bytes: usize,
    max_chars: usize,
}

impl Texts {
    fn new(max_chars: usize) -> Self {
        Self { all: vec![String::new()], numbers: HashMap::new(), bytes: 0, max_chars }
    }

    /// Numbers the texts that `values` gives out, as long as the budget allows.
    pub fn fitting(values: impl Fn(&mut dyn FnMut(&Value))) -> Self {
        for max_chars in MAX_CHARS {
            let mut texts = Self::new(max_chars);
            values(&mut |value| {
                texts.number(value);
            });
            if texts.bytes <= BUDGET_BYTES || max_chars == MAX_CHARS[MAX_CHARS.len() - 1] {
                return texts;
            }
        }
        unreachable!("the last length is always taken")
    }

    /// The number of a value's text.
    pub fn number(&mut self, value: &Value) -> u32 {
        if *value == Value::Null {
            return 0;
        }
        let text = of_value(value, self.max_chars);
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        if self.bytes > BUDGET_BYTES {
            return self.known("\u{2026}");
        }
        self.known(&text)
    }

    fn known(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = u32::try_from(self.all.len()).expect("the budget bounds the number of texts");
        self.bytes += text.len() + 3;
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hidden_stays_hidden() {
        assert_eq!(visible("plain ü 漢"), "plain ü 漢");
        assert_eq!(visible("a\0b\nc\u{7f}"), "a‹NUL›b‹LF›c‹U+007F›");
        assert_eq!(visible("x\u{202e}y\u{2066}z\u{feff}"), "x‹U+202E›y‹U+2066›z‹U+FEFF›");
        assert_eq!(visible("\u{85}"), "‹U+0085›");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(html(r#"</script><a b="c" d='e'>&"#), "&lt;/script&gt;&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
        let json = json_in_script(r#"["</script>","<!--","&"]"#);
        assert!(!json.contains('<') && !json.contains('>') && !json.contains('&'), "{json}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), ["</script>", "<!--", "&"]);
    }

    #[test]
    fn long_values_are_cut_by_characters() {
        let value = Value::List(vec![Value::from("ééé"), Value::from(12)].into());
        assert_eq!(of_value(&value, 100), "[ééé 12]");
        assert_eq!(of_value(&value, 4), "[ééé…");
        assert_eq!(of_value(&value, 8), "[ééé 12]");
    }

    #[test]
    fn texts_stay_within_their_budget() {
        let values: Vec<Value> = (0..100_000).map(|i| Value::from(format!("{i:0200}").as_str())).collect();
        let texts = Texts::fitting(|each| values.iter().for_each(each));
        let bytes: usize = texts.all.iter().map(|text| text.len() + 3).sum();
        assert!(bytes <= BUDGET_BYTES + 1024, "{bytes}");
        assert!(texts.max_chars < 200);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0_u32), "0");
        assert_eq!(count(1_234_567_u64), "1,234,567");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(-1_500), "−1.5 µs");
        assert_eq!(duration(1_500_000_000), "1.500 s");
        assert_eq!(duration(600_000_000_000), "10.0 min");
    }
}
