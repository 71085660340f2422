#!/bin/sh
# Tries the image as a stranger would: three servers on a private network, a lock through one, another one killed, and on.
# Prints each step; leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

image="${1:-conclave:dev}"
name="conclave-smoke-$$"
say() { printf 'smoke: %s\n' "$*"; }
die() { say "FAILED: $*" >&2; for id in 1 2 3; do docker logs --tail 15 "$name-$id" 2>&1 | sed "s/^/  $id: /" >&2; done; exit 1; }
clean() {
    docker rm -f "$name-1" "$name-2" "$name-3" >/dev/null 2>&1 || true
    docker network rm "$name" >/dev/null 2>&1 || true
}
trap clean EXIT
trap 'exit 130' INT TERM
docker image inspect "$image" >/dev/null 2>&1 || { say "there is no image $image: run make image first" >&2; exit 1; }

# ---- what it says of itself
inspect() { docker image inspect -f "$1" "$image"; }
[ "$(inspect '{{.Config.User}}')" = 65532:65532 ] || die "it does not run as 65532"
[ "$(inspect '{{.Config.StopSignal}}')" = SIGTERM ] || die "its stop signal is not SIGTERM"
[ -n "$(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}')" ] || die "it does not say its revision"
[ "$(inspect '{{len .RootFS.Layers}}')" = 1 ] || die "it has more than its own layer"
say "$image: $(inspect '{{.Size}}') bytes, user 65532, one layer"

# ---- three servers, with nothing but what they need
docker network create "$name" >/dev/null
members="1=$name-1:7401,2=$name-2:7401,3=$name-3:7401"
for id in 1 2 3; do
    docker run -d --name "$name-$id" --hostname "$name-$id" --network "$name" --read-only --cap-drop ALL \
        --security-opt no-new-privileges -e "CONCLAVE_ID=$id" -e CONCLAVE_CLUSTER=smoke -e "CONCLAVE_MEMBERS=$members" \
        "$image" >/dev/null
done
conclave() {
    docker run --rm --network "$name" --read-only --cap-drop ALL --entrypoint /bin/conclave \
        -e "CONCLAVE_ENDPOINTS=$endpoints" "$image" "$@"
}
endpoints="$name-1:7401,$name-2:7401,$name-3:7401"
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$name-$1")" = healthy ]; }
wait_for() { # what, then a command
    what="$1"; shift
    for _ in $(seq 60); do if "$@"; then return 0; fi; sleep 0.5; done
    die "after 30 s: $what"
}
for id in 1 2 3; do wait_for "server $id is not healthy by its own health check" healthy "$id"; done
say "three servers are healthy"

# ---- a lock through one server
endpoints="$name-1:7401"
first="$(conclave lock smoke -- /bin/conclave -o json locks | sed -n 's/.*"token": *\([0-9]*\).*/\1/p' | head -n 1)"
[ "${first:-0}" -gt 0 ] || die "no lock through server 1"
say "a lock through server 1: token $first"
conclave put /smoke/before yes >/dev/null || die "a write through server 1"

# ---- another one dies
endpoints="$name-1:7401,$name-2:7401,$name-3:7401"
leader="$(conclave -o json cluster status | sed -n 's/.*"leader": *\([1-3]\).*/\1/p' | head -n 1)"
docker kill -s KILL "$name-$leader" >/dev/null
say "server $leader, the leader, was killed"
second="$(conclave lock smoke --wait 20s -- /bin/conclave -o json locks | sed -n 's/.*"token": *\([0-9]*\).*/\1/p' | head -n 1)"
[ "${second:-0}" -gt "$first" ] || die "the token did not rise after the leader's death: $first, then ${second:-none}"
[ "$(conclave get /smoke/before)" = yes ] || die "what was written is gone"
say "the lock goes on: token $second"
docker start "$name-$leader" >/dev/null
wait_for "server $leader does not come back" healthy "$leader"

# ---- and one is told to stop: it hands leadership over first
leader="$(conclave -o json cluster status | sed -n 's/.*"leader": *\([1-3]\).*/\1/p' | head -n 1)"
docker stop -t 15 "$name-$leader" >/dev/null
[ "$(docker inspect -f '{{.State.ExitCode}}' "$name-$leader")" = 0 ] || die "server $leader did not end in good order"
docker logs "$name-$leader" 2>&1 | grep -q 'leadership was handed over' || die "server $leader did not hand leadership over"
conclave put /smoke/after yes >/dev/null || die "a write after the hand-over"
say "server $leader was stopped, and handed leadership over first"
say "all is well"
