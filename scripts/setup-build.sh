#!/usr/bin/env bash
# Installs what the build and the model download need and the machine lacks. Quick when nothing is missing.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

have cargo || die "Rust is missing: install it with rustup (1.95 or later), open a new shell and run this again"

# bindgen loads libclang at build time and asks it for clang's own headers; Debian has both in libclang-dev.
have_libclang() {
  local folder found
  for folder in "${LIBCLANG_PATH:-/nonexistent}" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib \
    /opt/homebrew/opt/llvm/lib /Library/Developer/CommandLineTools/usr/lib; do
    for found in "$folder"/libclang.so* "$folder"/libclang-[0-9]*.so* "$folder"/libclang.dylib; do
      if [ -e "$found" ]; then return; fi
    done
  done
  return 1
}

missing=""
need() { # need PACKAGE TEST...
  local package=$1
  shift
  "$@" || missing="$missing $package"
}
need cmake have cmake                 # builds llama.cpp
need g++ have c++                     # compiles it
need make have make                   # cmake's generator
need clang have clang                 # bindgen's headers
need libclang-dev have_libclang       # bindgen
need pkg-config have pkg-config       # crates that link system libraries
need git have git                     # llama.cpp's build asks it for a version
need curl have curl                   # the line that --quickstart prints
need python3 have python3             # fetches the model
need python3-venv python3 -c 'import ensurepip' 2>/dev/null
if [ "$(uname -s)" = Linux ]; then
  need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt -o -e /etc/pki/tls/certs/ca-bundle.crt
fi

if [ -n "$missing" ]; then
  # shellcheck disable=SC2086 # a list of package names
  apt_install $missing
fi
