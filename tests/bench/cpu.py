#!/usr/bin/env python3
"""Benchmark `cpu`: prefill and decode against context on the cpu backend, beside llama.cpp on the same file.

usage: cpu.py [--quick] [--json FILE] [--plot FILE.svg] [--commit TEXT] [--command TEXT]
A model of Qwen3-0.6B's shape with made-up Q8_0 weights, the three daemons with a state folder of their own, two threads
(or as many as there are cores) on both sides. Attention is routed from the first token on: 3% of the context, 491 keys at
least; llama.cpp's is dense, with the better of flash attention on and off. llama.cpp is built from PyPI's
llama-cpp-python, with the instructions of this machine. Nothing else should run meanwhile.
"""
import argparse
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TOOLS = os.path.join(ROOT, ".hga", "tools")
MODELS = os.path.join(ROOT, ".hga", "models")
BIN = os.path.join(ROOT, ".bazel", "bin")
MODEL = os.path.join(MODELS, "synthetic-qwen3-0.6b.Q8_0.gguf")
LLAMA = "llama-cpp-python==0.3.36"
THREADS = os.cpu_count()
KV_BYTES_PER_TOKEN = 28 * 8 * 128 * 2 * 2
CHARACTERS_PER_TOKEN = 3.78
DECODE_TOKENS = 64
MOST_RESUMED = 16384  # tokens of the document that is asked again after a restart
SHARE, LEAST_KEYS, ALWAYS_KEYS = 0.03, 491, 80  # of the context; the last: window and sinks


def run(command, **options):
    return subprocess.run(command, check=True, **options)


