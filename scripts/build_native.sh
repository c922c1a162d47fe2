#!/bin/sh
# Rebuilds the extension in place, only what changed: scripts/build_native.sh [PYTHON]
#
# For work on the kernels. The library goes beside kernels/native.py, where an import from src/ finds it.
set -eu
python=${1:-.venv/bin/python}
build=build/dev
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >/dev/null
cmake --build "$build" --parallel
cp "$build"/_native*.so src/steelyard/kernels/
