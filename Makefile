# The doors of this repository. Each target installs what it needs (Debian packages with sudo; the rest below target/).

DATA_DIR ?= data
LISTEN ?=
ARGS ?=
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help run test check bench docs

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Build the node, fetch the default model and serve it (DATA_DIR=data, LISTEN=127.0.0.1:8080)
	@scripts/setup-build.sh
	@scripts/fetch-model.sh "$(DATA_DIR)" >/dev/null
	cargo build --release --locked -p node
	@exec "$(TARGET_DIR)/release/llm-node" serve --quickstart --data-dir "$(DATA_DIR)" $(if $(LISTEN),--listen "$(LISTEN)")

test: ## Run every test, on the real binary and the real model (ARGS="-p auth" selects)
	@scripts/test.sh $(ARGS)

check: ## Format, lints, documentation, licences and sources of dependencies, scripts
	@scripts/check.sh

bench: ## Measure the node against a bare llama.cpp loop, in release mode
	@scripts/bench.sh

docs: ## Write docs/configuration.md and docs/llm-node.example.toml anew
	@scripts/setup-build.sh
	@scripts/docs.sh
