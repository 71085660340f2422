#!/bin/sh
# Builds conclave-chaos-peers, the chaos suite's clients for etcd and ZooKeeper, and lays it beside conclave-chaos. A workspace
# of its own with a target directory of its own: its libraries are in nobody else's build.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

peers_target="${CONCLAVE_PEERS_TARGET_DIR:-$CONCLAVE_CACHE/target-peers}"
(cd chaos/peers && CARGO_TARGET_DIR="$peers_target" cargo build --release --locked)
mkdir -p "$CARGO_TARGET_DIR/release"
# Beside it and then in its place: a run that goes on keeps the program it began with.
cp "$peers_target/release/conclave-chaos-peers" "$CARGO_TARGET_DIR/release/.conclave-chaos-peers"
mv "$CARGO_TARGET_DIR/release/.conclave-chaos-peers" "$CARGO_TARGET_DIR/release/conclave-chaos-peers"
