# The commands of the house. Each installs what it needs first; all share one build (see scripts/env.sh).
.POSIX:
.PHONY: help chaos demo test cluster check fix bench bench-checker fuzz build build-faulty setup sim planted nightly-sim \
	image test-image test-chart run recovery build-peers trial

help:
	@echo "make demo     the first run: three servers, an incident replayed, a table to judge (DEMO='--help' for options)"
	@echo "make test     all tests (TEST='part of a name' for some)"
	@echo "make test-chart  the Helm chart, with Helm's own library and, after make image, in containers (CHART='-k part' for some)"
	@echo "make cluster  three servers in the foreground until Ctrl-C, for trying things"
	@echo "make check    format, lints, documentation, dependency policy; touches nothing"
	@echo "make fix      formats, and applies what the lints can fix"
	@echo "make bench    three servers and 'conclave bench' (BENCH='put --clients 128' for one)"
	@echo "make bench-checker  what the checker takes for histories of known size (BENCH='--seed 7' for others)"
	@echo "make fuzz     libFuzzer on the decoders: TARGET=log-entry SECONDS=600, or each for ten seconds"
	@echo "make build    the binaries only; make build-faulty: those that can be broken on purpose"
	@echo "make sim      whole clusters under virtual time, fresh seeds for two minutes (SIM='--help' for options)"
	@echo "make chaos    real servers broken on purpose for a quarter of an hour (CHAOS='--profile nightly' for longer); root"
	@echo "make run      one run of that kind (RUN='--target redis-get-set --nemesis pause --time 20s')"
	@echo "make recovery how long the service is away after a loss (RECOVERY='--targets conclave,etcd,zookeeper')"
	@echo "make trial    locks of others that have to be convicted, and controls that have to be acquitted (TRIAL='--only redlock-pause' for one)"
	@echo "make planted  does the simulator find the bugs that are planted? The table in docs/simulator.md"
	@echo "make image    the container image conclave:dev, from nothing; make test-image tries it with three containers"
	@echo "make nightly-sim  the same until it is stopped; each round is a line in chaos/record.jsonl"
	@echo "The first build compiles RocksDB, about a quarter of an hour; it is kept outside the checkout."

setup:
	@sh scripts/setup.sh

build: setup
	@sh scripts/build.sh

build-faulty: setup
	@sh scripts/build.sh --faulty

demo: build
	@sh scripts/demo.sh $(DEMO)

test: setup
	@sh scripts/test.sh $(TEST)

test-chart:
	@sh scripts/test-chart.sh $(CHART)

cluster: build
	@sh scripts/cluster.sh

check:
	@sh scripts/setup.sh --check
	@sh scripts/check.sh

fix: setup
	@. scripts/env.sh && cargo fmt --all && cargo clippy $$CARGO_SCOPE --all-targets --fix --allow-dirty --allow-staged

fuzz: setup
	@target='$(TARGET)' seconds='$(SECONDS)'; sh scripts/fuzz.sh "$${target:-all}" "$${seconds:-10}"

bench: build
	@sh scripts/bench.sh $(BENCH)

bench-checker: setup
	@sh scripts/bench-checker.sh $(BENCH)

sim: build
	@sh scripts/sim.sh $(SIM)

planted: build-faulty
	@. scripts/env.sh && "$$CARGO_TARGET_DIR/release/conclave-chaos-faulty" sim --planted all

image: build
	@sh scripts/setup.sh --docker
	@sh scripts/image.sh

test-image: image
	@sh scripts/test-image.sh

nightly-sim: build
	@sh scripts/sim.sh --nightly

# Servers in containers too, where there is Docker.
chaos: build
	@sh scripts/setup.sh --tests
	@if docker info >/dev/null 2>&1; then sh scripts/image.sh; fi
	@sh scripts/chaos.sh suite $(CHAOS)

run: build
	@sh scripts/setup.sh --tests
	@sh scripts/chaos.sh run $(RUN)

recovery: build
	@sh scripts/setup.sh --tests
	@sh scripts/chaos.sh recovery $(RECOVERY)

build-peers:
	@sh scripts/setup.sh --peers
	@sh scripts/build-peers.sh

# Conclave's planted bugs in containers, where there is Docker.
trial: build build-faulty build-peers
	@if docker info >/dev/null 2>&1; then sh scripts/image.sh --faulty; fi
	@sh scripts/chaos.sh trial --docs docs/trial.md $(TRIAL)
