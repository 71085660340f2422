//! Breaks Conclave on purpose and judges what it did.

use std::process::ExitCode;

fn main() -> ExitCode {
    conclave_chaos::tool::main()
}
