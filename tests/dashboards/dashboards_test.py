#!/usr/bin/env python3
"""Dashboards and alerts name metrics and labels that the daemons declare; run.sh beside this runs them for real."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(TESTS, "support"), os.path.join(TESTS, "metrics")]
import boards  # noqa: E402
import counted_tests  # noqa: E402
import pages  # noqa: E402
import promql  # noqa: E402

BINARIES = os.path.join(os.environ.get("TEST_SRCDIR", ""), os.environ.get("TEST_WORKSPACE", ""))
DECLARED = {name: metric for page in pages.declared(BINARIES).values() for name, metric in page.items()}
# What Prometheus adds to every series, and to its own.
SCRAPED = {"instance", "job"}
BOARDS = boards.load()


def labels_of(series):
    """Labels that a series can have; None: no daemon declares it."""
    if series == "up":
        return SCRAPED
    try:
        metric = pages.base(series, DECLARED)
    except KeyError:
        return None
    return SCRAPED | set(metric.labels) | ({"le"} if metric.kind == "histogram" else set())


class Queries(unittest.TestCase):
    def check(self, expression):
        metrics, grouped = promql.names(expression)
        self.assertTrue(metrics, expression)
        known = set()
        for metric, labels in metrics:
            has = labels_of(metric)
            self.assertIsNotNone(has, f"{metric} is not declared: {expression}")
            self.assertLessEqual(labels, has, f"{metric} lacks a label: {expression}")
            known |= has
        self.assertLessEqual(grouped, known, expression)


class DashboardsTest(Queries):
    def test_they_are_what_the_generator_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, os.path.join(boards.ROOT, "deploy/grafana/make_dashboards.py"), folder],
                           check=True)
            for name in BOARDS:
                with open(os.path.join(folder, name + ".json"), encoding="utf-8") as made, \
                     open(os.path.join(boards.FOLDER, name + ".json"), encoding="utf-8") as committed:
                    self.assertEqual(made.read(), committed.read(), "run deploy/grafana/make_dashboards.py")

    def test_there_are_three_with_their_variables(self):
        self.assertEqual(set(BOARDS), {"overview", "tiers", "router"})
        self.assertEqual(len({board["uid"] for board in BOARDS.values()}), 3)
        for board in BOARDS.values():
            self.assertEqual([v["name"] for v in board["templating"]["list"]], ["instance", "model"])
            for variable in board["templating"]["list"]:
                inner, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                self.check(inner)
                self.assertIn(label, labels_of(promql.names(inner)[0][0][0]))

    def test_each_panel_states_its_question(self):
        for name, board in BOARDS.items():
            for panel in boards.panels(board):
                with self.subTest(board=name, panel=panel["title"]):
                    self.assertIn("?", panel["description"])
                    self.assertTrue(panel["targets"])
                    self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                    self.assertEqual(panel["datasource"]["uid"], "prometheus")

    def test_panels_do_not_overlap(self):
        for name, board in BOARDS.items():
            taken = {}
            for panel in board["panels"]:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                for x in range(at["x"], at["x"] + at["w"]):
                    for y in range(at["y"], at["y"] + at["h"]):
                        self.assertNotIn((x, y), taken, f"{name}: {panel['title']} over {taken.get((x, y))}")
                        taken[(x, y)] = panel["title"]

    def test_queries_name_what_is_declared(self):
        for name, board in BOARDS.items():
            for title, expression, legend in boards.targets(board):
                with self.subTest(board=name, panel=title):
                    self.check(expression)
                    self.assertIn("$instance", expression)
                    grouped = promql.names(expression)[1] | {"job"}
                    self.assertLessEqual(set(boards.legend_labels(legend)), grouped, legend)


class AlertsTest(Queries):
    def test_expressions_name_what_is_declared(self):
        self.assertGreaterEqual(len(boards.alerts()), 7)
        for name, expression in boards.alerts():
            with self.subTest(alert=name):
                self.check(expression)

    def test_each_has_its_paragraph_in_the_runbook(self):
        with open(boards.RUNBOOK, encoding="utf-8") as file:
            headings = re.findall(r"^## (\w+)$", file.read(), re.MULTILINE)
        self.assertEqual(sorted(headings), sorted(name for name, _ in boards.alerts()))
        with open(boards.ALERTS, encoding="utf-8") as file:
            links = re.findall(r"runbook: docs/runbook.md#(\w+)", file.read())
        self.assertEqual(sorted(links), sorted(name.lower() for name, _ in boards.alerts()))

    def test_promtool_fires_each_when_it_should(self):
        folder = os.environ.get("HGA_PROMETHEUS_DIR", "")
        promtool = os.path.join(folder, "promtool")
        if not os.path.exists(promtool):
            self.skipTest("no promtool; tests/dashboards/fetch_prometheus.sh brings it")
        tests = os.path.join(HERE, "alerts_test.yml")
        with open(tests, encoding="utf-8") as file:
            text = file.read()
        for name, _ in boards.alerts():
            self.assertIn(f"alertname: {name}\n", text, "no case in which it fires")
        config = os.path.join(boards.ROOT, "deploy/prometheus/prometheus.yml")
        for command in (["test", "rules", tests], ["check", "rules", boards.ALERTS],
                        ["check", "config", "--syntax-only", config]):
            run = subprocess.run([promtool, *command], capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


class PromqlTest(unittest.TestCase):
    def test_names(self):
        expression = 'sum by (tier) (rate(hga_a_total{job="x",tier=~"ram|disk"}[5m])) / on (job) up > 1e3'
        self.assertEqual(promql.names(expression),
                         ([("hga_a_total", {"job", "tier"}), ("up", set())], {"tier", "job"}))

    def test_unknown_function_is_refused(self):
        with self.assertRaises(ValueError):
            promql.names("median(hga_a_total)")


if __name__ == "__main__":
    counted_tests.main()
