#!/bin/sh
# The first run. Arguments go to conclave-demo; see its --help.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
exec "$CARGO_TARGET_DIR/release/conclave-demo" --bin-dir "$CARGO_TARGET_DIR/release" "$@"
