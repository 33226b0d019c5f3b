#!/usr/bin/env bash
# Copies a model into the volume that the worker of compose.yaml reads.
# usage: deploy/load_model.sh [PATH]     PATH: a GGUF file or a folder with safetensors
# Without PATH it is what deploy/fetch_model.sh brings. Say what is served by HGA_MODEL in deploy/.env.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

case "${1:-}" in
  -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
  -*) echo "usage: deploy/load_model.sh [PATH]" >&2; exit 2 ;;
esac
path="${1:-}"
[ -n "$path" ] || path="$("$root/deploy/fetch_model.sh" | tail -n 1)"
[ -e "$path" ] || { echo "load_model: $path does not exist" >&2; exit 1; }
path="$(realpath "$path")"

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "load_model: neither 'docker compose' nor docker-compose is here" >&2
  exit 1
fi
# A model that is a link into a cache is copied as what it points to.
tar -C "$(dirname "$path")" --dereference --mode=u+rwX,go+rX,go-w -c "$(basename "$path")" \
  | COMPOSE_FILE="${COMPOSE_FILE:-$root/deploy/compose.yaml}" "${compose[@]}" run --rm --no-deps -T load_model
echo "load_model: /models/$(basename "$path") is in the volume; HGA_MODEL in deploy/.env names what is served"
