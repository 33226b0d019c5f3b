#!/usr/bin/env bash
# Records what documents that are read and asked about ask of kv_store, for replay_trace:
#   tests/bench/record_trace.sh FILE
# The tiny trained model reads 25 texts of the quality corpus one after the other; after each of them the first is asked
# about, and every third time one that was read half as far back. Runs a stack of its own, built before.
#   --bin DIR      the built binaries (default .bazel/bin)
#   --bytes N      of each text (default 8000, some 5,700 tokens)
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=.bazel/bin bytes=8000 trace=""
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin="$2"; shift ;;
    --bytes) bytes="$2"; shift ;;
    -h|--help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
    *) trace="$(realpath -m "$1")" ;;
  esac
  shift
done
[ -n "$trace" ] || { echo "usage: tests/bench/record_trace.sh FILE [--bin DIR] [--bytes N]" >&2; exit 2; }

state="$(mktemp -d /tmp/hga.XXXXXX)"
stack=(deploy/stack.sh --state "$state" --bin "$bin" --metrics_port 0 --model tests/quality/tiny_model/tiny_qwen3.gguf)
finish() { "${stack[@]}" stop >/dev/null || true; rm -rf "$state"; }
trap finish EXIT
export HGA_KV_STORE_FLAGS="--record_trace $trace --arena_bytes 64MiB"
"${stack[@]}" start
worker="$(cat "$state/run/worker_address")"
texts=(tests/quality/corpus/documents/*.txt)
ask() {  # which text
  "$bin/client/hga" generate --worker "$worker" --quiet --session "text$1" --append --max-tokens 16 \
    "The number of harbour is" >/dev/null
}
for i in $(seq 0 24); do
  head -c "$bytes" "${texts[$i]}" | iconv -c -f utf-8 -t utf-8 >"$state/text"
  "$bin/client/hga" prefill --worker "$worker" --quiet --session "text$i" --file "$state/text" >/dev/null
  ask 0
  [ $((i % 3)) -ne 2 ] || ask $((i - i / 2))
done
"${stack[@]}" stop
ls -l "$trace"
