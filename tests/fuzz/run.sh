#!/usr/bin/env bash
# Runs one fuzzer under ASan and UBSan: tests/fuzz/run.sh NAME [SECONDS] [LIBFUZZER FLAGS]
# SECONDS: default 60. New inputs that reach new code are kept in .hga/fuzz/NAME; what fails is kept in
# .hga/fuzz/NAME-failures and the exit code is not 0. `tests/fuzz/run.sh NAME merge` adds to tests/fuzz/corpus/NAME the
# inputs found so far that reach something which the corpus does not.
set -euo pipefail
cd "$(dirname "$0")/../.."
names="$(sed -n '/^fuzzer(/,/^)/s/^    name = "\(.*\)",$/\1/p' tests/fuzz/BUILD | tr '\n' ' ')"

case "${1:-}" in
  ""|-h|--help) sed -n '2,5s/^# //p' tests/fuzz/run.sh; echo "NAME: one of $names"; exit 0 ;;
esac
name="$1"
seconds="${2:-60}"
shift $(($# < 2 ? $# : 2))
case " $names " in *" $name "*) ;; *) echo "run.sh: no fuzzer '$name'; there are: $names" >&2; exit 2 ;; esac

fuzzer_library="/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a"
command -v clang >/dev/null && compgen -G "$fuzzer_library" >/dev/null || {
  echo "run.sh: libFuzzer is missing; install Debian's clang and libclang-rt-14-dev" >&2
  exit 1
}
# HGA_BAZEL: another command in the place of bazel.
${HGA_BAZEL:-bazel} build --config=fuzz --symlink_prefix=/ "//tests/fuzz:${name}_fuzz"
binary="$(${HGA_BAZEL:-bazel} info --config=fuzz bazel-bin)/tests/fuzz/${name}_fuzz"

found=".hga/fuzz/$name"
mkdir -p "$found" ".hga/fuzz/$name-failures"
corpus="tests/fuzz/corpus/$name"
if [ "$seconds" = merge ]; then
  exec "$binary" -merge=1 "$corpus" "$found"
fi
dictionary="tests/fuzz/$name.dict"
[ -f "$dictionary" ] && set -- "-dict=$dictionary" "$@"
export UBSAN_OPTIONS=print_stacktrace=1
exec "$binary" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=4096 -print_final_stats=1 \
  -artifact_prefix=".hga/fuzz/$name-failures/" "$@" "$found" "$corpus"
