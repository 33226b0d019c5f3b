#!/usr/bin/env bash
# Runs the three daemons as processes of this machine.
# usage: deploy/stack.sh [options] start | stop | status
#   --state DIR         sockets, pids, logs and data live here (default .hga under the repository's root)
#   --model PATH        GGUF file or safetensors folder to serve (default .hga/models/SmolLM2-135M-Instruct.Q4_1.gguf)
#   --bin DIR           the built binaries (default .bazel/bin)
#   --metrics_port N    metrics pages at N, N+1, N+2 of 127.0.0.1 (default 9101); 0: none
#   --wait SECONDS      how long a start may take (default 120)
# More flags for one daemon: HGA_KV_STORE_FLAGS, HGA_ROUTER_FLAGS, HGA_GPU_WORKER_FLAGS.
# status exits with 0 when all run, 3 when none does, 1 otherwise.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
daemons=(kv_store router gpu_worker)
state="$root/.hga"
model="$root/.hga/models/SmolLM2-135M-Instruct.Q4_1.gguf"
bin="$root/.bazel/bin"
metrics_port=9101
wait_s=120

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
fail() { echo "stack: $*" >&2; exit 1; }

pid_of() { cat "$state/run/$1.pid" 2>/dev/null || true; }
# A pid file may outlive its process, and the number may serve another one by now.
runs() {
  local pid
  pid="$(pid_of "$1")"
  [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}
count_running() {
  local n=0 d
  for d in "${daemons[@]}"; do runs "$d" && n=$((n + 1)); done
  echo "$n"
}

# Unix sockets take paths of at most 107 characters.
socket_dir() {
  local file="$state/run/socket_dir" dir
  dir="$(cat "$file" 2>/dev/null || true)"
  if [ ! -d "$dir" ]; then
    dir="$state/run"
    [ $((${#dir} + 16)) -le 107 ] || dir="$(mktemp -d /tmp/hga.XXXXXX)"
    echo "$dir" >"$file"
  fi
  echo "$dir"
}

config_value() { sed -n "s/^$2 *= *\"\{0,1\}\([^\"#]*[^\"# ]\).*/\1/p" "$root/deploy/config/$1.toml"; }

# The arena belongs into shared memory; containers often have too little of it.
arena_path() {
  local file="$state/run/arena_path" id
  if [ ! -s "$file" ]; then
    id="$(id -u)-$(echo "$state" | cksum | cut -d' ' -f1)"
    local need_kib free_kib
    need_kib=$(($(config_value kv_store arena_bytes | sed 's/B$//' | numfmt --from=auto) / 1024))
    free_kib="$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1 || echo 0)"
    if [ "${free_kib:-0}" -ge "$need_kib" ]; then
      echo "/dev/shm/hga-arena-$id" >"$file"
    else
      echo "stack: /dev/shm has no room for the arena; using a file in $state/run (slower)" >&2
      echo "$state/run/arena" >"$file"
    fi
  fi
  cat "$file"
}

metrics_at() { [ "$metrics_port" -eq 0 ] || echo "127.0.0.1:$((metrics_port + $1))"; }

# Starts one daemon in its own session; a shell around it keeps its exit code.
launch() {
  local name="$1"
  shift
  rm -f "$state/run/$name.pid" "$state/run/$name.exit"
  [ ! -s "$state/logs/$name.log" ] || mv -f "$state/logs/$name.log" "$state/logs/$name.log.1"
  HGA_RUN="$state/run" HGA_NAME="$name" setsid bash -c '
    "$@" & pid=$!
    echo "$pid" >"$HGA_RUN/$HGA_NAME.pid"
    wait "$pid"
    echo "$?" >"$HGA_RUN/$HGA_NAME.exit"
  ' bash "$bin/$name/$name" --config "$root/deploy/config/$name.toml" "$@" \
    >>"$state/logs/$name.log" 2>&1 </dev/null &
}

show_log() {
  echo "--- last lines of $state/logs/$1.log" >&2
  tail -n 15 "$state/logs/$1.log" >&2 || true
}

# wait_for NAME COMMAND...: until the command succeeds; gives up when the daemon ends.
wait_for() {
  local name="$1" deadline=$((SECONDS + wait_s)) shown=0
  shift
  until "$@" >/dev/null 2>&1; do
    if [ -f "$state/run/$name.exit" ]; then
      echo "stack: $name ended with exit code $(cat "$state/run/$name.exit")" >&2
      show_log "$name"
      return 1
    fi
    if [ $SECONDS -ge $deadline ]; then
      echo "stack: $name did not get ready within $wait_s s" >&2
      show_log "$name"
      return 1
    fi
    if [ $((SECONDS / 5)) -gt $shown ]; then
      shown=$((SECONDS / 5))
      echo "stack: waiting for $name ($SECONDS s)" >&2
    fi
    sleep 0.1
  done
}

hga() { "$bin/client/hga" "$@" --worker "$(cat "$state/run/worker_address")" --timeout 5; }
attached() {
  local stats
  stats="$(hga stats --json)" || return 1
  [[ "$stats" == *'"router_attached":true'* && "$stats" == *'"kv_store_attached":true'* ]]
}

start() {
  if [ "$(count_running)" -eq ${#daemons[@]} ]; then
    echo "stack: runs already (state in $state)"
    return 0
  fi
  [ "$(count_running)" -eq 0 ] || stop
  [ -e "$model" ] || fail "$model is missing; run deploy/fetch_model.sh"
  local binary
  for binary in kv_store/kv_store router/router gpu_worker/gpu_worker client/hga; do
    [ -x "$bin/$binary" ] || fail "$bin/$binary is not built; run: bazel build -c opt //${binary/\//:}"
  done
  mkdir -p "$state/run" "$state/logs" "$state/data/kv_store"
  chmod 700 "$state/run" "$state/data"
  rm -f "$state/run/arena_path" "$state"/run/*.exit
  local sockets arena
  sockets="$(socket_dir)"
  arena="$(arena_path)"
  echo "unix:$sockets/gpu_worker.sock" >"$state/run/worker_address"
  SECONDS=0
  launch_all "$sockets" "$arena" || { stop >/dev/null; exit 1; }
  echo "stack: ready after $SECONDS s; worker at $(cat "$state/run/worker_address")"
}

# shellcheck disable=SC2086  # the flags of the environment are words
launch_all() {
  local sockets="$1" arena="$2"
  rm -f "$sockets"/{kv_store,router,gpu_worker}.sock
  launch kv_store --listen "unix:$sockets/kv_store.sock" --metrics_listen "$(metrics_at 0)" \
    --data_dir "$state/data/kv_store" --arena_path "$arena" ${HGA_KV_STORE_FLAGS:-}
  wait_for kv_store test -S "$sockets/kv_store.sock" || return 1
  launch router --listen "unix:$sockets/router.sock" --metrics_listen "$(metrics_at 1)" \
    --kv_store "unix:$sockets/kv_store.sock" --ring_dir "$sockets" ${HGA_ROUTER_FLAGS:-}
  wait_for router test -S "$sockets/router.sock" || return 1
  launch gpu_worker --listen "unix:$sockets/gpu_worker.sock" --metrics_listen "$(metrics_at 2)" \
    --model "$model" --kv_store "unix:$sockets/kv_store.sock" --router "unix:$sockets/router.sock" \
    ${HGA_GPU_WORKER_FLAGS:-}
  wait_for gpu_worker hga model || return 1
  wait_for gpu_worker attached
}

# SIGTERM to all, the worker first; SIGKILL after 10 s. Reports each exit code; fails unless all are 0.
stop() {
  local d pid code bad=0 deadline
  if [ "$(count_running)" -eq 0 ]; then
    echo "stack: is not running"
    return 0
  fi
  for d in gpu_worker router kv_store; do
    runs "$d" || continue
    pid="$(pid_of "$d")"
    deadline=$((SECONDS + 10))
    kill -TERM "$pid" 2>/dev/null || true
    while runs "$d" && [ $SECONDS -lt $deadline ]; do sleep 0.05; done
    if runs "$d"; then
      kill -KILL "$pid" 2>/dev/null || true
      while runs "$d"; do sleep 0.05; done
    fi
    # The shell around the daemon writes the code a moment after its end.
    for _ in $(seq 40); do [ -s "$state/run/$d.exit" ] && break; sleep 0.05; done
    code="$(cat "$state/run/$d.exit" 2>/dev/null || echo unknown)"
    [ "$code" = 0 ] || { bad=1; show_log "$d"; }
    echo "stack: $d stopped, exit code $code"
    rm -f "$state/run/$d.pid"
  done
  local arena
  arena="$(cat "$state/run/arena_path" 2>/dev/null)"
  [ -z "$arena" ] || rm -f "$arena" "$arena".ring-*
  rm -f "$state/run/worker_address"
  return $bad
}

status() {
  local d
  for d in "${daemons[@]}"; do
    if runs "$d"; then echo "$d: runs, pid $(pid_of "$d")"; else echo "$d: does not run"; fi
  done
  case "$(count_running)" in
    ${#daemons[@]}) echo "worker at $(cat "$state/run/worker_address")" ;;
    0) return 3 ;;
    *) return 1 ;;
  esac
}

action=""
while [ $# -gt 0 ]; do
  case "$1" in
    --state|--model|--bin|--metrics_port|--wait)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      case "$1" in
        --state) state="$(realpath -m "$2")" ;;
        --model) model="$(realpath -m "$2")" ;;
        --bin) bin="$(realpath -m "$2")" ;;
        --metrics_port) metrics_port="$2" ;;
        --wait) wait_s="$2" ;;
      esac
      shift ;;
    start|stop|status) action="$1" ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
case "$action" in
  start|stop|status) "$action" ;;
  *) usage >&2; exit 2 ;;
esac
