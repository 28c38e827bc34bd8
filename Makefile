# make without a target tells what there is.
CARGO := scripts/with-rocksdb cargo

.PHONY: help build demo test verify bench bench-idle bench-etcd bench-fleet chaos

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the binary, optimised: target/release/netstate
	@scripts/prepare build
	$(CARGO) build --release --locked --package netstate-cli

demo: ## a cluster, three hosts, containers and real packets, told step by step (KEEP=1 leaves it running)
	@scripts/prepare
	$(CARGO) build --release --locked --package netstate-cli
	@demo/run

test: ## every test; packet tests need root and are skipped, saying so, without
	@scripts/prepare
	@tests/conformance/fetch etcd-client > /dev/null
	@tests/conformance/fetch aetcd > /dev/null
	$(CARGO) test --workspace --locked

verify: ## what CI runs: formatting, lints, tests; changes nothing
	@scripts/prepare
	cargo fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(MAKE) test

bench: ## measures this machine and writes docs/benchmarks.md
	@scripts/prepare
	$(CARGO) build --release --locked --package netstate-cli
	@scripts/bench

bench-idle: ## what a cluster of 256 groups costs that has nothing to do (a minute and a half)
	@scripts/prepare
	$(CARGO) build --release --locked --package netstate-cli
	@scripts/bench-idle

bench-etcd: ## etcd and this with the same load on this machine; writes docs/benchmarks-etcd.md (a quarter of an hour)
	@scripts/prepare
	$(CARGO) build --profile dist --locked --package netstate-cli
	$(CARGO) run --release --locked --package bench-etcd -- run --netstate $(or $(CARGO_TARGET_DIR),target)/dist/netstate

bench-fleet: ## thousands of simulated hosts, beside etcd; writes docs/benchmarks-fleet.md (twenty minutes)
	@scripts/prepare
	$(CARGO) build --profile dist --locked --package netstate-cli
	$(CARGO) run --release --locked --package bench-etcd -- fleet --netstate $(or $(CARGO_TARGET_DIR),target)/dist/netstate

chaos: ## faults under load for an hour, as root; writes docs/reliability.md (CHAOS_MINUTES=5, CHAOS_SEED=…, ONLY=kill)
	@scripts/prepare
	$(CARGO) build --release --locked --package netstate-cli
	$(CARGO) run --release --locked --package etcd-histories --bin chaos -- $(if $(ONLY),--only $(ONLY))
