"""Adapters over REST: load, replace, unload, upload, merge, mix; refusals that change nothing."""
import json
import shutil
import struct
import unittest

import daemon
from daemon import GOLDEN, Daemon, adapter_files, multipart, scratch

IDS = [5, 17, 42, 99, 7, 23, 64]
ADAPTERS = GOLDEN / "adapters"
PLAIN, OTHER, DORA = ADAPTERS / "llama.plain", ADAPTERS / "llama.rslora", ADAPTERS / "llama.dora"


class Adapters(unittest.TestCase):
    def setUp(self):
        self.scratch = scratch()
        self.dir = self.scratch.__enter__()
        self.state = self.dir / "state"
        self.d = Daemon("--adapters-dir", ADAPTERS, "--state-dir", self.state).__enter__()

    def tearDown(self):
        try:
            self.d.__exit__(None, None, None)
        finally:
            self.scratch.__exit__(None, None, None)

    def ids(self, **fields):
        answer = self.d.generate(input_ids=IDS, max_tokens=8, **fields)
        self.assertEqual(answer.status, 200, answer)
        return answer.json["token_ids"]

    def test_load_use_replace_unload(self):
        loaded = self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        self.assertEqual(loaded.status, 201, loaded)
        report = loaded.json
        self.assertEqual(report["tensors_applied"], report["tensors_present"])
        self.assertTrue(report["sites"] and all(s["scale"] > 0 for s in report["sites"]))
        first = self.ids(adapter="a")
        replaced = self.d.put("/v1/adapters/a", {"path": "llama.rslora"})
        self.assertEqual(replaced.status, 200, replaced)
        self.assertTrue(replaced.json["replaced"])
        self.assertNotEqual(self.ids(adapter="a"), first)
        again = self.d.put("/v1/adapters/a", {"path": "llama.rslora"})
        self.assertTrue(again.json["unchanged"])
        self.assertEqual(self.d.delete("/v1/adapters/a").status, 200)
        self.assertEqual(self.d.generate(input_ids=IDS, adapter="a").status, 404)
        self.assertEqual(self.d.delete("/v1/adapters/a").status, 404)

    def test_paths_are_confined(self):
        for path in ("../../../etc", "/etc", "llama.plain/../../models", "", "no-such"):
            with self.subTest(path=path):
                answer = self.d.put("/v1/adapters/a", {"path": path})
                self.assertIn(answer.status, (400, 404), answer)
        outside = self.dir / "outside"
        shutil.copytree(PLAIN, outside)
        self.assertEqual(self.d.put("/v1/adapters/a", {"path": str(outside)}).status, 400)

    def test_ids_follow_a_grammar(self):
        for name in ("-a", ".a", "a%20b", "a%2fb", "a" * 129, "%c3%a9"):
            answer = self.d.put(f"/v1/adapters/{name}", {"path": "llama.plain"})
            self.assertIn(answer.status, (400, 404), (name, answer))

    def test_a_failed_replace_leaves_the_old_generation(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        before = self.ids(adapter="a")
        bad = adapter_files(PLAIN)
        bad["adapter_model.safetensors"] = bad["adapter_model.safetensors"][:-4]
        body, headers = multipart(bad)
        answer = self.d.put("/v1/adapters/a", body, headers=headers)
        self.assertIn(answer.status, (400, 422), answer)
        self.assertEqual(self.ids(adapter="a"), before)
        self.d.wait_for(lambda: not list((self.state / "uploads").glob("*")))

    def test_an_upload_serves_like_the_same_files_from_a_path(self):
        body, headers = multipart(adapter_files(PLAIN))
        answer = self.d.put("/v1/adapters/up", body, headers=headers)
        self.assertEqual(answer.status, 201, answer)
        self.d.put("/v1/adapters/path", {"path": "llama.plain"})
        self.assertEqual(self.ids(adapter="up"), self.ids(adapter="path"))
        self.assertEqual(answer.json["sha256"], self.d.get("/v1/adapters/path").json["sha256"])

    def test_broken_uploads_are_refused_and_leave_nothing(self):
        files = adapter_files(PLAIN)
        good, headers = multipart(files)
        cases = [
            multipart({"adapter_config.json": files["adapter_config.json"]}),
            multipart({**files, "../../evil": b"x"}),
            multipart({**files, "adapter_model.bin": b"x"}),
            (good[:-10], headers),
            (b"", headers),
            (good, {"Content-Type": "multipart/form-data"}),
            (good, {"Content-Type": "multipart/form-data; boundary=other"}),
            multipart({**files, "adapter_config.json": b"x" * (2 << 20)}),
        ]
        for body, its_headers in cases:
            with self.subTest(n=len(body)):
                answer = self.d.put("/v1/adapters/a", body, headers=its_headers)
                self.assertIn(answer.status, (400, 413), answer)
        self.assertEqual(self.d.get("/v1/adapters").json["adapters"], [])
        self.d.wait_for(lambda: not list((self.state / "uploads").glob("*")))

    def test_damaged_weights_never_load(self):
        files = adapter_files(PLAIN)
        weights = files["adapter_model.safetensors"]
        n_header = struct.unpack("<Q", weights[:8])[0]
        header = json.loads(weights[8:8 + n_header])
        def with_header(text):
            return struct.pack("<Q", len(text)) + text + weights[8 + n_header:]
        first = next(k for k in header if k != "__metadata__")
        def changed(**fields):
            return with_header(json.dumps({**header, first: {**header[first], **fields}}).encode())
        twice = json.dumps(header)[:-1] + "," + json.dumps({first: header[first]})[1:]
        damaged = {
            "empty": b"", "seven bytes": weights[:7], "header alone": weights[:8 + n_header],
            "huge header": struct.pack("<Q", 2 ** 63) + weights[8:], "zero header": struct.pack("<Q", 0) + weights[8:],
            "trailing": weights + b"x", "not an object": with_header(b"[1, 2]  "), "duplicate": with_header(twice.encode()),
            "negative shape": changed(shape=[-1, 4]), "huge shape": changed(shape=[2 ** 62, 2 ** 62]),
            "float shape": changed(shape=[1.5]), "offsets back": changed(data_offsets=[8, 0]),
            "offsets beyond": changed(data_offsets=[0, 2 ** 40]), "dtype": changed(dtype="I32"),
            "unknown dtype": changed(dtype="F13"), "nan": None, "bad utf-8": with_header(b'{"\xff": {}}'),
        }
        begin = 8 + n_header + header[first]["data_offsets"][0]
        damaged["nan"] = weights[:begin] + struct.pack("<f", float("nan")) + weights[begin + 4:]
        for cut in range(0, len(weights), max(1, len(weights) // 40)):
            damaged[f"cut at {cut}"] = weights[:cut]
        for name, content in damaged.items():
            with self.subTest(name):
                body, headers = multipart({**files, "adapter_model.safetensors": content})
                answer = self.d.put("/v1/adapters/a", body, headers=headers)
                self.assertIn(answer.status, (400, 413, 422), answer)
                self.assertTrue(answer.error["message"])
        self.assertEqual(self.d.get("/v1/adapters/a").status, 404)

    def test_flipped_header_bits_are_refused_or_harmless(self):
        files = adapter_files(PLAIN)
        weights = files["adapter_model.safetensors"]
        n_header = struct.unpack("<Q", weights[:8])[0]
        for position in range(0, 8 + n_header, 37):
            flipped = bytearray(weights)
            flipped[position] ^= 1 << (position % 8)
            body, headers = multipart({**files, "adapter_model.safetensors": bytes(flipped)})
            answer = self.d.put("/v1/adapters/flip?dry_run=true", body, headers=headers)
            self.assertIn(answer.status, (200, 400, 413, 422), answer)
        self.assertEqual(self.d.get("/health").status, 200)

    def test_refused_adapters_say_why(self):
        for folder in sorted((GOLDEN / "refused").iterdir()):
            expect = json.loads((folder / "expect.json").read_text())
            if expect["model"] != "llama" or not (folder / "adapter_model.safetensors").exists():
                continue
            if not (folder / "adapter_config.json").exists():
                continue
            with self.subTest(folder.name):
                body, headers = multipart(adapter_files(folder))
                answer = self.d.put("/v1/adapters/r", body, headers=headers)
                status = {"mismatch": 422, "bad_input": 400, "not_found": 404, "too_large": 413}[expect["status"]]
                self.assertEqual(answer.status, status, answer)
                for part in expect["message_contains"]:
                    self.assertIn(part.lower(), answer.error["message"].lower())
        self.assertEqual(self.d.get("/v1/adapters").json["adapters"], [])

    def test_if_match_is_compare_and_set(self):
        sha = self.d.put("/v1/adapters/a", {"path": "llama.plain"}).json["sha256"]
        wrong = self.d.put("/v1/adapters/a", {"path": "llama.rslora"}, headers={"If-Match": '"' + "0" * 64 + '"'})
        self.assertEqual(wrong.status, 412, wrong)
        self.assertEqual(self.d.put("/v1/adapters/a", {"path": "llama.rslora"}, headers={"If-Match": "junk"}).status, 400)
        self.assertEqual(self.d.get("/v1/adapters/a").json["sha256"], sha)
        right = self.d.put("/v1/adapters/a", {"path": "llama.rslora"}, headers={"If-Match": f'"{sha}"'})
        self.assertEqual(right.status, 200, right)
        self.assertEqual(self.d.delete("/v1/adapters/a", headers={"If-Match": f'"{sha}"'}).status, 412)
        taken = self.d.put("/v1/adapters/a", {"path": "llama.plain"}, headers={"If-None-Match": "*"})
        self.assertEqual(taken.status, 409, taken)

    def test_a_dry_run_changes_nothing(self):
        answer = self.d.put("/v1/adapters/a?dry_run=true", {"path": "llama.plain"})
        self.assertEqual(answer.status, 200, answer)
        self.assertTrue(answer.json["dry_run"])
        self.assertEqual(self.d.get("/v1/adapters/a").status, 404)

    def test_merged_answers_say_so_and_agree(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        fly = self.d.generate(input_ids=IDS, max_tokens=8, adapter="a", mode="on_the_fly").json
        self.assertEqual(fly["adapter"]["mode"], "on_the_fly")
        merged = self.d.generate(input_ids=IDS, max_tokens=8, adapter="a", mode="merged", merge_wait_ms=20000).json
        self.assertEqual(merged["adapter"]["mode"], "merged")
        self.assertEqual(merged["token_ids"], fly["token_ids"])
        self.assertEqual(self.d.get("/v1/adapters/a").json["merged"], "yes")
        self.assertEqual(self.d.delete("/v1/adapters/a/merged").status, 200)
        self.assertEqual(self.d.get("/v1/adapters/a").json["merged"], "no")
        self.assertEqual(self.d.put("/v1/adapters/a/merged", {"wait_ms": 20000}).json["merged"], "yes")
        merge = self.d.get("/v1/adapters/a").json["merge"]
        self.assertEqual((merge["state"], merge["sites_merged"]), ("yes", merge["sites"]))
        self.assertGreater(merge["bytes"], 0)
        self.assertGreater(merge["price_us"], 0)
        self.assertEqual(self.d.metrics()['lorad_merge_decisions_total{decision="partly_merged"}'], 0)

    def test_merged_that_is_not_ready_is_served_on_the_fly_and_says_so(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        mode = self.d.generate(input_ids=IDS, max_tokens=2, adapter="a", mode="merged").json["adapter"]["mode"]
        self.assertIn(mode, ("on_the_fly", "merged"))
        self.d.wait_for(lambda: self.d.get("/v1/adapters/a").json["merged"] == "yes")

    def test_weights_of_several_adapters_add_up(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        self.d.put("/v1/adapters/b", {"path": "llama.rslora"})
        answer = self.d.generate(input_ids=IDS, max_tokens=8, adapters=[{"id": "a", "weight": 0.5}, {"id": "b", "weight": -0.5}])
        self.assertEqual(answer.status, 200, answer)
        parts = answer.json["adapter"]["parts"]
        self.assertEqual([(p["id"], p["weight"]) for p in parts], [("a", 0.5), ("b", -0.5)])
        self.assertEqual(answer.headers["x-adapter-digest"], ",".join(p["generation"] for p in parts))
        self.assertEqual(self.ids(adapters=[{"id": "a", "weight": 0}, {"id": "b", "weight": 0}]), self.ids())

    def test_what_cannot_be_mixed_is_refused(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        self.d.put("/v1/adapters/dora", {"path": "llama.dora"})
        answer = self.d.generate(input_ids=IDS, adapters=[{"id": "a"}, {"id": "dora"}])
        self.assertIn(answer.status, (400, 422), answer)
        self.assertIn(self.d.generate(input_ids=IDS, adapter="dora", scale=0.5).status, (400, 422))

    def test_vllms_calls_work(self):
        load = {"lora_name": "v", "lora_path": "llama.plain"}
        answer = self.d.post("/v1/load_lora_adapter", load)
        self.assertEqual((answer.status, answer.body.decode()), (200, "Success: LoRA adapter 'v' added successfully."))
        self.assertEqual(self.d.post("/v1/load_lora_adapter", load).status, 400)
        self.assertEqual(self.d.post("/v1/load_lora_adapter", {**load, "load_inplace": True}).status, 200)
        self.assertEqual(self.d.post("/v1/load_lora_adapter", {"lora_name": "w", "lora_path": "nowhere"}).status, 404)
        self.assertEqual(self.d.post("/v1/unload_lora_adapter", {"lora_name": "v"}).status, 200)
        self.assertEqual(self.d.post("/v1/unload_lora_adapter", {"lora_name": "v"}).status, 404)
        self.assertEqual(self.d.post("/v1/unload_lora_adapter", {"lora_name": ""}).status, 400)

    def test_the_registry_survives_a_restart(self):
        self.d.put("/v1/adapters/a", {"path": "llama.plain", "mode": "merged"})
        body, headers = multipart(adapter_files(OTHER))
        self.d.put("/v1/adapters/b", body, headers=headers)
        before = {x["id"]: (x["sha256"], x["mode"]) for x in self.d.get("/v1/adapters").json["adapters"]}
        first = self.ids(adapter="b")
        self.d.__exit__(None, None, None)
        self.d = Daemon("--adapters-dir", ADAPTERS, "--state-dir", self.state).__enter__()
        after = {x["id"]: (x["sha256"], x["mode"]) for x in self.d.get("/v1/adapters").json["adapters"]}
        self.assertEqual(after, before)
        self.assertEqual(self.ids(adapter="b"), first)
        self.d.delete("/v1/adapters/b")
        self.d.wait_for(lambda: not list((self.state / "uploads").glob("*")))

    def test_an_adapter_that_vanished_is_listed_as_failed(self):
        here = self.dir / "adapters"
        shutil.copytree(PLAIN, here / "x")
        self.d.__exit__(None, None, None)
        with Daemon("--adapters-dir", here, "--state-dir", self.state) as d:
            self.assertEqual(d.put("/v1/adapters/x", {"path": "x"}).status, 201)
        shutil.rmtree(here / "x")
        self.d = Daemon("--adapters-dir", here, "--state-dir", self.state).__enter__()
        info = self.d.get("/v1/adapters/x").json
        self.assertEqual(info["state"], "failed")
        self.assertTrue(info["error"])
        self.assertEqual(self.d.generate(input_ids=IDS, adapter="x").status, 503)

    def test_the_budget_refuses_what_does_not_fit(self):
        self.d.__exit__(None, None, None)
        self.d = Daemon("--adapters-dir", ADAPTERS, "--adapter-memory", "1K").__enter__()
        answer = self.d.put("/v1/adapters/a", {"path": "llama.plain"})
        self.assertEqual(answer.status, 413, answer)
        body, headers = multipart(adapter_files(PLAIN))
        self.assertGreaterEqual(self.d.put("/v1/adapters/a", body, headers=headers).status, 400)


if __name__ == "__main__":
    daemon.main()
