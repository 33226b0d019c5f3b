#!/usr/bin/env bash
# Runs what bundle.sh put together, on a machine with an NVIDIA driver.
# usage: ./run.sh tests [GTEST FLAGS] | sanitizer | bench [FLAGS] | worker FLAGS
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

# The machine's own glibc, unless it is older than the one that was built against.
built="$(cat "$here/glibc/version")"
has="$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2 || true)"
cuda_libraries="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/cuda/lib64"
if [ -n "$has" ] && [ "$(printf '%s\n%s\n' "$built" "$has" | sort -V | head -n 1)" = "$built" ]; then
  run() { local name="$1"; shift; LD_LIBRARY_PATH="$here/lib:$cuda_libraries" "${wrapper[@]}" "$here/bin/$name" "$@"; }
else
  run() {
    local name="$1"; shift
    "${wrapper[@]}" "$here/glibc/ld-linux-x86-64.so.2" --library-path "$here/glibc:$here/lib:$cuda_libraries" \
      "$here/bin/$name" "$@"
  }
fi
wrapper=(env)

all_tests() {
  local failed=0 name
  for name in top_logits_kernel_gpu_test device_route_client_gpu_test cuda_backend_gpu_test cuda_steps_gpu_test \
              families_gpu_test backend_conformance_gpu_test; do
    echo "=== $name"
    TEST_TMPDIR="${TMPDIR:-/tmp}" run "$name" "$@" || failed=1
  done
  return $failed
}

command="${1:-}"
[ $# -eq 0 ] || shift
case "$command" in
  tests) all_tests "$@" ;;
  sanitizer)
    for tool in memcheck racecheck synccheck initcheck; do
      wrapper=(compute-sanitizer --tool "$tool" --error-exitcode 1)
      all_tests --gtest_filter='*Ragged*:*qwen3moe_fp8*:*Tier*:*EqualScores*:*GrowsAnd*'
    done ;;
  bench) run cuda_bench "--commit=$(cat "$here/commit")" "--command=run.sh bench $*" "$@" ;;
  worker) run gpu_worker --backend=cuda "$@" ;;
  *) sed -n '2,3s/^# //p' "$here/run.sh" >&2; exit 2 ;;
esac
