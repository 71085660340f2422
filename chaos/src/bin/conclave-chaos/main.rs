//! Breaks Conclave on purpose and judges what it did.

use std::process::ExitCode;

/// Simulated clusters and long histories are made of many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    conclave_chaos::tool::main()
}
