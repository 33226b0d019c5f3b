"""What the Dockerfile promises: bases, stages, users, and that what it copies is in the context."""
import fnmatch
import os
import re
import unittest

import compose_file as cf

DEPLOY = cf.deploy_folder()
ROOT = os.path.join(DEPLOY, "..")


def instructions(path):
    """[(word, rest)] with continued lines joined, comments left out."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file.read().split("\n") if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.split("\n") if line.strip()]


def in_context(path, rules):
    """Whether .dockerignore lets the path through; the last rule that fits it or a folder above it counts."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    included = True
    for rule in rules:
        pattern = rule.lstrip("!")
        names = above + [parts[-1]] if pattern.startswith("**/") else above
        if any(fnmatch.fnmatchcase(name, pattern.replace("**/", "")) for name in names):
            included = rule.startswith("!")
    return included


class DockerfileTest(unittest.TestCase):
    def setUp(self):
        self.lines = instructions(os.path.join(DEPLOY, "Dockerfile"))
        self.stages, stage = {}, None
        for word, rest in self.lines:
            if word == "FROM":
                stage = rest.split(" AS ")[1]
                self.stages[stage] = [("FROM", rest.split(" AS ")[0])]
            elif stage:
                self.stages[stage].append((word, rest))
        with open(os.path.join(ROOT, ".dockerignore"), encoding="utf-8") as file:
            self.rules = [line.strip() for line in file if line.strip() and not line.startswith("#")]

    def test_bases_are_debian_unless_told_otherwise(self):
        arguments = dict(rest.split("=", 1) for word, rest in self.lines if word == "ARG" and "_BASE=" in rest)
        self.assertEqual(set(arguments.values()), {"debian:bookworm-slim"})
        for name, lines in self.stages.items():
            base = lines[0][1]
            self.assertTrue(base in self.stages or base.strip("${}") in arguments, "%s FROM %s" % (name, base))

    def test_compose_builds_stages_that_are_there_and_run_as_the_same_user(self):
        services = cf.load(os.path.join(DEPLOY, "compose.yaml"), {})["services"]
        targets = {name: s["build"]["target"] for name, s in services.items() if "build" in s}
        self.assertEqual(set(targets), {"kv_store", "router", "gpu_worker"})
        for name, target in targets.items():
            users = [rest for word, rest in self.stages["runtime"] + self.stages[target] if word == "USER"]
            self.assertEqual(users[-1], services[name]["user"])
            entry = [rest for word, rest in self.stages[target] if word == "ENTRYPOINT"]
            self.assertIn('"/etc/hga/%s.toml"' % name, entry[0])
            self.assertTrue(os.path.exists(os.path.join(DEPLOY, "config", name + ".toml")))

    def test_runtime_stages_hold_no_build_tools(self):
        for name, lines in self.stages.items():
            if name == "build":
                continue
            for word, rest in lines:
                self.assertNotIn("install_packages", rest)
                if word == "RUN" and "install" in rest and "apt-get" in rest:
                    self.assertIn("--no-install-recommends", rest)
                    self.assertIn("rm -rf /var/lib/apt/lists", rest)
                    self.assertNotRegex(rest, r"-dev\b")

    def test_what_is_copied_is_in_the_context(self):
        copied = 0
        for word, rest in self.lines:
            if word != "COPY" or rest.startswith("--from"):
                continue
            for source in rest.split()[:-1]:
                if source == ".":
                    continue
                copied += 1
                self.assertTrue(os.path.exists(os.path.join(ROOT, source)), source)
                self.assertTrue(in_context(source, self.rules), source)
        self.assertGreater(copied, 0)

    def test_the_context_holds_what_is_built_and_nothing_private(self):
        for path in ("WORKSPACE", ".bazelrc", "kv_store/main.cc", "third_party/system/libraries.bzl",
                     "client/testing/BUILD"):
            self.assertTrue(in_context(path, self.rules), path)
        for path in (".git/config", ".hga/data/kv_store/CURRENT", ".bazel/bin/hga", "deploy/.env", "docs/x.md",
                     "client/run_test.cc", "tests/BUILD"):
            self.assertFalse(in_context(path, self.rules), path)


if __name__ == "__main__":
    unittest.main()
