#!/bin/sh
# Makes the container image out of the programs that are built: nothing is pulled, and nothing else is in it than they and
# the libraries they load. The same programs make the same file system, to the byte; its checksum is printed.
#
#   sh scripts/image.sh                conclave:dev and conclave:VERSION
#   sh scripts/image.sh --faulty       conclave:faulty, whose programs can be broken on purpose (for the chaos suite)
#   IMAGE=registry/name sh scripts/image.sh    under another name
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

image="${IMAGE:-conclave}"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
# Of the commit, not of the hour.
epoch="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
suffix="" tags="$image:dev $image:$version"
case "${1:-}" in
    "") ;;
    --faulty) suffix="-faulty" tags="$image:faulty" ;;
    *) echo "image: unknown argument '$1'; use --faulty or nothing" >&2; exit 64 ;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/root"
mkdir -p "$root/bin" "$root/etc" "$root/lib64"

for program in "conclaved$suffix:conclaved" conclave:conclave "conclave-chaos$suffix:conclave-chaos"; do
    from="$CARGO_TARGET_DIR/release/${program%%:*}" to="$root/bin/${program##*:}"
    [ -x "$from" ] || { echo "image: $from is not there; build first (make image does)" >&2; exit 1; }
    strip -o "$to" "$from"
    chmod 0755 "$to"
    ldd "$from" >"$work/libraries"
    ! grep 'not found' "$work/libraries" >&2 || exit 1
    for library in $(sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\).*/\1/p' "$work/libraries"); do
        [ ! -e "$root$library" ] || continue
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
        chmod 0755 "$root$library"
    done
done
printf 'root:x:0:0:root:/:/none\nconclave:x:65532:65532:Conclave:/tmp:/none\n' >"$root/etc/passwd"
printf 'root:x:0:\nconclave:x:65532:\n' >"$root/etc/group"
# Names from /etc/hosts, then DNS.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

pack() { tar --format=gnu --sort=name --mtime="@$epoch" --numeric-owner "$@"; }
pack --owner=0 --group=0 -C "$root" -cf "$work/rootfs.tar" bin etc lib lib64
mkdir -p "$work/own/var/lib/conclave" "$work/own/tmp"
chmod 0700 "$work/own/var/lib/conclave"
chmod 1777 "$work/own/tmp"
pack --owner=0 --group=0 --no-recursion -C "$work/own" -rf "$work/rootfs.tar" var var/lib
pack --owner=65532 --group=65532 -C "$work/own" -rf "$work/rootfs.tar" var/lib/conclave tmp

cp image/Dockerfile "$work/Dockerfile"
rm -rf "$root" "$work/own"
set --
for tag in $tags; do set -- "$@" -t "$tag"; done
created="$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
DOCKER_BUILDKIT=0 docker build -q "$@" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$created" "$work" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
first="${tags%% *}"
bytes="$(docker image inspect -f '{{.Size}}' "$first")"
echo "image: $tags"
echo "image: $((bytes / 1000000)).$(printf '%02d' $((bytes / 10000 % 100))) MB, file system sha256 $(sha256sum "$work/rootfs.tar" | cut -d' ' -f1)"
