//! `conclave-chaos` with what can be broken on purpose compiled in.

use std::process::ExitCode;

fn main() -> ExitCode {
    conclave_chaos::tool::main()
}
