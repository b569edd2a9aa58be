"""Generation over HTTP: native and OpenAI calls, streaming, sampling, stopping, log-probabilities."""
import json
import threading
import unittest

import daemon
from daemon import GOLDEN, Daemon

PROMPT = [5, 17, 42, 99, 7, 23, 64]


class Generation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon("--adapter", f"plain={GOLDEN}/adapters/llama.plain", "--served-name", "base").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def test_greedy_tokens_equal_the_oracle(self):
        cases = json.loads((GOLDEN / "cases.json").read_text())
        for case in cases["cases"] if isinstance(cases, dict) else cases:
            if case["model"] != "llama" or case.get("adapters") or "greedy" not in case:
                continue
            answer = self.d.generate(input_ids=case["input_ids"], max_tokens=len(case["greedy"]))
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.json["token_ids"], case["greedy"])

    def test_an_answer_says_which_weights_answered(self):
        base = self.d.generate(input_ids=PROMPT, max_tokens=4)
        self.assertIsNone(base.json["adapter"])
        self.assertEqual(base.headers["x-adapter-digest"], "none")
        info = self.d.get("/v1/adapters/plain").json
        answer = self.d.generate(input_ids=PROMPT, max_tokens=4, adapter="plain")
        self.assertEqual(answer.json["adapter"], {"id": "plain", "generation": info["sha256"], "mode": "on_the_fly"})
        self.assertEqual(answer.headers["x-adapter-digest"], info["sha256"])
        self.assertNotEqual(answer.json["token_ids"], base.json["token_ids"])

    def test_an_unknown_adapter_is_404_and_never_the_base(self):
        for body in ({"adapter": "nobody"}, {"adapters": [{"id": "plain"}, {"id": "nobody"}]}):
            answer = self.d.generate(input_ids=PROMPT, **body)
            self.assertEqual(answer.status, 404, answer)
        answer = self.d.post("/v1/completions", {"model": "nobody", "prompt": PROMPT})
        self.assertEqual(answer.status, 404, answer)

    def test_scale_zero_is_the_base_bit_for_bit(self):
        base = self.d.generate(input_ids=PROMPT, max_tokens=12, logprobs=5).json
        zero = self.d.generate(input_ids=PROMPT, max_tokens=12, logprobs=5, adapter="plain", scale=0).json
        self.assertEqual(base["token_ids"], zero["token_ids"])
        self.assertEqual(base["logprobs"], zero["logprobs"])

    def test_streamed_pieces_make_the_whole_answer(self):
        whole = self.d.generate(input_ids=PROMPT, max_tokens=24, logprobs=2).json
        events = list(self.d.stream("/v1/generate", {"input_ids": PROMPT, "max_tokens": 24, "temperature": 0,
                                                     "ignore_eos": True, "logprobs": 2}))
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual("".join(e["text"] for e in events[:-1]), whole["text"])
        self.assertEqual([i for e in events[:-1] for i in e["token_ids"]], whole["token_ids"])
        self.assertEqual([p for e in events[:-1] for p in e.get("logprobs", [])], whole["logprobs"])
        self.assertEqual(events[-2]["finish_reason"], "length")
        self.assertEqual(events[-2]["usage"], whole["usage"])

    def test_a_seed_makes_sampling_reproducible(self):
        ask = dict(input_ids=PROMPT, max_tokens=24, temperature=1.5, top_k=50, top_p=0.9, seed=42)
        first, second = self.d.generate(**ask).json, self.d.generate(**ask).json
        other = self.d.generate(**{**ask, "seed": 43}).json
        self.assertEqual(first["token_ids"], second["token_ids"])
        self.assertNotEqual(first["token_ids"], other["token_ids"])

    def test_top_k_one_is_greedy(self):
        greedy = self.d.generate(input_ids=PROMPT, max_tokens=12).json["token_ids"]
        self.assertEqual(self.d.generate(input_ids=PROMPT, max_tokens=12, temperature=2, top_k=1).json["token_ids"], greedy)

    def test_a_logit_bias_of_minus_100_forbids_a_token(self):
        first = self.d.generate(input_ids=PROMPT, max_tokens=1).json["token_ids"][0]
        biased = self.d.generate(input_ids=PROMPT, max_tokens=12, logit_bias={str(first): -100}).json["token_ids"]
        self.assertNotIn(first, biased)

    def test_a_stop_id_ends_the_text_and_is_left_out(self):
        ids = self.d.generate(input_ids=PROMPT, max_tokens=12).json["token_ids"]
        stop = ids[5]
        answer = self.d.generate(input_ids=PROMPT, max_tokens=12, stop_token_ids=[stop]).json
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["stop_reason"], stop)
        self.assertEqual(answer["token_ids"], ids[:ids.index(stop) + 1])

    def test_a_stop_string_cuts_the_text_before_it(self):
        text = self.d.generate(input_ids=PROMPT, max_tokens=40).json["text"]
        plain = [c for c in text[3:] if c.isalnum()]
        self.assertTrue(plain, text)
        stop = plain[0]
        answer = self.d.generate(input_ids=PROMPT, max_tokens=40, stop=[stop]).json
        self.assertEqual(answer["text"], text[:text.index(stop)])
        self.assertEqual((answer["finish_reason"], answer["stop_reason"]), ("stop", stop))
        kept = self.d.generate(input_ids=PROMPT, max_tokens=40, stop=stop, include_stop_str_in_output=True).json
        self.assertEqual(kept["text"], text[:text.index(stop) + 1])

    def test_prompt_logprobs_are_those_of_the_oracle(self):
        cases = json.loads((GOLDEN / "cases.json").read_text())
        cases = cases["cases"] if isinstance(cases, dict) else cases
        case = next(c for c in cases if c["model"] == "llama" and not c.get("adapters"))
        for kv_type, delta in ("f32", 1e-4), ("f16", 0.02), ("bf16", 0.1):
            with Daemon("--kv-type", kv_type) as d:
                self.assertIn(f'kv_type="{kv_type}"', d.get("/metrics").body.decode())
                answer = d.generate(input_ids=case["input_ids"], max_tokens=0, prompt_logprobs=0).json
            got = [t["logprob"] for t in answer["prompt_logprobs"]]
            self.assertIsNone(got[0])
            for have, want in zip(got[1:], case["token_logprobs"][1:]):
                self.assertAlmostEqual(have, want, delta=delta)

    def test_completions_are_openais(self):
        answer = self.d.post("/v1/completions", {"model": "base", "prompt": "Hello there", "max_tokens": 6, "temperature": 0,
                                                 "logprobs": 3, "echo": True, "ignore_eos": True}).json
        self.assertEqual(answer["object"], "text_completion")
        choice = answer["choices"][0]
        self.assertTrue(choice["text"].startswith("Hello there"))
        lp = choice["logprobs"]
        self.assertEqual(len({len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}), 1)
        self.assertIsNone(lp["token_logprobs"][0])
        self.assertEqual(lp["text_offset"][0], 0)
        self.assertEqual(lp["text_offset"], sorted(lp["text_offset"]))
        self.assertEqual(answer["usage"]["completion_tokens"], 6)

    def test_completions_take_prompts_of_all_kinds_and_n(self):
        for prompt, n_prompts in (("hi", 1), (["hi", "there"], 2), ([1, 2, 3], 1), ([[1, 2], [3, 4, 5]], 2)):
            answer = self.d.post("/v1/completions", {"model": "base", "prompt": prompt, "max_tokens": 3, "n": 2, "seed": 1})
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual([c["index"] for c in answer.json["choices"]], list(range(2 * n_prompts)))
            once = self.d.post("/v1/completions", {"model": "base", "prompt": prompt, "max_tokens": 1}).json["usage"]
            self.assertEqual(answer.json["usage"]["prompt_tokens"], once["prompt_tokens"])

    def test_streamed_completions_end_with_usage_and_done(self):
        ask = {"model": "plain", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        whole = self.d.post("/v1/completions", ask).json
        events = list(self.d.stream("/v1/completions", {**ask, "stream_options": {"include_usage": True}}))
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(events[-2]["choices"], [])
        self.assertEqual(events[-2]["usage"], whole["usage"])
        self.assertEqual("".join(c["text"] for e in events[:-2] for c in e["choices"]), whole["choices"][0]["text"])
        self.assertEqual(events[-3]["choices"][0]["finish_reason"], "length")
        self.assertEqual({e["id"] for e in events[:-1]}, {events[0]["id"]})

    def test_echo_comes_first_in_a_stream(self):
        ask = {"prompt": "Hello there", "max_tokens": 5, "temperature": 0, "echo": True, "ignore_eos": True}
        whole = self.d.post("/v1/completions", ask).json["choices"][0]["text"]
        events = list(self.d.stream("/v1/completions", ask))
        self.assertEqual("".join(c["text"] for e in events[:-1] for c in e["choices"]), whole)

    def test_several_choices_stream_side_by_side(self):
        ask = {"prompt": ["Hello there", "wörld 😀 abc"], "n": 3, "seed": 7, "max_tokens": 12, "temperature": 1.2, "ignore_eos": True,
               "echo": True, "logprobs": 2, "return_token_ids": True}
        whole = self.d.post("/v1/completions", ask).json["choices"]
        events = [e for e in self.d.stream("/v1/completions", ask) if e != "[DONE]"]
        for want in whole:
            pieces = [c for e in events for c in e["choices"] if c["index"] == want["index"]]
            self.assertEqual("".join(c["text"] for c in pieces), want["text"])
            self.assertEqual([c["finish_reason"] for c in pieces], [None] * (len(pieces) - 1) + [want["finish_reason"]])
            for key, values in want["logprobs"].items():
                self.assertEqual([v for c in pieces if c["logprobs"] for v in c["logprobs"][key]], values, key)
            self.assertEqual([i for c in pieces for i in c.get("token_ids", [])], want["token_ids"])
            self.assertEqual([c["prompt_token_ids"] for c in pieces if "prompt_token_ids" in c], [want["prompt_token_ids"]])

    def test_offsets_are_where_the_tokens_lie_in_the_text(self):
        prompt = "Input: Hugo, Petra, Anna\nOutput:"
        ask = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "logprobs": 0, "echo": True}
        with Daemon(model=daemon.DEMO) as d:
            text = d.post("/v1/completions", ask).json["choices"][0]["text"]
            # Stop strings that nearly come hold text back; that must not move the tokens.
            made = text[len(prompt):]
            held = [made[i:i + 4] + "\u2603" for i in range(0, min(40, len(made)), 4)]
            choice = d.post("/v1/completions", {**ask, "stop": held}).json["choices"][0]
            self.assertEqual(choice["text"], text)
            plain = [(t, o) for t, o in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"])
                     if "\ufffd" not in t and not t.startswith("<|")]
            self.assertGreater(len(plain), 20)
            for token, offset in plain:
                self.assertEqual(text[offset:offset + len(token)], token)

    def test_all_choices_of_a_call_are_answered_by_one_generation(self):
        with daemon.scratch() as directory, Daemon("--adapters-dir", GOLDEN / "adapters", "--state-dir", directory) as d:
            paths = ("llama.plain", "llama.rslora")
            ask = {"model": "a", "prompt": [PROMPT] * 64, "n": 2, "max_tokens": 3, "temperature": 0, "ignore_eos": True,
                   "return_token_ids": True}
            want, stop = {}, threading.Event()
            for path in paths:
                d.put("/v1/adapters/a", {"path": path})
                answer = d.post("/v1/completions", {**ask, "prompt": PROMPT, "n": 1})
                want[answer.headers["x-adapter-digest"]] = answer.json["choices"][0]["token_ids"]
            self.assertEqual(len({str(v) for v in want.values()}), 2)

            def swap():
                while not stop.is_set():
                    for path in paths:
                        d.put("/v1/adapters/a", {"path": path})
            thread = threading.Thread(target=swap)
            thread.start()
            try:
                for _ in range(20):
                    answer = d.post("/v1/completions", ask)
                    self.assertEqual(answer.status, 200, answer)
                    self.assertEqual({str(c["token_ids"]) for c in answer.json["choices"]},
                                     {str(want[answer.headers["x-adapter-digest"]])})
            finally:
                stop.set()
                thread.join()
            self.assertEqual(d.get("/v1/adapters/a").json["requests_in_flight"], 0)

    def test_the_digest_header_names_every_adapter_of_a_mix(self):
        names = ("plain", "rslora", "rank-1", "f16")
        flags = [f for n in names for f in ("--adapter", f"{n}={GOLDEN}/adapters/llama.{n}")]
        with Daemon(*flags) as d:
            answer = d.generate(input_ids=PROMPT, max_tokens=1, adapters=[{"id": n, "weight": 0.5} for n in names])
            self.assertEqual(answer.headers["x-adapter-digest"].split(","),
                             [d.get(f"/v1/adapters/{n}").json["sha256"] for n in names])

    def test_tokenize_and_detokenize_are_inverse(self):
        text = "Hello, wörld 😀!"
        tokens = self.d.post("/tokenize", {"prompt": text, "return_token_strs": True}).json
        self.assertEqual(tokens["count"], len(tokens["tokens"]))
        self.assertEqual(self.d.post("/detokenize", {"tokens": tokens["tokens"]}).json["prompt"], text)

    def test_models_lists_base_and_adapters(self):
        models = {m["id"]: m for m in self.d.get("/v1/models").json["data"]}
        self.assertEqual(set(models), {"base", "plain"})
        self.assertEqual(models["plain"]["parent"], "base")

    def test_the_small_calls_answer(self):
        self.assertEqual(self.d.get("/health").status, 200)
        self.assertEqual(self.d.get("/ready").json, {"status": "ready"})
        self.assertIn("version", self.d.get("/version").json)
        metrics = self.d.metrics()
        self.assertGreater(metrics["lorad_requests_total"], -1)
        self.assertEqual(metrics["lorad_adapters_loaded"], 1)


if __name__ == "__main__":
    daemon.main()
