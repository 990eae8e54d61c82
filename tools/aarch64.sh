#!/usr/bin/env bash
# Compile and run the host's kernels for 64-bit ARM on an x86 machine, in an emulator. For nights: compiling one product
# took 12 minutes on a busy machine. Needs qemu-user-static and debootstrap (apt-get install qemu-user-static debootstrap),
# the network, and 1 GB in the folder that is given (build/aarch64). What is there already is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-build/aarch64}
root=$work/root
mkdir -p "$work"

if [ ! -x "$root/usr/bin/python3.11" ]; then
    # unpacked, not installed: nothing in it runs but the interpreter
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 bookworm "$root" http://deb.debian.org/debian
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
fi
if [ ! -d "$work/site/numba" ]; then
    python3 -m pip install --quiet --python-version 3.11 --implementation cp --only-binary :all: \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --platform manylinux_2_17_aarch64 --target "$work/site" "numba>=0.62,<0.69" numpy array-api-compat safetensors
fi
PYTHONPATH=$PWD:$work/site NUMBA_CACHE_DIR=$work/kernels CAPGPU_THREADS=2 \
    qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" -m tools.check_host_kernels
