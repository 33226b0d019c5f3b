#!/usr/bin/env python3
"""Evaluates every query of the dashboards at a Prometheus that has scraped the daemons: evaluate.py URL BEGIN END

A query must parse, give at least one series with a finite value, never give an infinite one, and each label of its
legend must be there. Alerts must evaluate without an error.
"""
import math
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import boards  # noqa: E402
import live  # noqa: E402


def complaint(prometheus, expression, legend, begin, end):
    """What is wrong with a target; None if nothing is."""
    try:
        result = prometheus.over_time(expression, begin, end, 2)
    except ValueError as error:
        return f"does not evaluate: {error}"
    if not any(live.finite(points) for _, points in result):
        return "no finite value"
    if any(math.isinf(v) for _, points in result for _, v in points):
        return "an infinite value"
    for labels, _ in result:
        missing = [label for label in boards.legend_labels(legend) if label not in labels]
        if missing:
            return f"no label {missing} for its legend"
    return None


def main():
    prometheus = live.Prometheus(sys.argv[1])
    begin, end = float(sys.argv[2]), float(sys.argv[3])
    good, bad = 0, []
    for name, board in boards.load().items():
        for variable in board["templating"]["list"]:
            inner, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            values = {s.get(label) for s in prometheus.get("series", **{"match[]": inner})}
            print(f"{name}: ${variable['name']} = {sorted(values)}")
            if not values or None in values:
                bad.append(f"{name}: variable {variable['name']} has no values")
        for title, expression, legend in boards.targets(board):
            wrong = complaint(prometheus, expression, legend, begin, end)
            good += wrong is None
            if wrong:
                bad.append(f"{name}: {title} ({legend}): {wrong}\n    {expression}")
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            print(f"alert {rule['name']}: {rule['state']}")
            if rule["health"] != "ok":
                bad.append(f"alert {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
    print("\n".join(bad))
    print(f"{good} queries right, {len(bad)} complaints")
    sys.exit(1 if bad or good == 0 else 0)


if __name__ == "__main__":
    main()
