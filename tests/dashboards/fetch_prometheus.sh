#!/usr/bin/env bash
# Unpacks Debian's prometheus package under .hga/tools, without installing it: that would start a service. Prints the
# folder of its programs (prometheus, promtool).
set -euo pipefail
cd "$(dirname "$0")/../.."
folder="$PWD/.hga/tools/prometheus"
if [ ! -x "$folder/usr/bin/promtool" ]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && apt-get -q -o APT::Sandbox::User=root download prometheus) >&2
  mkdir -p "$folder"
  dpkg -x "$work"/prometheus_*.deb "$folder"
fi
echo "$folder/usr/bin"
