# make demo     build Cairn, build an image with it, run the image
# make test     everything that can be tested on this machine
# make bench    Cairn and Docker Engine side by side (release build)
# make soak     kill the daemon in the middle of a hundred builds, and see what is there afterwards;
#               then the property tests, with inputs that were never tried
# make lint     formatting, clippy, licences of dependencies, shell scripts
# make clean-state    remove what the above keep in .cairn (base images, downloaded programs)
#
# demo, test and bench want Debian 12 and root, and install what is missing; see README.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where cargo puts what it builds, as it sees it itself.
TARGET = $$($(CARGO) metadata --format-version 1 --no-deps | jq -r .target_directory)

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

.PHONY: deps
deps:
	@tests/tools/install-deps
	command -v $(CARGO) >/dev/null || {
	    echo "cargo is missing. Rust 1.90 or newer is needed, which Debian 12 does not have; this installs it:" >&2
	    echo "    curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal && . ~/.cargo/env" >&2
	    exit 1
	}

.PHONY: build
build: deps
	@$(CARGO) build --locked --profile quick --package cairn --package cairnd

.PHONY: demo
demo: build
	@tests/with-bases "$(TARGET)/quick" tests/demo

# With cargo-nextest every test is a process of its own, and a hanging one is ended; plain cargo does as well.
# Property tests take the same inputs each time, so that what fails is the change at hand: soak tries others.
test: export PROPTEST_RNG_SEED ?= 20
.PHONY: test
test: deps
	@if $(CARGO) nextest --version >/dev/null 2>&1; then
	    test=(nextest run --cargo-profile quick)
	else
	    test=(test --profile quick)
	fi
	test+=(--locked --workspace)
	$(CARGO) build --locked --profile quick --package cairn --package cairnd
	$(CARGO) "$${test[@]}" --no-run
	CAIRN_TEST_STRICT=1 tests/with-bases --buildctl "$(TARGET)/quick" $(CARGO) "$${test[@]}"

.PHONY: soak
soak: deps
	@$(CARGO) build --locked --profile quick --package cairn --package cairnd
	CAIRN_TEST_STRICT=1 tests/with-bases "$(TARGET)/quick" \
	    $(CARGO) test --locked --profile quick --package cairn-tests --test soak_crash -- --ignored --nocapture
	for round in {1..20}; do
	    echo "property tests, round $$round of 20"
	    env -u PROPTEST_RNG_SEED PROPTEST_CASES=1024 $(CARGO) test --quiet --locked --profile quick --workspace --exclude cairn-tests
	done

.PHONY: bench
bench: deps
	@$(CARGO) build --locked --release --package cairn --package cairnd --package cairn-tests
	tests/with-bases "$(TARGET)/release" "$(TARGET)/release/cairn-bench"

.PHONY: lint
lint:
	@$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	if $(CARGO) deny --version >/dev/null 2>&1; then
	    $(CARGO) deny --locked check bans licenses sources
	else
	    echo "cargo-deny is not installed: licences of dependencies are not checked" >&2
	fi
	if command -v shellcheck >/dev/null; then
	    git grep -lE '^#!.*\b(ba)?sh\b' | xargs shellcheck -x
	else
	    echo "shellcheck is not installed: shell scripts are not checked" >&2
	fi

.PHONY: clean-state
clean-state:
	@tests/images/registry stop
	rm -rf "$${CAIRN_STATE:-.cairn}"
