#!/bin/sh
# Builds the whole workspace, always in the same profile with the same features, so that RocksDB is compiled once.
#
#   sh scripts/build.sh            the binaries: conclaved, conclave, conclave-demo
#   sh scripts/build.sh --tests    and the tests
#   sh scripts/build.sh --faulty   conclaved-faulty and conclave-chaos-faulty, which can be broken on purpose
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

targets="--bins"
scope="$CARGO_SCOPE"
case "${1:-}" in
    --tests) targets="--bins --tests" ;;
    --faulty) scope="$CARGO_SCOPE_FAULTS" targets="--bin conclaved-faulty --bin conclave-chaos-faulty" ;;
esac

# Object files of one RocksDB build; only for the progress line.
rocksdb_objects=343
rocksdb_archive() { find "$CARGO_TARGET_DIR/release/build" -path '*librocksdb-sys-*/out/librocksdb.a' 2>/dev/null | head -n 1; }

ticker=""
stop_ticker() { [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true; }
trap stop_ticker EXIT
trap 'stop_ticker; exit 130' INT TERM

if [ -z "${ROCKSDB_LIB_DIR:-}" ] && [ -z "$(rocksdb_archive)" ]; then
    cat >&2 <<END
build: the first build compiles RocksDB, which takes about a quarter of an hour on two cores.
build: it happens once: the result is kept in $CARGO_TARGET_DIR
END
    started="$(date +%s)"
    (
        while sleep 20; do
            [ -z "$(rocksdb_archive)" ] || break
            done="$(find "$CARGO_TARGET_DIR/release/build" -path '*librocksdb-sys-*/out/*.o' 2>/dev/null | wc -l)"
            [ "$done" -gt 0 ] || continue
            printf 'build: RocksDB: %d of about %d files compiled, %d min %02d s\n' "$done" "$rocksdb_objects" \
                "$((($(date +%s) - started) / 60))" "$((($(date +%s) - started) % 60))" >&2
        done
    ) &
    ticker=$!
fi

# shellcheck disable=SC2086 # lists of arguments
cargo build $scope $targets
