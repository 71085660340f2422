#!/bin/sh
# Three servers on loopback in the foreground until Ctrl-C, for trying things. Data stays under data/.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

bin="$CARGO_TARGET_DIR/release"
members="1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403"
# A Ctrl-C is for this script, which stops the servers itself; and they do not outlive it.
apart="setsid setpriv --pdeathsig TERM --"
pids=""
stop() {
    trap '' INT TERM
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    wait
}
trap 'printf "\ncluster: stopping\n" >&2; stop; exit 0' INT TERM
trap stop EXIT

for id in 1 2 3; do
    mkdir -p "data/$id"
    $apart "$bin/conclaved" --id "$id" --cluster local --data-dir "data/$id" --members "$members" \
        --listen "127.0.0.1:740$id" --http "127.0.0.1:748$id" >"data/$id.log" 2>&1 &
    pids="$pids $!"
done

ready=no
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    for pid in $pids; do
        kill -0 "$pid" 2>/dev/null || { echo "cluster: a server ended at once; the last lines of the logs:" >&2; tail -n 5 data/?.log >&2; exit 1; }
    done
    if curl -fsS -o /dev/null http://127.0.0.1:7481/readyz 2>/dev/null &&
        curl -fsS -o /dev/null http://127.0.0.1:7482/readyz 2>/dev/null &&
        curl -fsS -o /dev/null http://127.0.0.1:7483/readyz 2>/dev/null; then ready=yes; break; fi
    sleep 0.5
done
[ "$ready" = yes ] || echo "cluster: not ready after 10 seconds; see data/1.log, data/2.log, data/3.log" >&2

cat <<END
cluster: three servers run; Ctrl-C stops them, their data stays in data/ (remove it to begin anew)
  gRPC   127.0.0.1:7401  127.0.0.1:7402  127.0.0.1:7403     what clients speak
  HTTP   127.0.0.1:7481  127.0.0.1:7482  127.0.0.1:7483     /readyz /metrics /version
  logs   data/1.log      data/2.log      data/3.log

In another terminal:
  export PATH="$bin:\$PATH"
  conclave cluster status
  conclave put /hello world && conclave get /hello
  conclave lock /locks/backup -- sh -c 'echo "I hold it, token \$CONCLAVE_FENCING_TOKEN"; sleep 5'
  conclave locks
END
# Runs until Ctrl-C, or until one of the servers ends by itself.
while :; do
    for pid in $pids; do
        kill -0 "$pid" 2>/dev/null || { echo "cluster: server with process id $pid ended; see data/*.log" >&2; exit 1; }
    done
    sleep 1
done
