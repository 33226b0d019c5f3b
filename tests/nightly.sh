#!/usr/bin/env bash
# What takes too long for every change: run by night, from a checkout that builds.
# usage: tests/nightly.sh [PART...]     PART: tagged simulation kills fuzz sanitizers deploy neon; default: all
# `tagged` are the tests tagged nightly; `deploy`, the stack in containers, needs root for its engine.
# Closes with "N passed, N failed", and fails where a part does.
set -uo pipefail
cd "$(dirname "$0")/.."
bazel="${HGA_BAZEL:-bazel}"  # another command in the place of bazel

passed=0 failed=0
# counted COMMAND...: adds what its last line counts.
counted() {
  local log
  log="$(mktemp)"
  "$@" </dev/null 2>&1 | tee "$log"
  if [[ "$(tail -n 1 "$log")" =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
  else
    failed=$((failed + 1))
  fi
  rm -f "$log"
}
# one COMMAND...: counts as one test.
one() {
  if "$@" </dev/null; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "nightly.sh: failed: $*" >&2
  fi
}

tagged() {
  local nightly
  nightly="$($bazel query --noshow_progress 'attr(tags, "nightly", tests(//...))' 2>/dev/null </dev/null)"
  # shellcheck disable=SC2086  # labels are words
  [ -z "$nightly" ] || counted tests/run.sh $nightly -- --test_tag_filters=
}

simulation() { one $bazel run -c opt //tests/fault:simulation -- --seed=1000 --seeds=10000 --steps=600; }

kills() {
  one $bazel test -c opt //tests/fault:kill_test --test_env=HGA_KILLS=200 --test_timeout=3000 --nocache_test_results
}

fuzz() {
  local name
  for name in $(sed -n '/^fuzzer(/,/^)/s/^    name = "\(.*\)",$/\1/p' tests/fuzz/BUILD); do
    one tests/fuzz/run.sh "$name" "${HGA_FUZZ_SECONDS:-600}"
  done
}

sanitizers() {
  local filters=-nightly,-gpu
  # AddressSanitizer and UndefinedBehaviorSanitizer in one.
  one $bazel test --config=asan --build_tests_only --test_tag_filters=$filters --keep_going \
    //common/... //kv_store/... //router/... //gpu_worker/... //tests/fault/... //tests/fuzz/...
  export TSAN_OPTIONS="suppressions=$PWD/tests/tsan_suppressions.txt"
  # ThreadSanitizer: what threads share. What passes through gRPC or RocksDB cannot be judged: they are not
  # instrumented.
  one $bazel test --config=tsan --build_tests_only --test_tag_filters=$filters,-notsan --keep_going \
    //common/base/... //common/shm/... //kv_store/arena/... //kv_store/store/... //kv_store/tier/... \
    //router/index:summary_index_test //gpu_worker/engine/...
  # Of these, which take long, what helper threads compute.
  one $bazel test --config=tsan --test_filter='*Helpers*' //router/index:select_test //gpu_worker/backend:workers_test
}

deploy() { counted tests/deploy/run.sh; }
neon() { counted tests/neon/run.sh --install; }

case "${1:-}" in -h|--help) sed -n '2,5s/^# //p' tests/nightly.sh; exit 0 ;; esac
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tagged simulation kills fuzz sanitizers deploy neon)
for part in "${parts[@]}"; do
  case "$part" in
    tagged|simulation|kills|fuzz|sanitizers|deploy|neon) ;;
    *) echo "nightly.sh: no part '$part'" >&2; exit 2 ;;
  esac
done
for part in "${parts[@]}"; do "$part"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
