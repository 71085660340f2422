//! Loopback ports that stay free between asking for them and using them, also after a server was killed.

use std::net::TcpListener;

use anyhow::bail;

/// Ports of one block. The last one is its lock: we listen there for as long as the block is ours.
const BLOCK_PORTS: u16 = 17;
/// The first port of the first block. All blocks lie below the range that the kernel gives to outgoing connections
/// (32768 and up), or a client's own port could sit where a server wants to come back.
const FIRST_PORT: u16 = 12_000;
/// Blocks there are.
const BLOCKS: u16 = 1_192;

/// A block of ports of our own for as long as it lives: a socket in it is the lock, so that tests running side by side never
/// meet.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    _lock: TcpListener,
}

impl PortBlock {
    /// Takes a free block.
    ///
    /// # Errors
    /// If none is free.
    pub fn take() -> anyhow::Result<Self> {
        // Where to begin looking is no matter of chance worth a dependency.
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("a remainder below BLOCKS");
        for step in 0..BLOCKS {
            let first = FIRST_PORT + (start + step * 7) % BLOCKS * BLOCK_PORTS;
            let free = |port: u16| TcpListener::bind(("127.0.0.1", port));
            if let Ok(lock) = free(first + BLOCK_PORTS - 1)
                && (first..first + BLOCK_PORTS - 1).all(|port| free(port).is_ok())
            {
                return Ok(Self { first, _lock: lock });
            }
        }
        bail!("no block of {BLOCK_PORTS} free ports between {FIRST_PORT} and {}", FIRST_PORT + BLOCKS * BLOCK_PORTS)
    }

    /// The port with this place in the block.
    ///
    /// # Panics
    /// If the block has no such place.
    #[must_use]
    pub fn port(&self, place: u16) -> u16 {
        assert!(place < BLOCK_PORTS - 1, "a block has {} ports for use", BLOCK_PORTS - 1);
        self.first + place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_taken_side_by_side_differ_and_come_back() {
        assert_ne!(BLOCKS % 7, 0, "steps of seven reach every block only if seven does not divide their number");
        let (a, b) = (PortBlock::take().expect("a block"), PortBlock::take().expect("another"));
        assert_ne!(a.port(0), b.port(0));
        assert!(u32::from(FIRST_PORT) + u32::from(BLOCKS) * u32::from(BLOCK_PORTS) <= 32_768);
        drop(a);
        drop(b);
        let _again = PortBlock::take().expect("a block");
    }
}
