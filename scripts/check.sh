#!/usr/bin/env bash
# Everything that is judged without running the node: format, lints, documentation, dependencies, scripts.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts/setup-build.sh
if ! have shellcheck; then apt_install shellcheck; fi
cargo_tool cargo-machete 0.9.2
cargo_tool cargo-deny 0.20.2

# The advisory database lives in a git repository elsewhere, which a closed network does not reach: the rest is judged
# all the same, and the gap is said aloud.
check_advisories() {
  local log=$target_dir/advisory-fetch.log
  if cargo deny --log-level error fetch db >"$log" 2>&1 </dev/null; then
    step "advisories" cargo deny --locked check --disable-fetch advisories
  else
    say "== advisories: SKIPPED, dependencies were NOT checked against the RustSec database: it cannot be fetched from here"
    grep -E 'ERROR|fatal' "$log" | tail -n 1 >&2
    say "run 'make check' where that database can be reached before a release"
  fi
}

step "format" cargo fmt --all --check
step "scripts" shellcheck --external-sources scripts/*.sh .ci/run
step "unused dependencies" cargo machete --skip-target-dir
step "licences, bans, sources" cargo deny --locked check --hide-inclusion-graph licenses bans sources
check_advisories
step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
