#!/bin/sh
# Fuzzes the decoders with libFuzzer, on stable Rust.
#
#   sh scripts/fuzz.sh TARGET SECONDS    one target (see chaos/harness/src/lib.rs)
#   sh scripts/fuzz.sh all SECONDS       each in turn, SECONDS each
#
# FUZZ_FEATURES=--no-default-features leaves out those decoders that need the whole server, and most of the build.
#
# Corpora stay in $CONCLAVE_CACHE/fuzz. An input that breaks a decoder is left in chaos/fuzz/artifacts, and the exit is 1.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
target="${1:-all}"
seconds="${2:-10}"

# RocksDB is not what is fuzzed: the archive of the usual build serves.
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
    archive="$(find "$CARGO_TARGET_DIR/release/build" -path '*librocksdb-sys-*/out/librocksdb.a' 2>/dev/null | head -n 1)"
    if [ -n "$archive" ]; then
        ROCKSDB_LIB_DIR="$(dirname "$archive")" ROCKSDB_STATIC=1
        export ROCKSDB_LIB_DIR ROCKSDB_STATIC
    fi
fi

# What cargo-fuzz asks of a nightly compiler but for the sanitizers: coverage, counted inline, and compared values.
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$option"
done
triple="$(rustc -vV | sed -n 's/^host: //p')"
fuzz_dir="$CARGO_TARGET_DIR/fuzz"
# With a target triple of its own, so that build scripts and macros are not instrumented.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 $coverage" CARGO_TARGET_DIR="$fuzz_dir" \
    cargo build --release --locked --manifest-path chaos/fuzz/Cargo.toml --target "$triple" ${FUZZ_FEATURES:-}
program="$fuzz_dir/$triple/release/conclave-fuzz"

if [ "$target" = all ]; then
    files="$(find chaos/harness/src/targets -name '*.rs' | sort)"
    case "${FUZZ_FEATURES:-}" in *--no-default-features*) files="$(printf '%s\n' "$files" | grep -v /server.rs)" ;; esac
    # shellcheck disable=SC2086 # a list of files
    target="$(sed -n 's/^    name: "\([a-z-]*\)",$/\1/p' $files)"
fi
mkdir -p chaos/fuzz/artifacts
failed=""
for name in $target; do
    corpus="$CONCLAVE_CACHE/fuzz/$name"
    log="$CONCLAVE_CACHE/fuzz/$name.log"
    mkdir -p "$corpus"
    if CONCLAVE_FUZZ_TARGET="$name" CONCLAVE_FUZZ_CORPUS="$corpus" "$program" "$corpus" \
        -max_total_time="$seconds" -print_final_stats=1 -rss_limit_mb=2048 -timeout=10 -max_len=16384 \
        -artifact_prefix="chaos/fuzz/artifacts/$name-" >"$log" 2>&1; then
        verdict=ok
    else
        verdict=BROKEN
        failed="$failed $name"
    fi
    printf '%-20s %-6s %12s executions, %s a second\n' "$name" "$verdict" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")"
    [ "$verdict" = ok ] || grep -m 3 -E 'panicked|ERROR|^thread|does not|SUMMARY' "$log" || true
done
[ -z "$failed" ] || { echo "fuzz: broken:$failed; the inputs are in chaos/fuzz/artifacts" >&2; exit 1; }
