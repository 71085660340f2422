//! Durations, byte sizes and moments as people write and read them.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    time::Duration,
};

/// A length of time as an option: `500ms`, `10s`, `1.5m`, `2h`, `1d`. A bare number is refused: nobody knows what
/// it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span(pub Duration);

/// The longest length of time an option accepts.
pub const SPAN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let Some(number) = number.parse::<f64>().ok().filter(|n| n.is_finite()) else {
            return Err(format!(
                "{text:?} is no length of time: write a number and a unit, such as 500ms, 10s, 2m or 1h"
            ));
        };
        let seconds = match unit {
            "us" => number / 1e6,
            "ms" => number / 1e3,
            "s" => number,
            "m" => number * 60.0,
            "h" => number * 3600.0,
            "d" => number * 86_400.0,
            "" => {
                return Err(format!("{text:?} has no unit: write {text}s, {text}ms, {text}m or {text}h"));
            }
            _ => return Err(format!("{unit:?} is no unit of time in {text:?}: use us, ms, s, m, h or d")),
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(span) if span <= SPAN_MAX => Ok(Self(span)),
            _ => Err(format!("{text:?} is too long: the limit is 366d")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&span(self.0))
    }
}

/// A number of bytes as an option: `256`, `4KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor: usize = match unit {
            "" | "B" => 1,
            "KiB" | "K" | "k" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            _ => return Err(format!("{unit:?} is no unit of size in {text:?}: use B, KiB or MiB")),
        };
        number
            .parse::<usize>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size: write bytes, such as 256, 4KiB or 1MiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes(self.0 as u64))
    }
}

/// A length of time for people: two units at the most.
pub fn span(duration: Duration) -> String {
    let ms = duration.as_millis();
    let s = duration.as_secs();
    match s {
        _ if ms == 0 && duration.as_micros() > 0 => format!("{}us", duration.as_micros()),
        0 => format!("{ms}ms"),
        1..60 if ms.is_multiple_of(1000) => format!("{s}s"),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 if s.is_multiple_of(60) => format!("{}m", s / 60),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 if s % 3600 < 60 => format!("{}h", s / 3600),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ if s % 86_400 < 3600 => format!("{}d", s / 86_400),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// A count with its thousands told apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A moment in UTC, to the millisecond: `2026-11-21T14:02:07.123Z`.
pub fn utc(epoch_ms: u64) -> String {
    let (days, ms) = (epoch_ms / 86_400_000, epoch_ms % 86_400_000);
    // Days since 0000-03-01 in the proleptic Gregorian calendar: years then end with February, leap day last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = format!("{year:04}-{month:02}-{day:02}T");
    let _ = write!(text, "{:02}:{:02}:{:02}.{:03}Z", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    text
}

/// Now, in milliseconds since the Unix epoch, by this machine's wall clock. For people.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("1.5m", 90_000), ("2h", 7_200_000), ("0s", 0), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse::<Span>(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for (text, part) in [
            ("10", "has no unit: write 10s"),
            ("", "no length of time"),
            ("s", "no length of time"),
            ("-1s", "no length of time"),
            ("1.2.3s", "no length of time"),
            ("10 s", "\" s\" is no unit"),
            ("10sec", "\"sec\" is no unit"),
            ("999999d", "too long: the limit is 366d"),
            ("10ß", "\"ß\" is no unit"),
        ] {
            let error = text.parse::<Span>().expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("0", 0), ("256", 256), ("4KiB", 4096), ("1MiB", 1 << 20), ("2k", 2048)] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for (text, part) in [
            ("", "no size"),
            ("x", "\"x\" is no unit"),
            ("1GB", "\"GB\" is no unit"),
            ("99999999999999999999", "no size"),
        ] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn spans_are_written_with_two_units_at_the_most() {
        for (ms, text) in [
            (0, "0ms"),
            (7, "7ms"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (61_000, "1m01s"),
            (120_000, "2m"),
            (3_723_000, "1h02m"),
            (7_200_000, "2h"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
        assert_eq!(span(Duration::from_micros(250)), "250us");
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (1_795_269_727_123, "2026-11-21T14:02:07.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn counts_and_bytes() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (number, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
