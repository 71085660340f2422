//! The checker on its own, for histories of anything.

use std::process::ExitCode;

fn main() -> ExitCode {
    conclave_checker::command::main()
}
