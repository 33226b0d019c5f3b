"""The systemd units, tried without systemd running: parsed, verified, hardened, true to the daemons' flags."""
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import compose_file as cf

UNITS = os.path.join(cf.deploy_folder(), "systemd")
BINARIES = os.path.join(os.environ["TEST_SRCDIR"], "hga_serve") if "TEST_SRCDIR" in os.environ else ".bazel/bin"
SERVICES = {"hga-kv-store.service": "kv_store", "hga-router.service": "router", "hga-gpu-worker.service": "gpu_worker"}
# What systemd-analyze says of a service: 0 is nothing allowed, 10 everything, in tenths.
MOST_EXPOSED = 25


class Unit:
    """Sections of repeated keys: unit["Service"]["Environment"] is a list."""

    def __init__(self, path):
        self.sections, section = {}, None
        with open(path, encoding="utf-8") as file:
            for line in file.read().split("\n"):
                if line.startswith("["):
                    section = self.sections.setdefault(line.strip("[]"), {})
                elif line and not line.startswith("#"):
                    key, value = line.split("=", 1)
                    section.setdefault(key, []).append(value)

    def __getitem__(self, section):
        return self.sections[section]


def binary(daemon):
    return os.path.join(BINARIES, daemon, daemon)


class UnitsTest(unittest.TestCase):
    def setUp(self):
        self.units = {name: Unit(os.path.join(UNITS, name)) for name in SERVICES}
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def install(self, *arguments):
        binaries = os.path.join(self.root, "built")
        for program in ("kv_store/kv_store", "kv_store/tool/kv_store_tool", "router/router", "gpu_worker/gpu_worker",
                        "client/hga"):
            path = os.path.join(binaries, program)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as file:
                file.write("#!/bin/sh\n")
            os.chmod(path, 0o755)
        target = os.path.join(self.root, "root")
        subprocess.run([os.path.join(UNITS, "install.sh"), "--bin", binaries, "--root", target, *arguments], check=True)
        return target

    def test_each_runs_as_its_own_user_and_restarts(self):
        for name, unit in self.units.items():
            with self.subTest(unit=name):
                service = unit["Service"]
                self.assertEqual((service["User"], service["Group"]), (["hga"], ["hga"]))
                self.assertEqual(service["Restart"], ["always"])
                self.assertEqual(service["CapabilityBoundingSet"], [""])
                self.assertEqual(service["RuntimeDirectoryPreserve"], ["yes"])

    def test_the_order_is_that_of_health(self):
        after = {name: set(" ".join(unit["Unit"].get("After", [])).split()) for name, unit in self.units.items()}
        self.assertEqual(after["hga-router.service"], {"hga-kv-store.service"})
        self.assertEqual(after["hga-gpu-worker.service"], {"hga-kv-store.service", "hga-router.service"})
        for name, unit in self.units.items():
            # A daemon that restarts must not take the others along: they attach again.
            self.assertNotIn("Requires", unit["Unit"])
            self.assertNotIn("BindsTo", unit["Unit"])
            post, start = unit["Service"]["ExecStartPost"][0], unit["Service"]["ExecStart"][0]
            self.assertEqual(post.split()[-1], re.search(r"--listen (\S+)", start).group(1), name)
            wait = int(re.search(r"--wait (\d+)", post).group(1))
            self.assertLess(wait, int(unit["Service"]["TimeoutStartSec"][0]))

    def test_there_is_time_to_write_back(self):
        service = self.units["hga-kv-store.service"]["Service"]
        flush = int(re.search(r"--shutdown_flush_seconds (\d+)", service["ExecStart"][0]).group(1))
        self.assertGreaterEqual(int(service["TimeoutStopSec"][0]), flush + 5)

    def test_sockets_of_one_unit_are_those_that_the_others_use(self):
        start = {name: unit["Service"]["ExecStart"][0] for name, unit in self.units.items()}
        listens = {SERVICES[name]: re.search(r"--listen (\S+)", line).group(1) for name, line in start.items()}
        for line in (start["hga-router.service"], start["hga-gpu-worker.service"]):
            self.assertIn("--kv_store " + listens["kv_store"], line)
        self.assertIn("--router " + listens["router"], start["hga-gpu-worker.service"])

    def test_flags_are_those_of_the_daemons(self):
        for name, daemon in SERVICES.items():
            with self.subTest(unit=name):
                self.assertTrue(os.path.exists(binary(daemon)), binary(daemon))
                help_text = subprocess.run([binary(daemon), "--help"], stdout=subprocess.PIPE, check=True,
                                           universal_newlines=True).stdout
                line = self.units[name]["Service"]["ExecStart"][0]
                self.assertEqual(line.split()[0], "/usr/local/bin/" + daemon)
                for flag in re.findall(r"--\w+", line):
                    self.assertRegex(help_text, re.escape(flag) + r"\b")

    def test_install_puts_everything_and_keeps_settings(self):
        root = self.install()
        setting = os.path.join(root, "etc/hga/kv_store.toml")
        with open(setting, "w", encoding="ascii") as file:
            file.write("# mine\n")
        self.install()
        with open(setting, encoding="ascii") as file:
            self.assertEqual(file.read(), "# mine\n")
        for unit in self.units.values():
            program, config = re.match(r"(\S+) --config (\S+)", unit["Service"]["ExecStart"][0]).groups()
            self.assertTrue(os.access(root + program, os.X_OK), program)
            self.assertTrue(os.path.exists(root + config), config)
        self.assertTrue(os.path.exists(os.path.join(root, "etc/hga/hga.env")))
        self.install("--uninstall")
        left = glob.glob(os.path.join(root, "etc/systemd/system/*")) + glob.glob(os.path.join(root, "usr/local/bin/*"))
        self.assertEqual(left, [])
        self.assertTrue(os.path.exists(setting))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_finds_no_fault(self):
        root = self.install()
        # The targets that every unit orders itself by.
        for name in ("basic", "sysinit", "shutdown", "multi-user"):
            path = os.path.join(root, "usr/lib/systemd/system/%s.target" % name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as file:
                file.write("[Unit]\nDescription=stands in\n")
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--root=" + root, *SERVICES, "hga.target"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False)
        ours = [line for line in done.stdout.split("\n") if "hga" in line]
        self.assertEqual((done.returncode, ours), (0, []), done.stdout)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_little_is_exposed(self):
        root = self.install()
        for name in SERVICES:
            with self.subTest(unit=name):
                done = subprocess.run(["systemd-analyze", "security", "--no-pager", "--offline=yes", "--root=" + root,
                                       "--threshold=%d" % MOST_EXPOSED, name], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, universal_newlines=True, check=False)
                self.assertIn("Overall exposure level", done.stdout)
                self.assertEqual(done.returncode, 0, done.stdout[-400:])


if __name__ == "__main__":
    unittest.main()
