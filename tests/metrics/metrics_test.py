#!/usr/bin/env python3
"""Metrics are named and described as they should be, and docs/metrics.md says what the daemons declare."""
import os
import re
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "support")]
import counted_tests  # noqa: E402
import pages  # noqa: E402
import reference  # noqa: E402
import unittest  # noqa: E402

BINARIES = os.path.join(os.environ.get("TEST_SRCDIR", ""), os.environ.get("TEST_WORKSPACE", ""))
DECLARED = pages.declared(BINARIES)
METRICS = [(daemon, metric) for daemon, page in DECLARED.items() for metric in page.values()]
# Names that Prometheus' client libraries and other inference servers have, units or not, are kept.
NAME = re.compile(r"^(hga|process)_[a-z0-9]+(_[a-z0-9]+)*$")
NOT_BASE_UNITS = re.compile(r"_(ms|us|ns|milliseconds|micros|kib|mib|gib|kb|mb|percent|pct)(_|$)")


class MetricsTest(unittest.TestCase):
    def test_reference_is_up_to_date(self):
        with open(reference.DOCUMENT, encoding="utf-8") as file:
            document = file.read()
        self.assertEqual(document, reference.with_generated(document, reference.generated(DECLARED)),
                         "run tests/metrics/reference.py and commit docs/metrics.md")

    def test_each_daemon_has_metrics(self):
        for daemon in pages.DAEMONS:
            self.assertGreater(len(DECLARED[daemon]), 15, daemon)
            self.assertIn("process_resident_memory_bytes", DECLARED[daemon])

    def test_names_and_units(self):
        for daemon, metric in METRICS:
            with self.subTest(metric=metric.name):
                self.assertRegex(metric.name, NAME)
                self.assertNotRegex(metric.name, NOT_BASE_UNITS)
                self.assertEqual(metric.name.endswith("_total"), metric.kind == "counter")
                self.assertFalse(metric.name.endswith(pages.SUFFIXES))

    def test_each_has_help(self):
        for daemon, metric in METRICS:
            with self.subTest(metric=metric.name):
                self.assertGreater(len(metric.help), 10)
                self.assertFalse(metric.help.endswith("."))

    def test_label_sets_are_bounded(self):
        for daemon, metric in METRICS:
            with self.subTest(metric=metric.name):
                series = 1
                for values in metric.labels.values():
                    series *= len(values)
                self.assertLessEqual(series, 32)


class ParserTest(unittest.TestCase):
    PAGE = ('# HELP a_seconds What\n# TYPE a_seconds histogram\n'
            'a_seconds_bucket{tier="ram",le="0.1"} 1\na_seconds_sum{tier="disk"} 2\na_seconds_count{tier="ram"} 1\n'
            '# HELP b_count Odd\n# TYPE b_count gauge\nb_count 3\n')

    def test_series_of_a_histogram_are_one_metric(self):
        metrics = pages.parse(self.PAGE)
        self.assertEqual(sorted(metrics), ["a_seconds", "b_count"])
        self.assertEqual(metrics["a_seconds"].labels, {"tier": ["ram", "disk"]})
        self.assertEqual(metrics["a_seconds"].help, "What")

    def test_undeclared_series_is_an_error(self):
        with self.assertRaises(KeyError):
            pages.parse("c_total 1\n")


if __name__ == "__main__":
    counted_tests.main()
