#!/bin/sh
# Tests of the Helm chart: installs what they need (a virtual environment outside the checkout, from PyPI; promtool from
# Debian), then runs them. Arguments go to pytest. Safe to run again.
#
# The part with containers needs Docker and the image conclave:dev (make image); without them it is skipped, and says so,
# unless CONCLAVE_CHART_CONTAINERS=required.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { printf 'test-chart: %s\n' "$*" >&2; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    say "installing python3-venv"
    { as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null
fi

# promtool without the rest of its package, which would start a server.
PROMTOOL="$(command -v promtool || true)"
if [ -z "$PROMTOOL" ]; then
    PROMTOOL="$CONCLAVE_TOOLS/prometheus/usr/bin/promtool"
    if [ ! -x "$PROMTOOL" ]; then
        say "fetching promtool out of Debian's prometheus package into $CONCLAVE_TOOLS/prometheus"
        mkdir -p "$CONCLAVE_TOOLS/prometheus"
        (
            cd "$CONCLAVE_TOOLS/prometheus"
            rm -f ./*.deb
            apt-get download -qq prometheus 2>/dev/null || { as_root apt-get update -qq && apt-get download -qq prometheus; }
            dpkg-deb --fsys-tarfile ./prometheus_*.deb | tar -x ./usr/bin/promtool
            rm -f ./*.deb
        ) || { say "apt-get could not download prometheus; put promtool on the PATH and run again"; exit 1; }
    fi
fi
export PROMTOOL

venv="$CONCLAVE_CACHE/chart-venv"
wanted="$(cat helm/tests/requirements.txt)"
if [ "$(cat "$venv/installed" 2>/dev/null || true)" != "$wanted" ]; then
    say "installing helm/tests/requirements.txt into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r helm/tests/requirements.txt
    printf '%s\n' "$wanted" >"$venv/installed"
fi
exec "$venv/bin/python" -B -m pytest -p no:cacheprovider helm/tests "$@"
