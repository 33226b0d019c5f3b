"""What this machine's memory and disk give, and the least time that a decode step takes with them: benchmark `cpu`'s
rooflines.

A step reads each weight once, the rows of K and V that it attends, and the router's summaries; where the arena is
small also, from the disk, what a KV head has of some blocks. Counted is what must be moved, at the speed of the best
loop that does nothing else (in order: the faster of a plain one and one that asks for memory ahead, as the products of
weights do), one after the other: no computing, no waking, nothing read twice.
"""
import json
import mmap
import os
import random
import subprocess
import tempfile
import threading
import time

from cpu_stack import BIN, THREADS, name_of

LAYERS, KV_HEADS, HEAD_DIM, CHUNK = 28, 8, 128, 64  # of the synthetic models
ROW_BYTES = {"bf16": 2 * 2 * HEAD_DIM, "int8": 2 * (HEAD_DIM + HEAD_DIM // 32)}  # K and V of a token in a KV head
# Of a chunk's sketch in a KV head: the first level, which is scored for every chunk; the second, for so many at most.
COARSE_BYTES, FINE_BYTES, SCANNED_CHUNKS = 168, 1088, 4096
DENSE_TOKENS = 1024  # an answer's tokens up to here attend everything: no sketch is read, rows lie in order
DISK_READS = 32  # at a time, as kv_store has them


def part_bytes(kv_dtype):
    """A record on disk: what a KV head has of a block."""
    return CHUNK * ROW_BYTES[kv_dtype]


def memory_gbps(kv_dtype):
    """Read in order; K/V rows at random on huge pages, as many as a layer attends at 64K."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([os.path.join(BIN, "tests/bench/attention_bench"), "--quick", f"--threads={THREADS}",
                        f"--json={file.name}"], check=True, stdout=subprocess.DEVNULL)
        numbers = json.load(file)
    key = "read_64k_huge_ms" if kv_dtype == "bf16" else f"read_64k_huge_{kv_dtype}_ms"
    return numbers["read_bandwidth_gbps"], 1e-6 * 1886 * KV_HEADS * ROW_BYTES[kv_dtype] / numbers[key]


def disk_gbps(folder, kv_dtype, reads=8000):
    """Records at random places of the store's files, past the page cache."""
    size = part_bytes(kv_dtype) // 4096 * 4096
    files = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".blob")]
    places = [(f, at) for f in files for at in range(0, os.path.getsize(f) - size, size)]
    open_files = {f: os.open(f, os.O_RDONLY | os.O_DIRECT) for f in files}
    chosen = [random.Random(thread).choices(places, k=reads // DISK_READS) for thread in range(DISK_READS)]

    def read(some):
        buffer = mmap.mmap(-1, size)
        for file, at in some:
            os.preadv(open_files[file], [buffer], at)

    threads = [threading.Thread(target=read, args=(some,)) for some in chosen]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    for descriptor in open_files.values():
        os.close(descriptor)
    return 1e-9 * sum(len(some) for some in chosen) * size / seconds


def step_bytes(depth, attended, weights, kv_dtype):
    """Bytes of a decode step: in order, at random. attended: keys, as a share of `depth`."""
    chunks = depth // CHUNK
    coarse = LAYERS * KV_HEADS * chunks * COARSE_BYTES
    fine = LAYERS * KV_HEADS * min(chunks, SCANNED_CHUNKS) * FINE_BYTES
    rows = int(LAYERS * KV_HEADS * attended * depth * ROW_BYTES[kv_dtype])
    in_order = chunks <= SCANNED_CHUNKS  # all chunks are scanned
    if depth < DENSE_TOKENS:
        return weights + rows, 0
    return weights + coarse + in_order * fine, rows + (not in_order) * fine


def least_ms(depth, attended, weights, limits, kv_dtype, disk_blocks=0):
    """limits: GB/s in order, at random, from disk."""
    in_order, at_random = step_bytes(depth, attended, weights, kv_dtype)
    return 1e-6 * (in_order / limits[0] + at_random / limits[1] + disk_blocks * part_bytes(kv_dtype) / limits[2])


def add_rooflines(n, depths, deepest, weights, kv_dtype):
    """Adds to the numbers `n` what decode takes at least, and what share of the time it really takes that is: with all
    K/V in RAM; at the deepest computed depth with a quarter in RAM, by the blocks that were read from disk then, one
    KV head of each at least. And of how many blocks of a step a KV head may come from disk if it is to keep half of its
    speed."""
    if "read_gbps" not in n:
        return
    limits = n["read_gbps"], n["rows_gbps"], n["disk_gbps"]
    cases = [(name_of(depth), depth, 0) for depth in depths]
    if f"quarter_{deepest}_disk_share" in n:
        blocks = n[f"quarter_{deepest}_blocks_per_token"] * n[f"quarter_{deepest}_disk_share"]
        cases.append((f"{deepest}_quarter", next(d for d in depths if name_of(d) == deepest), blocks))
    for case, depth, disk_blocks in cases:
        if f"decode_tps_{case}" in n and f"decode_attended_{name_of(depth)}" in n:
            least = least_ms(depth, n[f"decode_attended_{name_of(depth)}"], weights, limits, kv_dtype,
                             disk_blocks)
            n[f"roofline_ms_{case}"] = least
            n[f"roofline_share_{case}"] = least * n[f"decode_tps_{case}"] / 1000
    if f"decode_tps_{deepest}_all" in n and f"roofline_ms_{deepest}" in n:
        left_ms = 2 * 1000 / n[f"decode_tps_{deepest}_all"] - n[f"roofline_ms_{deepest}"]
        n["quarter_disk_blocks_for_half"] = 1e6 * left_ms * n["disk_gbps"] / part_bytes(kv_dtype)
    for depth in depths[1:]:
        over, under = f"roofline_ms_{name_of(depths[0])}", f"roofline_ms_{name_of(depth)}"
        if over in n and under in n:
            n[f"roofline_{name_of(depth)}_vs_{name_of(depths[0])}"] = n[over] / n[under]
