#!/usr/bin/env bash
# Runs the real daemons under a load, lets a real Prometheus scrape them, and evaluates every query of the dashboards.
# usage: tests/dashboards/run.sh [--seconds N] [--pictures]
#   --seconds N   length of the load (default 150)
#   --pictures    also draws the dashboards into docs/images, from what Prometheus recorded
# No Grafana server takes part. Takes about five minutes, most of it the load; needs the model and 1 GiB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=150 pictures=""
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds="${2:?--seconds needs a number}"; shift ;;
    --pictures) pictures=1 ;;
    *) sed -n '2,6s/^# //p' "$0"; exit 2 ;;
  esac
  shift
done

programs="$(tests/dashboards/fetch_prometheus.sh)"
deploy/fetch_model.sh >/dev/null
[ -n "${HGA_SKIP_BUILD:-}" ] || bazel build -c opt //kv_store //router //gpu_worker //client:hga
state="$(mktemp -d /tmp/hga-watch.XXXXXX)"
prometheus_pid="" load_pids=()
cleanup() {
  for pid in ${load_pids[@]+"${load_pids[@]}"} $prometheus_pid; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
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
HGA_KV_STORE_FLAGS="--arena_bytes 256MiB" deploy/stack.sh --state "$state" --metrics_port "$port" start

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

hga=(.bazel/bin/client/hga)
worker=(--worker "$(cat "$state/run/worker_address")")
ask() {
  "${hga[@]}" ask --file "$1" "$2" "${worker[@]}" --max-tokens "$3" --quiet >/dev/null 2>>"$state/load.log" || true
}
cp deploy/documents/alice.txt "$state/first.txt"
(echo "Another edition."; tac deploy/documents/alice.txt) >"$state/second.txt"
begin="$(date +%s)"
until_end() { [ $(($(date +%s) - begin)) -lt "$seconds" ]; }
{
  n=0
  while until_end; do
    n=$((n + 1))
    ask "$state/first.txt" "What did Alice find at door $n?" 48
    ask "$state/second.txt" "Who spoke on page $n?" 48
  done
} &
load_pids+=($!)
{
  n=0
  while until_end; do
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

echo "load of $((end - begin)) s; evaluating"
python3 tests/dashboards/evaluate.py "$url" "$begin" "$end"
if [ -n "$pictures" ]; then
  tools="$PWD/.hga/tools/python"
  [ -d "$tools/matplotlib" ] || python3 -m pip install -q --target "$tools" matplotlib
  PYTHONPATH="$tools" python3 tests/dashboards/render.py "$url" "$begin" "$end" docs/images
fi
