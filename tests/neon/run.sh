#!/usr/bin/env bash
# Cross-compiles the sources with Highway kernels for aarch64 (NEON) and runs their unit tests on an emulated CPU.
# usage: tests/neon/run.sh [--install]
# Needs Debian's g++-aarch64-linux-gnu and qemu-user-static, which --install brings (as root); says so and ends with 0
# where they are missing. Ends with "N passed, N failed". Some minutes on a slow machine: no part of tests/run.sh.
set -uo pipefail
cd "$(dirname "$0")/../.."
packages=(g++-aarch64-linux-gnu qemu-user-static googletest)

installed() { dpkg-query -W -f='${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | grep -c '^installed$'; }
if [ "${1:-}" = --install ] && [ "$(installed)" -lt ${#packages[@]} ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
if [ "$(installed)" -lt ${#packages[@]} ]; then
  echo "neon: skipped, these are not all installed: ${packages[*]}"
  echo "0 passed, 0 failed"
  exit 0
fi

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
googletest=/usr/src/googletest/googletest
# One target, known at compile time: Highway's library, which tells CPUs apart, is not needed.
flags=(-std=c++17 -O2 -Wall -Wno-sign-compare -DHWY_COMPILE_ONLY_STATIC -DGTEST_CAN_STREAM_RESULTS_=0
       -I. -I"$googletest" -I"$googletest/include")

object() { echo "$out/$(echo "$1" | tr / _).o"; }
compile() { aarch64-linux-gnu-g++ "${flags[@]}" -c "$1" -o "$(object "$1")"; }
# All sources that Highway compiles once for each target, wherever they are.
mapfile -t kernels < <(grep -rl --include=*.cc 'hwy/foreach_target.h' common gpu_worker router tests | sort)
tested=(gpu_worker/backend/cpu/{block_attention,integer_gemm,integer_gemv,kernels,row_kernels}.cc
        router/index/centre_score.cc)
tests=(gpu_worker/backend/cpu/{block_attention,integer_gemm,kernels,row_kernels}_test.cc
       router/index/centre_score_test.cc)
others=(gpu_worker/model/quant.cc gpu_worker/model/row_quantizer.cc gpu_worker/model/tensor_row.cc
        "$googletest/src/gtest-all.cc" "$googletest/src/gtest_main.cc")

passed=0 failed=0
count() {
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "neon: failed: $*" >&2
  fi
}

for source in "${kernels[@]}"; do count compile "$source"; done
for source in "${others[@]}"; do compile "$source" || exit 1; done
for test in "${tests[@]}"; do
  compile "$test" || exit 1
  program="$out/$(basename "$test" .cc)"
  objects=("$(object "$test")")
  for source in "${tested[@]}" "${others[@]}"; do objects+=("$(object "$source")"); done
  aarch64-linux-gnu-g++ -static "${objects[@]}" -lpthread -o "$program" || exit 1
  count qemu-aarch64-static "$program" --gtest_brief=1
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
