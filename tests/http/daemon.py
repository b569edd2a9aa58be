"""The real daemon for tests: started on a free port, spoken to with the standard library alone."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "models" / "demo"
ADAPTERS = ROOT / "adapters"
SANITIZED = os.environ.get("LORAD_TEST_SANITIZED")  # "address", "thread" or nothing
# A daemon with SLOW on the demo takes about half a second and more for N_LONG tokens: time enough to do something in the middle. Plain C takes a
# quarter of a minute to start under ThreadSanitizer, where the rest is slow.
SLOW = () if SANITIZED == "thread" else ("--cpu", "c")
N_LONG = {"address": 150, "thread": 900}.get(SANITIZED, 400)
LORAD = None  # the program under test; main() sets it


class Answer:
    """A whole answer: status, headers (lower case), body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


class Daemon:
    """lorad serve with the given flags; `with Daemon(...) as d`."""

    def __init__(self, *flags, model=GOLDEN / "models" / "llama", env=None, wait=True):
        self.flags = ["serve", "--model", str(model), "--listen", "127.0.0.1:0", *map(str, flags)]
        # Without threads of OpenBLAS's own: ThreadSanitizer would keep a signal that one of them gets until it next makes a call.
        self.env, self.wait = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **(env or {})}, wait
        self.log = []

    def __enter__(self):
        self.process = subprocess.Popen([LORAD, *self.flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=self.env)
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()
        if self.wait:
            line = self.process.stdout.readline()
            match = re.search(r"ready on http://(\S+):(\d+)", line)
            if not match:
                self.process.wait(30)
                raise RuntimeError(f"did not start: {line!r} {''.join(self.log)}")
            self.host, self.port = match.group(1), int(match.group(2))
            self.ready_line = line
        return self

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self.reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
        if self.process.returncode != 0:
            raise RuntimeError(f"exit code {self.process.returncode}: {''.join(self.log)[-4000:]}")

    def connect(self, timeout=120):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def call(self, method, path, body=None, headers=None, timeout=120):
        """`body`: an object becomes JSON; bytes go as they are."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path, **kwargs):
        return self.call("GET", path, **kwargs)

    def post(self, path, body, **kwargs):
        return self.call("POST", path, body, **kwargs)

    def put(self, path, body=None, **kwargs):
        return self.call("PUT", path, body, **kwargs)

    def delete(self, path, **kwargs):
        return self.call("DELETE", path, **kwargs)

    def generate(self, **fields):
        return self.post("/v1/generate", {"temperature": 0, "ignore_eos": True, **fields})

    def stream(self, path, body):
        """The events of an SSE answer as objects; "[DONE]" as it is."""
        connection = self.connect()
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError((response.status, response.read()))
            for line in response:
                line = line.decode().rstrip("\r\n")
                if line.startswith("data: "):
                    yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
        finally:
            connection.close()

    def raw(self, data, timeout=20, half_close=False):
        """Sends bytes as they are and reads until the daemon closes or is silent."""
        with socket.create_connection((self.host, self.port), timeout=timeout) as s:
            s.sendall(data)
            if half_close:
                with contextlib.suppress(OSError):  # the daemon may have reset it already
                    s.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(socket.timeout, ConnectionResetError):
                while chunk := s.recv(65536):
                    received += chunk
                    if b"\r\n\r\n" in received:
                        s.settimeout(0.5)
            return received

    def metrics(self):
        values = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def resident_bytes(self):
        """The process's own memory. Pages of mapped files come and go as the kernel sees fit."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no RssAnon")

    def wait_for(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError("it did not come to be")


def multipart(files):
    """{file name: bytes} -> (body, headers)"""
    boundary = "----lorad-test-boundary"
    body = b""
    for name, content in files.items():
        body += (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
                 f"Content-Type: application/octet-stream\r\n\r\n").encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def adapter_files(directory):
    directory = pathlib.Path(directory)
    return {name: (directory / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}


@contextlib.contextmanager
def scratch():
    path = pathlib.Path(tempfile.mkdtemp(prefix="lorad-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def main():
    global LORAD
    LORAD = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__", verbosity=2)
