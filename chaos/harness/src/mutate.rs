//! Damage by chance that can be repeated.

/// Numbers that look random and are a function of their seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one, of all.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next one below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % (bound as u64).max(1)) as usize
    }
}

/// Bytes that decoders tend to stumble over.
const NASTY: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'/', b'{', b'[', b'(', b'\n'];
/// Longest input made here.
const BYTES_MAX: usize = 1 << 14;

/// One of the seeds, damaged in one to eight places; one time in sixteen no seed but noise.
#[must_use]
pub fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if seeds.is_empty() || random.below(16) == 0 {
        let length = random.below(64);
        return (0..length).map(|_| random.draw() as u8).collect();
    }
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(data.len() + 1);
        match random.below(8) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = NASTY[random.below(NASTY.len())],
            2 => data.insert(at, NASTY[random.below(NASTY.len())]),
            3 if at < data.len() => drop(data.remove(at)),
            4 => data.truncate(at),
            5 => {
                let end = at + random.below(data.len() - at + 1).min(64);
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => data.insert(at, random.draw() as u8),
        }
        data.truncate(BYTES_MAX);
    }
    data
}
