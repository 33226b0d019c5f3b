#!/usr/bin/env bash
# Installs HGA Serve as systemd units, or takes them away again. Run as root, after a build.
# usage: deploy/systemd/install.sh [--bin DIR] [--root DIR] [--uninstall]
#   --bin DIR     the built binaries (default .bazel/bin)
#   --root DIR    install below this folder and start nothing
#   --uninstall   stop and remove the units and the binaries; /etc/hga, /var/lib/hga and the user stay
# Settings in /etc/hga are kept where they are there already. Start with: systemctl enable --now hga.target
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
bin="$here/../../.bazel/bin" root="" uninstall=""
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin="${2:?--bin needs a folder}"; shift ;;
    --root) root="${2:?--root needs a folder}"; shift ;;
    --uninstall) uninstall=1 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
units=(hga-kv-store.service hga-router.service hga-gpu-worker.service hga.target)
programs=(kv_store/kv_store kv_store/tool/kv_store_tool router/router gpu_worker/gpu_worker client/hga)

if [ -n "$uninstall" ]; then
  [ -n "$root" ] || systemctl disable --now hga.target "${units[@]:0:3}" 2>/dev/null || true
  for unit in "${units[@]}"; do rm -f "$root/etc/systemd/system/$unit"; done
  for program in "${programs[@]}"; do rm -f "$root/usr/local/bin/$(basename "$program")"; done
  rm -f "$root/usr/lib/sysusers.d/hga.conf"
  [ -n "$root" ] || systemctl daemon-reload
  exit 0
fi

for program in "${programs[@]}"; do
  [ -x "$bin/$program" ] || { echo "install: $bin/$program is not built" >&2; exit 1; }
  install -D -m 0755 "$bin/$program" "$root/usr/local/bin/$(basename "$program")"
done
for unit in "${units[@]}"; do install -D -m 0644 "$here/$unit" "$root/etc/systemd/system/$unit"; done
install -D -m 0644 "$here/hga.sysusers" "$root/usr/lib/sysusers.d/hga.conf"
for setting in "$here"/../config/*.toml "$here/hga.env"; do
  target="$root/etc/hga/$(basename "$setting")"
  [ -e "$target" ] || install -D -m 0644 "$setting" "$target"
done
[ -n "$root" ] && exit 0
systemd-sysusers hga.conf
install -d -o hga -g hga -m 0700 /var/lib/hga
install -d -o hga -g hga -m 0755 /var/lib/hga/models
systemctl daemon-reload
echo "install: put a model into /var/lib/hga/models, name it in /etc/hga/hga.env, then:"
echo "install:   systemctl enable --now hga.target"
echo "install: ask with: sudo -u hga hga ask --file FILE QUESTION"
