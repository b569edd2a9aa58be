"""Starting, draining, clients that leave, time limits, the full queue."""
import concurrent.futures
import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
import unittest

import daemon
from daemon import ADAPTERS, DEMO, GOLDEN, N_LONG, SLOW, Daemon

IDS = [5, 17, 42]
LONG = {"input_ids": IDS, "max_tokens": N_LONG, "ignore_eos": True, "temperature": 0}
MODEL = DEMO


def post_and_leave(d, body, seconds):
    """Sends a request and closes the connection after a while without reading all of the answer."""
    data = json.dumps(body).encode()
    s = socket.create_connection((d.host, d.port))
    s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
              str(len(data)).encode() + b"\r\n\r\n" + data)
    time.sleep(seconds)
    s.close()


class Lifecycle(unittest.TestCase):
    def test_a_client_that_leaves_ends_its_request(self):
        with Daemon(*SLOW, model=MODEL) as d:
            for n, stream in ((1, False), (2, True)):
                post_and_leave(d, {**LONG, "stream": stream}, 0.15)
                d.wait_for(lambda: d.metrics()['lorad_requests_finished_total{reason="cancelled"}'] == n, 5)
            metrics = d.metrics()
            self.assertEqual(metrics["lorad_requests_running"], 0)
            self.assertEqual(metrics["lorad_kv_blocks_used"], 0)
            self.assertLess(metrics["lorad_completion_tokens_total"], 2 * N_LONG)

    def test_a_queued_client_that_leaves_never_runs_and_others_go_on(self):
        with Daemon(*SLOW, "--max-sequences", 1, model=MODEL) as d:
            alone = d.post("/v1/generate", LONG).json["token_ids"]
            answers = []
            running = threading.Thread(target=lambda: answers.append(d.post("/v1/generate", LONG).json["token_ids"]))
            running.start()
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            post_and_leave(d, LONG, 0.05)
            d.wait_for(lambda: d.metrics()["lorad_requests_waiting"] == 0)
            running.join()
            self.assertEqual(answers, [alone])
            self.assertEqual(d.metrics()['lorad_requests_finished_total{reason="cancelled"}'], 1)

    def test_unloading_by_force_ends_what_runs_and_what_waits(self):
        flags = (*SLOW, "--max-sequences", 1, "--adapter", f"sql={ADAPTERS / 'sql'}", "--adapter", f"date={ADAPTERS / 'date'}")
        with Daemon(*flags, model=MODEL) as d, concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = pool.submit(d.post, "/v1/generate", {**LONG, "adapter": "sql"})
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            waiting = pool.submit(lambda: list(d.stream("/v1/generate", {**LONG, "adapter": "sql"})))
            d.wait_for(lambda: d.metrics()["lorad_requests_waiting"] == 1)
            bystander = pool.submit(d.post, "/v1/generate", {**LONG, "max_tokens": 4, "adapter": "date"})
            d.wait_for(lambda: d.metrics()["lorad_requests_waiting"] == 2)
            self.assertEqual(d.delete("/v1/adapters/sql?force=maybe").status, 400)
            self.assertEqual(d.delete("/v1/adapters/sql?force=true").status, 200)
            answer = running.result(20)
            self.assertEqual((answer.status, answer.error["type"]), (503, "unavailable_error"), answer)
            self.assertIn("unloaded by force", answer.error["message"])
            self.assertIn("unloaded by force", waiting.result(20)[0]["error"]["message"])
            self.assertEqual(len(bystander.result(20).json["token_ids"]), 4)
            metrics = d.metrics()
            self.assertEqual(metrics['lorad_requests_finished_total{reason="cancelled"}'], 2)
            self.assertEqual(metrics["lorad_kv_blocks_used"], 0)
            self.assertLess(metrics["lorad_completion_tokens_total"], N_LONG)
            d.wait_for(lambda: d.get("/v1/adapters/sql").status == 404, 5)
            self.assertEqual(d.delete("/v1/adapters/sql?force=true").status, 404)

    def test_force_ends_what_an_unload_left_running(self):
        with Daemon(*SLOW, "--adapter", f"sql={ADAPTERS / 'sql'}", model=MODEL) as d, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(d.post, "/v1/generate", {**LONG, "adapter": "sql"})
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            self.assertEqual(d.delete("/v1/adapters/sql").status, 200)
            self.assertEqual(d.get("/v1/adapters/sql").json["state"], "draining")
            self.assertEqual(d.delete("/v1/adapters/sql").status, 404)
            self.assertEqual(d.delete("/v1/adapters/sql?force=true").status, 200)
            self.assertEqual(running.result(20).status, 503)

    def test_a_full_queue_is_429_with_retry_after(self):
        with Daemon(*SLOW, "--max-sequences", 1, "--max-queue", 1, model=MODEL) as d:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: d.post("/v1/generate", LONG), range(8)))
            refused = [a for a in answers if a.status == 429]
            served = [a for a in answers if a.status == 200]
            self.assertEqual(len(refused) + len(served), 8, answers)
            self.assertGreaterEqual(len(refused), 1)
            self.assertTrue(all("retry-after" in a.headers for a in refused))
            self.assertEqual(len({str(a.json["token_ids"]) for a in served}), 1)
            self.assertEqual(d.metrics()["lorad_requests_rejected_total"], len(refused))

    def test_a_time_limit_ends_a_request(self):
        with Daemon(*SLOW, model=MODEL) as d:
            answer = d.post("/v1/generate", {**LONG, "timeout_ms": 50})
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.json["finish_reason"], "timeout")
            self.assertLess(len(answer.json["token_ids"]), N_LONG)

    def test_sigterm_lets_running_requests_end(self):
        d = Daemon(*SLOW, model=MODEL)
        with d:
            answers = []
            thread = threading.Thread(target=lambda: answers.append(d.post("/v1/generate", LONG)))
            thread.start()
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            d.process.send_signal(signal.SIGTERM)
            thread.join()
            self.assertEqual(answers[0].status, 200)
            self.assertEqual(len(answers[0].json["token_ids"]), N_LONG)
            d.process.wait(10)
        self.assertEqual(d.process.returncode, 0)

    def test_a_draining_daemon_takes_no_new_requests(self):
        with Daemon(*SLOW, model=MODEL) as d:
            kept = d.connect()
            self.addCleanup(kept.close)
            kept.request("GET", "/ready")
            self.assertEqual(kept.getresponse().read(), b'{"status":"ready"}')
            thread = threading.Thread(target=lambda: d.post("/v1/generate", LONG))
            thread.start()
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            d.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            try:
                kept.request("POST", "/v1/generate", json.dumps(LONG))
                self.assertEqual(kept.getresponse().status, 503)
            except (http.client.RemoteDisconnected, ConnectionError):
                pass
            with self.assertRaises((ConnectionError, OSError, AssertionError)):
                self.assertEqual(d.get("/health").status, 0)
            thread.join()

    def test_a_second_signal_ends_what_runs(self):
        with Daemon(*SLOW, "--drain-seconds", 60, model=MODEL) as d:
            thread = threading.Thread(target=lambda: self._swallow(d))
            thread.start()
            d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 1)
            begin = time.monotonic()
            d.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            d.process.send_signal(signal.SIGTERM)
            d.process.wait(10)
            thread.join()
            self.assertLess(time.monotonic() - begin, 5)

    @staticmethod
    def _swallow(d):
        try:
            d.post("/v1/generate", {**LONG, "max_tokens": 1000})
        except (http.client.HTTPException, OSError):
            pass

    def test_many_clients_at_once_get_what_they_get_alone(self):
        with Daemon("--adapter", f"a={GOLDEN}/adapters/llama.plain", "--adapter", f"b={GOLDEN}/adapters/llama.dora") as d:
            asks = [dict(input_ids=[3 + i, 40 + i, 80 + i], max_tokens=20, logprobs=3, mode="on_the_fly", **({"adapter": "ab"[i % 3]} if i % 3 < 2 else {}))
                    for i in range(12)]
            alone = [d.generate(**ask).json for ask in asks]
            together = [None] * len(asks)
            def run(i):
                together[i] = d.generate(**asks[i]).json
            for _ in range(3):
                threads = [threading.Thread(target=run, args=(i,)) for i in range(len(asks))]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                for a, b in zip(alone, together):
                    self.assertEqual((a["token_ids"], a["logprobs"], a["text"]), (b["token_ids"], b["logprobs"], b["text"]))

    def test_wrong_command_lines_exit_2_and_say_why(self):
        for arguments, text in ((["serve"], "--model"), (["serve", "--model", "x", "--treads", "2"], "--treads"),
                                (["serve", "--model", "x", "--threads", "0"], "threads"), (["dance"], "dance"),
                                (["serve", "--model", "x", "--kv-memory", "lots"], "kv-memory"),
                                (["serve", "--model", "x", "--kv-type", "q8"], "kv-type"),
                                (["generate", "--model", "x"], "PROMPT"), (["merge", "--model", "x"], "--adapter")):
            done = subprocess.run([daemon.LORAD, *arguments], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, (arguments, done))
            self.assertIn(text, done.stderr)

    def test_a_model_that_is_not_there_exits_1(self):
        done = subprocess.run([daemon.LORAD, "serve", "--model", "/nonexistent", "--listen", "127.0.0.1:0"], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nonexistent", done.stderr)

    def test_flags_come_from_the_environment(self):
        with Daemon(env={"LORAD_SERVED_NAME": "from-environment"}) as d:
            self.assertEqual(d.get("/v1/models").json["data"][0]["id"], "from-environment")

    def test_packed_weights_are_kept_for_the_next_start(self):
        with daemon.scratch() as cache:
            texts, events = [], []
            flags = ("--weights", "q8", "--weights-cache", cache / "new" / "weights", "--adapter", f"plain={GOLDEN}/adapters/llama.plain")

            def start():
                with Daemon(*flags) as d:
                    texts.append([d.generate(prompt="Hello", max_tokens=12, **more).json["token_ids"] for more in
                                  ({}, {"adapter": "plain"}, {"adapter": "plain", "mode": "merged", "merge_wait_ms": 60000})])
                events.append(re.findall(r"level=(\S+) event=(weights_cache_\S+)", "".join(d.log)))

            start()
            start()
            (file,) = (cache / "new" / "weights").iterdir()
            with open(file, "r+b") as f:
                f.truncate(file.stat().st_size // 2)
            start()
            start()
            self.assertEqual(events, [[("info", "weights_cache_written")], [("info", "weights_cache_mapped")],
                                      [("warning", "weights_cache_refused"), ("info", "weights_cache_written")],
                                      [("info", "weights_cache_mapped")]])
            for text in texts:
                self.assertEqual(text, texts[0])
            self.assertEqual(list((cache / "new" / "weights").iterdir()), [file])

    def test_processes_share_one_cache(self):
        with daemon.scratch() as cache:
            flags = ("--weights-cache", cache)
            with Daemon(*flags) as a, Daemon(*flags) as b, Daemon(*flags) as c:
                answers = [d.generate(prompt="Hello", max_tokens=12).json["token_ids"] for d in (a, b, c)]
                self.assertEqual(answers, answers[:1] * 3)
            self.assertEqual(len(list(cache.iterdir())), 1)

    def test_without_room_for_the_cache_it_serves_and_says_so(self):
        with daemon.scratch() as cache:
            (cache / "file").write_text("in the way")
            with Daemon("--weights-cache", cache / "file" / "below") as d:
                self.assertEqual(d.generate(prompt="Hello", max_tokens=2).status, 200)
            self.assertRegex("".join(d.log), r"level=warning event=weights_cache_failed .*file")

    def test_every_command_has_help(self):
        for command in ("serve", "generate", "inspect", "merge", "bench"):
            done = subprocess.run([daemon.LORAD, command, "--help"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0)
            self.assertIn("--model", done.stdout)


if __name__ == "__main__":
    daemon.main()
