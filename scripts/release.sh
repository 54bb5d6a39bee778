#!/usr/bin/env bash
# Release archives for Linux on x86-64 and aarch64, and their SHA256SUMS.
#
#   scripts/release.sh [OUT]        OUT is target/release-archives unless given
#
# The programs are static, so that they run on any Linux. Each is tried in a root that holds nothing else, as root and as an
# ordinary user; a foreign one under qemu-user-static. The last lines say NOT TRIED of those where that cannot be done here.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/release-archives}
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# Of the files in an archive: the same commit gives the same archive.
time=$(git log -1 --format=%ct)

# Runs a program in a root of its own: `alone ROOT USER PROGRAM ARGUMENT...`.
alone() {
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 user=$2
        shift 2
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        for node in null zero urandom; do mount --bind "/dev/$node" "$root/dev/$node"; done
        exec env -i HOME=/tmp "$(command -v chroot)" --userspec="$user:$user" "$root" "$@"
    ' alone "$@" </dev/null 2>"$work/errors"
}

# `holds TEXT PART`: or ends everything, and shows both, and the errors.
holds() {
    [[ $1 == *"$2"* ]] || { echo "there is no \"$2\" in \"$1\"; $(cat "$work/errors")" >&2; exit 1; }
}

# Does what a stranger does first, in an empty root: `try PROGRAM [EMULATOR]`.
try() {
    local root=$work/root user
    rm -rf "$root"
    mkdir -p "$root"/{dev,proc,tmp}
    touch "$root"/dev/{null,zero,urandom}
    cp "$1" "$root/outpour"
    shift
    if [[ $# -gt 0 ]]; then
        cp "$1" "$root/emulator"
        set -- /emulator
    fi
    for user in 0 65534; do
        holds "$(alone "$root" "$user" "$@" /outpour --version)" "outpour $version ("
        holds "$(alone "$root" "$user" "$@" /outpour run demo --ram 24M --temperature 0 "What is 17 + 25?")" "17 + 25 = 42"
        holds "$(alone "$root" "$user" "$@" /outpour demo --ram 24M)" set_alarm
        holds "$(alone "$root" "$user" "$@" /outpour doctor demo --quick)" "GB/s at depth"
        echo "    user $user: --version, run, demo and doctor, in a root with nothing else" >&2
    done
}

# What this machine's own program prints is the same for all, so its archive is made first.
own=$(uname -m)
untried=()
for arch in "$own" $(printf '%s\n' x86_64 aarch64 | grep -vx "$own"); do
    target=$arch-unknown-linux-musl
    name=outpour-$version-linux-$arch
    echo "$name" >&2
    rustup --quiet target add "$target"
    # A dependency in C finds the compiler of that processor; rust-lld links what the own linker cannot.
    variables=("CC_${target//-/_}=$arch-linux-gnu-gcc")
    if [[ $arch != "$own" ]]; then
        variable=${target^^}
        variables+=("CARGO_TARGET_${variable//-/_}_LINKER=rust-lld")
    fi
    env "${variables[@]}" cargo build --release --locked --quiet -p outpour --target "$target"
    program=${CARGO_TARGET_DIR:-target}/$target/release/outpour

    if [[ $(id -u) != 0 ]] || ! unshare --mount --pid --fork true 2>/dev/null; then
        untried+=("$name: an empty root needs root and a mount namespace")
    elif [[ $arch == "$own" ]]; then
        try "$program"
    elif emulator=$(command -v "qemu-$arch-static"); then
        try "$program" "$emulator"
    else
        untried+=("$name: qemu-user-static is not installed")
    fi

    if [[ $arch == "$own" ]]; then
        pages=$work/pages
        mkdir -p "$pages"/{man/man1,completions}
        "$program" man >"$pages/man/man1/outpour.1"
        # It names a page of each verb.
        for verb in $(sed -n 's/^outpour\\-\(.*\)(1)$/\1/p' "$pages/man/man1/outpour.1"); do
            "$program" man "$verb" >"$pages/man/man1/outpour-$verb.1"
        done
        holds "$(cat "$pages/man/man1/outpour-run.1")" 'max\-tokens'
        for shell in bash zsh fish; do "$program" completions "$shell" >"$pages/completions/outpour.$shell"; done
    fi
    mkdir "$work/$name"
    install -m 755 "$program" "$work/$name/outpour"
    install -m 644 README.md LICENSE "$work/$name"
    cp -r "$pages"/* "$work/$name"
    tar --directory "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" --create "$name" |
        gzip --best --no-name >"$out/$name.tar.gz"
done

cd "$out"
sha256sum outpour-"$version"-linux-*.tar.gz >SHA256SUMS
ls -l outpour-"$version"-linux-*.tar.gz >&2
for one in "${untried[@]}"; do echo "NOT TRIED: $one" >&2; done
