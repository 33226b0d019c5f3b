"""What compose.yaml promises: hardening, loopback ports, memory that holds the arena, both Compose versions."""
import os
import shutil
import subprocess
import unittest

import compose_file as cf

DEPLOY = cf.deploy_folder()
DAEMONS = ("kv_store", "router", "gpu_worker")
OWN_USE = 512 << 20  # of kv_store beside the arena: RocksDB, gRPC


class ComposeTest(unittest.TestCase):
    def setUp(self):
        self.env = cf.read_env(os.path.join(DEPLOY, ".env"))
        self.file = cf.load(os.path.join(DEPLOY, "compose.yaml"), self.env)
        self.services = self.file["services"]

    def each(self):
        for name, service in self.services.items():
            with self.subTest(service=name):
                yield name, service

    def test_every_service_is_hardened(self):
        for _, service in self.each():
            self.assertIs(service["read_only"], True)
            self.assertEqual(service["cap_drop"], ["ALL"])
            self.assertIn("no-new-privileges:true", service["security_opt"])
            self.assertNotIn(service["user"].split(":")[0], ("", "0", "root"))
            self.assertLessEqual(service["pids_limit"], 512)
            self.assertGreaterEqual(cf.size(service["mem_limit"]), 64 << 20)
            self.assertIn("max-size", service["logging"]["options"])
            for key in ("privileged", "cap_add", "pid", "ipc", "devices", "userns_mode"):
                self.assertNotIn(key, service)
            self.assertIn(service.get("network_mode", "none"), ("none",))
            for source, _, _ in cf.mounts(service):
                self.assertNotIn("docker.sock", source)

    def test_every_service_restarts_and_says_how_it_is(self):
        for name, service in self.each():
            if name == "load_model":
                continue
            self.assertEqual(service["restart"], "unless-stopped")
            self.assertIn("test", service["healthcheck"])

    def test_ports_are_published_on_loopback_only(self):
        published = 0
        for _, service in self.each():
            for port in service.get("ports", []):
                self.assertIsInstance(port, str)
                self.assertTrue(port.startswith("127.0.0.1:"), port)
                published += 1
        self.assertEqual(published, 4)

    def test_kv_store_and_router_cannot_be_reached_from_outside(self):
        self.assertIs(self.file["networks"]["metrics"]["internal"], True)
        for name in ("kv_store", "router"):
            service = self.services[name]
            self.assertEqual(service["networks"], ["metrics"])
            self.assertNotIn("ports", service)
            self.assertTrue(cf.flag(service, "listen").startswith("unix:/run/hga/"))

    def test_daemons_share_sockets_memory_and_user(self):
        for name in DAEMONS:
            service = self.services[name]
            self.assertEqual(service["user"], "10001:10001")
            for volume in (("run", "/run/hga", "rw"), ("shm", "/dev/shm", "nocopy")):
                self.assertIn(volume, cf.mounts(service))
        for volume in ("run", "shm"):
            options = self.file["volumes"][volume]["driver_opts"]
            self.assertEqual(options["type"], "tmpfs")
            for option in ("uid=10001", "gid=10001", "mode=0700", "noexec"):
                self.assertIn(option, options["o"].split(","))
        self.assertTrue(cf.flag(self.services["kv_store"], "arena_path").startswith("/dev/shm/"))
        self.assertEqual(cf.flag(self.services["router"], "ring_dir"), "/dev/shm")

    def test_memory_holds_the_arena(self):
        for env in (self.env, {}):
            with self.subTest(env=bool(env)):
                file = cf.load(os.path.join(DEPLOY, "compose.yaml"), env)
                kv_store = file["services"]["kv_store"]
                arena = cf.size(cf.flag(kv_store, "arena_bytes"))
                options = file["volumes"]["shm"]["driver_opts"]["o"].split(",")
                shm = cf.size([o for o in options if o.startswith("size=")][0][len("size="):])
                # The old arena stays readable while a restarted kv_store makes the new one.
                self.assertGreaterEqual(shm, 2 * arena + (16 << 20))
                self.assertGreaterEqual(cf.size(kv_store["mem_limit"]), arena + OWN_USE)

    def test_defaults_are_those_of_the_env_file(self):
        self.assertEqual(self.file, cf.load(os.path.join(DEPLOY, "compose.yaml"), {}))

    def test_there_is_time_to_write_back(self):
        kv_store = self.services["kv_store"]
        flush = int(cf.flag(kv_store, "shutdown_flush_seconds"))
        self.assertGreaterEqual(cf.seconds(kv_store["stop_grace_period"]), flush + 5)

    def test_the_start_is_ordered_by_health(self):
        self.assertEqual(set(self.services["router"]["depends_on"]), {"kv_store"})
        self.assertEqual(set(self.services["gpu_worker"]["depends_on"]), {"kv_store", "router"})
        for _, service in self.each():
            for condition in service.get("depends_on", {}).values():
                self.assertEqual(condition, {"condition": "service_healthy"})

    def test_both_versions_of_compose_can_read_it(self):
        for name in ("compose.yaml", "compose.gpu.yaml"):
            file = cf.load(os.path.join(DEPLOY, name), self.env)
            self.assertLessEqual({key for key in file if not key.startswith("x-")},
                                 {"services", "networks", "volumes"})
            for service in file["services"].values():
                self.assertNotIn("gpus", service)
                self.assertNotIn("env_file", service)
                self.assertNotIn("start_interval", service.get("healthcheck", {}))
        self.assertIn("COMPOSE_PROJECT_NAME", self.env)

    def test_what_is_mounted_from_here_is_here(self):
        for _, service in self.each():
            for source, _, mode in cf.mounts(service):
                if source.startswith("./"):
                    self.assertTrue(os.path.isdir(os.path.join(DEPLOY, source)), source)
                if source.startswith((".", "/")):
                    self.assertEqual(mode, "ro", source)

    def test_gpu_overlay_changes_the_volume_by_huge_pages_only(self):
        overlay = cf.load(os.path.join(DEPLOY, "compose.gpu.yaml"), self.env)
        ours = dict(self.file["volumes"]["shm"]["driver_opts"])
        theirs = dict(overlay["volumes"]["shm"]["driver_opts"])
        self.assertEqual(theirs.pop("o"), ours.pop("o") + ",huge=within_size")
        self.assertEqual(theirs, ours)
        devices = overlay["services"]["gpu_worker"]["deploy"]["resources"]["reservations"]["devices"]
        self.assertEqual(devices[0]["capabilities"], ["gpu"])
        self.assertLessEqual(set(overlay["services"]), set(self.services))

    @unittest.skipUnless(shutil.which("docker-compose"), "docker-compose is not installed")
    def test_docker_compose_takes_it(self):
        for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
            arguments = [argument for name in files for argument in ("-f", os.path.join(DEPLOY, name))]
            done = subprocess.run(["docker-compose", *arguments, "config"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, universal_newlines=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("hga/gpu_worker", done.stdout)


if __name__ == "__main__":
    unittest.main()
