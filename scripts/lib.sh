# shellcheck shell=bash
# What the scripts share. Source it from a script of this folder; it moves to the root of the repository.
# Written for bash 3.2 and later (macOS), so no associative arrays and no empty "${array[@]}".

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where cargo builds, and with it everything that these scripts make: nothing is installed for the whole machine but
# Debian packages.
target_dir=${CARGO_TARGET_DIR:-target}
case $target_dir in /*) ;; *) target_dir=$PWD/$target_dir ;; esac
tools_dir=$target_dir/tools
export PATH="$tools_dir/bin:$PATH"

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
  printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The SHA-256 of a file in hex, alone.
sha256_of() {
  if have sha256sum; then sha256sum -- "$1"; else shasum -a 256 -- "$1"; fi | cut -d ' ' -f 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif have sudo; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    die "this needs root, and there is no sudo to ask; as root, run this and then this script again: $*"
  fi
}

# Fresh package lists, at most once an hour however many scripts ask: a new machine has none at all.
apt_update() {
  local stamp=$target_dir/.apt-get-updated
  if [ -n "$(find "$stamp" -mmin -60 2>/dev/null)" ]; then return; fi
  as_root apt-get -o DPkg::Lock::Timeout=120 update -qq </dev/null >&2
  mkdir -p "$target_dir"
  touch "$stamp"
}

# apt_install PACKAGE...: installs Debian packages, or says which ones are needed where there is no apt-get.
apt_install() {
  have apt-get || die "missing, and this is no Debian: the equivalents of the Debian packages $*
  Fedora: dnf install cmake gcc-c++ clang-devel pkgconf-pkg-config make git python3-pip nodejs-npm ShellCheck
  macOS:  xcode-select --install; brew install cmake python node shellcheck
then run this again"
  if [ "$(id -u)" -ne 0 ] && ! have sudo; then
    die "missing: $*. There is no sudo here, so as root:
  apt-get update && apt-get install --no-install-recommends $*
then run this again"
  fi
  say "installing from Debian: $*"
  apt_update
  as_root apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "$@" </dev/null >&2 ||
    die "apt-get could not install $*; see its message above, or install them by hand and run this again"
}

# cargo_tool NAME VERSION [INSTALL OPTION...]: a cargo subcommand in exactly this version, built into target/tools once.
# A debug build: the tool runs for seconds, and this halves the wait for it.
cargo_tool() {
  local name=$1 version=$2
  shift 2
  if "$name" --version 2>/dev/null | grep -qwF "$version"; then return; fi
  say "building $name $version into $tools_dir (once; takes minutes)"
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --force --root "$tools_dir" \
    --target-dir "$tools_dir/build" --version "=$version" "$@" "$name" </dev/null ||
    die "cargo could not build $name $version; see its message above (it needs the Rust package registry)"
  rm -rf "$tools_dir/build"
}

# step NAME COMMAND...: runs it, and says how long it took or that it failed.
step() {
  local name=$1 start=$SECONDS
  shift
  say "== $name"
  "$@" || die "failed: $name"
  say "== $name: ok, $((SECONDS - start)) s"
}
