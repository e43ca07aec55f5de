#!/usr/bin/env bash
# Measures the node against a bare llama.cpp batch loop on the same weights, in release mode and in one run.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts/setup-build.sh
# One command: features are resolved over all of it, so llama.cpp is built once.
cargo build --release --locked -p node -p bench -p llama-worker --bin llm-node --bin bench --example bare_loop
LLM_NODE_TEST_MODEL=$(scripts/fetch-model.sh "$target_dir/test-cache")
export LLM_NODE_TEST_MODEL
exec "$target_dir/release/bench" "$target_dir/release/llm-node" "$target_dir/release/examples/bare_loop"
