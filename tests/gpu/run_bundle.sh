#!/usr/bin/env bash
# Runs what bundle.sh put together, on a machine with an NVIDIA driver.
# usage: ./run.sh tests [GTEST FLAGS] | sanitizer | answers [MODEL] | bench [FLAGS] | stack_bench MODEL [FLAGS]
#        | worker FLAGS
#   answers      three daemons and a model (default: a small trained one): the cpu backend's answer and the device's
#   bench        kernels and steps at the shape of Qwen3-30B-A3B, with selections that are drawn
#   stack_bench  hga bench with three daemons
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

# The machine's own glibc, unless it is older than the one that was built against.
built="$(cat "$here/glibc/version")"
has="$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2 || true)"
cuda_libraries="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/cuda/lib64"
loader=()
libraries="$here/lib:$cuda_libraries"
if [ -z "$has" ] || [ "$(printf '%s\n%s\n' "$built" "$has" | sort -V | head -n 1)" != "$built" ]; then
  loader=("$here/glibc/ld-linux-x86-64.so.2" --library-path "$here/glibc:$libraries")
fi
wrapper=()
run() {
  local name="$1"
  shift
  LD_LIBRARY_PATH="$libraries" ${wrapper[@]+"${wrapper[@]}"} ${loader[@]+"${loader[@]}"} "$here/bin/$name" "$@"
}

all_tests() {
  local failed=0 name
  for name in top_logits_kernel_gpu_test device_route_client_gpu_test cuda_backend_gpu_test cuda_int8_gpu_test \
              cuda_steps_gpu_test families_gpu_test greedy_gpu_test backend_conformance_gpu_test \
              device_engine_gpu_test; do
    echo "=== $name"
    TEST_TMPDIR="${TMPDIR:-/tmp}" run "$name" "$@" || failed=1
  done
  return $failed
}

# A folder as deploy/stack.sh wants it.
stack() {
  local folder name status=0
  folder="$(mktemp -d)"
  for name in kv_store router gpu_worker hga; do
    local to="$folder/$name/$name"
    [ "$name" != hga ] || to="$folder/client/hga"
    mkdir -p "$(dirname "$to")"
    printf '#!/usr/bin/env bash\nexec "%s/run.sh" program %s "$@"\n' "$here" "$name" >"$to"
    chmod +x "$to"
  done
  "$here/run_stack.sh" "$folder" "$@" || status=$?
  rm -rf "$folder"
  return $status
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
  program) LD_LIBRARY_PATH="$libraries" exec ${loader[@]+"${loader[@]}"} "$here/bin/$1" "${@:2}" ;;
  answers) stack answers "${1:-$here/tiny_qwen3.gguf}" "$here/alice.txt" ;;
  stack_bench) stack bench "$@" ;;
  *) sed -n '2,7s/^# //p' "$here/run.sh" >&2; exit 2 ;;
esac
