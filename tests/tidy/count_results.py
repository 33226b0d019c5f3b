#!/usr/bin/env python3
"""Counts test cases: count_results.py BUILD_EVENTS BAZEL_EXIT_CODE.

Reads which test targets Bazel ran from its build events, and the cases of each from the XML it left. A target
that failed without a failed case in its XML (not built, crashed, out of time) counts as one failure.
The last line is "N passed, N failed" or "N passed, N failed, N skipped".
"""
import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree


def count_cases(path):
    """(passed, failed, skipped) of one test.xml; None if it cannot be read."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or "notrun" == case.get("status"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.bad = []  # (label, why, log path)

    def add_target(self, label, status, xml_paths, log_paths):
        target_passed = target_failed = 0
        for path in xml_paths:
            counts = count_cases(path)
            if counts is None:
                continue
            target_passed += counts[0]
            target_failed += counts[1]
            self.skipped += counts[2]
        if status not in ("PASSED", "FLAKY") and target_failed == 0:
            target_failed = 1
        self.passed += target_passed
        self.failed += target_failed
        if target_failed:
            self.bad.append((label, status, log_paths))

    def line(self):
        text = "%d passed, %d failed" % (self.passed, self.failed)
        return text + (", %d skipped" % self.skipped if self.skipped else "")


def local_path(uri):
    return urllib.parse.unquote(urllib.parse.urlparse(uri).path)


def read_events(path):
    """Label to (status, xml paths, log paths) of every test target; the last attempt of each run counts."""
    targets, summaries, results = set(), {}, {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            ident = event.get("id", {})
            if "targetConfigured" in ident and "test" in event.get("configured", {}).get("targetKind", ""):
                targets.add(ident["targetConfigured"]["label"])
            if "testSummary" in ident:
                status = event.get("testSummary", {}).get("overallStatus", "NO_STATUS")
                summaries[ident["testSummary"]["label"]] = status
            if "testResult" in ident and "testResult" in event:
                key = ident["testResult"]
                outputs = event["testResult"].get("testActionOutput", [])
                paths = {o["name"]: local_path(o.get("uri", "")) for o in outputs}
                results[(key["label"], key.get("run"), key.get("shard"))] = paths
    answer = {}
    for label in sorted(targets | set(summaries)):
        outputs = [o for (l, _, _), o in sorted(results.items(), key=str) if l == label]
        answer[label] = (summaries.get(label, "NOT BUILT"),
                         [o["test.xml"] for o in outputs if "test.xml" in o],
                         [o["test.log"] for o in outputs if "test.log" in o])
    return answer


def show_tail(path, lines=25):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            print("".join(file.readlines()[-lines:]).rstrip())
    except OSError as error:
        print("no log: %s" % error)


def main(events, bazel_code):
    tally = Tally()
    for label, (status, xml_paths, log_paths) in read_events(events).items():
        tally.add_target(label, status, xml_paths, log_paths)
    # 3: tests failed, which the XML tells; 4: no tests found. Anything else is a failure of its own.
    if bazel_code not in (0, 3) and tally.failed == 0:
        tally.failed = 1
        print("bazel ended with code %d" % bazel_code)
    for label, status, log_paths in tally.bad:
        print("\n=== %s: %s" % (label, status))
        for path in log_paths:
            show_tail(path)
    print("\n" + tally.line() if tally.bad else tally.line())
    return 0 if tally.failed == 0 and tally.passed > 0 and bazel_code == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
