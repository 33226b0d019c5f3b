"""What holds for every file of the tree; include_graph_test.py runs it."""
import os
import re

# Which folders a folder may include from; itself always.
BETWEEN = {
    "common": {"proto"},
    "kv_store": {"proto", "common"},
    "router": {"kv_store/client", "proto", "common"},
    "gpu_worker": {"router/client", "kv_store/client", "proto", "common"},
    "client": {"proto", "common"},
    "proto": set(),
}
# Which folders of its own service a folder may include from: downward only. "" is main and the options. Tests
# reach for what they need, inside their service.
INSIDE = {
    "kv_store": {
        "": {"service", "store", "tier", "arena", "ring"},
        "service": {"store", "tier", "arena", "ring"},
        "store": {"tier", "arena", "ring"},
        "client": {"arena", "ring"},
        "tool": {"tier", "client"},
        "tier": set(),
        "arena": set(),
        "ring": set(),
    },
    "router": {
        "": {"service", "index", "client"},
        "service": {"index", "client"},
        "client": {"index"},
        "index": set(),
    },
    "gpu_worker": {
        "": {"service", "engine", "backend", "model"},
        "service": {"engine", "backend", "model"},
        "engine": {"backend", "model"},
        "backend": {"model"},
        "model": set(),
    },
}
MAX_LINES = 600
MAX_COLUMNS = 120
SOURCES = (".cc", ".h", ".cu", ".cuh", ".py", ".sh", ".proto", ".bzl")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
# Put together here, so that this file does not hold them.
MARKER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b")
PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;")


def is_for_tests(path):
    name = os.path.basename(path)
    stem = os.path.splitext(name)[0]
    return stem.endswith(("_test", "_bench")) or stem.startswith("testing_") or "/testing/" in path


def subfolder(path):
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else ""


def check_include(path, target):
    """What is wrong with one include line; None if nothing is."""
    own, other = path.split("/")[0], target.split("/")[0]
    if own not in BETWEEN or (other not in BETWEEN and other not in ("tests", "deploy", "docs")):
        return None
    if own != other:
        allowed = BETWEEN[own]
        if other in allowed or "/".join(target.split("/")[:2]) in allowed:
            return None
        return "%s may include from %s only" % (own, ", ".join(sorted(allowed)) or "itself")
    if own not in INSIDE or is_for_tests(path):
        return None
    below = INSIDE[own]
    source, destination = subfolder(path), subfolder(target)
    if source not in below:
        return "folder %s/%s has no place in tests/tidy/tree.py" % (own, source)
    if source == destination or destination in below[source]:
        return None
    allowed = ", ".join(sorted(below[source])) or "itself"
    return "inside %s, '%s' may include from %s only" % (own, source, allowed)


def check_file(path, lines):
    """Complaints about one file, as strings that begin with its place."""
    if len(lines) > MAX_LINES:
        yield "%s: %d lines; %d at most: split it by responsibility" % (path, len(lines), MAX_LINES)
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield "%s:%d: %d columns; %d at most" % (path, number, len(line), MAX_COLUMNS)
        marker = MARKER.search(line)
        if marker:
            yield "%s:%d: leftover marker %s" % (path, number, marker.group(1))
        include = INCLUDE.match(line)
        wrong = include and check_include(path, include.group(1))
        if wrong:
            yield '%s:%d: includes "%s"; %s' % (path, number, include.group(1), wrong)
    if path.startswith("proto/") and path.endswith(".proto"):
        found = [PACKAGE.match(line).group(1) for line in lines if PACKAGE.match(line)]
        expected = "hga." + ".".join(path.split("/")[1:-1])
        if found != [expected]:
            yield "%s: package %s, but its folder says %s" % (path, " ".join(found) or "missing", expected)
        if not re.search(r"/v\d+/", path):
            yield "%s: lies in no version folder" % path


def source_files(root):
    for folder, folders, files in os.walk(root):
        skipped = (".", "bazel-", "__pycache__")
        folders[:] = sorted(f for f in folders if not f.startswith(skipped))
        for name in sorted(files):
            if name.endswith(SOURCES) or name in ("BUILD", "WORKSPACE"):
                yield os.path.relpath(os.path.join(folder, name), root)


def check_tree(root):
    """(number of files read, complaints)."""
    complaints, count = [], 0
    for path in source_files(root):
        count += 1
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            complaints.extend(check_file(path, file.read().splitlines()))
    return count, complaints
