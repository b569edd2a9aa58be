"""HTTP itself: framing, refusals before the body, keep-alive, slow and silent clients, what a drain does to connections."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import threading
import time
import unittest

import daemon
from daemon import DEMO, N_LONG, SLOW, Daemon

ASK = b'{"input_ids": [5, 17], "max_tokens": 1}'
HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE = 60  # the daemon's own limits are 30 seconds


def receive(s, until=b"\r\n\r\n"):
    received = b""
    while until not in received:
        chunk = s.recv(65536)
        if not chunk:
            break
        received += chunk
    return received


def receive_all(s):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := s.recv(65536):
            received += chunk
    return received


class Wire(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def connect(self, timeout=10):
        s = socket.create_connection((self.d.host, self.d.port), timeout=timeout)
        self.addCleanup(s.close)
        return s

    def test_ambiguous_framing_is_400_at_once_and_ends_the_connection(self):
        length = b"Content-Length: %d\r\n" % len(ASK)
        hidden = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for extra in (length + length, length + b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
                      b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"Host: other\r\n" + length):
            with self.subTest(extra=extra):
                s = self.connect()
                s.sendall(HEAD + extra + b"\r\n")
                answer = receive_all(s)
                self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
                self.assertIn(b"connection: close", answer.lower())
                s = self.connect()
                s.sendall(HEAD + extra + b"\r\n0\r\n\r\n" + hidden)
                self.assertNotIn(b"version", receive_all(s))

    def test_a_wrong_method_names_the_right_ones(self):
        answer = self.d.call("PATCH", "/v1/adapters/x")
        self.assertEqual(answer.status, 405)
        self.assertEqual({m.strip() for m in answer.headers["allow"].split(",")}, {"GET", "PUT", "DELETE"})

    def test_a_body_that_waits_to_be_asked_for_is_refused_without_it(self):
        for path, status in ((b"/nothing", b"404"), (b"/health", b"405"), (b"/v1/generate", b"413")):
            s = self.connect()
            s.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
            self.assertTrue(receive(s).startswith(b"HTTP/1.1 " + status + b" "), path)

    def test_a_body_that_waits_to_be_asked_for_is_asked_for(self):
        s = self.connect()
        s.sendall(HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(ASK))
        self.assertTrue(receive(s).startswith(b"HTTP/1.1 100 "))
        s.sendall(ASK)
        self.assertTrue(receive(s).startswith(b"HTTP/1.1 200 "))

    def test_requests_sent_ahead_are_answered_in_order_also_after_an_error(self):
        s = self.connect()
        one = HEAD + b"Content-Length: %d\r\n\r\n" % len(ASK) + ASK
        wrong = HEAD + b"Content-Length: 2\r\n\r\n{}"
        missing = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        s.sendall(one + wrong + missing + one + last)
        statuses = [part[:3] for part in receive_all(s).split(b"HTTP/1.1 ")[1:]]
        self.assertEqual(statuses, [b"200", b"400", b"404", b"200", b"200"])

    def test_head_has_the_headers_of_get_and_no_body(self):
        answer = self.d.call("HEAD", "/version")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["content-length"], str(len(self.d.get("/version").body)))
        self.assertEqual(self.d.call("HEAD", "/v1/generate").status, 405)

    def test_a_path_of_any_bytes_is_404_in_json(self):
        for path in ("/%ff%fe", "/" + "%c3%a9" * 200, "/a%0d%0aX-Evil:%201", "/v1/adapters/%00", "/v1/adapters/%ff", "/%7f"):
            answer = self.d.get(path)
            self.assertEqual(answer.status, 404, (path, answer))
            self.assertNotIn("x-evil", answer.headers)
            self.assertTrue(answer.error["message"])

    def test_slow_and_silent_clients_are_cut_off(self):
        """All at once, since each takes half a minute."""
        silent, slow_head, slow_body, deaf = (self.connect(PATIENCE) for _ in range(4))
        slow_head.sendall(b"GET /health HTTP/1.1\r\n")
        slow_body.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
        text = json.dumps({"prompt": "abc " * 400000, "return_token_strs": True}).encode()
        deaf.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        ended, begin = {}, time.monotonic()

        def wait_for_end(name, s):
            with contextlib.suppress(ConnectionResetError):
                s.recv(1)
            ended[name] = time.monotonic() - begin

        def trickle(s, data):
            with contextlib.suppress(OSError):
                while time.monotonic() < begin + PATIENCE:
                    s.sendall(data)
                    time.sleep(1)

        waiting = [threading.Thread(target=wait_for_end, args=a)
                   for a in (("silent", silent), ("head", slow_head), ("body", slow_body))]
        for thread in waiting:
            thread.start()
        for s, data in ((slow_head, b"A: b\r\n"), (slow_body, b" ")):
            threading.Thread(target=trickle, args=(s, data), daemon=True).start()
        for thread in waiting:
            thread.join()
        for name in ("silent", "head", "body"):
            self.assertLess(ended[name], 45, ended)
        descriptors = pathlib.Path(f"/proc/{self.d.process.pid}/fd")

        def has_let_go():
            ends = [os.readlink(e) for e in descriptors.iterdir() if e.exists() or e.is_symlink()]
            return sum(e.startswith("socket:") for e in ends) == 1  # the one it listens on
        self.d.wait_for(lambda: has_let_go(), begin + PATIENCE + 10 - time.monotonic())
        head, _, body = receive_all(deaf).partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        self.assertLess(len(body), length)


class Draining(unittest.TestCase):
    LONG = {"input_ids": [5, 17, 42], "max_tokens": N_LONG, "ignore_eos": True, "temperature": 0}

    def test_new_connections_are_refused_and_kept_ones_are_told_to_close(self):
        with Daemon(*SLOW, model=DEMO) as d:
            kept = d.connect()
            self.addCleanup(kept.close)
            kept.request("GET", "/ready")
            kept.getresponse().read()
            answers = []
            thread = threading.Thread(target=lambda: answers.append(d.post("/v1/generate", self.LONG)))
            thread.start()
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            d.process.send_signal(signal.SIGTERM)
            d.wait_for(lambda: any("draining" in line for line in d.log))
            time.sleep(0.05)
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection((d.host, d.port), timeout=2).close()
            kept.request("GET", "/ready")
            answer = kept.getresponse()
            self.assertEqual(json.loads(answer.read()), {"status": "draining"})
            self.assertEqual((answer.status, answer.headers["Connection"].lower()), (503, "close"))
            thread.join()
            self.assertEqual(answers[0].status, 200)

    def test_a_client_that_closes_its_half_has_left(self):
        with Daemon(*SLOW, model=DEMO) as d:
            body = json.dumps(self.LONG).encode()
            with socket.create_connection((d.host, d.port), timeout=10) as s:
                s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
                s.shutdown(socket.SHUT_WR)
                d.wait_for(lambda: d.metrics()['lorad_requests_finished_total{reason="cancelled"}'] == 1, 5)


if __name__ == "__main__":
    daemon.main()
