#!/usr/bin/env bash
# Runs compose.yaml for real, as root: an engine of its own, images, the stack, and what may happen to it.
# usage: tests/deploy/run.sh [--state DIR] [--json FILE] [--start_only]
#   --state DIR   where the engine keeps its images; they stay there for the next run (default: one that is removed)
#   --json FILE   stack_healthy_s and image_bytes_total, for tests/bench/run.sh deploy
#   --start_only  ends once the stack is healthy and has answered
# Builds share $HGA_DISK_CACHE, or $HOME/.cache/bazel-disk, with builds outside of containers. Takes 10 minutes or more
# from nothing. Leaves nothing running. Closes with "N passed, N failed".
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
cd "$root"
state="" json="" start_only="" made_state=""
while [ $# -gt 0 ]; do
  case "$1" in
    --state) state="$(realpath -m "${2:?--state needs a folder}")"; shift ;;
    --json) json="$(realpath -m "${2:?--json needs a file}")"; shift ;;
    --start_only) start_only=--start_only ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ "$(id -u)" -eq 0 ] || { echo "deploy test: starts a container engine and must be root" >&2; exit 1; }
if [ -z "$state" ]; then
  state="$(mktemp -d /var/tmp/hga-deploy.XXXXXX)"
  made_state=1
fi
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"
export COMPOSE_FILE="$root/deploy/compose.yaml:$root/tests/deploy/compose.test.yaml"
export COMPOSE_PROJECT_NAME="hga_test_$$" DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
# shellcheck source=tests/deploy/engine.sh
. tests/deploy/engine.sh

cache_pid=""
finish() {
  local code=$?
  set +e
  [ -z "$engine_pid" ] || docker-compose down -v -t 5 >/dev/null 2>&1
  [ -z "$cache_pid" ] || kill "$cache_pid"
  stop_engine
  remove_disk
  [ -z "$made_state" ] || rm -rf "$state"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { echo "[$(date +%T)] $*"; }

deploy/install_packages.sh
install_engine
step "engine"
start_engine
make_disk 1G
provide_base
provide_program prom/prometheus:v2.42.0 prometheus
provide_program prom/alertmanager:v0.25.0 alertmanager
provide_program prom/node-exporter:v1.5.0 node_exporter

step "images"
rm -f "$state/cache_port"
python3 tests/deploy/bazel_cache.py "${HGA_DISK_CACHE:-$HOME/.cache/bazel-disk}" "$state/cache_port" &
cache_pid=$!
until [ -s "$state/cache_port" ]; do kill -0 "$cache_pid"; sleep 0.05; done
HGA_BAZEL_FLAGS="--remote_cache=http://127.0.0.1:$(cat "$state/cache_port")"
export HGA_BAZEL_FLAGS
if ! docker-compose build kv_store router gpu_worker >"$state/build.log" 2>&1; then
  tail -n 40 "$state/build.log" >&2
  exit 1
fi

step "client and model"
bazel build -c opt --noshow_progress --show_result=0 //client:hga </dev/null
# From outside: ports of 127.0.0.1 that were free a moment ago.
read -r HGA_WORKER_PORT HGA_PROMETHEUS_PORT HGA_ALERTMANAGER_PORT < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])')
export HGA_WORKER_PORT HGA_PROMETHEUS_PORT HGA_ALERTMANAGER_PORT
deploy/load_model.sh

step "the stack"
python3 tests/deploy/drive.py ${start_only:+"$start_only"} ${json:+--json "$json"}
