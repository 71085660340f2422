//! Real servers as processes, and what is done to them: the ground that the demonstration, the end-to-end tests and
//! the chaos suite stand on. Everything runs on loopback, and nothing outlives the process that started it.

pub mod procs;
