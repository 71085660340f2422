//! Chance that can be repeated.

/// Repeats a run: the seed a failed test printed.
pub const SEED_ENV: &str = "CONCLAVE_TEST_SEED";

/// A stream of numbers that looks random and is a function of its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The seed in `CONCLAVE_TEST_SEED`, or a new one; printed either way, with how to repeat it.
    ///
    /// # Panics
    /// If the variable holds no number.
    #[must_use]
    pub fn seeded() -> Self {
        let seed = match std::env::var(SEED_ENV) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_ENV}={text:?} is no number")),
            Err(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()),
        };
        println!("repeat this run's choices with {SEED_ENV}={seed}");
        Self(seed)
    }

    /// The next number, of all.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        self.draw() % bound
    }

    /// Puts `items` into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).expect("an index");
            items.swap(at, other);
        }
    }
}
