"""What the daemons declare: their metrics pages, read as Prometheus does."""
import os
import re
import subprocess

DAEMONS = ("gpu_worker", "kv_store", "router")
SERIES = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
SUFFIXES = ("_bucket", "_count", "_sum")


class Metric:
    def __init__(self, name, kind, text):
        self.name, self.kind, self.help = name, kind, text
        self.labels = {}  # name -> values, in order

    def add(self, labels):
        for name, value in labels:
            if name not in ("le", "quantile") and value not in self.labels.setdefault(name, []):
                self.labels[name].append(value)


def parse(page):
    """name -> Metric of a page in Prometheus' text format."""
    metrics, text = {}, ""
    for line in page.splitlines():
        if line.startswith("# HELP "):
            text = line.split(" ", 3)[3]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            metrics[name] = Metric(name, kind, text)
            text = ""
        elif match := SERIES.match(line):
            base(match[1], metrics).add(LABEL.findall(match[2] or ""))
    return metrics


def base(series, metrics):
    """The metric that a series belongs to: series of a histogram end in _bucket, _count and _sum."""
    for suffix in SUFFIXES:
        if series not in metrics and series.endswith(suffix):
            return metrics[series[:-len(suffix)]]
    return metrics[series]


def declared(binaries):
    """daemon -> (name -> Metric); binaries: the folder that holds kv_store/kv_store and so on."""
    pages = {}
    for daemon in DAEMONS:
        binary = os.path.join(binaries, daemon, daemon)
        pages[daemon] = parse(subprocess.run([binary, "--print_metrics"], check=True, capture_output=True, text=True,
                                             timeout=60).stdout)
    return pages
