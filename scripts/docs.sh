#!/usr/bin/env bash
# docs.sh [--check]: writes what the binary documents about itself into docs/; with --check changes nothing and fails
# when a file there is not what the binary says.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
  "") check=no ;;
  --check) check=yes ;;
  *) die "usage: docs.sh [--check]" ;;
esac

# As the tests build it: cargo resolves features over what it builds, and would compile llama.cpp again for node alone.
cargo build --quiet --locked --workspace --tests
new_dir=$(mktemp -d)
trap 'rm -rf "$new_dir"' EXIT

# generated FILE COMMAND...: the file whose content is the command's output. Replaced whole, or not at all.
generated() {
  local file=$1 new
  new=$new_dir/$(basename "$1")
  shift
  "$target_dir/debug/llm-node" "$@" >"$new" || die "llm-node $* failed; see its message above"
  if [ "$check" = no ]; then
    mv "$new" "$file"
  elif ! diff -u "$file" "$new" >&2; then
    die "$file is not what 'llm-node $*' prints: run 'make docs' and commit the result"
  fi
}

generated docs/configuration.md config docs
generated docs/llm-node.example.toml config example
