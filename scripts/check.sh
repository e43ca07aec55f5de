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

# A promise of docs/security.md is worth the test that it names.
check_promises() {
  local name missing=0
  # shellcheck disable=SC2016 # the backticks are Markdown's
  for name in $(sed -n '/^|/p' docs/security.md | grep -o '`[a-z0-9]*_[a-z0-9_]*`' | tr -d '`' | sort -u); do
    case $name in behind_proxy | max_sessions_per_user) continue ;; esac # keys of the configuration
    if ! grep -rqE "fn $name\\b" crates tests; then
      say "docs/security.md names the test $name, which does not exist"
      missing=1
    fi
  done
  return $missing
}

step "format" cargo fmt --all --check
step "scripts" shellcheck --external-sources scripts/*.sh .ci/run
step "promises have tests" check_promises
step "unused dependencies" cargo machete --skip-target-dir
step "licences, bans, sources" cargo deny --locked check --hide-inclusion-graph licenses bans sources
check_advisories
step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