def pip(*arguments):
    run([sys.executable, "-m", "pip", "-q", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_model():
    if os.path.exists(MODEL):
        return
    tools = os.path.join(TOOLS, "gguf")
    if not os.path.isdir(tools):
        pip("install", "--target", tools, "gguf")
    vocabulary = os.path.join(MODELS, "SmolLM2-135M-Instruct.Q4_1.gguf")
    run([sys.executable, os.path.join(ROOT, "tests/bench/synthetic_gguf.py"), "--vocabulary", vocabulary, "--out", MODEL],
        env=dict(os.environ, PYTHONPATH=tools), stderr=subprocess.DEVNULL)


def build_peer():
    """Path of llama_curve, built once."""
    folder = os.path.join(TOOLS, "llama")
    program = os.path.join(folder, "llama_curve")
    source = os.path.join(ROOT, "tests/bench/llama_curve.cc")
    if os.path.exists(program) and os.path.getmtime(program) > os.path.getmtime(source):
        return program
    os.makedirs(folder, exist_ok=True)
    print("building llama.cpp, once: some ten minutes", flush=True)
    build = os.path.join(folder, "build")
    if not glob.glob(os.path.join(folder, "llama_cpp_python-*", "")):
        pip("download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", folder, LLAMA)
        run(["tar", "xzf", *glob.glob(os.path.join(folder, "*.tar.gz")), "-C", folder])
    code = glob.glob(os.path.join(folder, "llama_cpp_python-*", "vendor", "llama.cpp"))[0]
    off = [f"-D{name}=OFF" for name in ("LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES",
                                        "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_COMMON",
                                        "BUILD_SHARED_LIBS")]
    with open(os.path.join(folder, "build.log"), "w") as log:
        run(["cmake", "-S", code, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *off], stdout=log, stderr=log)
        run(["cmake", "--build", build, "--target", "llama", "-j", str(THREADS)], stdout=log, stderr=log)
    libraries = [os.path.join(build, name) for name in ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a",
                                                        "ggml/src/libggml-base.a")]
    run(["g++", "-O2", "-std=c++17", source, f"-I{code}/include", f"-I{code}/ggml/include", *libraries, "-fopenmp",
         "-lpthread", "-ldl", "-o", program])
    return program


class Stack:
    """The three daemons. The state folder stays between starts."""

    def __init__(self, state):
        self.state = state

    def start(self, arena_bytes):
        self._stack("start", HGA_KV_STORE_FLAGS=f"--arena_bytes {arena_bytes}",
                    HGA_GPU_WORKER_FLAGS="--dense_prefill_tokens 0")

    def stop(self):
        self._stack("stop")

    def _stack(self, verb, **variables):
        run([os.path.join(ROOT, "deploy/stack.sh"), "--state", self.state, "--model", MODEL, "--metrics_port", "0", verb],
            env=dict(os.environ, **variables), stdout=subprocess.DEVNULL)

    def hga(self, depth, *arguments):
        """What a call with attention for this depth says at its end."""
        budget = max(LEAST_KEYS, round(SHARE * depth)) - ALWAYS_KEYS
        address = "unix:" + os.path.join(self.state, "run", "gpu_worker.sock")
        out = run([os.path.join(BIN, "client/hga"), "--worker", address, "--timeout", "0", "--json", "-q", "--attention",
                   "routed", "--budget-tokens", str(budget), "--budget-step-cap", "1", *arguments],
                  capture_output=True, text=True).stdout
        return json.loads(out.strip().splitlines()[-1])

    def prefill(self, depth, text):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            return self.hga(depth, "prefill", "--session", f"d{depth}", "--file", file.name)

    def ask(self, depth, tokens):
        return self.hga(depth, "--max-tokens", str(tokens), "generate", "--session", f"d{depth}", "--append", "--raw",
                        "And so they went on, and then")

    def worker_bytes(self):
        """Of the worker's memory, without the arena, which is kv_store's."""
        with open(os.path.join(self.state, "run", "gpu_worker.pid")) as file:
            status = open(f"/proc/{file.read().strip()}/status").read().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmRSS", "RssShmem"))}
        return 1024 * (kib["VmRSS"] - kib["RssShmem"])


class Report:
    def __init__(self):
        self.numbers = {}

    def add(self, key, what, value, unit):
        self.numbers[key] = value
        print(f"  {what:<66}{value:>12.4g} {unit}", flush=True)


def name_of(depth):
    """As keys have it: 512, 4k."""
    return f"{depth // 1024}k" if depth >= 1024 else str(depth)


def document(depth):
    """About `depth` tokens of text, which no other depth's document begins with."""
    with open(os.path.join(ROOT, "deploy/documents/alice.txt"), encoding="utf-8") as file:
        text = file.read()
    skip, size = depth % 9973, int(depth * CHARACTERS_PER_TOKEN)
    return (text * (2 + (skip + size) // len(text)))[skip:skip + size]


def measure_depth(stack, depth, report):
    name = name_of(depth)
    read = stack.prefill(depth, document(depth))
    if read["reused_tokens"] != 0:
        sys.exit(f"cpu: {read['reused_tokens']} tokens of a new document were in the store")
    at = f"{read['prompt_tokens']} tokens"
    report.add(f"prefill_tps_{name}", f"prefill, {at}", read["prompt_tokens"] / read["prefill_s"], "tokens/s")
    report.add(f"prefill_attended_{name}", "  keys attended of those of dense attention", read["prefill_attended_fraction"], "")
    first = stack.ask(depth, 1)
    report.add(f"resume_ram_ttft_s_{name}", "  asked again, K/V in RAM: first token after", first["ttft_s"], "s")
    answer = stack.ask(depth, DECODE_TOKENS)
    report.add(f"decode_tps_{name}", f"decode, {at} before", answer["decode_tokens_per_s"], "tokens/s")
    report.add(f"decode_attended_{name}", "  keys attended of those of dense attention", answer["attended_fraction"], "")
    report.add(f"worker_extra_bytes_{name}", "  memory of the worker beyond the weights",
               stack.worker_bytes() - os.path.getsize(MODEL), "bytes")
    return read["prefill_s"], first["ttft_s"]


def measure_disk(stack, depth, prefill_s, report):
    name = name_of(depth)
    stack.stop()
    stack.start(2 * depth * KV_BYTES_PER_TOKEN)
    cold = stack.ask(depth, 1)
    report.add(f"resume_disk_ttft_s_{name}", "after a restart, K/V on disk: first token after", cold["ttft_s"], "s")
    report.add("resume_disk_vs_prefill", "  of its prefill", cold["ttft_s"] / prefill_s, "")
    stack.stop()
    stack.start(depth * KV_BYTES_PER_TOKEN // 4)
    quarter = stack.ask(depth, 8)  # few: flat attention reads nearly every block in each step
    report.add(f"decode_tps_{name}_quarter", "decode, arena for a quarter of the K/V", quarter["decode_tokens_per_s"], "tokens/s")
    blocks = quarter["blocks"]
    for tier in ("held", "ram", "disk"):
        report.add(f"quarter_{tier}_share", f"  blocks found: {tier}", blocks[tier] / max(1, sum(blocks.values())), "")
    report.add(f"decode_{name}_quarter_arena", "  of the speed with all of it in RAM",
               quarter["decode_tokens_per_s"] / report.numbers[f"decode_tps_{name}"], "")


def measure_peer(program, depths, report):
    def curve(flash, depths):
        out = run([program, MODEL, str(THREADS), str(flash), "16", *map(str, depths)], capture_output=True, text=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    first = {flash: curve(flash, depths[:1])[0] for flash in (0, 1)}
    flash = max(first, key=lambda f: first[f]["decode_tps"] * depths[0] / first[f]["prefill_s"])
    report.add("peer_flash_attention", "llama.cpp: flash attention is the better setting", flash, "")
    for point in curve(flash, depths):
        depth = point["depth"]
        name = name_of(depth)
        report.add(f"peer_prefill_tps_{name}", f"llama.cpp: prefill, {depth} tokens", depth / point["prefill_s"], "tokens/s")
        report.add(f"peer_decode_tps_{name}", f"llama.cpp: decode, {depth} tokens before", point["decode_tps"], "tokens/s")
        report.add(f"prefill_{name}_vs_peer", "  our prefill over that",
                   report.numbers[f"prefill_tps_{name}"] * point["prefill_s"] / depth, "")
        report.add(f"decode_{name}_vs_peer", "  our decode over that", report.numbers[f"decode_tps_{name}"] / point["decode_tps"], "")


def plot(numbers, depths, path):
    tools = os.path.join(TOOLS, "python")
    if not os.path.isdir(os.path.join(tools, "matplotlib")):
        pip("install", "--target", tools, "matplotlib")
    sys.path.insert(0, tools)
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, what in zip(axes, ("prefill", "decode")):
        for prefix, label in (("", "HGA Serve, routed"), ("peer_", "llama.cpp, dense")):
            keys = {d: f"{prefix}{what}_tps_{name_of(d)}" for d in depths}
            points = [(d, numbers[k]) for d, k in keys.items() if k in numbers]
            axis.plot(*zip(*points), marker="o", label=label)
        axis.set(title=what, xlabel="tokens before", ylabel="tokens/s", xscale="log", ylim=(0, None))
        axis.set_xticks(depths, [name_of(d).upper() for d in depths])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short depths")
    parser.add_argument("--depths", default="", help="tokens, ascending, separated by commas")
    parser.add_argument("--peer_depths", default="", help="the same for llama.cpp; none: only ours")
    parser.add_argument("--json", default="")
    parser.add_argument("--plot", default="")
    parser.add_argument("--commit", default="")
    parser.add_argument("--command", default="")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    depths = [int(d) for d in (args.depths or ("512,2048" if args.quick else "512,4096,16384,65536")).split(",")]
    peers = args.peer_depths or ("512,2048" if args.quick else "512,4096,16384")
    peers = [int(d) for d in peers.split(",")] if peers != "none" else []
    make_model()
    program = build_peer() if peers else None
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hga_cpu.") as state:
        stack = Stack(state)
        try:
            stack.start(sum(depths) * KV_BYTES_PER_TOKEN * 5 // 4 + (256 << 20))
            stack.prefill(1, document(600)[::-1])  # pages of the weights, and both teams of threads
            seconds = {depth: measure_depth(stack, depth, report) for depth in depths}
            depth = max([d for d in depths if d <= MOST_RESUMED], default=depths[0])
            report.add("resume_ram_vs_prefill", f"first token again of {depth} tokens, K/V in RAM, of its prefill",
                       seconds[depth][1] / seconds[depth][0], "")
            measure_disk(stack, depth, seconds[depth][0], report)
        finally:
            stack.stop()
    for d in depths[1:]:
        report.add(f"decode_{name_of(d)}_vs_{name_of(depths[0])}", f"decode at {d} of decode at {depths[0]}",
                   report.numbers[f"decode_tps_{name_of(d)}"] / report.numbers[f"decode_tps_{name_of(depths[0])}"], "")
    if peers:
        measure_peer(program, peers, report)
    if args.plot:
        plot(report.numbers, depths, args.plot)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"commit": args.commit, "command": args.command, "threads": THREADS, **report.numbers}, file, indent=1)


if __name__ == "__main__":
    main()
