#!/usr/bin/env bash
# Installs what the tests need beyond the build: the official SDKs of both languages, promtool, SoftHSM2, cargo-nextest
# and the default model. Everything but Debian packages goes below target/ and tests/sdk/node/node_modules.
# Prints the environment of the tests as lines NAME=value.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cache_dir=$target_dir/test-cache
mkdir -p "$cache_dir"

# fresh STAMP FILE: STAMP records the present content of FILE, so what was installed from it is current.
fresh() { [ "$(cat "$1" 2>/dev/null)" = "$(sha256_of "$2")" ]; }

setup_python_sdk() {
  local requirements=tests/sdk/python/requirements.txt venv=$cache_dir/python
  [ -f "$requirements" ] || die "$requirements is missing: this checkout is incomplete"
  if fresh "$venv/.installed" "$requirements" && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
  say "installing the Python SDK into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv" || die "python3 could not make a virtual environment: install python3-venv, run this again"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" </dev/null >&2 ||
    die "pip could not install $requirements; see its message above"
  sha256_of "$requirements" >"$venv/.installed"
}

setup_node_sdk() {
  local package_dir=tests/sdk/node
  [ -f "$package_dir/package-lock.json" ] || die "$package_dir/package-lock.json is missing: this checkout is incomplete"
  if ! { have node && have npm; }; then apt_install nodejs npm; fi
  if fresh "$package_dir/node_modules/.installed" "$package_dir/package-lock.json"; then return; fi
  say "installing the npm SDK into $package_dir/node_modules"
  npm ci --prefix "$package_dir" --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2 ||
    die "npm could not install $package_dir; see its message above"
  sha256_of "$package_dir/package-lock.json" >"$package_dir/node_modules/.installed"
}

download_prometheus() (
  cd "$cache_dir/prometheus" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download prometheus </dev/null >&2
)

# Only the one program is taken from Debian's package: installing the package would start a Prometheus.
setup_promtool() {
  if have promtool; then return; fi
  have apt-get || die "promtool is missing: install Prometheus (macOS: brew install prometheus) and run this again"
  say "taking promtool from Debian's package prometheus into $tools_dir/bin"
  local work_dir=$cache_dir/prometheus
  rm -rf "$work_dir"
  mkdir -p "$work_dir" "$tools_dir/bin"
  # Needs no root unless the package lists are missing or too old.
  download_prometheus 2>/dev/null || { apt_update && download_prometheus; } ||
    die "apt-get could not download the package prometheus; see its message above"
  dpkg-deb --fsys-tarfile "$work_dir"/prometheus_*.deb | tar -x -C "$work_dir" ./usr/bin/promtool
  mv "$work_dir/usr/bin/promtool" "$tools_dir/bin/promtool"
  rm -rf "$work_dir"
}

# A hardware token in software, for keys by PKCS#11. It is a library; each test makes a token of its own.
setup_softhsm() {
  softhsm_module=$(find_softhsm)
  if [ -n "$softhsm_module" ] && have softhsm2-util; then return; fi
  apt_install softhsm2
  softhsm_module=$(find_softhsm)
  [ -n "$softhsm_module" ] || die "softhsm2 is installed and its libsofthsm2.so is in no known place"
}

find_softhsm() {
  find /usr/lib /usr/lib64 /usr/local/lib /opt/homebrew/lib -name libsofthsm2.so 2>/dev/null | head -n 1 || true
}

setup_python_sdk
setup_node_sdk
setup_promtool
setup_softhsm
# Any version that .config/nextest.toml accepts will do.
if ! have cargo-nextest; then cargo_tool cargo-nextest 0.9.143 --no-default-features --features default-no-update; fi
model=$(scripts/fetch-model.sh "$cache_dir")

printf '%s\n' \
  "LLM_NODE_TEST_MODEL=$model" \
  "LLM_NODE_TEST_PYTHON=$cache_dir/python/bin/python" \
  "LLM_NODE_TEST_SDK_NODE=$PWD/tests/sdk/node" \
  "LLM_NODE_TEST_PROMTOOL=$(command -v promtool)" \
  "LLM_NODE_TEST_SOFTHSM=$softhsm_module"
