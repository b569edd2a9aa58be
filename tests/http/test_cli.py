"""The commands that work without a daemon: generate, inspect, merge, bench."""
import json
import os
import shutil
import subprocess
import unittest

import daemon
from daemon import DEMO, GOLDEN, Daemon, scratch

MODEL = GOLDEN / "models" / "llama"
ADAPTERS = GOLDEN / "adapters"
PROMPT = "Hello there, wörld"


def lorad(*arguments, stdin=None, code=0):
    done = subprocess.run([daemon.LORAD, *map(str, arguments)], capture_output=True, input=stdin, timeout=300)
    if done.returncode != code:
        raise AssertionError((arguments, done))
    return done.stdout.decode()


class Generate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon("--adapter", f"plain={ADAPTERS}/llama.plain", "--adapter", f"rslora={ADAPTERS}/llama.rslora").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def served(self, **fields):
        return self.d.generate(prompt=PROMPT, max_tokens=16, **fields).json["text"] + "\n"

    def say(self, *flags, prompt=PROMPT, **kwargs):
        return lorad("generate", "--model", MODEL, "--temperature", 0, "--ignore-eos", "--max-tokens", 16, *flags, prompt, **kwargs)

    def test_it_says_what_the_daemon_says(self):
        plain, rslora = f"plain={ADAPTERS}/llama.plain", f"rslora={ADAPTERS}/llama.rslora"
        self.assertEqual(self.say(), self.served())
        self.assertEqual(self.say("--adapter", plain), self.served(adapter="plain"))
        self.assertEqual(self.say("--adapter", plain, "--scale", 0.5), self.served(adapter="plain", scale=0.5))
        self.assertEqual(self.say("--adapter", plain, "--scale", 0), self.served())
        self.assertEqual(self.say("--adapter", plain, "--merged"),
                         self.served(adapter="plain", mode="merged", merge_wait_ms=60000))
        mix = [{"id": "plain", "weight": 0.5}, {"id": "rslora", "weight": -1}]
        self.assertEqual(self.say("--adapter", plain + ":0.5", "--adapter", rslora + ":-1"), self.served(adapters=mix))

    def test_a_prompt_may_come_from_standard_input(self):
        self.assertEqual(self.say(prompt="-", stdin=PROMPT.encode()), self.say())

    def test_the_weights_cache_changes_nothing(self):
        with scratch() as cache:
            said = [self.say("--weights", "q4", *flags) for flags in ((), ("--weights-cache", cache), ("--weights-cache", cache))]
            self.assertEqual(said, said[:1] * 3)
            self.assertEqual(len(list(cache.iterdir())), 1)

    def test_echo_and_seed(self):
        self.assertEqual(self.say("--echo"), PROMPT + self.say())
        drawn = [self.say("--temperature", 1.5, "--seed", seed) for seed in (1, 1, 2)]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_what_cannot_be_served_exits_1_and_says_why(self):
        for flags in (["--adapter", "x=/nonexistent"], ["--adapter", f"q={ADAPTERS}/qwen2.plain"], ["--max-tokens", 10 ** 9],
                      ["--adapter", f"a={ADAPTERS}/llama.plain", "--adapter", f"a={ADAPTERS}/llama.rslora"]):
            with self.subTest(flags=flags):
                self.assertEqual(self.say(*flags, code=1), "")


