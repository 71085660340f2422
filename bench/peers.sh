#!/bin/bash
# The same workloads against Conclave, etcd and ZooKeeper in one run on this machine: three servers each, on loopback,
# one system after the other, their data in the same directory. Prints one table at the end.
#
#   bench/peers.sh [--dir DIR] [--seconds N] [--rounds N] [--systems "conclave etcd zookeeper"]
#
# DIR (default data/peers) holds everybody's data and the results; its disk is what is measured. Needs Debian's
# etcd-server, zookeeper and libprotobuf-dev, and installs them if it may.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

dir=data/peers seconds=10 rounds=1 systems="conclave etcd zookeeper" warmup=3
while [ $# -gt 0 ]; do
    case "$1" in
        --dir) dir=$2 ;;
        --seconds) seconds=$2 ;;
        --rounds) rounds=$2 ;;
        --systems) systems=$2 ;;
        *) echo "peers: unknown argument '$1'; see the head of $0" >&2; exit 64 ;;
    esac
    shift 2
done

# workload:clients
runs="put:1 put:32 put:128 lock-own:32 lock-shared:16"
bin="$CARGO_TARGET_DIR/release"
peers_target="${CONCLAVE_PEERS_TARGET_DIR:-$CONCLAVE_CACHE/target-peers}"
peers="$peers_target/release/conclave-bench-peers"
zookeeper_classpath=/etc/zookeeper/conf:/usr/share/java/zookeeper.jar

say() { printf 'peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing=""
for package in etcd-server zookeeper libprotobuf-dev; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || die "install with apt-get:$missing"
    # Nothing of it is to run by itself.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi
[ -x "$bin/conclaved" ] && [ -x "$bin/conclave" ] || die "no binaries in $bin; 'make build' builds them"
(cd bench/peers && CARGO_TARGET_DIR="$peers_target" cargo build --release --locked -q)

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
results="$dir/results"
rm -rf "$results" && mkdir -p "$results"
pids=()
stop() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    for pid in ${pids[@]+"${pids[@]}"}; do
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    pids=()
}
trap stop EXIT
trap 'exit 130' INT TERM

start_conclave() {
    endpoints=http://127.0.0.1:27401,http://127.0.0.1:27402,http://127.0.0.1:27403
    for id in 1 2 3; do
        "$bin/conclaved" --id $id --cluster peers --data-dir "$dir/conclave-$id" --listen 127.0.0.1:2740$id \
            --http 127.0.0.1:2748$id --members 1=127.0.0.1:27401,2=127.0.0.1:27402,3=127.0.0.1:27403 \
            >"$dir/conclave-$id.log" 2>&1 &
        pids+=($!)
    done
    for _ in $(seq 120); do
        "$bin/conclave" --endpoints "$endpoints" cluster health >/dev/null 2>&1 && return
        sleep 0.5
    done
    die "Conclave does not serve; see $dir/conclave-*.log"
}

start_etcd() {
    endpoints=127.0.0.1:23791,127.0.0.1:23792,127.0.0.1:23793
    for id in 1 2 3; do
        etcd --name n$id --data-dir "$dir/etcd-$id" --listen-client-urls http://127.0.0.1:2379$id \
            --advertise-client-urls http://127.0.0.1:2379$id --listen-peer-urls http://127.0.0.1:2389$id \
            --initial-advertise-peer-urls http://127.0.0.1:2389$id --initial-cluster-state new --log-level error \
            --initial-cluster n1=http://127.0.0.1:23891,n2=http://127.0.0.1:23892,n3=http://127.0.0.1:23893 \
            >"$dir/etcd-$id.log" 2>&1 &
        pids+=($!)
    done
    "$peers" wait --system etcd --endpoints "$endpoints" || die "see $dir/etcd-*.log"
}

start_zookeeper() {
    endpoints=127.0.0.1:22181,127.0.0.1:22182,127.0.0.1:22183
    for id in 1 2 3; do
        mkdir -p "$dir/zookeeper-$id"
        echo $id >"$dir/zookeeper-$id/myid"
        cat >"$dir/zookeeper-$id.cfg" <<END
tickTime=2000
initLimit=10
syncLimit=5
dataDir=$dir/zookeeper-$id
clientPort=2218$id
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
server.1=127.0.0.1:22881:23881
server.2=127.0.0.1:22882:23882
server.3=127.0.0.1:22883:23883
END
        # The most important log lines only: what it says of each session costs time.
        java -Xmx1g -Dzookeeper.root.logger=WARN,CONSOLE -cp "$zookeeper_classpath" \
            org.apache.zookeeper.server.quorum.QuorumPeerMain "$dir/zookeeper-$id.cfg" >"$dir/zookeeper-$id.log" 2>&1 &
        pids+=($!)
    done
    "$peers" wait --system zookeeper --endpoints "$endpoints" || die "see $dir/zookeeper-*.log"
}

# measure SYSTEM WORKLOAD CLIENTS ROUND; nothing runs for longer than it may.
measure() {
    local out="$results/$1.$2.$3.$4.json" limit=$((seconds + warmup + 60)) list
    list=$(IFS=,; echo "${pids[*]}")
    case $1 in
        conclave|conclave-own)
            local own=()
            [ "$1" = conclave ] || own=(--own-connections)
            timeout "$limit" "$bin/conclave" --endpoints "$endpoints" bench "$2" --clients "$3" --value-size 256 \
                --duration "${seconds}s" --warmup "${warmup}s" --pids "$list" ${own[@]+"${own[@]}"} --json >"$out"
            ;;
        *)
            timeout "$limit" "$peers" run --system "$1" --endpoints "$endpoints" --workload "$2" --clients "$3" \
                --value-size 256 --duration "$seconds" --warmup "$warmup" --pids "$list" >"$out"
            ;;
    esac || say "$1 $2 with $3 clients failed"
}

"$bin/conclave" bench fsync --dir "$dir"
for round in $(seq "$rounds"); do
    for system in $systems; do
        rm -rf "$dir/$system"-?
        say "round $round of $rounds: starting three servers of $system"
        "start_$system"
        for run in $runs; do
            say "round $round: $system ${run%:*} with ${run#*:} clients"
            measure "$system" "${run%:*}" "${run#*:}" "$round"
        done
        # A connection for each client, as ZooKeeper always has.
        [ "$system" != conclave ] || measure conclave-own put 128 "$round"
        stop
        rm -rf "$dir/$system"-?
    done
done
"$peers" table "$results"
say "results as JSON in $results"
