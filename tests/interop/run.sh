#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD_FOLDER: what we write, loaded by the programs it is meant for. Their Python packages go into a virtual
# environment under the build folder. Without the package index there is nothing to compare with: says so and passes.
set -eu
build=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
venv=$build/interop-venv
stamp=$venv/$(cksum <"$here/requirements.txt" | tr ' ' '-')

if [ ! -f "$stamp" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 -r "$here/requirements.txt" \
    >"$build/interop-pip.log" 2>&1; then
    echo "interop: skipped, the Python packages could not be installed (see $build/interop-pip.log)"
    exit 0
  fi
  touch "$stamp"
fi
cmake --build "$build" --target interop_probe >/dev/null
"$venv/bin/python" "$here/check.py" "$build" "$here/../.."
