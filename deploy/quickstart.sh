#!/usr/bin/env bash
# From a fresh checkout on Debian 12 to an answer about a document, in one command.
# usage: deploy/quickstart.sh [options]
#   --question TEXT   what to ask (default: what the Dodo gives to Alice)
#   --file F          the document to ask about (default deploy/documents/alice.txt)
#   --keep            leave the stack running, to ask more with .bazel/bin/client/hga
#   --down            stop a stack that --keep left running, and do nothing else
# Installs packages, builds, fetches a small model, starts kv_store, router and gpu_worker, asks, stops them.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
question="What does the Dodo give to Alice?"
file="$root/deploy/documents/alice.txt"
keep=""

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --question) question="${2:?--question needs a text}"; shift ;;
    --file) file="$(realpath -m "${2:?--file needs a path}")"; shift ;;
    --keep) keep=1 ;;
    --down) exec "$root/deploy/stack.sh" stop ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ -f "$file" ] || { echo "quickstart: $file does not exist" >&2; exit 1; }
cd "$root"

step_n=0
# step TITLE COMMAND...: says what happens and how long it took.
step() {
  local title="$1" begin
  shift
  step_n=$((step_n + 1))
  echo "[$step_n/6] $title"
  begin=$(date +%s%N)
  "$@" || { local code=$?; echo "quickstart: step $step_n failed: $title" >&2; return $code; }
  echo "      $((($(date +%s%N) - begin) / 1000000000)).$((($(date +%s%N) - begin) / 100000000 % 10)) s"
}

# Not a terminal: no progress of Bazel's, one line per minute would be noise in a log.
build() {
  local flags=(--noshow_progress)
  [ ! -t 2 ] || flags=(--show_progress)
  bazel build -c opt "${flags[@]}" --show_result=0 \
    //kv_store //kv_store/tool:kv_store_tool //router //gpu_worker //client:hga </dev/null
}
ask() {
  .bazel/bin/client/hga ask --worker "$(cat .hga/run/worker_address)" --file "$file" "$question"
}
finish() {
  if [ -n "$keep" ]; then
    echo "      the stack keeps running; ask more, and stop it with: deploy/quickstart.sh --down"
    echo "      .bazel/bin/client/hga ask --file '$file' 'Who is Dinah?'"
  else
    deploy/stack.sh stop
  fi
}

was_running=""
! deploy/stack.sh status >/dev/null 2>&1 || was_running=1
# Whatever fails or is interrupted from here on: leave nothing running that was not running before.
trap '[ -n "$was_running" ] || [ -n "$done" ] || deploy/stack.sh stop >&2 || true' EXIT
done=""
[ -z "$was_running" ] || keep=1

step "packages of Debian" deploy/install_packages.sh
step "build (some minutes the first time)" build
step "model SmolLM2-135M-Instruct" deploy/fetch_model.sh
step "start kv_store, router, gpu_worker" deploy/stack.sh start
echo "      question: $question"
step "ask about $(basename "$file"); the first time its K/V is computed, later it comes from the store" ask
step "finish" finish
done=1
