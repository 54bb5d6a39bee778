#!/usr/bin/env bash
# Builds the engines that compare.py runs beside outpour: `benches/peers/build.sh DIR [IK_SOURCE]`.
#
# llama.cpp comes from the source distribution of llama-cpp-python on PyPI; ik_llama.cpp from IK_SOURCE, a checkout or
# a bare repository of it, or else from GitHub. About ten minutes each on two cores. LLAMA_CPP_PYTHON and IK_COMMIT name other
# versions than those that EXPERIMENTS.md was measured with.
set -euo pipefail
dir=$(realpath -m "${1:?the folder to build in}")
ik_source=${2:-https://github.com/ikawrakow/ik_llama.cpp}
llama_cpp_python=${LLAMA_CPP_PYTHON:-0.3.36}
ik_commit=${IK_COMMIT:-8337e4cd3}
mkdir -p "$dir"

if [ ! -x "$dir/venv/bin/cmake" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet cmake ninja scikit_build_core gguf numpy
fi
PATH="$dir/venv/bin:$PATH"

# Whether sources are in $1 already; they must be of version $2.
has() {
    [ -d "$1" ] || return 1
    local found
    found=$(cat "$1.version" 2>/dev/null || echo unknown)
    [ "$found" = "$2" ] && return
    echo "error: $1 is of version $found, not $2: build in another folder, or delete it and its build" >&2
    exit 1
}

# Keeps sources that are whole.
keep() {
    mv "$1.part" "$1"
    echo "$2" >"$1.version"
}

# llama-bench of the sources in $1, to $2/bin, with the instructions of this machine.
build() {
    [ -x "$2/bin/llama-bench" ] && return
    cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
    cmake --build "$2" --target llama-bench
}

if ! has "$dir/llama.cpp" "$llama_cpp_python"; then
    rm -rf "$dir/sdist" "$dir/llama.cpp.part"
    "$dir/venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python --dest "$dir" \
        "llama-cpp-python==$llama_cpp_python"
    mkdir "$dir/sdist"
    tar -xzf "$dir/llama_cpp_python-$llama_cpp_python.tar.gz" -C "$dir/sdist" --strip-components=1
    mv "$dir/sdist/vendor/llama.cpp" "$dir/llama.cpp.part"
    keep "$dir/llama.cpp" "$llama_cpp_python"
fi
build "$dir/llama.cpp" "$dir/build-llama"

if ! has "$dir/ik_llama.cpp" "$ik_commit"; then
    rm -rf "$dir/ik_llama.cpp.part"
    if git clone --quiet "$ik_source" "$dir/ik_llama.cpp.part"; then
        git -C "$dir/ik_llama.cpp.part" checkout --quiet "$ik_commit"
        keep "$dir/ik_llama.cpp" "$ik_commit"
    fi
fi
if [ -d "$dir/ik_llama.cpp" ]; then
    build "$dir/ik_llama.cpp" "$dir/build-ik"
else
    echo "SKIPPED: ik_llama.cpp cannot be had from $ik_source"
fi
