#!/usr/bin/env bash
# Runs the real daemons under a load, lets a real Prometheus scrape them, and evaluates every query of the dashboards.
# usage: tests/dashboards/run.sh [--seconds N] [--pictures] [--bin DIR]
#   --seconds N   length of the load at least (default 180)
#   --pictures    also draws the dashboards into docs/images, from what Prometheus recorded
#   --bin DIR     the built daemons and client (default: builds them in .bazel/bin)
# No Grafana server takes part. Takes about five minutes, most of it the load; needs the model and 1 GiB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=180 pictures="" bin=""
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds="${2:?--seconds needs a number}"; shift ;;
    --pictures) pictures=1 ;;
    --bin) bin="$(realpath "${2:?--bin needs a folder}")"; shift ;;
    *) sed -n '2,7s/^# //p' "$0"; exit 2 ;;
  esac
  shift
done

programs="$(tests/dashboards/fetch_prometheus.sh)"
deploy/fetch_model.sh >/dev/null
if [ -z "$bin" ]; then
  bazel build -c opt //kv_store //router //gpu_worker //client:hga
  bin="$PWD/.bazel/bin"
fi
state="$(mktemp -d /tmp/hga-watch.XXXXXX)"
prometheus_pid="" load_pids=()
cleanup() {
  for pid in ${load_pids[@]+"${load_pids[@]}"} $prometheus_pid; do
    kill "$pid" 2>/dev/null || true
    pkill -P "$pid" 2>/dev/null || true
  done
  deploy/stack.sh --state "$state" stop >/dev/null 2>&1 || true
  rm -rf "$state"
}
trap cleanup EXIT

free_ports() {  # of four in a row, the first
  python3 -c 'import random, socket
while True:
    first = random.randrange(20000, 30000)
    try:
        held = [socket.create_server(("127.0.0.1", first + i)) for i in range(4)]
        break
    except OSError:
        pass
print(first)'
}
port="$(free_ports)"
# An arena that holds one of the two documents: what is asked about in turn has to come from disk.
HGA_KV_STORE_FLAGS="--arena_bytes 44MiB" deploy/stack.sh --state "$state" --bin "$bin" --metrics_port "$port" start

sed -e "s/kv_store:9101/127.0.0.1:$port/; s/router:9102/127.0.0.1:$((port + 1))/" \
  -e "s/gpu_worker:9103/127.0.0.1:$((port + 2))/; s/scrape_interval: 5s/scrape_interval: 1s/" \
  -e "s|\"/etc/prometheus/\*alerts.yml\"|\"$PWD/deploy/prometheus/alerts.yml\"|" \
  -e '/^alerting:/,/^$/d' -e '/job_name: node/,+1d' -e '/job_name: prometheus/,+1d' \
  deploy/prometheus/prometheus.yml >"$state/prometheus.yml"
"$programs/prometheus" --config.file="$state/prometheus.yml" --storage.tsdb.path="$state/prometheus" \
  --web.listen-address="127.0.0.1:$((port + 3))" --log.level=warn 2>"$state/prometheus.log" &
prometheus_pid=$!
url="http://127.0.0.1:$((port + 3))"
for _ in $(seq 100); do curl -fs "$url/-/ready" >/dev/null && break; sleep 0.2; done

hga=("$bin/client/hga")
worker=(--worker "$(cat "$state/run/worker_address")")
ask() {
  "${hga[@]}" ask --file "$1" "$2" "${worker[@]}" --max-tokens "$3" --quiet >/dev/null 2>>"$state/load.log" || true
}
head -c 4000 deploy/documents/alice.txt >"$state/first.txt"
tail -c 4000 deploy/documents/alice.txt >"$state/second.txt"
begin="$(date +%s)"
goes_on() { [ $(($(date +%s) - begin)) -lt "$seconds" ]; }
{
  n=0
  # Each document again after the other, however slow the machine is: then the disk is read.
  while [ "$n" -lt 3 ] || goes_on; do
    n=$((n + 1))
    ask "$state/first.txt" "What did Alice find at door $n?" 48
    ask "$state/second.txt" "Who spoke on page $n?" 48
  done
} &
load_pids+=($!)
{
  n=0
  while goes_on; do
    n=$((n + 1))
    "${hga[@]}" generate "Tell me something about the number $n." "${worker[@]}" --max-tokens 64 --quiet \
      >/dev/null 2>>"$state/load.log" || true
    "${hga[@]}" generate "too warm" "${worker[@]}" --temperature -1 --quiet >/dev/null 2>>"$state/load.log" || true
  done
} &
load_pids+=($!)
wait "${load_pids[@]}" || true
load_pids=()
end="$(date +%s)"

echo "load of $((end - begin)) s"
if [ -n "$pictures" ]; then
  tools="$PWD/.hga/tools/python"
  [ -d "$tools/matplotlib" ] || python3 -m pip install -q --target "$tools" matplotlib
  PYTHONPATH="$tools" python3 tests/dashboards/render.py "$url" "$begin" "$end" docs/images
fi
python3 tests/dashboards/evaluate.py "$url" "$begin" "$end"
