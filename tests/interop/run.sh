#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD_FOLDER: what we write, loaded by the programs it is meant for. Their Python packages go into virtual
# environments under the build folder. Without the package index there is nothing to compare with: says so and passes.
# FETTLE_TORCH_PYTHON names a Python that has those of requirements-torch.txt already: they take 6 GB.
set -eu
build=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

# environment NAME REQUIREMENTS: makes build/NAME with these packages; fails if they cannot be had.
environment() {
  stamp=$build/$1/$(cksum <"$here/$2" | tr ' ' '-')
  [ ! -f "$stamp" ] || return 0
  rm -rf "${build:?}/$1"
  python3 -m venv "$build/$1"
  "$build/$1/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 -r "$here/$2" \
    >"$build/$1-pip.log" 2>&1 || return 1
  touch "$stamp"
}
skipped() { echo "$1: skipped, the Python packages could not be installed (see $build/$2-pip.log)"; }

cmake --build "$build" --target interop_probe >/dev/null
status=0
if environment interop-venv requirements.txt; then
  "$build/interop-venv/bin/python" "$here/check.py" "$build" "$here/../.." || status=1
else
  skipped interop interop-venv
fi
if [ -n "${FETTLE_TORCH_PYTHON:-}" ]; then
  "$FETTLE_TORCH_PYTHON" "$here/transformers_check.py" "$build" "$here/../.." || status=1
elif environment interop-torch requirements-torch.txt; then
  "$build/interop-torch/bin/python" "$here/transformers_check.py" "$build" "$here/../.." || status=1
else
  skipped "interop with transformers" interop-torch
fi
exit $status
