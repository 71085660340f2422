#!/bin/sh
# Runs every test: the examples in the documentation, then all the others.
# Arguments go to the runner, for example a part of a test's name.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

sh scripts/setup.sh --tests
sh scripts/build.sh --tests
# The same programs with what can be broken on purpose: tests of fail points and planted bugs start these.
sh scripts/build.sh --faulty
# shellcheck disable=SC2086 # lists of arguments
if [ $# -eq 0 ]; then
    cargo test $CARGO_SCOPE --doc --quiet
fi
# The end-to-end tests start the binaries that were just built.
CONCLAVE_BIN_DIR="$CARGO_TARGET_DIR/release"
export CONCLAVE_BIN_DIR
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run $CARGO_SCOPE --tests --no-fail-fast "$@"
else
    exec cargo test $CARGO_SCOPE --tests --no-fail-fast "$@"
fi
