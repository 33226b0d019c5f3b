"""Parts of benchmark `cpu` that look for settings: llama.cpp's best ones, our prefill batch; and Q4_K weights."""
import os
import time

from cpu_stack import Q4_K, Stack

BATCHES = (128, 256, 512)


def choose_peer(bench):
    """Batch by prefill of twice the largest, then flash attention by the first two depths."""
    bench.stack.stop()
    tokens, speeds = 2 * BATCHES[-1], {}
    for batch in BATCHES:
        speeds[batch] = tokens / bench.peer([tokens], flash=0, batch=batch)["prefill_s"]
        bench.add(f"peer_batch_{batch}_tps", f"llama.cpp, batches of {batch}: prefill, {tokens} tokens", speeds[batch],
                  "tokens/s")
    best = max(speeds, key=speeds.get)
    bench.add("peer_batch", "  the best", best, "tokens")
    depths, seconds = bench.peers[:2], {}
    for flash in (0, 1):
        last = bench.peer(depths, flash=flash, batch=best)
        seconds[flash] = last["prefill_s"] + 64 / last["decode_tps"]
        bench.add(f"peer_flash_{flash}_s", f"llama.cpp, flash attention {flash}: {depths[-1]} tokens read, 64 written",
                  seconds[flash], "s")
    bench.add("peer_flash_attention", "  the better setting", min(seconds, key=seconds.get), "")


def choose_batch(bench, attention, document, kv_bytes_per_token, tokens=2048, turns=2):
    """Our prefill's batch. 512 needs a window as large, which is attended whole: measured with a batch of 256, too."""
    settings = [(128, 256), (256, 256), (256, 512), (512, 512)]
    speeds = {setting: [] for setting in settings}
    first = 100 + int(time.time()) % 9000  # texts that no earlier run has left in the store
    for turn in range(turns):
        for batch, window in settings:
            bench.stack.need(8 * tokens * kv_bytes_per_token, restart=True,
                             worker_flags=f"--prefill_batch_tokens {batch} --prefill_window_tokens {window}")
            bench.stack.prefill("warm", document(600)[::-1], *attention(1))
            number = first + len(settings) * turn + settings.index((batch, window))
            read = bench.stack.prefill(f"b{number}", document(tokens, number), *attention(tokens))
            found = speeds[batch, window]
            found.append(read["prompt_tokens"] / read["prefill_s"])
            bench.add(f"prefill_tps_batch_{batch}_window_{window}",
                      f"prefill of {tokens} tokens, batches of {batch}, window {window}", sum(found) / len(found),
                      "tokens/s")


def other_weights(bench, folder, attention, document, depth, arena):
    """Prefill and decode at one depth with Q4_K weights, beside llama.cpp with the same file."""
    bench.stack.stop()
    stack = Stack(folder, Q4_K)
    stack.remove()
    try:
        stack.need(arena)
        stack.prefill("warm", document(600)[::-1], *attention(1))
        read = stack.prefill("d", document(depth), *attention(depth))
        stack.ask("d", 8, *attention(depth))
        answer = stack.ask("d", 48, *attention(depth))
    finally:
        stack.remove()
    bench.add("q4_k_bytes", "Q4_K: the model's file", os.path.getsize(Q4_K), "bytes")
    ours = {"prefill": read["prompt_tokens"] / read["prefill_s"], "decode": answer["decode_tokens_per_s"]}
    point = bench.peer([depth], model=Q4_K) if bench.program else None
    peers = {} if point is None else {"prefill": depth / point["prefill_s"], "decode": point["decode_tps"]}
    for what, speed in ours.items():
        bench.add(f"q4_k_{what}_tps_{depth}", f"  {what}, {depth} tokens", speed, "tokens/s")
        if what in peers:
            bench.add(f"q4_k_peer_{what}_tps_{depth}", "    llama.cpp", peers[what], "tokens/s")
            bench.add(f"q4_k_{what}_{depth}_vs_peer", "    ours over that", speed / peers[what], "")
