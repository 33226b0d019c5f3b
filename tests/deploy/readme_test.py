"""The sizing table of README.md is what the tool says."""
import os
import subprocess
import unittest

import compose_file as cf

ROOT = os.path.join(cf.deploy_folder(), "..")
BINARIES = os.path.join(os.environ["TEST_SRCDIR"], "hga_serve") if "TEST_SRCDIR" in os.environ else ".bazel/bin"


class ReadmeTest(unittest.TestCase):
    def test_sizing_table(self):
        table = subprocess.run([os.path.join(BINARIES, "client/hga"), "size"], stdout=subprocess.PIPE, check=True,
                               universal_newlines=True).stdout
        self.assertGreater(table.count("\n"), 6, table)
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            self.assertIn("\n\n" + table, file.read(), "README.md needs:\n" + table)

    def test_files_named_in_the_readme_are_there(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            text = file.read()
        named = [part.split(")")[0] for part in text.split("](")[1:]]
        self.assertGreater(len(named), 5)
        for path in named:
            if "://" not in path:
                self.assertTrue(os.path.exists(os.path.join(ROOT, path.split("#")[0])), path)


if __name__ == "__main__":
    unittest.main()
