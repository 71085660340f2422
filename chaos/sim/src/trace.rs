//! What happened, in order: always hashed, and printed for those who replay a seed.

use xxhash_rust::xxh3::Xxh3;

use crate::time::Micros;

/// Where the lines of a replay go.
pub type Print = Box<dyn FnMut(&str) + Send>;

/// See the module. Two runs are the same if their sums are.
#[derive(Default)]
pub struct Trace {
    hasher: Xxh3,
    events: u64,
    print: Option<Print>,
}

impl Trace {
    /// One that prints every event, too.
    #[must_use]
    pub fn printing(print: Print) -> Self {
        Self { print: Some(print), ..Self::default() }
    }

    /// Adds an event. `text` is only made for those who read it; the numbers are what is hashed.
    pub fn note(&mut self, at: Micros, what: &'static str, numbers: [u64; 3], text: impl FnOnce() -> String) {
        self.events += 1;
        let mut bytes = [0; 32];
        for (place, number) in bytes.chunks_exact_mut(8).zip([at, numbers[0], numbers[1], numbers[2]]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.hasher.update(&bytes);
        self.hasher.update(what.as_bytes());
        if let Some(print) = &mut self.print {
            print(&format!("{:>12.6} {what:<10} {}", at as f64 / 1e6, text()));
        }
    }

    /// Hash, and number of events.
    #[must_use]
    pub fn sum(&self) -> (u64, u64) {
        (self.hasher.digest(), self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_numbers_count_and_reading_does_not() {
        let sum = |events: &[(u64, &'static str, u64)], print: bool| {
            let mut trace = if print { Trace::printing(Box::new(|_| {})) } else { Trace::default() };
            for &(at, what, number) in events {
                trace.note(at, what, [number, 0, 0], String::new);
            }
            trace.sum()
        };
        let one = [(1, "sent", 1), (1, "sent", 2)];
        assert_eq!(sum(&one, true), sum(&one, false));
        assert_ne!(sum(&one, false), sum(&[one[1], one[0]], false));
        assert_ne!(sum(&one, false), sum(&[one[0], (2, "sent", 2)], false));
    }
}
