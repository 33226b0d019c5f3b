#!/usr/bin/env bash
# Installs the Debian 12 packages that building and running HGA Serve needs. Does nothing where all are there.
set -euo pipefail

packages=(
  # Build
  bazel-bootstrap g++ pkg-config protobuf-compiler protobuf-compiler-grpc
  # Libraries
  libgrpc++-dev libgrpc-dev libprotobuf-dev libabsl-dev librocksdb-dev prometheus-cpp-dev libdnnl-dev
  libhwy-dev libpcre2-dev libutf8proc-dev nlohmann-json3-dev libxxhash-dev libcli11-dev libgtest-dev
  libgmock-dev libbenchmark-dev
  # What the libraries above link in turn
  libgflags-dev libsnappy-dev libbz2-dev zlib1g-dev liblz4-dev libzstd-dev libssl-dev libc-ares-dev libre2-dev
  libcurl4-openssl-dev
  # Scripts
  python3 python3-yaml python3-pip unzip curl procps ca-certificates git
)

missing=()
for package in "${packages[@]}"; do
  state="$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)"
  # A library with several architectures answers once per architecture.
  [[ "$state" == installed* ]] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "install_packages: this system has no apt-get; on Debian 12 these are needed: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_packages: not root, and there is no sudo. Have an administrator run:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "install_packages: installing ${#missing[@]} packages: ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
run() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 </dev/null; then
    echo "install_packages: failed: $*" >&2
    tail -n 20 "$log" >&2
    exit 1
  fi
}
run apt-get -q update
run apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
