#!/usr/bin/env bash
# Runs one benchmark: tests/bench/run.sh NAME [--quick] [--json FILE]
# Builds what it needs, prints a table with units and the machine's limits, writes a flat JSON object of numbers.
set -euo pipefail
cd "$(dirname "$0")/../.."
names="path backend attention linear cpu kv_store disk_unit routing models quality deploy cuda"

usage() {
  echo "usage: tests/bench/run.sh NAME [--quick] [--json FILE]"
  echo "  NAME    one of: $names"
  echo "  --quick ends within a minute once built; fewer lengths, one repetition"
  echo "  --json  writes the numbers there too"
}

name="" quick="" json=""
command="tests/bench/run.sh $*"
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=--quick ;;
    --json) json="$(realpath -m "${2:?--json needs a file}")"; shift ;;
    -h|--help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) name="$1" ;;
  esac
  shift
done

commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit+changes"
common=(${quick:+"$quick"} "--json=$json" "--commit=$commit" "--command=$command")

# Goes on where it was cut off: what .hga/quality.jsonl has is not measured again. Remove the file to begin anew.
run_quality() {
  local quality=.bazel/bin/tests/quality/quality results=.hga/quality.jsonl
  local on=("--model=$model" --corpus=tests/quality/corpus/corpus.json)
  export OMP_WAIT_POLICY=passive  # threads that spin between short loops take more than they give
  bazel build -c opt //tests/quality:quality
  if [ -n "$quick" ]; then
    results=.hga/quality_quick.jsonl
    rm -f "$results"
    "$quality" loss "${on[@]}" "--out=$results" --split=dev --documents=2 --length=2048 \
      --configs=dealt/512/decode,mean_hga/512/decode
  else
    "$quality" loss "${on[@]}" "--out=$results"
    "$quality" mass "${on[@]}" "--out=$results" --split=test --documents=8
    "$quality" retrieval "${on[@]}" "--out=$results" --split=test --length=4096
  fi
  "$quality" report "--out=$results" ${json:+"--json=$json"} --svg_dir=.hga/quality_plots \
    "--commit=$commit" "--command=$command"
}

[[ " $names " = *" $name "* ]] || { usage >&2; exit 2; }
deploy/install_packages.sh
if [ "$name" = cuda ]; then  # needs nvcc to build and a device to run; says so where there is none
  bazel build -c opt --config=cuda //tests/bench:cuda_bench
  exec .bazel/bin/tests/bench/cuda_bench "${common[@]}"
fi
deploy/fetch_model.sh
model=.hga/models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ "$name" = quality ]; then
  run_quality
  exit
fi
if [ "$name" = cpu ]; then
  bazel build -c opt //kv_store //router //gpu_worker //client:hga \
    //tests/bench:fill_session //tests/bench:attention_bench
  exec python3 tests/bench/cpu.py "${common[@]}" $([ -n "$quick" ] || echo --plot=docs/images/cpu.svg)
fi
bazel build -c opt "//tests/bench:${name}_bench"

case "$name" in
  path|disk_unit) common+=("--model=$model" --document=deploy/documents/alice.txt) ;;
  backend|models|deploy) common+=("--model=$model") ;;
esac
".bazel/bin/tests/bench/${name}_bench" "${common[@]}"

# Start and images of the containers, where an engine can be run.
if [ "$name" = deploy ] && [ -z "$quick" ] && [ "$(id -u)" -eq 0 ]; then
  containers="$(mktemp)"
  tests/deploy/run.sh --start_only --json "$containers"
  python3 - "$containers" "${json:-/dev/stdout}" <<'PYTHON'
import json, os, sys
figures = json.load(open(sys.argv[1]))
if os.path.isfile(sys.argv[2]):
    figures = {**json.load(open(sys.argv[2])), **figures}
json.dump(figures, open(sys.argv[2], "w"))
PYTHON
  rm -f "$containers"
fi
