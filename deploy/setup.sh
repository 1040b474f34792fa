#!/usr/bin/env bash
# Installs the Debian 12 packages that Millrace needs: to build and run, and with --tests to be tested.
set -euo pipefail

build=(cmake ninja-build gcc libc6-dev pkg-config ccache
    libzmq3-dev libmsgpack-dev libsodium-dev libopenblas-dev libmicrohttpd-dev libjansson-dev libyaml-dev
    libcurl4-openssl-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-libav
    python3 python3-numpy)
tests=(libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev
    python3-pytest python3-pil python3-zmq python3-msgpack ffmpeg espeak-ng)
# The kernels of 64-bit Arm are built for it and run by an emulator.
arm=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)

wanted=("${build[@]}")
if [ "${1:-}" = "--tests" ]; then
    wanted+=("${tests[@]}")
    [ "$(uname -m)" = aarch64 ] || wanted+=("${arm[@]}")
    # Any Node.js will do for the test with OpenAI's own client; Debian's where there is none.
    command -v npm >/dev/null || wanted+=(nodejs npm)
elif [ $# -gt 0 ]; then
    echo "usage: $0 [--tests]" >&2
    exit 2
fi

missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "setup: these packages are missing and sudo is not there; as root: apt-get install ${missing[*]}" >&2
        exit 1
    }
    as_root=(sudo)
fi
echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
install() {
    "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
}
[ ${#as_root[@]} -eq 0 ] || sudo -v # asks for the password here, where it can be seen
install >"$log" 2>&1 &
while kill -0 $! 2>/dev/null; do
    [ ! -t 1 ] || printf '\rsetup: %-70.70s' "$(tail -n 1 "$log" | tr -dc '[:print:]')"
    sleep 0.3
done
[ ! -t 1 ] || echo
if ! wait $!; then
    tail -n 20 "$log" >&2
    echo "setup: apt-get failed; all of it is in $log" >&2
    exit 1
fi
rm -f "$log"
