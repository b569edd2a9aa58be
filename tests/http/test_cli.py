"""The commands that work without a daemon: generate, inspect, merge, bench."""
import json
import shutil
import subprocess
import unittest

import daemon
from daemon import GOLDEN, Daemon, scratch

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


class Bench(unittest.TestCase):
    def test_it_prints_one_json_object(self):
        for flags in ([], ["--adapters", 2, "--rank", 4, "--clients", 2]):
            report = json.loads(lorad("bench", "--model", MODEL, "--prompt", 16, "--tokens", 4, "--repeats", 1, *flags))
            self.assertIsInstance(report, dict)
            self.assertTrue(any("decode" in key for key in report), report)


if __name__ == "__main__":
    daemon.main()
