"""What benchmark `cpu` runs: its models, llama.cpp, and the three daemons."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TOOLS = os.path.join(ROOT, ".hga", "tools")
MODELS = os.path.join(ROOT, ".hga", "models")
BIN = os.path.join(ROOT, ".bazel", "bin")
SYNTHETIC = os.path.join(MODELS, "synthetic-qwen3-0.6b.Q8_0.gguf")
Q4_K = os.path.join(MODELS, "synthetic-qwen3-0.6b.Q4_K.gguf")
SMOL = os.path.join(MODELS, "SmolLM2-135M-Instruct.Q4_1.gguf")
LLAMA = "llama-cpp-python==0.3.36"
THREADS = os.cpu_count()


def run(command, **options):
    return subprocess.run(command, check=True, **options)


def pip(*arguments):
    run([sys.executable, "-m", "pip", "-q", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_model(path, weights):
    if os.path.exists(path):
        return
    tools = os.path.join(TOOLS, "gguf")
    if not os.path.isdir(tools):
        pip("install", "--target", tools, "gguf")
    run([sys.executable, os.path.join(ROOT, "tests/bench/synthetic_gguf.py"), "--vocabulary", SMOL, "--weights",
         weights, "--out", path], env=dict(os.environ, PYTHONPATH=tools), stderr=subprocess.DEVNULL)


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
        run(["cmake", "-S", code, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *off],
            stdout=log, stderr=log)
        run(["cmake", "--build", build, "--target", "llama", "-j", str(THREADS)], stdout=log, stderr=log)
    libraries = [os.path.join(build, name) for name in ("src/libllama.a", "ggml/src/libggml.a",
                                                        "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")]
    run(["g++", "-O2", "-std=c++17", source, f"-I{code}/include", f"-I{code}/ggml/include", *libraries, "-fopenmp",
         "-lpthread", "-ldl", "-o", program])
    return program


class Stack:
    """The three daemons with a model. What they keep on disk stays between starts, and between runs."""

    def __init__(self, state, model, kv_dtype="bf16"):
        self.state, self.model, self.kv_dtype = state, model, kv_dtype
        self.arena_bytes = None  # of the daemons that run

    def need(self, arena_bytes, restart=False, worker_flags=""):
        """Has them run with an arena of that size. restart: with nothing in RAM. Whether they were started now."""
        if self.arena_bytes == arena_bytes and not restart:
            return False
        self.stop()
        self._stack("start", HGA_KV_STORE_FLAGS=f"--arena_bytes {arena_bytes}",
                    HGA_GPU_WORKER_FLAGS=f"--dense_prefill_tokens 0 --kv_dtype {self.kv_dtype} {worker_flags}")
        self.arena_bytes = arena_bytes
        return True

    def stop(self):
        self.arena_bytes = None
        self._stack("stop")

    def remove(self):
        self.stop()
        shutil.rmtree(self.state, ignore_errors=True)

    def _stack(self, verb, **variables):
        run([os.path.join(ROOT, "deploy/stack.sh"), "--state", self.state, "--model", self.model, "--metrics_port", "0",
             verb], env=dict(os.environ, **variables), stdout=subprocess.DEVNULL)

    def _socket(self, daemon):
        with open(os.path.join(self.state, "run", "socket_dir")) as file:
            return "unix:" + os.path.join(file.read().strip(), daemon + ".sock")

    def hga(self, *arguments):
        """What a call says at its end."""
        out = run([os.path.join(BIN, "client/hga"), "--worker", self._socket("gpu_worker"), "--timeout", "0", "--json",
                   "-q", *arguments], capture_output=True, text=True).stdout
        return json.loads(out.strip().splitlines()[-1])

    def prefill(self, session, text, *arguments):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            return self.hga(*arguments, "prefill", "--session", session, "--file", file.name)

    def ask(self, session, tokens, *arguments, text="And so they went on, and then"):
        return self.hga(*arguments, "--max-tokens", str(tokens), "generate", "--session", session, "--append",
                        "--raw", text)

    def fork(self, session, copy):
        """Another session that goes on from there."""
        run([os.path.join(BIN, "client/hga"), "--worker", self._socket("gpu_worker"), "sessions", "fork", session,
             copy], stdout=subprocess.DEVNULL)

    def fill(self, source, session, tokens):
        run([os.path.join(BIN, "tests/bench/fill_session"), "--store", self._socket("kv_store"), "--model", self.model,
             "--source", source, "--session", session, "--tokens", str(tokens), "--kv_dtype", self.kv_dtype])

    def worker_bytes(self):
        """Of the worker's memory, without the arena, which is kv_store's."""
        with open(os.path.join(self.state, "run", "gpu_worker.pid")) as file:
            status = open(f"/proc/{file.read().strip()}/status").read().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmRSS", "RssShmem"))}
        return 1024 * (kib["VmRSS"] - kib["RssShmem"])


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
            if points:
                axis.plot(*zip(*points), marker="o", label=label)
        axis.set(title=what, xlabel="tokens before", ylabel="tokens/s", xscale="log", ylim=(0, None))
        axis.set_xticks(depths, [name_of(d).upper() for d in depths])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def name_of(depth):
    """As keys have it: 512, 4k."""
    return f"{depth // 1024}k" if depth >= 1024 else str(depth)
