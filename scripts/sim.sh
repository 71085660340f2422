#!/bin/sh
# The simulator over fresh seeds: for two minutes, or as its arguments say.
#
#   sh scripts/sim.sh --commit COUNT     seeds that follow from the commit: fresh with every change, the same for the same one
#   sh scripts/sim.sh --nightly          until it is stopped; each round is a line in chaos/record.jsonl
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
sim="$CARGO_TARGET_DIR/release/conclave-chaos sim"

if [ "${1:-}" = --commit ]; then
    from="$((0x$(git rev-parse HEAD | cut -c1-8)))"
    set -- --seeds "$from..$((from + ${2:-1500}))"
fi
if [ "${1:-}" != --nightly ]; then
    [ $# -gt 0 ] || set -- --minutes 2
    exec $sim "$@"
fi
while :; do
    for profile in default crash network disk clock members large; do
        $sim --profile "$profile" --minutes 10 --record chaos/record.jsonl
    done
done
