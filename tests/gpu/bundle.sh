#!/usr/bin/env bash
# Makes a folder, and a .tar.xz of it, with all that a machine with an NVIDIA driver needs to test and measure the CUDA
# backend: binaries, and the shared libraries that they need. No compiler, no toolkit, no Bazel there; cuBLASLt is used
# if it is installed.
# usage: tests/gpu/bundle.sh [FOLDER]     default: .hga/gpu_bundle
# There: ./run.sh tests | sanitizer | answers [MODEL] | bench [FLAGS] | stack_bench MODEL [FLAGS] | worker FLAGS
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in -h|--help) sed -n '2,6s/^# //p' tests/gpu/bundle.sh; exit 0 ;; esac
folder="$(realpath -m "${1:-.hga/gpu_bundle}")"
most_bytes=60000000
tests=(//gpu_worker/backend:backend_conformance_gpu_test //gpu_worker/backend:families_gpu_test
       //gpu_worker/backend:greedy_gpu_test //gpu_worker/engine:device_engine_gpu_test
       //gpu_worker/backend/cuda:cuda_backend_gpu_test //gpu_worker/backend/cuda:cuda_int8_gpu_test
       //gpu_worker/backend/cuda:cuda_steps_gpu_test //gpu_worker/backend/cuda:top_logits_kernel_gpu_test
       //gpu_worker/backend/cuda:device_route_client_gpu_test)
programs=(//tests/bench:cuda_bench //gpu_worker //kv_store //router //client:hga //gpu_worker/model:make_checkpoint)

bazel build -c opt --config=cuda "${tests[@]}" "${programs[@]}"

rm -rf "$folder" "$folder.tar.xz"
mkdir -p "$folder/bin" "$folder/lib" "$folder/glibc"
for label in "${tests[@]}" "${programs[@]}"; do
  path="${label#//}"
  case "$path" in *:*) file="${path/://}" ;; *) file="$path/${path##*/}" ;; esac
  install -m 755 ".bazel/bin/$file" "$folder/bin/"
  strip "$folder/bin/${file##*/}"
done

# glibc's own go to a folder of their own: they are used only where the machine's are older.
ldd "$folder"/bin/* | awk '$3 ~ /^\// {print $3} $1 ~ /^\/.*ld-linux/ {print $1}' | sort -u | while read -r library; do
  case "${library##*/}" in
    ld-linux*|libc.so*|libm.so*|libpthread.so*|libdl.so*|librt.so*|libresolv.so*) to="$folder/glibc" ;;
    *) to="$folder/lib" ;;
  esac
  cp -L "$library" "$to/"
  strip --strip-unneeded "$to/${library##*/}" 2>/dev/null || true
done
getconf GNU_LIBC_VERSION | cut -d' ' -f2 > "$folder/glibc/version"
git rev-parse --short HEAD > "$folder/commit" 2>/dev/null || echo unknown > "$folder/commit"
install -m 755 tests/gpu/run_bundle.sh "$folder/run.sh"
install -m 755 tests/gpu/run_stack.sh "$folder/"
install -D -m 755 deploy/stack.sh "$folder/deploy/stack.sh"
cp -r deploy/config "$folder/deploy/"
cp deploy/documents/alice.txt tests/quality/tiny_model/tiny_qwen3.gguf "$folder/"

# The kernels are in every binary: a dictionary that reaches back to the last one has them once.
tar -C "$(dirname "$folder")" -c "$(basename "$folder")" | xz --lzma2=preset=3,dict=64MiB > "$folder.tar.xz"
bytes="$(stat -c %s "$folder.tar.xz")"
echo "$folder.tar.xz: $bytes bytes; unpacked $(du -sb "$folder" | cut -f1)"
if [ "$bytes" -gt "$most_bytes" ]; then
  echo "bundle.sh: more than $most_bytes bytes" >&2
  exit 1
fi
