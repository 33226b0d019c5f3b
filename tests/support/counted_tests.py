"""Runs a unittest module as a Bazel test whose cases are counted one by one: counted_tests.main()."""
import os
import sys
import unittest
import xml.etree.ElementTree as ElementTree


class _Result(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.suite = ElementTree.Element("testsuite", name=os.path.basename(sys.argv[0]))

    def _case(self, test, outcome=None, message=""):
        case = ElementTree.SubElement(self.suite, "testcase", name=test.id(), classname=type(test).__name__)
        if outcome:
            ElementTree.SubElement(case, outcome, message=message)

    def addSuccess(self, test):
        super().addSuccess(test)
        self._case(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._case(test, "failure", str(err[1]))

    def addError(self, test, err):
        super().addError(test, err)
        self._case(test, "error", str(err[1]))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._case(test, "skipped", reason)


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(resultclass=_Result, verbosity=2).run(suite)
    if os.environ.get("XML_OUTPUT_FILE"):
        ElementTree.ElementTree(result.suite).write(os.environ["XML_OUTPUT_FILE"])
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
