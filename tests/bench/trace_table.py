#!/usr/bin/env python3
"""Where the steps' time goes: trace_table.py FILE [--step decode|prefill] [--skip N] [--from N] [--to N] [--markdown]

Reads what gpu_worker --trace FILE wrote, also of a worker that was killed, and prints one row per span: the median of
its time in one layer or step, and its share of the time from the beginning of one step to the beginning of the next.
The first N steps of the kind are left out (default 2: what they touch for the first time is slow), and those outside
the positions that --from and --to name.
"""
import argparse
import bisect
import json
import statistics

# Spans that others in the table make up.
WHOLES = {"layer", "layers", "finish"}


def read_events(path):
    with open(path, encoding="utf-8") as file:
        text = file.read().rstrip().rstrip(",")
    return [e for e in json.loads(text if text.endswith("]") else text + "]") if e["ph"] == "X"]


def steps_of(events, kind):
    """The steps that another of the kind follows, each with the time and the spans until then."""
    steps = sorted((e for e in events if e["name"] in ("decode", "prefill")), key=lambda e: e["ts"])
    begins = [e["ts"] for e in steps]
    spans = [[] for _ in steps]
    for event in events:
        at = bisect.bisect_right(begins, event["ts"]) - 1
        if at >= 0 and event["name"] not in ("decode", "prefill"):
            spans[at].append(event)
    pairs = [(i, steps[i + 1]["ts"] - steps[i]["ts"]) for i in range(len(steps) - 1)
             if steps[i]["name"] == kind and steps[i + 1]["name"] == kind]
    return [(steps[i], period, spans[i]) for i, period in pairs]


def rows_of(steps):
    """(span, times in a step, median us of one, median us in a step) in the order of the trace; the median period."""
    order, single, per_step = [], {}, {}
    for number, (_, _, spans) in enumerate(steps):
        for span in sorted(spans, key=lambda e: e["ts"]):
            name = span["name"]
            if name in WHOLES:
                continue
            if name not in single:
                order.append(name)
                single[name], per_step[name] = [], [0.0] * len(steps)
            single[name].append(span["dur"])
            per_step[name][number] += span["dur"]
    period = statistics.median(p for _, p, _ in steps)
    rows = [(name, len(single[name]) / len(steps), statistics.median(single[name]), statistics.median(per_step[name]))
            for name in order]
    rest = statistics.median(p - sum(per_step[name][i] for name in order) for i, (_, p, _) in enumerate(steps))
    return rows + [("in no span", 1, rest, rest)], period


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--step", choices=["decode", "prefill"], default="decode")
    parser.add_argument("--skip", type=int, default=2)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--to", type=int, default=1 << 62)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    steps = steps_of(read_events(options.file), options.step)
    steps = [s for s in steps if options.first <= s[0]["args"]["position"] <= options.to][options.skip:]
    if not steps:
        raise SystemExit("no two %s steps in a row after the first %d" % (options.step, options.skip))
    rows, period = rows_of(steps)
    first, last = steps[0][0]["args"]["position"], steps[-1][0]["args"]["position"]
    print("%d %s steps at positions %d to %d, %.0f us from step to step (median)\n"
          % (len(steps), options.step, first, last, period))
    form = "| %s | %s | %s | %s | %s |" if options.markdown else "%-18s %8s %12s %12s %7s"
    print(form % ("span", "a step", "us, each", "us a step", "share"))
    if options.markdown:
        print("|---|---|---|---|---|")
    for name, times, each, total in rows:
        print(form % (name, "%.3g" % times, "%.1f" % each, "%.0f" % total, "%.1f%%" % (100 * total / period)))


if __name__ == "__main__":
    main()
