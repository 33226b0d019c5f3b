"""What may happen to the running stack, in one order; run.sh calls it. Ends with "N passed, N failed"."""
import argparse
import json
import os
import subprocess
import sys
import threading
import time

import stack_under_test as sut
from stack_under_test import in_container, inspect, run, wait_until


class Expectations:
    def __init__(self):
        self.passed = self.failed = 0

    def that(self, what, true, shown=""):
        self.passed, self.failed = self.passed + bool(true), self.failed + (not true)
        print("  %s  %s%s" % ("ok  " if true else "FAIL", what, "" if true else ": %s" % (shown,)), flush=True)


def document():
    """A piece of a book, in a file of its own."""
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), "hga-deploy-test.%d.txt" % os.getpid())
    if not os.path.exists(path):
        with open(sut.ALICE, "rb") as book, open(path, "wb") as file:
            file.write(book.read(sut.DOCUMENT_BYTES).rsplit(b"\n", 1)[0])
    return path


def kept(answer):
    """Whether all of the document came from the store, but what is behind its last whole chunk."""
    figures = answer.figures
    return figures.get("reused_tokens", 0) > figures.get("prompt_tokens", 1 << 30) - 128


class AskingMeanwhile:
    """Asks again and again, in a thread, until it is left."""

    def __enter__(self):
        self.answers, self.left = [], threading.Event()
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()
        return self

    def go_on(self):
        while not self.left.is_set():
            self.answers.append(sut.ask(sut.QUESTION, document(), "--budget", "1", "--session", "meanwhile"))
            time.sleep(0.1)

    def __exit__(self, *_):
        self.left.set()
        self.thread.join()


def check_containers(expect):
    for service in sut.SERVICES:
        state = inspect(service)
        host = state["HostConfig"]
        expect.that("%s: not root, root file system read-only, no capabilities, memory bounded" % service,
                    state["Config"]["User"].split(":")[0] not in ("", "0") and host["ReadonlyRootfs"]
                    and host["CapDrop"] == ["ALL"] and host["Memory"] > 0
                    and "no-new-privileges:true" in host["SecurityOpt"], host)
        bound = [b["HostIp"] for ports in state["NetworkSettings"]["Ports"].values() for b in ports or []]
        expect.that("%s: published on loopback only %s" % (service, bound), set(bound) <= {"127.0.0.1"}, bound)
    expect.that("kv_store cannot write its root file system",
                in_container("kv_store", "touch /x", check=False).returncode != 0)
    names = inspect("kv_store")["NetworkSettings"]["Networks"]
    networks = json.loads(run("docker", "network", "inspect", *names).stdout)
    expect.that("kv_store is on networks without a way out only", all(n["Internal"] for n in networks), networks)
    expect.that("sockets and arena are their owner's alone",
                in_container("router", "stat -c %a /run/hga/kv_store.sock /run/hga/router.sock /dev/shm/arena")
                .stdout.split() == ["600"] * 3)


def check_watching(expect):
    wait_until("Prometheus has scraped all", lambda: len(sut.prometheus("up")) >= 5, 60)
    up = sut.prometheus("up")
    expect.that("Prometheus scrapes every daemon, the node and itself", set(up.values()) == {1.0}, up)
    node = sut.prometheus("node_memory_MemTotal_bytes")
    expect.that("the node exporter sees the machine's memory", min(node.values(), default=0) > 1 << 30, node)


def fast_path(answer):
    return answer.exit_code == 0 and answer.figures["ring_exchanges"] > 0


def check_disturbed(expect, right, what, disturb, disturbed):
    """Asks while `disturb` runs: a wrong answer never, afterwards the right one over shared memory."""
    with AskingMeanwhile() as asking:
        wait_until("an answer before", lambda: asking.answers, 300)
        before = len(asking.answers)
        disturb()
        wait_until("healthy after %s" % what, sut.healthy(sut.DAEMONS), 300)
        wait_until("attached after %s" % what, sut.attached, 120)
        behind = len(asking.answers) + 1  # begun after everything was there again
        wait_until("an answer after %s" % what, lambda: len(asking.answers) > behind, 300)
    answers = asking.answers
    wrong = [a.text for a in answers if a.exit_code == 0 and a.text not in right]
    errors = [a for a in answers if a.exit_code != 0]
    print("  %s: %d answers, %d refused (exit codes %s)" % (what, len(answers), len(errors),
                                                           sorted({a.exit_code for a in errors})))
    expect.that("%s: no wrong answer" % what, not wrong, wrong)
    expect.that("%s: refusals say UNAVAILABLE or BUSY" % what, {a.exit_code for a in errors} <= {3, 5},
                [a.error for a in errors])
    expect.that("%s: answers again, over shared memory" % what, fast_path(answers[-1]),
                answers[-1].error or answers[-1].figures)
    expect.that("%s: the document is still there" % what,
                kept(answers[-1]), answers[-1].figures)
    expect.that("%s: it hit the service that was meant" % what, before > 0 and disturbed(), "")


def started_at(service):
    return inspect(service)["State"]["StartedAt"]


