#!/bin/sh
# The simulator over fresh seeds: for two minutes, as its arguments say, or with --nightly until it is stopped.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
sim="$CARGO_TARGET_DIR/release/conclave-chaos sim"

if [ "${1:-}" != --nightly ]; then
    [ $# -gt 0 ] || set -- --minutes 2
    exec $sim "$@"
fi
while :; do
    for profile in default crash network disk clock members large; do
        $sim --profile "$profile" --minutes 10 --record chaos/record.jsonl
    done
done
