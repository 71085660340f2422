//! `conclaved`, the server.

use std::process::ExitCode;

/// Applying an entry makes and frees many small values; with the C library's allocator a put costs the servers an
/// eighth more, an acquire and release a tenth.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    conclave_server::command::main()
}
