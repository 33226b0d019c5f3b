#!/usr/bin/env bash
# Installs what is needed, builds and runs the tests, and counts their cases from the XML they leave.
# usage: tests/run.sh [PATTERN...] [-- BAZEL FLAGS]     PATTERN: default //...
# Closes with "N passed, N failed" (and ", N skipped"). Fails where a test fails, or where none ran.
set -uo pipefail
cd "$(dirname "$0")/.."

patterns=()
flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) sed -n '2,4s/^# //p' tests/run.sh; exit 0 ;;
    --) shift; flags+=("$@"); break ;;
    -*) flags+=("$1") ;;
    *) patterns+=("$1") ;;
  esac
  shift
done
[ ${#patterns[@]} -gt 0 ] || patterns=(//...)

no_result() { echo "run.sh: $1" >&2; echo "0 passed, 1 failed"; exit 1; }

deploy/install_packages.sh </dev/null || no_result "packages could not be installed"
# Tests with the real model are skipped, and counted as such, where it cannot be had.
if model="$(deploy/fetch_model.sh </dev/null)"; then
  HGA_MODEL_DIR="$(dirname "$(tail -n 1 <<<"$model")")"
  export HGA_MODEL_DIR
else
  echo "run.sh: no model; tests that need it will be skipped" >&2
fi

# Likewise promtool, which tests the alerts.
if HGA_PROMETHEUS_DIR="$(tests/dashboards/fetch_prometheus.sh </dev/null)"; then
  export HGA_PROMETHEUS_DIR
else
  echo "run.sh: no promtool; the alerts will not be tested" >&2
fi

# The linker takes about 1 GiB.
memory_gib=$(($(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1048576))
jobs=$(nproc)
[ "$jobs" -le $((memory_gib + 1)) ] || jobs=$((memory_gib + 1))

events="$(mktemp)"
trap 'rm -f "$events"' EXIT
bazel test -c opt "${patterns[@]}" --test_tag_filters=-nightly,-gpu --build_tests_only --keep_going \
  --jobs="$jobs" --local_test_jobs="$jobs" --noshow_progress --color=no --test_output=errors \
  --build_event_json_file="$events" ${flags[@]+"${flags[@]}"} </dev/null
code=$?
python3 tests/tidy/count_results.py "$events" "$code"
