#!/usr/bin/env bash
# The three daemons and the client on this machine's device: the same answers as with the cpu backend, and their speed.
# usage: run_stack.sh BIN_FOLDER answers MODEL TEXT | bench MODEL [FLAGS OF hga bench]
#   BIN_FOLDER  has kv_store/kv_store, router/router, gpu_worker/gpu_worker, client/hga
# WORKER_FLAGS: more flags of gpu_worker.
set -euo pipefail
shopt -s inherit_errexit
here="$(cd "$(dirname "$0")" && pwd)"
bin="$1" command="$2" model="$3"
shift 3
state="$(mktemp -d)"
stack=("$here/deploy/stack.sh" --bin "$bin" --model "$model" --metrics_port 0)
trap '"${stack[@]}" --state "$state/now" stop >/dev/null 2>&1 || true; rm -rf "$state"' EXIT

# with_stack FLAGS COMMAND...: the command, with a stack that knows nothing yet.
with_stack() {
  local flags="$1"
  shift
  HGA_GPU_WORKER_FLAGS="$flags ${WORKER_FLAGS:-}" "${stack[@]}" --state "$state/now" start >&2
  "$@"
  grep -E 'msg="?(cuda backend|prompts are|no )|level=(warning|error)' "$state/now/logs/gpu_worker.log" >&2 || true
  "${stack[@]}" --state "$state/now" stop >&2
  rm -rf "$state/now"
}
hga() { "$bin/client/hga" --worker "$(cat "$state/now/run/worker_address")" "$@"; }

# Routed from the first token, prompts too, greedily.
answer() {
  hga generate --raw --quiet --max-tokens 64 --budget-tokens 256 --dense-decode-tokens 0 --seed 1 \
    "$(head -c 12000 "$1")"
}

compare_answers() {
  local text="$1" expected got variant failed=0
  local routed="--dense_prefill_tokens 0"
  expected="$(with_stack "--backend cpu $routed" answer "$text")"
  echo "cpu: $expected"
  local variants=("" "--early_selection=true" "--device_summaries 64MiB" "--device_graphs=false"
                  "--device_summaries 64MiB --early_selection=true")
  local first=""
  for variant in "${variants[@]}"; do
    got="$(with_stack "--backend cuda $routed $variant" answer "$text")"
    [ -n "$first" ] || first="$got"
    # The cpu's weights are rounded in another way: near ties may fall differently. The device's own must not differ.
    if [ "$got" = "$expected" ]; then
      echo "cuda $variant: the cpu's answer"
    elif [ "$got" = "$first" ]; then
      echo "cuda $variant: another answer than the cpu's: $got"
    else
      echo "cuda $variant: DIFFERS FROM THE DEVICE'S OTHER ANSWERS: $got"
      failed=1
    fi
  done
  return $failed
}

case "$command" in
  answers) compare_answers "$1" ;;
  bench) with_stack "--backend cuda" hga bench "$@" ;;
  *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
