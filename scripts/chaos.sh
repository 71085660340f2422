#!/bin/sh
# Real servers, broken on purpose, and a verdict. Each call has a folder of its own for its reports, which it names.
#
#   sh scripts/chaos.sh suite      a list of runs: --profile ci (the default), nightly or release
#   sh scripts/chaos.sh run        one run, as its arguments say
#   sh scripts/chaos.sh trial      other locks, too: convictions and acquittals
#   sh scripts/chaos.sh recovery   how long services are away after a loss, side by side
#
# Further arguments go to the command of that name of `conclave-chaos`.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

what="${1:-suite}"
[ $# -eq 0 ] || shift
report="$CONCLAVE_CACHE/chaos/$what-$(date +%Y%m%d-%H%M%S)"
mkdir -p "$CONCLAVE_CACHE/chaos"
# What is given on the command line comes later, and wins.
case "$what" in
    suite) set -- --record chaos/record.jsonl "$@" ;;
    run | trial | recovery) ;;
    *) printf "chaos.sh: '%s' is none of suite, run, trial, recovery\n" "$what" >&2; exit 3 ;;
esac
exec "$CARGO_TARGET_DIR/release/conclave-chaos" "$what" --report "$report" "$@"