class Inspect(unittest.TestCase):
    def test_an_adapter_that_fits_exits_0_with_its_report(self):
        report = json.loads(lorad("inspect", ADAPTERS / "llama.plain", "--model", MODEL, "--json"))
        self.assertTrue(report["fits"])
        self.assertEqual(report["report"]["tensors_applied"], report["report"]["tensors_present"])
        self.assertIn("fits", lorad("inspect", ADAPTERS / "llama.plain", "--model", MODEL))

    def test_an_adapter_that_does_not_fit_exits_1_and_says_why(self):
        report = json.loads(lorad("inspect", ADAPTERS / "qwen2.plain", "--model", MODEL, "--json", code=1))
        self.assertFalse(report["fits"])
        self.assertTrue(report["problem"]["message"])
        self.assertIn("does not fit", lorad("inspect", ADAPTERS / "qwen2.plain", "--model", MODEL, code=1))

    def test_a_broken_one_exits_1_with_and_without_a_base(self):
        with scratch() as directory:
            shutil.copytree(ADAPTERS / "llama.plain", directory / "a")
            weights = directory / "a" / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1])
            self.assertEqual(lorad("inspect", directory / "a", code=1), "")
            self.assertIn("does not fit", lorad("inspect", directory / "a", "--model", MODEL, code=1))
            lorad("inspect", directory, code=1)
            lorad("inspect", directory / "a", "--model", directory, code=1)

    def test_a_model_is_described(self):
        self.assertEqual(json.loads(lorad("inspect", MODEL, "--json"))["family"], "llama")
        self.assertIn("a llama model", lorad("inspect", MODEL))

    def test_texts_of_an_adapter_do_not_reach_the_terminal_raw(self):
        with scratch() as directory:
            shutil.copytree(ADAPTERS / "llama.plain", directory / "a")
            config = directory / "a" / "adapter_config.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "x\x1b[2Jy\x9bz\nw"}))
            for flags in ([], ["--model", MODEL]):
                text = lorad("inspect", directory / "a", *flags)
                self.assertNotRegex(text, "[\x00-\x09\x0b-\x1f\x7f-\x9f]")
                self.assertIn("[2Jy", text)


class Merge(unittest.TestCase):
    def test_a_merged_directory_answers_like_the_merged_adapter(self):
        exact = "--kv-type", "f32"  # so that a last place of W' stays one
        with scratch() as directory, Daemon("--adapter", f"plain={ADAPTERS}/llama.plain", *exact) as d:
            out = directory / "merged"
            lorad("merge", "--model", MODEL, "--adapter", f"{ADAPTERS}/llama.plain", "-o", out)
            ask = dict(prompt=PROMPT, max_tokens=24, logprobs=0)
            want = d.generate(**ask, adapter="plain", mode="merged", merge_wait_ms=60000).json
            self.assertEqual(want["adapter"]["mode"], "merged")
            with Daemon(*exact, model=out) as merged:
                got = merged.generate(**ask).json
            self.assertIsNone(got["adapter"])
            self.assertEqual(got["token_ids"], want["token_ids"])
            for a, b in zip(got["logprobs"], want["logprobs"]):
                self.assertAlmostEqual(a["logprob"], b["logprob"], delta=1e-4)

    def test_nothing_is_overwritten_or_left_behind(self):
        with scratch() as directory:
            (directory / "full").mkdir()
            (directory / "full" / "file").write_text("mine")
            lorad("merge", "--model", MODEL, "--adapter", ADAPTERS / "llama.plain", "-o", directory / "full", code=1)
            self.assertEqual((directory / "full" / "file").read_text(), "mine")
            lorad("merge", "--model", MODEL, "--adapter", ADAPTERS / "qwen2.plain", "-o", directory / "new", code=1)
            self.assertEqual([p.name for p in directory.iterdir()], ["full"])


def complaint(*arguments):
    """Of a command line that is wrong: one line on stderr."""
    done = subprocess.run([daemon.LORAD, *map(str, arguments)], capture_output=True, timeout=300)
    assert done.returncode == 2 and not done.stdout, (arguments, done)
    return done.stderr.decode()


TINY = ["--limits-seconds", 0.001, "--limits-buffer", "8M"]


class Limits(unittest.TestCase):
    def test_the_machine_is_measured_without_a_model(self):
        report = json.loads(lorad("bench", "--limits", "--json", "--threads", 2, "--repeats", 3, *TINY))
        self.assertEqual((report["threads"], report["buffer_bytes"]), (2, 8 << 20))
        for key in ("huge_pages", "small_pages"):
            self.assertEqual(len(report[key]["bytes_per_second"]["values"]), 3)
            self.assertIn(report[key]["streams_per_thread"], (1, 4))
        self.assertGreater(report["read_bytes_per_second"], 0)
        for key in ("f32", "bf16", "int8"):
            self.assertGreaterEqual(report[key]["limit_operations_per_second"], report[key]["operations_per_second"]["median"])
            self.assertTrue(report[key]["instruction"])

    def test_people_get_lines(self):
        lines = lorad("bench", "--limits", "--threads", 1, *TINY).splitlines()
        self.assertEqual(lines[0], "limits of 1 thread, medians (least to most):")
        for start, line in zip(("memory, huge pages", "memory, small pages", "f32", "bf16", "int8", "read: a buffer of 8 MiB"), lines[1:]):
            self.assertTrue(line.strip().startswith(start), line)

    def test_what_measures_a_model_is_refused(self):
        self.assertIn("--model", complaint("bench", "--limits", "--model", MODEL))
        self.assertIn("--limits-buffer: is less than 1 MiB", complaint("bench", "--limits", "--limits-buffer", "1K"))

    def test_rates_stand_beside_their_limit(self):
        report = json.loads(lorad("bench", "--model", DEMO, "--prompt", 16, "--tokens", 32, "--repeats", 1, *TINY))
        for name in ("prefill", "decode"):
            rate, limit = report[f"{name}_tokens_per_second"], report[f"{name}_limit_tokens_per_second"]
            self.assertAlmostEqual(report[f"{name}_share_of_limit"], rate / limit, places=3)
        read, memory = report["read_bytes_per_second"], report["memory_bytes_per_second"]
        self.assertAlmostEqual(report["share_of_memory_bandwidth"], read / memory, places=3)
        report = json.loads(lorad("bench", "--model", DEMO, "--prompt", 16, "--tokens", 32, "--repeats", 3, *TINY))
        for name in ("prefill_share_of_limit", "prefill_limit_tokens_per_second", "decode_share_of_limit", "decode_limit_tokens_per_second",
                     "share_of_memory_bandwidth", "memory_bytes_per_second"):
            self.assertGreater(report[name], 0, name)
        report = json.loads(lorad("bench", "--model", DEMO, "--scenario", "adapters", "--prompt", 16, "--points", "1,3", "--clients", 2,
                                  "--repeats", 1, *TINY))
        for point in report["counts"]:
            for way in (point["base"], point["mixed"]):
                self.assertAlmostEqual(way["share_of_limit"], way["tokens_per_second"]["median"] / way["limit_tokens_per_second"], places=3)


class Quality(unittest.TestCase):
    SHORT = ["--model", DEMO, "--scenario", "quality", "--tokens", 24, "--requests", 3, "--kv-type", "f32", "--threads", 2]

    def test_every_type_is_compared_with_f32(self):
        report = json.loads(lorad("bench", *self.SHORT))
        self.assertEqual([found["weights"] for found in report["types"]], ["f32", "f16", "bf16", "q8", "q4"])
        self.assertEqual([found["bits_per_weight"] for found in report["types"]], [32, 16, 16, 8.5, 4.5])
        losses = [found["base"]["kl"] for found in report["types"]]
        self.assertEqual(losses, sorted(losses))
        self.assertEqual(losses[0], 0)
        self.assertEqual(report["types"][0]["base"]["perplexity"], report["base"]["perplexity"])
        self.assertEqual((report["base"]["texts"], report["adapters"]), (3, []))

    def test_adapters_are_compared_on_their_answers_or_on_texts_of_their_own(self):
        with scratch() as texts:
            shutil.copy(DEMO.parents[1] / "tests/data/demo/date.jsonl", texts)
            report = json.loads(lorad("bench", *self.SHORT, "--weights", "q8", "--adapters-dir", DEMO.parents[1] / "adapters", "--texts", texts))
        sources = {adapter["id"]: adapter["source"] for adapter in report["adapters"]}
        self.assertEqual(sources.pop("date"), "answers")
        self.assertEqual(set(sources.values()), {"written by the model"})
        self.assertEqual([found["weights"] for found in report["types"]], ["q8"])
        for adapter in report["types"][0]["adapters"]:
            for way in ("on_the_fly", "merged", "merged_to_on_the_fly"):
                self.assertLess(adapter[way]["kl"], 0.1)
            self.assertEqual("right" in adapter["merged"], adapter["id"] == "date")

    def test_texts_must_be_good(self):
        with scratch() as texts:
            flags = [*self.SHORT, "--adapters-dir", DEMO.parents[1] / "adapters", "--texts", texts]
            for line, message in (('{"prompt": "a"}', "answer"), ("", "holds no text"), ('{"prompt": "", "answer": "b"}', "empty prompt")):
                (texts / "command.jsonl").write_text(line + "\n")
                done = subprocess.run([daemon.LORAD, "bench", *map(str, flags)], capture_output=True, timeout=300)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(message, done.stderr.decode())


class Bench(unittest.TestCase):
    SCENARIOS = {  # flags that make it short, and what must be in its report
        "steady": (["--adapters", 2, "--rank", 4, "--clients", 2, "--tokens", 32], ["decode_tokens_per_second"]),
        "mix": (["--clients", 2, "--tokens", 400], ["base", "same", "mixed", "mixed_to_base", "mixed_to_same"]),
        "ranks": (["--clients", 2, "--tokens", 400, "--points", "2,4"], ["ranks"]),
        "adapters": (["--clients", 2, "--points", "1,3"], ["counts"]),
        "merge": (["--tokens", 400, "--points", "1,2"], ["one_adapter", "own_adapters"]),
        # By plain C: streams that are faster reach their end before a loader under ThreadSanitizer is through.
        "swap": (["--adapters", 2, "--merges", 1, "--tokens", 4, "--cpu", "c"], ["loading_to_quiet_p99", "first_token_added_ms"]),
        "starvation": (["--requests", 3, "--period-ms", 5, "--tokens", 40], ["flooded_to_idle_p95"]),
        "prefix": (["--requests", 2], ["warm_to_cold", "cached_tokens"]),
    }

    def test_every_scenario_prints_one_json_object(self):
        for name, (flags, keys) in self.SCENARIOS.items():
            if os.environ.get("LORAD_TEST_SANITIZED") == "thread" and name not in ("mix", "swap", "starvation"):
                continue  # nothing there runs beside each other that does not in these
            with self.subTest(name):
                report = json.loads(lorad("bench", "--model", DEMO, "--scenario", name, "--prompt", 16, "--repeats", 1, *TINY, *flags))
                self.assertEqual(report["scenario"], name)
                for key in keys:
                    self.assertIn(key, report)

    def test_points_are_measured_in_their_order(self):
        report = json.loads(lorad("bench", "--model", DEMO, "--scenario", "adapters", "--points", "1,3", "--clients", 2, "--rank", 2,
                                  "--repeats", 2, *TINY))
        self.assertEqual([p["adapters"] for p in report["counts"]], [1, 3])
        self.assertEqual([len(p["mixed"]["tokens_per_second"]["values"]) for p in report["counts"]], [2, 2])

    def test_instruction_sets_are_compared_in_one_array(self):
        flags = ["--model", DEMO, "--prompt", 4, "--tokens", 2, "--repeats", 1, *TINY]
        reports = json.loads(lorad("bench", "--cpu", "all", *flags))
        best = json.loads(lorad("bench", *flags))
        names = [report["kernels"] for report in reports]
        self.assertEqual(names[-1], "c")
        self.assertNotEqual(best["kernels"], "avx512amxbf16")
        others = [name for name in names if name != "avx512amxbf16"]
        self.assertIn(best["kernels"], others[:2])  # the last one may be slower than the one before it, and is then not chosen
        self.assertEqual(len(set(names)), len(names))
        for report in reports:
            self.assertEqual(report["options"], best["options"])
            self.assertIn("decode_tokens_per_second", report)
        chosen = json.loads(lorad("bench", "--cpu", f"c,{names[0]}", *flags))
        self.assertEqual([report["kernels"] for report in chosen], ["c", names[0]])

    def test_what_makes_no_sense_is_named(self):
        for flags, message in (
            (["--cpu", "c,sse9"], "'sse9' is no instruction set"),
            (["--cpu", "c,"], "--cpu: 'c,' is not a list"),
            (["--scenario", "mix", "--merged"], "--merged: is of scenario 'steady'"),
            (["--merged"], "--merged: needs --adapters"),
            (["--scenario", "mix", "--points", "1"], "--points: are given, but scenario 'mix'"),
            (["--scenario", "ranks", "--points", "8,4"], "--points: hold 4 at index 1"),
            (["--scenario", "ranks", "--points", "8,x"], "--points: 'x' is not a list"),
            (["--scenario", "prefix", "--clients", 3], "--clients: is 3, but scenario 'prefix' has no use for it"),
            (["--scenario", "swap", "--adapters", 2, "--merges", 3], "--merges: is 3, but only 2"),
            (["--scenario", "mix", "--max-sequences", 2], "--max-sequences: is 2, but 8"),
            (["--scenario", "mix", "--adapters-dir", "."], "--adapters-dir: is of scenario 'quality'"),
            (["--scenario", "quality", "--texts", "."], "--texts: needs --adapters-dir"),
            (["--scenario", "quality", "--clients", 3], "--clients: is 3, but scenario 'quality' has no use for it"),
            (["--scenario", "best"], "--scenario: 'best' is none of steady"),
        ):
            with self.subTest(flags):
                self.assertIn(message, complaint("bench", "--model", MODEL, *flags))


if __name__ == "__main__":
    daemon.main()
