#!/usr/bin/env bash
# test.sh [NEXTEST ARGUMENT...]: every test; with arguments (`-p auth`, a name), only those that nextest selects by them.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts/setup-build.sh
environment=$(scripts/setup-test.sh)
while IFS= read -r assignment; do export "${assignment?}"; done <<<"$environment"

profile=default
if [ -n "${CI:-}" ]; then profile=ci; fi
if [ $# -gt 0 ]; then
  step "tests: $*" cargo nextest run --locked --profile "$profile" "$@"
  exit
fi
step "tests" cargo nextest run --locked --workspace --profile "$profile"
step "documentation examples" cargo test --locked --workspace --doc
step "generated documentation is current" scripts/docs.sh --check
