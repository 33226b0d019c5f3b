#!/usr/bin/env python3
"""The tree keeps to tree.py's rules, and the rules catch what they are there for."""
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)
import tree  # noqa: E402


class TreeTest(unittest.TestCase):
    def test_tree_is_tidy(self):
        count, complaints = tree.check_tree(os.path.dirname(os.path.dirname(HERE)))
        self.assertGreater(count, 100, "the tree was not found from " + HERE)
        self.assertFalse(complaints, "\n" + "\n".join(complaints))


class RulesTest(unittest.TestCase):
    def check(self, path, text):
        """Complaints about a tree of one file."""
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.dirname(os.path.join(root, path)))
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
            count, complaints = tree.check_tree(root)
        self.assertEqual(count, 1)
        return complaints

    def test_other_service(self):
        for path, target in [
            ("client/a.cc", "kv_store/client/kv_client.h"),
            ("kv_store/store/a.h", "router/client/route_client.h"),
            ("gpu_worker/engine/a.cc", "kv_store/store/block_store.h"),
            ("router/index/a_test.cc", "gpu_worker/model/config.h"),
            ("common/kv/a.h", "kv_store/client/kv_client.h"),
            ("gpu_worker/main.cc", "tests/support/stack.h"),
        ]:
            with self.subTest(path=path, target=target):
                complaints = self.check(path, '#include "%s"\n' % target)
                self.assertEqual(len(complaints), 1)
                self.assertIn("%s:1: includes" % path, complaints[0])

    def test_upward(self):
        for path, target in [
            ("gpu_worker/model/a.cc", "gpu_worker/engine/step_loop.h"),
            ("gpu_worker/backend/cpu/a.cc", "gpu_worker/service/service.h"),
            ("kv_store/arena/a.cc", "kv_store/store/block_store.h"),
            ("kv_store/store/a.cc", "kv_store/options.h"),
            ("kv_store/nowhere/a.cc", "kv_store/store/block_store.h"),
        ]:
            with self.subTest(path=path, target=target):
                self.assertEqual(len(self.check(path, '  #  include "%s"\n' % target)), 1)

    def test_allowed(self):
        for path, target in [
            ("gpu_worker/engine/a.cc", "kv_store/client/kv_client.h"),
            ("gpu_worker/main.cc", "gpu_worker/service/service.h"),
            ("kv_store/client/a_test.cc", "kv_store/service/service.h"),
            ("client/a.cc", "proto/gpu_worker/v1/gpu_worker.pb.h"),
            ("tests/integration/a.cc", "gpu_worker/engine/step_loop.h"),
            ("common/kv/a.cc", "absl/strings/str_cat.h"),
        ]:
            with self.subTest(path=path, target=target):
                self.assertEqual(self.check(path, '#include "%s"\n' % target), [])

    def test_length(self):
        self.assertEqual(self.check("common/a.cc", "\n" * 600), [])
        self.assertEqual(len(self.check("common/a.cc", "\n" * 601)), 1)

    def test_columns(self):
        self.assertEqual(self.check("tests/BUILD", "x" * 120 + "\n"), [])
        self.assertEqual(len(self.check("tests/BUILD", "x" * 121 + "\n")), 1)
        self.assertEqual(self.check("client/a.py", "\u00e4" * 120 + "\n"), [])  # characters, not bytes

    def test_marker(self):
        self.assertEqual(len(self.check("common/a.cc", "// " + "TO" + "DO(me): later\n")), 1)
        self.assertEqual(self.check("common/a.cc", 'mkdtemp("/tmp/hga.' + "X" * 6 + '")\n'), [])

    def test_proto_package(self):
        self.assertEqual(self.check("proto/router/v1/router.proto", "package hga.router.v1;\n"), [])
        self.assertEqual(len(self.check("proto/router/v1/router.proto", "package hga.router.v2;\n")), 1)
        self.assertEqual(len(self.check("proto/router/v1/router.proto", "\n")), 1)
        self.assertEqual(len(self.check("proto/router/router.proto", "package hga.router;\n")), 1)


if __name__ == "__main__":
    unittest.main()