def check_restarts(expect, right):
    for service in sut.DAEMONS:
        before = started_at(service)
        check_disturbed(expect, right, "restart of " + service, lambda s=service: sut.compose("restart", s),
                        lambda s=service, b=before: started_at(s) != b)
    for service in sut.DAEMONS:
        state = inspect(service)
        before = state["RestartCount"]
        check_disturbed(expect, right, "SIGKILL of " + service,
                        lambda p=state["State"]["Pid"]: run("kill", "-KILL", str(p)),
                        lambda s=service, b=before: inspect(s)["RestartCount"] > b)
    for service in ("prometheus", "alertmanager", "node_exporter"):
        sut.compose("restart", service)
    wait_until("the watchers are healthy again", sut.healthy(sut.SERVICES))
    expect.that("Prometheus, Alertmanager and node exporter come back", True)


def write_document(path, seed):
    """Some 1,000 tokens that no other document has."""
    with open(path, "w", encoding="ascii") as file:
        for line in range(60):
            numbers = (line, seed, line * 7 % 101, line * seed % 997)
            file.write("Entry %d of book %d: shelf %d holds %d jars.\n" % numbers)


def check_full_disk(expect, right, folder):
    other = os.path.join(folder, "hga-deploy-test-other.%d.txt" % os.getpid())
    write_document(other, 31)
    filled = in_container("kv_store", "cat /dev/zero > /var/lib/hga/kv_store/filler", check=False)
    expect.that("the store's disk is full", "No space left" in filled.stderr, filled.stderr)
    new = sut.ask("How many jars does shelf 7 hold?", other)
    print("  disk full, new document: exit code %d %s" % (new.exit_code, new.error.strip().split("\n")[0]))
    expect.that("disk full: a new document is answered or refused", new.exit_code in (0, 3, 5), new.error)
    old = sut.ask(sut.QUESTION, document())
    expect.that("disk full: the old document is answered rightly or refused",
                old.text in right if old.exit_code == 0 else old.exit_code in (3, 5), old.error or old.text)
    expect.that("disk full: the daemons go on", sut.healthy(sut.DAEMONS)())
    in_container("kv_store", "rm /var/lib/hga/kv_store/filler")
    wait_until("after room was made, a question is answered", lambda: sut.ask("x", other).exit_code == 0, 180)
    os.unlink(other)

    def all_durable():
        store = sut.stats().get("kv_store", {})
        return store and store["chunks"] == store["chunks_durable"]
    try:
        wait_until("everything is on disk", all_durable, 120)
        expect.that("room again: everything gets to disk", True)
    except RuntimeError as error:
        expect.that("room again: everything gets to disk", False, (error, sut.stats()))


def check_down_and_up(expect, right):
    containers = {s: sut.container(s) for s in sut.DAEMONS}
    sut.compose("stop")
    codes = {s: json.loads(run("docker", "inspect", c).stdout)[0]["State"]["ExitCode"] for s, c in containers.items()}
    expect.that("a stop is graceful: exit codes 0", set(codes.values()) == {0}, codes)
    sut.compose("down")
    print("  up again, healthy after %.1f s" % sut.start())
    wait_until("attached", sut.attached)
    answer = sut.ask(sut.QUESTION, document())
    expect.that("down and up: the same answer", answer.text in right, answer.error or answer.text)
    expect.that("down and up: prompt tokens from the store %s" % answer.figures.get("reused_tokens"),
                kept(answer), answer.figures)
    expect.that("down and up: blocks came from disk",
                answer.figures.get("blocks", {}).get("disk", 0) > 0, answer.figures)


def image_bytes():
    """{image: bytes}; layers that images share are counted in each."""
    names = ["hga/" + daemon for daemon in sut.DAEMONS]
    sizes = {}
    for name in names:
        image = json.loads(run("docker", "image", "inspect", name).stdout)[0]
        sizes[name] = image["Size"]
    return sizes


def check_start(expect):
    seconds = sut.start()
    print("  healthy after %.1f s" % seconds)
    wait_until("attached", sut.attached)
    answer = sut.ask(sut.QUESTION, document())
    expect.that("a question from outside is answered: %s" % answer.text, answer.exit_code == 0, answer.error)
    expect.that("over shared memory", fast_path(answer), answer.figures)
    expect.that("nothing of the document was there before", answer.figures.get("reused_tokens") == 0, answer.figures)
    # What a step without a router does instead.
    dense = sut.ask(sut.QUESTION, document(), "--attention", "dense")
    expect.that("dense attention says the same", dense.text == answer.text, dense.error or dense.text)
    return seconds, {answer.text}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--start_only", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    expect = Expectations()
    try:
        seconds, right = check_start(expect)
        sizes = image_bytes()
        print("  image sizes: %s" % ", ".join("%s %.1f MB" % (n, b / 1e6) for n, b in sizes.items()))
        if options.json:
            with open(options.json, "w", encoding="ascii") as file:
                json.dump({"stack_healthy_s": round(seconds, 2), "image_bytes_total": sum(sizes.values())}, file)
        if not options.start_only:
            check_containers(expect)
            check_watching(expect)
            check_restarts(expect, right)
            check_full_disk(expect, right, os.environ.get("TMPDIR", "/tmp"))
            check_down_and_up(expect, right)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        expect.that("the run goes to its end", False, error)
    os.unlink(document())
    if expect.failed:
        print(sut.compose("logs", "--tail=30", *sut.DAEMONS, check=False), file=sys.stderr)
    print("%d passed, %d failed" % (expect.passed, expect.failed))
    return 1 if expect.failed else 0


if __name__ == "__main__":
    sys.exit(main())
