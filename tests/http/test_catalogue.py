"""Adapters that are loaded on their first use and make room for others: more of them than memory."""
import concurrent.futures
import shutil
import subprocess
import unittest

import daemon
from daemon import GOLDEN, Daemon, adapter_files, multipart, scratch

SOURCES = ["llama.plain", "llama.all-linear", "llama.dora", "llama.lora-bias", "llama.embed", "llama.head"]
ASK = {"input_ids": [5, 17, 42, 9], "max_tokens": 8, "temperature": 0, "logprobs": 1, "ignore_eos": True, "mode": "on_the_fly"}


def fill(directory, n):
    """n adapters: copies of a few."""
    for i in range(n):
        shutil.copytree(GOLDEN / "adapters" / SOURCES[i % len(SOURCES)], directory / f"copy-{i}")


def said(answer):
    assert answer.status == 200, answer
    return answer.json["token_ids"], answer.json["logprobs"], answer.json["adapter"]["generation"]


def budget_of(directory, n):
    """Bytes that n of the largest of them take."""
    with Daemon("--adapters-dir", directory) as d:
        sizes = [d.put(f"/v1/adapters/a{i}", {"path": f"copy-{i}"}).json["bytes"] for i in range(len(SOURCES))]
    return n * max(sizes)


class Catalogue(unittest.TestCase):
    def test_adapters_beyond_memory_answer_as_if_they_were_all_there(self):
        with scratch() as directory:
            fill(directory, 24)
            with Daemon("--adapters-dir", directory) as d:
                for i in range(24):
                    d.put(f"/v1/adapters/copy-{i}", {"path": f"copy-{i}"})
                expected = [said(d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"})) for i in range(24)]
            with Daemon("--adapters-dir", directory, "--lazy", "--adapter-memory", budget_of(directory, 4)) as d:
                turns = [i * 7 % 24 for i in range(96)]
                with concurrent.futures.ThreadPoolExecutor(3) as pool:
                    answers = list(pool.map(lambda i: said(d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"})), turns))
                self.assertEqual(answers, [expected[i] for i in turns])
                metrics = d.metrics()
                self.assertGreater(metrics["lorad_adapter_evictions_total"], 20)
                self.assertLessEqual(metrics["lorad_adapter_bytes"], metrics["lorad_adapter_bytes_limit"])
                listed = d.get("/v1/adapters").json["adapters"]
                self.assertEqual(len(listed), 24)
                self.assertEqual({entry["state"] for entry in listed}, {"ready", "available"})
                self.assertEqual(sum(entry["requests_total"] for entry in listed), 96)
                self.assertEqual(sum(entry["state"] == "ready" for entry in listed), metrics["lorad_adapters_loaded"])

    def test_the_first_use_loads_once_however_many_come(self):
        with scratch() as directory:
            fill(directory, 1)
            with Daemon("--adapters-dir", directory, "--lazy") as d:
                self.assertEqual(d.get("/v1/adapters").json["adapters"][0]["state"], "available")
                self.assertIn("copy-0", [model["id"] for model in d.get("/v1/models").json["data"]])
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    answers = list(pool.map(lambda _: said(d.post("/v1/generate", {**ASK, "adapter": "copy-0"})), range(8)))
                self.assertEqual(len(set(map(str, answers))), 1)
                self.assertEqual(d.get("/v1/adapters/copy-0").json["loads_total"], 1)

    def test_what_is_not_there_is_404_and_what_is_broken_says_why_until_it_is_mended(self):
        with scratch() as directory:
            fill(directory, 2)
            weights = directory / "copy-1" / "adapter_model.safetensors"
            whole = weights.read_bytes()
            weights.write_bytes(whole[:-5])
            with Daemon("--adapters-dir", directory, "--lazy") as d:
                for name in ("nobody", "..", "copy-0/../copy-0", "a" * 200):
                    answer = d.post("/v1/generate", {**ASK, "adapter": name})
                    self.assertIn(answer.status, (400, 404), answer)
                for _ in range(2):
                    answer = d.post("/v1/generate", {**ASK, "adapter": "copy-1"})
                    self.assertIn(answer.status, (400, 422), answer)
                    self.assertIn("safetensors", answer.error["message"])
                weights.write_bytes(whole)
                said(d.post("/v1/generate", {**ASK, "adapter": "copy-1"}))

    def test_a_pinned_adapter_stays(self):
        with scratch() as directory:
            fill(directory, 12)
            with Daemon("--adapters-dir", directory, "--lazy", "--adapter-memory", budget_of(directory, 2)) as d:
                answer = d.put("/v1/adapters/copy-0", {"path": "copy-0", "pin": True})
                self.assertEqual(answer.status, 201, answer)
                for i in range(1, 12):
                    said(d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"}))
                info = d.get("/v1/adapters/copy-0").json
                self.assertEqual((info["state"], info["pinned"], info["loads_total"]), ("ready", True, 1))
                d.put("/v1/adapters/copy-0", {"path": "copy-0", "pin": False})
                for i in range(1, 12):
                    said(d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"}))
                self.assertEqual(d.get("/v1/adapters/copy-0").json["state"], "available")

    def test_when_all_is_pinned_a_load_says_what_is_in_the_way(self):
        with scratch() as directory:
            fill(directory, 12)
            with Daemon("--adapters-dir", directory, "--lazy", "--adapter-memory", budget_of(directory, 1)) as d:
                self.assertEqual(d.put("/v1/adapters/copy-5", {"path": "copy-5", "pin": True}).status, 201)
                refused = [answer for answer in (d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"}) for i in range(5))
                           if answer.status != 200]
                self.assertTrue(refused)
                for answer in refused:
                    self.assertEqual((answer.status, answer.error["param"]), (413, "adapter_memory"))
                    self.assertIn("pinned", answer.error["message"])

    def test_over_a_restart_they_are_available_and_the_pinned_ones_are_there(self):
        with scratch() as directory, scratch() as state:
            fill(directory, 3)
            flags = "--adapters-dir", directory, "--state-dir", state, "--lazy"
            with Daemon(*flags) as d:
                d.put("/v1/adapters/kept", {"path": "copy-0", "pin": True})
                d.put("/v1/adapters/other", {"path": "copy-1"})
                body, headers = multipart(adapter_files(directory / "copy-2"))
                self.assertEqual(d.put("/v1/adapters/sent", body, headers=headers).status, 201)
                expected = {name: said(d.post("/v1/generate", {**ASK, "adapter": name})) for name in ("kept", "other", "sent")}
            with Daemon(*flags) as d:
                states = {entry["id"]: entry["state"] for entry in d.get("/v1/adapters").json["adapters"]}
                self.assertEqual({name: states[name] for name in expected},
                                 {"kept": "ready", "other": "available", "sent": "available"})
                ready = [entry["id"] for entry in d.get("/v1/adapters?state=ready").json["adapters"]]
                self.assertEqual(ready, ["kept"])
                self.assertEqual(d.get("/v1/adapters?state=asleep").status, 400)
                for name in expected:
                    self.assertEqual(said(d.post("/v1/generate", {**ASK, "adapter": name})), expected[name])

    def test_a_deleted_one_comes_back_while_its_directory_is_there(self):
        with scratch() as directory:
            fill(directory, 1)
            with Daemon("--adapters-dir", directory, "--lazy") as d:
                first = said(d.post("/v1/generate", {**ASK, "adapter": "copy-0"}))
                self.assertEqual(d.delete("/v1/adapters/copy-0").status, 200)
                self.assertEqual(said(d.post("/v1/generate", {**ASK, "adapter": "copy-0"})), first)
                self.assertEqual(d.delete("/v1/adapters/copy-0").status, 200)
                shutil.rmtree(directory / "copy-0")
                self.assertEqual(d.post("/v1/generate", {**ASK, "adapter": "copy-0"}).status, 404)

    def test_changed_files_are_a_new_generation(self):
        with scratch() as directory:
            fill(directory, 12)
            with Daemon("--adapters-dir", directory, "--lazy", "--adapter-memory", budget_of(directory, 2)) as d:
                before = said(d.post("/v1/generate", {**ASK, "adapter": "copy-0"}))
                for i in range(1, 12):
                    d.post("/v1/generate", {**ASK, "adapter": f"copy-{i}"})
                self.assertEqual(d.get("/v1/adapters/copy-0").json["state"], "available")
                shutil.rmtree(directory / "copy-0")
                shutil.copytree(GOLDEN / "adapters" / "llama.bf16", directory / "copy-0")
                after = said(d.post("/v1/generate", {**ASK, "adapter": "copy-0"}))
                self.assertNotEqual(before[2], after[2])

    def test_lazy_needs_a_directory(self):
        done = subprocess.run([daemon.LORAD, "serve", "--model", GOLDEN / "models" / "llama", "--listen", "127.0.0.1:0", "--lazy"],
                              capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("adapters-dir", done.stderr)


if __name__ == "__main__":
    daemon.main()
