#!/bin/sh
# Three servers of their own and `conclave bench` against them. Arguments go to `conclave bench`; without any, the
# workloads of docs/benchmark.md one after the other. For etcd and ZooKeeper beside it see bench/.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

bin="$CARGO_TARGET_DIR/release"
dir="$(mktemp -d)"
members="1=127.0.0.1:7501,2=127.0.0.1:7502,3=127.0.0.1:7503"
CONCLAVE_ENDPOINTS="http://127.0.0.1:7501,http://127.0.0.1:7502,http://127.0.0.1:7503"
# A Ctrl-C is for this script, which stops the servers itself; and they do not outlive it.
apart="setsid setpriv --pdeathsig KILL --"
pids=""
stop() {
    trap '' INT TERM
    # shellcheck disable=SC2086 # a list of process ids
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

for id in 1 2 3; do
    $apart "$bin/conclaved" --id "$id" --cluster bench --data-dir "$dir/$id" --members "$members" \
        --listen "127.0.0.1:750$id" --http "127.0.0.1:758$id" >"$dir/$id.log" 2>&1 &
    pids="$pids $!"
done
export CONCLAVE_ENDPOINTS
tries=0
until "$bin/conclave" cluster health >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "bench: the servers are not healthy after 30 seconds:" >&2; tail -n 5 "$dir"/*.log >&2; exit 1; }
    sleep 0.5
done

if [ $# -gt 0 ]; then
    "$bin/conclave" bench "$@"
else
    "$bin/conclave" bench put --clients 1
    "$bin/conclave" bench put --clients 32
    "$bin/conclave" bench put --clients 128
    "$bin/conclave" bench get --clients 32
    "$bin/conclave" bench lock-own --clients 32
    "$bin/conclave" bench lock-shared --clients 16
    "$bin/conclave" bench watch --clients 100
    "$bin/conclave" bench sessions --clients 1000
fi
