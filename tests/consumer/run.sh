#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs Fettle from a build folder into an empty prefix, builds the foreign project against it and runs its pipeline
# with the installed program. usage: run.sh BUILD_DIR SOURCE_DIR
set -eu
build=$1
source=$2
work=$build/tests/consumer-work
rm -rf "$work"
mkdir -p "$work"
cmake --install "$build" --prefix "$work/prefix" >/dev/null
cp -r "$source/tests/consumer/project" "$work/project"
cmake -S "$work/project" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/build"
# Outside the source tree, with the program's own plugin folder and the new one.
cd "$work"
"$work/prefix/bin/fettle" run "$work/project/scale.yaml" --plugin-dir "$work/build/plugins" \
  --set "vars.model=$source/pipelines/data/prose-3m" --store "$work/store"
test -s "$work/project/scaled-q8_0.gguf"
