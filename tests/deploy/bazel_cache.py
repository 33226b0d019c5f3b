"""Serves a Bazel disk cache over HTTP at 127.0.0.1, so that builds inside of containers share it.

usage: bazel_cache.py FOLDER PORT_FILE     writes its port there once it listens; ends with its parent
"""
import http.server
import os
import re
import sys
import tempfile
import threading
import time

PATH = re.compile(r"^/(ac|cas)/([0-9a-f]{64})$")


class Cache(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = ""

    def place(self):
        match = PATH.match(self.path)
        if not match:
            self.answer(400)
            return None
        kind, key = match.groups()
        return os.path.join(self.folder, kind, key[:2], key)

    def answer(self, code, length=0):
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def do_GET(self):
        path = self.place()
        if not path:
            return
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            self.answer(404)
            return
        self.answer(200, len(data))
        self.wfile.write(data)

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.place()
        if not path:
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
            file.write(data)
        os.replace(file.name, path)  # whoever reads it finds all of it or nothing
        self.answer(200)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # Bazel opens a hundred connections at once


def end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main():
    Cache.folder, port_file = sys.argv[1:3]
    os.makedirs(Cache.folder, exist_ok=True)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    server = Server(("127.0.0.1", 0), Cache)
    with open(port_file, "w", encoding="ascii") as file:
        file.write(str(server.server_address[1]))
    server.serve_forever()


main()
