#!/bin/sh
# Checks without touching a file: format, lints, documentation, dependency policy.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

step() { printf '\n== %s\n' "$*" >&2; }

step "format"
cargo fmt --all --check

sh scripts/build.sh --tests

step "clippy"
# shellcheck disable=SC2086 # lists of arguments
cargo clippy $CARGO_SCOPE --all-targets -- -D warnings

step "documentation"
# shellcheck disable=SC2086
RUSTDOCFLAGS="-D warnings" cargo doc $CARGO_SCOPE --no-deps

# Advisories are left out here: their database has to be fetched, and this must also pass without a network.
# With one: cargo deny check advisories
step "dependency policy (licences, bans, sources)"
"$CONCLAVE_TOOLS/bin/cargo-deny" --all-features --offline check licenses bans sources

step "shell scripts parse"
for script in scripts/*.sh .ci/run; do sh -n "$script"; done
printf '\ncheck: all well\n' >&2
