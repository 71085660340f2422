//! Breaks Conclave on purpose and judges what it did.
//!
//! * [`procs`]: real servers as processes, and what is done to them: the ground that the demonstration, the end-to-end
//!   tests and the chaos suite stand on. Everything runs on loopback, and nothing outlives the process that started it.
//! * [`tool`]: the command `conclave-chaos`.

pub mod procs;
pub mod tool;
