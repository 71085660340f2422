#!/bin/sh
# What the checker takes for generated histories of known size. Arguments go to `conclave-check bench-checker`.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

# shellcheck disable=SC2086 # a list of flags
cargo build $CARGO_SCOPE --bin conclave-check
exec "$CARGO_TARGET_DIR/release/conclave-check" bench-checker "$@"
