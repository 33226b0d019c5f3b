"""The stack that run.sh built, as its user sees it: docker-compose, and `hga` from outside of the containers."""
import json
import os
import subprocess
import time
import urllib.parse
import urllib.request

ROOT = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..")
HGA = os.environ.get("HGA_CLIENT", os.path.join(ROOT, ".bazel/bin/client/hga"))
ALICE = os.path.join(ROOT, "deploy/documents/alice.txt")
DOCUMENT_BYTES = 6000  # some 1,500 tokens: enough to be routed and kept, and read soon on a slow machine
QUESTION = "Where did the Rabbit go?"
DAEMONS = ["kv_store", "router", "gpu_worker"]
# No Grafana: it is in no package of Debian.
SERVICES = DAEMONS + ["prometheus", "alertmanager", "node_exporter"]
WORKER = "127.0.0.1:" + os.environ["HGA_WORKER_PORT"]


def run(*command, check=True, timeout=600):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise RuntimeError("%s: exit code %d\n%s" % (" ".join(command), done.returncode, done.stderr[-3000:]))
    return done


def compose(*arguments, **options):
    return run("docker-compose", *arguments, **options).stdout.strip()


def container(service):
    return compose("ps", "-q", service).split("\n")[0]


def inspect(service):
    return json.loads(run("docker", "inspect", container(service)).stdout)[0]


def in_container(service, script, **options):
    return run("docker", "exec", container(service), "sh", "-c", script, **options)


def wait_until(what, true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("within %d s it did not come true: %s" % (seconds, what))
        time.sleep(0.2)


def healthy(services):
    def all_are():
        states = run("docker", "inspect", "-f", "{{.State.Health.Status}}", *[container(s) for s in services],
                     check=False).stdout.split()
        return states == ["healthy"] * len(services)
    return all_are


def start():
    """Seconds until every service is healthy."""
    begin = time.monotonic()
    compose("up", "-d", "--no-build", *SERVICES)
    wait_until("all services are healthy", healthy(SERVICES), 300)
    return time.monotonic() - begin


class Answer:
    def __init__(self, done):
        self.exit_code = done.returncode
        self.error = done.stderr
        lines = done.stdout.strip().split("\n")
        self.figures = json.loads(lines[-1]) if done.returncode == 0 else {}
        self.text = "\n".join(lines[:-1]).strip()


def ask(question, document, *flags, timeout=300):
    """A question from outside, greedily. The router selects everything: exact attention, whether it is there or not."""
    flags = flags or ("--budget", "1")
    return Answer(run(HGA, "ask", "--worker", WORKER, "--json", "--quiet", "--timeout", str(timeout - 10), "--file",
                      document, "--max-tokens", "16", question, *flags, check=False, timeout=timeout))


def stats():
    done = run(HGA, "stats", "--worker", WORKER, "--json", "--timeout", "10", check=False)
    return json.loads(done.stdout.strip().split("\n")[-1]) if done.returncode == 0 else {}


def attached():
    now = stats()
    return bool(now) and now["kv_store_attached"] and now["router_attached"]


def prometheus(query):
    """{job: value}"""
    url = "http://127.0.0.1:%s/api/v1/query?%s" % (os.environ["HGA_PROMETHEUS_PORT"],
                                                    urllib.parse.urlencode({"query": query}))
    with urllib.request.urlopen(url, timeout=10) as answer:
        results = json.load(answer)["data"]["result"]
    return {r["metric"].get("job", ""): float(r["value"][1]) for r in results}
