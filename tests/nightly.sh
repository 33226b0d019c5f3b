#!/usr/bin/env bash
# What takes too long for every change: tests tagged nightly, and the stack in containers. As root, for its engine.
# usage: tests/nightly.sh
# Closes with "N passed, N failed", and fails where a part does.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || { sed -n '2,4s/^# //p' tests/nightly.sh; exit 2; }

passed=0 failed=0
# part COMMAND...: adds what its last line counts.
part() {
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

nightly="$(bazel query --noshow_progress 'attr(tags, "nightly", tests(//...))' 2>/dev/null </dev/null)"
if [ -n "$nightly" ]; then
  # shellcheck disable=SC2086  # labels are words
  part tests/run.sh $nightly -- --test_tag_filters=
fi
part tests/deploy/run.sh
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
