#!/usr/bin/env bash
# bench.sh [BENCH ARGUMENT...]: builds the node and the load generator in release mode and measures the one with the
# other, on the default model.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts/setup-build.sh
LLM_NODE_TEST_MODEL=$(scripts/fetch-model.sh "$target_dir/test-cache")
export LLM_NODE_TEST_MODEL
cargo build --release --locked -p node -p bench
cargo run --release --quiet --locked -p bench -- "$@"
