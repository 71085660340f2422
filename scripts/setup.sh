#!/bin/sh
# Installs what the build needs and this machine lacks: Debian packages, and Rust if there is no suitable cargo.
# Safe to run again; silent when nothing is missing.
#
#   sh scripts/setup.sh            for building
#   sh scripts/setup.sh --tests    also what `make test` needs (Chromium, which looks at reports; what the chaos suite needs)
#   sh scripts/setup.sh --peers    the same, and the other lock services that `make trial` puts on trial (etcd, ZooKeeper)
#   sh scripts/setup.sh --docker   also what `make image` needs (Docker, running)
#   sh scripts/setup.sh --check    also what `make check` needs (rustfmt, clippy, cargo-deny)
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

for_check=no
for_tests=no
for_peers=no
for_docker=no
case "${1:-}" in
    "") ;;
    --check) for_check=yes ;;
    --tests) for_tests=yes ;;
    --peers) for_tests=yes for_peers=yes ;;
    --docker) for_docker=yes ;;
    *) die "unknown argument '$1'; use --check, --tests, --peers, --docker or nothing" ;;
esac

# ---- system packages
# g++ and libclang-dev are for RocksDB, protobuf-compiler for the Raft library's messages, curl for rustup.
packages="make g++ libc6-dev libclang-dev protobuf-compiler curl ca-certificates"
[ "$for_tests" = no ] || packages="$packages chromium fonts-dejavu-core iproute2 iptables libfaketime nftables postgresql redis-server strace xfsprogs"
# libprotobuf-dev is for etcd's client.
[ "$for_peers" = no ] || packages="$packages etcd-server zookeeper openjdk-17-jre-headless libprotobuf-dev"
# Whatever Docker is there will do.
[ "$for_docker" = no ] || command -v docker >/dev/null 2>&1 || packages="$packages docker.io"
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "not root and no sudo; run this as root: $*"
    fi
}
if command -v dpkg-query >/dev/null 2>&1; then
    missing=""
    for package in $packages; do
        case "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" in
            installed) ;;
            *) missing="$missing $package" ;;
        esac
    done
    if [ -n "$missing" ]; then
        say "installing with apt-get:$missing"
        as_root apt-get update -qq || say "apt-get update failed; trying with the package lists there are"
        # shellcheck disable=SC2086 # a list of names
        # Services that come with a package are not to run by themselves.
        if ! said="$(as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing 2>&1)"; then
            printf '%s\n' "$said" >&2
            die "apt-get could not install:$missing"
        fi
    fi
else
    for tool in make c++ protoc curl; do
        command -v "$tool" >/dev/null 2>&1 ||
            die "'$tool' is missing. This is not Debian: install make, a C++17 compiler, libclang with headers, protoc and curl, then run again"
    done
    [ "$for_tests" = no ] || command -v chromium >/dev/null 2>&1 || die "'chromium' is missing, which tests need: install it, then run again"
fi

# ---- Rust
have="$(cargo_version)"
if [ -z "$have" ] || ! version_at_least "$have" "$RUST_MIN"; then
    say "cargo is ${have:-missing}, $RUST_MIN or newer is needed: installing Rust $RUST_PINNED with rustup into ${CARGO_HOME:-$HOME/.cargo}"
    if ! command -v rustup >/dev/null 2>&1; then
        installer="$(mktemp)"
        trap 'rm -f "$installer"' EXIT
        curl --proto '=https' --tlsv1.2 -fsSL "${RUSTUP_INIT_URL:-https://sh.rustup.rs}" -o "$installer" ||
            die "could not download rustup; install Rust $RUST_MIN or newer by hand and run again"
        sh "$installer" -y --no-modify-path --profile minimal --default-toolchain "$RUST_PINNED" >&2 || die "rustup failed"
    else
        rustup toolchain install "$RUST_PINNED" --profile minimal >&2 || die "rustup could not install Rust $RUST_PINNED"
        rustup override set "$RUST_PINNED" >&2
    fi
    have="$(cargo_version)"
    { [ -n "$have" ] && version_at_least "$have" "$RUST_MIN"; } || die "cargo is still ${have:-missing} after installing Rust $RUST_PINNED"
fi

# ---- Docker
if [ "$for_docker" = yes ] && ! docker info >/dev/null 2>&1; then
    say "starting Docker"
    as_root sh -c 'service docker start || systemctl start docker' >/dev/null 2>&1 || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if docker info >/dev/null 2>&1; then break; fi
        sleep 1
    done
    docker info >/dev/null 2>&1 || die "Docker does not answer: start its daemon, and see to it that you may use it (docker info)"
fi

[ "$for_check" = yes ] || exit 0

# ---- what `make check` needs besides
for component in fmt:rustfmt clippy:clippy; do
    if ! cargo "${component%%:*}" --version >/dev/null 2>&1; then
        say "installing ${component##*:}"
        rustup component add "${component##*:}" >&2 || die "install ${component##*:} for this toolchain and run again"
    fi
done
if ! "$CONCLAVE_TOOLS/bin/cargo-deny" --version 2>/dev/null | grep -qx "cargo-deny $CARGO_DENY_VERSION"; then
    say "compiling cargo-deny $CARGO_DENY_VERSION into $CONCLAVE_TOOLS; about five minutes, once per machine"
    # A target directory of its own, removed afterwards: nothing of it is shared with the project.
    CARGO_TARGET_DIR="$CONCLAVE_TOOLS/build" cargo install cargo-deny --version "$CARGO_DENY_VERSION" --locked --root "$CONCLAVE_TOOLS" --force >&2 ||
        die "could not install cargo-deny $CARGO_DENY_VERSION"
    rm -rf "$CONCLAVE_TOOLS/build"
fi
# cargo-deny looks at what is needed on any system, a build fetches only what it needs here. Nothing is asked of the network
# once all is there.
cargo fetch --locked --quiet || die "could not fetch the crates that Cargo.lock names"
