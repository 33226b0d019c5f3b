#!/usr/bin/env python3
"""Benchmark `cpu`: prefill and decode against context on the cpu backend, beside llama.cpp on the same file.

usage: cpu.py [--quick] [--resume] [--parts NAME,...] [--minutes N] [--json FILE] [--plot FILE.svg]
A model of Qwen3-0.6B's shape with made-up Q8_0 weights, the three daemons with a state folder of their own, two threads
(or as many as there are cores) on both sides. Attention is routed from the first token on: 3% of the context, 491 keys
at least; but an answer's tokens among the first 1,024 attend everything, as by default. llama.cpp's is dense, with the
best of three batches and the better of flash attention on and off. llama.cpp is built from PyPI's llama-cpp-python,
with the instructions of this machine. Nothing else should run meanwhile.

A run is made of parts. What a part has found is kept at once in .hga/bench_cpu, with the sessions' K/V: --resume goes
on where a run was cut off. A part that fails or takes too long is left out, and the next begins. The deepest session is
not computed but filled (fill_session.cc) with the K/V of the one before; one as deep as that is filled as well, to show
what difference it makes. Decode at all depths and llama.cpp at the first are measured in rounds, one after the other,
since the memory's speed changes from minute to minute; ratios are taken inside a round, and their medians shown.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback

import cpu_limits
import cpu_settings
from cpu_stack import Q4_K, ROOT, SMOL, SYNTHETIC, THREADS, Stack, build_peer, make_model, name_of, plot

FOLDER = os.path.join(ROOT, ".hga", "bench_cpu")
CHARACTERS_PER_TOKEN = 3.78
CHUNK = 64  # tokens of a block
DECODE_TOKENS = 48
QUARTER_TOKENS = 16  # few: flat attention reads half of the blocks
ROUNDS = 3
SHARE, LEAST_KEYS, ALWAYS_KEYS = 0.03, 491, 68  # of the context; the last: window and sinks
ATTENDED = "  keys attended of those of dense attention"
SMOL_TOKENS = 7500


def kv_bytes(elements, kv_dtype):
    """Of that many elements of K and V."""
    return elements * 2 if kv_dtype == "bf16" else elements * 33 // 32


class Results:
    """What has been found, by part, in a file that is written at each change."""

    def __init__(self, path, resume):
        self.path, self.parts = path, {}
        if resume and os.path.exists(path):
            with open(path) as file:
                self.parts = json.load(file)

    def begin(self, part):
        self.part = self.parts[part] = {}

    def add(self, key, what, value, unit):
        self.part[key] = value
        print(f"  {what:<66}{value:>12.4g} {unit}", flush=True)
        self.write()

    def end(self):
        self.part["done"] = True
        self.write()

    def done(self, part):
        return self.parts.get(part, {}).get("done", False)

    def write(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".part", "w") as file:
            json.dump(self.parts, file, indent=1)
        os.replace(self.path + ".part", self.path)

    def numbers(self):
        """All of them; of what rounds have found, medians."""
        found = {}
        for part in self.parts.values():
            for key, value in part.items():
                if key != "done":
                    found.setdefault(key, []).append(value)
        return {key: statistics.median(values) for key, values in found.items()}


def attention(depth):
    budget = max(LEAST_KEYS, round(SHARE * depth)) - ALWAYS_KEYS
    return ["--attention", "routed", "--budget-tokens", str(budget), "--budget-step-cap", "1",
            "--dense-decode-tokens", str(cpu_limits.DENSE_TOKENS)]


def document(tokens, number=0):
    """About so many tokens of text, which no other document begins with."""
    with open(os.path.join(ROOT, "deploy/documents/alice.txt"), encoding="utf-8") as file:
        text = file.read()
    skip, size = (tokens + 1009 * number) % 9973, int(tokens * CHARACTERS_PER_TOKEN)
    return (text * (2 + (skip + size) // len(text)))[skip:skip + size]


class Benchmark:
    def __init__(self, depths, filled, peers, rounds, results, kv_dtype):
        self.depths, self.filled, self.peers, self.rounds, self.results = depths, filled, peers, rounds, results
        self.kv_dtype = kv_dtype
        self.token_bytes = kv_bytes(28 * 8 * 128 * 2, kv_dtype)  # of K/V
        self.smol_token_bytes = kv_bytes(30 * 3 * 64 * 2, kv_dtype)
        self.stack = Stack(os.path.join(FOLDER, f"state_{kv_dtype}"), SYNTHETIC, kv_dtype)
        self.smol = Stack(os.path.join(FOLDER, "smol"), SMOL, kv_dtype)
        self.program = build_peer() if peers else None
        copies = [filled, depths[-1]] if filled else []
        tokens = 1.1 * (sum(depths) + 2048) + 1.05 * sum(copies)
        self.arena = int(tokens * self.token_bytes) + (256 << 20)

    def parts(self):
        """(name, seconds it may take, function), in order: what takes longest is last."""
        parts = [("peer_settings", 420, lambda: cpu_settings.choose_peer(self))] if self.peers else []
        parts += [(f"ours_{name_of(d)}", 100 + d // 20, lambda d=d: self.prefill(d)) for d in self.depths]
        if self.filled:
            parts += [(f"fill_{name_of(d)}", 60 + d // 200, lambda d=d, s=s: self.fill(s, d))
                      for s, d in ((self.depths[-2], self.depths[-1]), (self.depths[-1], self.filled))]
        parts += [(f"round_{i}", 240, lambda i=i: self.round(i)) for i in range(self.rounds)]
        parts += [("limits", 60, self.limits), ("batch", 480, self.batch), ("q4_k", 120, self.q4_k)]
        parts += [("disk", 120, self.disk), ("quarter", 240, self.quarter), ("smol", 300, self.real_model)]
        return parts + ([("peer_curve", 120 + self.peers[-1] // 16, self.peer_curve)] if self.peers else [])

    def add(self, *arguments):
        self.results.add(*arguments)

    def prefill(self, depth):
        self.stack.need(self.arena)
        self.stack.prefill("warm", document(600)[::-1], *attention(1))  # pages of the weights, both teams of threads
        name = name_of(depth)
        read = self.stack.prefill(f"d{depth}", document(depth), *attention(depth))
        at = f"{read['prompt_tokens']} tokens"
        if read["reused_tokens"] > 0:
            raise RuntimeError(f"{read['reused_tokens']} tokens of it were in the store: run without --resume")
        self.add(f"prefill_tps_{name}", f"prefill, {at}", read["prompt_tokens"] / read["prefill_s"], "tokens/s")
        self.add(f"prefill_s_{name}", "  seconds", read["prefill_s"], "s")
        self.add(f"prefill_attended_{name}", ATTENDED, read["prefill_attended_fraction"], "")
        first = self.stack.ask(f"d{depth}", 1, *attention(depth))
        self.add(f"resume_ram_ttft_s_{name}", "  asked again, K/V in RAM: first token after", first["ttft_s"], "s")

    def fill(self, source, depth):
        self.stack.need(self.arena)
        start = time.monotonic()
        self.stack.fill(f"d{source}", f"f{depth}", depth)
        self.add(f"fill_s_{name_of(depth)}", f"a session of {depth} tokens filled in", time.monotonic() - start, "s")

    def decode(self, session, depth, name, what):
        answer = self.stack.ask(session, DECODE_TOKENS, *attention(depth))
        self.add(f"decode_tps_{name}", what, answer["decode_tokens_per_s"], "tokens/s")
        self.add(f"decode_attended_{name}", ATTENDED, answer["attended_fraction"], "")
        self.add(f"worker_extra_bytes_{name}", "  memory of the worker beyond the weights",
                 self.stack.worker_bytes() - os.path.getsize(SYNTHETIC), "bytes")
        return answer

    def sessions(self):
        """(name, depth, what follows its keys)"""
        computed = [(f"d{d}", d, "") for d in self.depths]
        if not self.filled:
            return computed
        return computed + [(f"f{d}", d, kind) for d, kind in ((self.depths[-1], "_filled"), (self.filled, ""))]

    def round(self, number):
        if self.stack.need(self.arena):  # goes on: what is on disk comes into RAM first
            for session, depth, _ in self.sessions():
                self.stack.ask(session, 8, *attention(depth))
        part, first = self.results.part, self.depths[0]
        read = self.stack.prefill(f"r{number}", document(first, number + 1), *attention(first))
        self.add(f"prefill_tps_{name_of(first)}", f"prefill again, {read['prompt_tokens']} tokens",
                 read["prompt_tokens"] / read["prefill_s"], "tokens/s")
        self.decode(f"d{first}", first, name_of(first), f"decode, {first} tokens before")
        if self.program:
            self.peer([first], versus=part)
        for session, depth, kind in self.sessions()[1:]:
            self.decode(session, depth, name_of(depth) + kind,
                        f"decode, {depth} tokens before{kind.replace('_', ', ')}")
        for depth in [*self.depths[1:], *([self.filled] if self.filled else [])]:
            self.add(f"decode_{name_of(depth)}_vs_{name_of(first)}", f"decode at {depth} of decode at {first}",
                     part[f"decode_tps_{name_of(depth)}"] / part[f"decode_tps_{name_of(first)}"], "")

    def peer(self, depths, flash=None, batch=None, versus=None, model=SYNTHETIC):
        """llama.cpp at these depths, with its best settings if not told others; its last point. versus: numbers of
        ours, to compare with each point as it comes."""
        best = self.results.parts.get("peer_settings", {})
        flash = best["peer_flash_attention"] if flash is None else flash
        batch = best["peer_batch"] if batch is None else batch
        point = None
        with subprocess.Popen([self.program, model, *map(str, (THREADS, flash, batch, 16, *depths))],
                              stdout=subprocess.PIPE, text=True) as process:
            try:
                for line in process.stdout:
                    point = json.loads(line)
                    if versus is not None:
                        self.compare(point, versus)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise RuntimeError(f"llama_curve ended with {process.returncode}")
        return point

    def compare(self, point, versus):
        depth, name = point["depth"], name_of(point["depth"])
        for what, speed in (("prefill", depth / point["prefill_s"]), ("decode", point["decode_tps"])):
            self.add(f"peer_{what}_tps_{name}", f"llama.cpp: {what}, {depth} tokens", speed, "tokens/s")
            if f"{what}_tps_{name}" in versus:
                self.add(f"{what}_{name}_vs_peer", f"  our {what} over that", versus[f"{what}_tps_{name}"] / speed, "")

    def limits(self):
        in_order, at_random = cpu_limits.memory_gbps(self.kv_dtype)
        self.add("read_gbps", "memory, read in order", in_order, "GB/s")
        self.add("rows_gbps", "  rows of K and V at random", at_random, "GB/s")
        disk = cpu_limits.disk_gbps(os.path.join(self.stack.state, "data", "kv_store"), self.kv_dtype)
        self.add("disk_gbps", "disk, records at random", disk, "GB/s")

    def batch(self):
        cpu_settings.choose_batch(self, attention, document, self.token_bytes)

    def q4_k(self):
        make_model(Q4_K, "q4_k")
        cpu_settings.other_weights(self, os.path.join(FOLDER, "q4_k"), attention, document, self.depths[0],
                                   4096 * self.token_bytes)

    def peer_curve(self):
        self.stack.stop()
        self.peer(self.peers[1:], versus=self.results.numbers())

    def disk(self):
        depth = self.depths[-1]
        self.stack.need(2 * depth * self.token_bytes, restart=True)
        cold = self.stack.ask(f"d{depth}", 1, *attention(depth))
        self.add(f"resume_disk_ttft_s_{name_of(depth)}", "after a restart, K/V on disk: first token",
                 cold["ttft_s"], "s")

    def show_blocks(self, prefix, answer, tokens):
        """Where the blocks that the answer's tokens attended in were found."""
        blocks = answer["blocks"]
        self.add(f"{prefix}_blocks_per_token", "  blocks that a token attends in",
                 sum(blocks.values()) / tokens, "blocks")
        for tier in ("held", "keys", "ram", "disk"):
            self.add(f"{prefix}_{tier}_share", f"  blocks found: {tier}",
                     blocks[tier] / max(1, sum(blocks.values())), "")

    def quarter(self):
        depth = self.depths[-1]
        whole, at = depth * self.token_bytes, name_of(depth)
        for arena, tokens, flags, name, what in (
                (2 * whole, QUARTER_TOKENS, "", "all", "all K/V in RAM"),
                (whole // 4, 8, "--key_cache 0", "blocks", "arena for a quarter of the K/V, no key cache"),
                (whole // 4, QUARTER_TOKENS, "", "quarter", "arena for a quarter, key cache of default size")):
            self.stack.need(arena, restart=True, worker_flags=flags)
            self.stack.ask(f"d{depth}", 4, *attention(depth))  # from disk, and to where a longer answer would be
            answer = self.stack.ask(f"d{depth}", tokens, *attention(depth))
            self.add(f"decode_tps_{at}_{name}", f"decode, {what}", answer["decode_tokens_per_s"], "tokens/s")
            self.show_blocks(f"{name}_{at}", answer, tokens)
            self.add(f"{name}_{at}_worker_extra_bytes", "  memory of the worker beyond the weights",
                     self.stack.worker_bytes() - os.path.getsize(SYNTHETIC), "bytes")
        self.add("quarter_slots", "  blocks that the arena has room for", depth // CHUNK * 28 // 4, "blocks")
        part = self.results.part
        for name in ("blocks", "quarter"):
            key = f"decode_{at}_quarter_arena" + ("_no_key_cache" if name == "blocks" else "")
            self.add(key, "  of the speed with all of it in RAM",
                     part[f"decode_tps_{at}_{name}"] / part[f"decode_tps_{at}_all"], "")

    def real_model(self):
        """Arenas for a part of a real text's K/V, with a key cache of a quarter and without one; budget and the rest as
        a user has them by default."""
        with open(os.path.join(ROOT, "tests/quality/corpus/documents/frankenstein.txt"), encoding="utf-8") as file:
            text = file.read()
        text = text[:int(len(text) * SMOL_TOKENS / 8452)]
        self.stack.stop()
        self.smol.remove()
        try:
            whole = SMOL_TOKENS * self.smol_token_bytes
            self.smol.need(2 * whole)
            read = self.smol.prefill("book", text)
            self.add("smol_tokens", "SmolLM2-135M: tokens of a real text", read["prompt_tokens"], "tokens")
            self.smol.ask("book", 8)
            for arena, keys, name, what in ((2 * whole, None, "all", "all K/V in RAM"),
                                            (whole // 4, 0, "blocks", "arena for a quarter of the K/V, no key cache"),
                                            (whole // 4, whole // 4, "quarter",
                                             "arena and key cache for a quarter each"),
                                            (whole // 2, whole // 4, "half", "arena for a half, key cache a quarter"),
                                            (whole // 4 * 3, whole // 4, "three_quarters",
                                             "arena for three quarters, key cache a quarter")):
                if keys is not None:
                    self.smol.need(arena, restart=True, worker_flags=f"--key_cache {keys}")
                self.smol.fork("book", name)  # the model's context has room for a few answers more
                for question in ("What did he feel then?", "Where did they go next, and why?"):
                    answer = self.smol.ask(name, 64, text=question)
                self.add(f"smol_decode_tps_{name}", f"decode, {what}", answer["decode_tokens_per_s"], "tokens/s")
                self.add(f"smol_decode_attended_{name}", ATTENDED, answer["attended_fraction"], "")
                self.add(f"smol_{name}_slots", "  blocks that the arena has room for",
                         arena // (CHUNK * self.smol_token_bytes) * 30, "blocks")
                self.show_blocks(f"smol_{name}", answer, 64)
            for name in ("quarter", "half", "three_quarters"):
                self.add(f"smol_{name}_arena", f"  of the speed with all in RAM, {name.replace('_', ' ')}",
                         self.results.part[f"smol_decode_tps_{name}"] / self.results.part["smol_decode_tps_all"], "")
        finally:
            self.smol.remove()

    def across_parts(self):
        """Ratios of what different parts have found."""
        n, deepest = self.results.numbers(), name_of(self.depths[-1])
        depths = [*self.depths, *([self.filled] if self.filled else [])]
        cpu_limits.add_rooflines(n, depths, deepest, os.path.getsize(SYNTHETIC), self.kv_dtype)
        for key, over, under in ((f"resume_ram_vs_prefill", f"resume_ram_ttft_s_{deepest}", f"prefill_s_{deepest}"),
                                 ("resume_disk_vs_prefill", f"resume_disk_ttft_s_{deepest}", f"prefill_s_{deepest}")):
            if over in n and under in n:
                n[key] = n[over] / n[under]
        return n


def run_part(name, seconds, work, results):
    print(f"{time.strftime('%H:%M:%S')} {name}, {seconds} s at most", flush=True)
    results.begin(name)
    signal.alarm(seconds)
    try:
        work()
        signal.alarm(0)
        results.end()
        return True
    except Exception:  # the next part may work
        signal.alarm(0)
        traceback.print_exc(limit=3)
        return False


def expired(*_):
    raise TimeoutError("it takes too long")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short depths, one round")
    parser.add_argument("--resume", action="store_true", help="go on with the run that was cut off")
    parser.add_argument("--parts", default="", help="only these, separated by commas; 'list' shows them")
    parser.add_argument("--minutes", type=float, default=1e6, help="no part begins that may end later")
    parser.add_argument("--depths", default="", help="tokens, ascending, separated by commas; two or more")
    parser.add_argument("--filled", type=int, default=-1, help="tokens of the session that is filled; 0: none")
    parser.add_argument("--peer_depths", default="", help="depths of llama.cpp, two or more; none: only ours")
    parser.add_argument("--kv_dtype", default="bf16", choices=["bf16", "int8"],
                        help="of K/V; each has results of its own")
    parser.add_argument("--json", default="")
    parser.add_argument("--plot", default="")
    parser.add_argument("--commit", default="")
    parser.add_argument("--command", default="")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, expired)
    start = time.monotonic()
    depths = [int(d) for d in (args.depths or ("512,2048" if args.quick else "512,4096,16384")).split(",")]
    peers = args.peer_depths or ("512,1024" if args.quick else "512,4096,16384")
    peers = [int(d) for d in peers.split(",")] if peers != "none" else []
    filled = args.filled if args.filled >= 0 else 8192 if args.quick else 65536
    make_model(SYNTHETIC, "q8_0")
    results = Results(os.path.join(FOLDER, f"results_{args.kv_dtype}.json"), args.resume)
    bench = Benchmark(depths, filled, peers, 1 if args.quick else ROUNDS, results, args.kv_dtype)
    if args.parts == "list":
        return print("\n".join(f"{name:<12} {seconds:>5} s at most" for name, seconds, _ in bench.parts()))
    if not args.resume:
        bench.stack.remove()
    failed = []
    try:
        for name, seconds, work in bench.parts():
            if results.done(name) or (args.parts and name not in args.parts.split(",")):
                continue
            left = args.minutes * 60 - (time.monotonic() - start)
            if left < 30:
                failed.append(name)
            elif not run_part(name, int(min(seconds, left)), work, results):
                failed.append(name)
                bench.stack.arena_bytes = None  # it may be in the middle of anything
    finally:
        signal.alarm(0)
        bench.stack.stop()
        numbers = bench.across_parts()
        if args.json:
            with open(args.json, "w") as file:
                json.dump({"commit": args.commit, "command": args.command, "threads": THREADS,
                           "kv_dtype": args.kv_dtype, **numbers}, file,
                          indent=1)
    for key in numbers.keys() - results.numbers().keys():
        print(f"  {key:<66}{numbers[key]:>12.4g}")
    if args.plot:
        plot(numbers, [*depths, *([filled] if filled else [])], args.plot)
    if failed:
        sys.exit(f"cpu: left out: {', '.join(failed)}; --resume tries them again")
    if not args.parts:
        bench.stack.remove()


if __name__ == "__main__":
    main()
