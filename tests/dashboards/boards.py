"""The committed dashboards and alerts."""
import json
import os
import re

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FOLDER = os.path.join(ROOT, "deploy", "grafana", "dashboards")
ALERTS = os.path.join(ROOT, "deploy", "prometheus", "alerts.yml")
RUNBOOK = os.path.join(ROOT, "docs", "runbook.md")


def load():
    """name -> dashboard"""
    boards = {}
    for file in sorted(os.listdir(FOLDER)):
        with open(os.path.join(FOLDER, file), encoding="utf-8") as text:
            boards[file.removesuffix(".json")] = json.load(text)
    return boards


def panels(board):
    return [p for p in board["panels"] if p["type"] != "row"]


def targets(board):
    """[(panel's title, expression, legend)]"""
    return [(p["title"], t["expr"], t["legendFormat"]) for p in panels(board) for t in p["targets"]]


def alerts():
    """[(name, expression)] of alerts.yml, which is written so that this finds them."""
    with open(ALERTS, encoding="utf-8") as file:
        text = file.read()
    rules = re.findall(r"- alert: (\w+)\n\s+expr: (?:\|\n((?:\s{10,}.*\n)+)|(.*)\n)", text)
    assert len(rules) == text.count("- alert:")
    return [(name, block or line) for name, block, line in rules]


def legend_labels(legend):
    return re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)
