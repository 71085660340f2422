# What every script here needs to find cargo and the target directory. Sourced, not run; plain POSIX sh.

# The toolchain rustup is asked for where there is no suitable cargo. Any cargo from RUST_MIN on will do.
RUST_PINNED=1.95.0
RUST_MIN=1.89.0
CARGO_DENY_VERSION=0.20.2

PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export PATH

# Outside the checkout, shared by all checkouts and by CI: RocksDB is compiled once.
CONCLAVE_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/conclave"
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CONCLAVE_CACHE/target}"
export CONCLAVE_CACHE CARGO_TARGET_DIR

# Tools compiled for this project only (cargo-deny).
CONCLAVE_TOOLS="$CONCLAVE_CACHE/tools"

# One profile and one set of features for every cargo command of the project: anything else compiles much again.
# All features but `faults`, which compiles in what can be broken on purpose.
CARGO_FEATURES="conclave-client/cli,conclave-client/postgres,conclave-client/sqlite,conclave-client/sans-io,conclave-checker/cli"
CARGO_SCOPE="--release --workspace --locked --features $CARGO_FEATURES"
# The same with `faults`. The binaries in it have names of their own, so both lie side by side.
CARGO_SCOPE_FAULTS="--release --workspace --locked --features $CARGO_FEATURES,conclave-server/faults,conclave-chaos/faults"

# Succeeds if version $1 is at least version $2 (both like 1.89.0).
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]
}

# Prints the version of the cargo that would be used, or nothing.
cargo_version() {
    cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p'
}
