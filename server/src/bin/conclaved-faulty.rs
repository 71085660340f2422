//! `conclaved` with what can be broken on purpose compiled in: see conclave-faults. Never part of a release.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    conclave_server::command::main()
}
