#!/usr/bin/env python3
"""Counting: every way in which a target can end."""
import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import count_results  # noqa: E402

GOOD = '<testsuites><testsuite><testcase name="a"/><testcase name="b" status="run"/></testsuite></testsuites>'
MIXED = """<testsuites><testsuite>
<testcase name="a"><failure/></testcase>
<testcase name="b"><error/></testcase>
<testcase name="c"><skipped/></testcase>
<testcase name="d" status="notrun"/>
<testcase name="e"/>
</testsuite></testsuites>"""


class CountTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.events = []

    def target(self, label, status, xml=None):
        self.events.append({"id": {"targetConfigured": {"label": label}},
                            "configured": {"targetKind": "cc_test rule"}})
        if status is None:
            return
        if xml is not None:
            path = os.path.join(self.folder, "%d test.xml" % len(self.events))
            with open(path, "w", encoding="utf-8") as file:
                file.write(xml)
            output = [{"name": "test.xml", "uri": "file://" + path.replace(" ", "%20")}]
            self.events.append({"id": {"testResult": {"label": label, "run": 1, "shard": 1, "attempt": 1}},
                                "testResult": {"testActionOutput": output}})
        self.events.append({"id": {"testSummary": {"label": label}},
                            "testSummary": {"overallStatus": status}})

    def run_main(self, bazel_code):
        path = os.path.join(self.folder, "events.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(json.dumps(e) for e in self.events))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = count_results.main(path, bazel_code)
        return code, out.getvalue().splitlines()[-1]

    def test_all_pass(self):
        self.target("//a", "PASSED", GOOD)
        self.target("//b", "PASSED", GOOD)
        self.assertEqual(self.run_main(0), (0, "4 passed, 0 failed"))

    def test_failed_cases_and_skipped_ones(self):
        self.target("//a", "FAILED", MIXED)
        self.assertEqual(self.run_main(3), (1, "1 passed, 2 failed, 2 skipped"))

    def test_crash_without_failed_case_counts_once(self):
        self.target("//a", "FAILED", GOOD)
        self.target("//b", "TIMEOUT")
        self.assertEqual(self.run_main(3), (1, "2 passed, 2 failed"))

    def test_target_that_did_not_build(self):
        self.target("//a", "PASSED", GOOD)
        self.target("//b", None)
        self.assertEqual(self.run_main(1), (1, "2 passed, 1 failed"))

    def test_broken_build_without_targets(self):
        self.assertEqual(self.run_main(1), (1, "0 passed, 1 failed"))

    def test_nothing_ran(self):
        code, line = self.run_main(0)
        self.assertEqual((code, line), (1, "0 passed, 0 failed"))

    def test_unreadable_xml_of_a_passed_target_is_not_a_pass(self):
        self.target("//a", "PASSED", "<testsuites>")
        self.assertEqual(self.run_main(0), (1, "0 passed, 0 failed"))


if __name__ == "__main__":
    unittest.main()
